"""Fidelity: how far the outputs of a quantized model are from those of the FP32 model on the same images.

Every output (`pose_enc`, `depth`, `depth_conf`, `world_points`, `world_points_conf`, …) is scored by itself.
Scores are accumulated frame by frame in float64, so no copy of the outputs is kept, and identical outputs
score perfectly: MAE 0, PSNR +inf, SSIM 1, cosine 1, KL 0.

Undefined is NaN (a constant reference has no peak); None means that a metric does not apply (SSIM of a pose).
An output with a single NaN or inf has NaN errors; such values are not left out of a mean.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor

from vggtq.metrics.pose import direction_angle_deg, relative_poses, rotation_angle_deg
from vggtq.metrics.table import metrics
from vggtq.network.outputs import MAPS, extrinsics_of


def softmax_divergence(quantized: Tensor, reference: Tensor) -> tuple[Tensor, Tensor]:
    """Entropy of the reference and KL(reference ‖ quantized) of the softmax over the last axis, in nats.

    (…, N) float64 in; (entropy (…), kl (…)) out. Their sum is the cross entropy: adding keeps a small KL,
    which subtracting two entropies of about 12 nats would drown in rounding.
    """
    log_q, log_p = quantized.log_softmax(-1), reference.log_softmax(-1)
    p = log_p.exp()
    return -(p * log_p).sum(-1), (p * (log_p - log_q)).sum(-1).clamp(min=0)


def align_quaternions(quantized: Tensor, reference: Tensor) -> Tensor:
    """The pose encodings (S, 9) with the sign of the quaternion (3:7) that is nearer to the reference's.

    q and −q are the same rotation, so their difference is no error.
    """
    opposite = (quantized[:, 3:7] * reference[:, 3:7]).sum(-1, keepdim=True) < 0
    quaternion = torch.where(opposite, -quantized[:, 3:7], quantized[:, 3:7])
    return torch.cat([quantized[:, :3], quaternion, quantized[:, 7:]], dim=-1)


def same_bits(a: Tensor, b: Tensor) -> bool:
    """Whether two tensors have the same type and bits; −0 and 0 differ, a NaN equals itself."""
    return a.dtype == b.dtype and torch.equal(*(t.contiguous().view(torch.uint8) for t in (a, b)))


@dataclass
class _Mean:
    """The mean and maximum of a stream of numbers, in which a NaN stays; NaN of nothing."""

    total: float = 0.0
    count: int = 0
    max: float = math.nan

    def add(self, values: Tensor) -> None:
        if values.numel():
            self.total += values.double().sum().item()
            self.max = _largest(self.max if self.count else -math.inf, values.max().item())
            self.count += values.numel()

    @property
    def mean(self) -> float:
        return self.total / self.count if self.count else math.nan


def _largest(a: float, b: float) -> float:
    """The larger number, or NaN where one is NaN; Python's own max drops a NaN that stands second."""
    return math.nan if math.isnan(a) or math.isnan(b) else max(a, b)


@dataclass
class OutputSums:
    """The running sums of one output. `add` takes one frame at a time."""

    name: str
    identical: bool = True
    non_finite: int = 0
    reference_non_finite: int = 0
    error: _Mean = field(default_factory=_Mean)
    squared_error: _Mean = field(default_factory=_Mean)
    dot: float = 0.0
    quantized_square: float = 0.0
    reference_square: float = 0.0
    reference_min: float = math.inf
    reference_max: float = -math.inf
    frames: dict[str, _Mean] = field(default_factory=dict)  # of the metrics of single frames
    entropy: _Mean = field(default_factory=_Mean)
    kl: _Mean = field(default_factory=_Mean)

    def add(self, quantized: Tensor, reference: Tensor) -> None:
        """One frame of the output, (H, W), (H, W, C) or anything for an output that is no map."""
        q, r = quantized.detach().cpu().double(), reference.detach().cpu().double()
        self.non_finite += int((~q.isfinite()).sum())
        self.reference_non_finite += int((~r.isfinite()).sum())
        error = (q - r).abs()
        self.error.add(error)
        self.squared_error.add(error.square())
        self.dot += (q * r).sum().item()
        self.quantized_square += q.square().sum().item()
        self.reference_square += r.square().sum().item()
        if r.numel():
            self.reference_min = min(self.reference_min, r.min().item())
            self.reference_max = max(self.reference_max, r.max().item())
        is_map = self.name in MAPS
        q, r = (x.reshape(*x.shape[:2], -1) if is_map else x for x in (q, r))  # (H, W, C)
        for metric in metrics("frame"):
            if metric.measures(self.name) and metric.function:
                mean, score = self.frames.setdefault(metric.key, _Mean()), metric.function(q, r)
                if score is not None:
                    mean.add(torch.tensor([score], dtype=torch.float64))
        if is_map:
            q, r = (x.flatten(0, 1).mT for x in (q, r))  # (C, H·W)
        entropy, kl = softmax_divergence(q, r)
        self.entropy.add(entropy)
        self.kl.add(kl)

    def cosine(self) -> float:
        """⟨q, r⟩ / (‖q‖·‖r‖) over everything; 1 without any error, NaN where a norm is zero."""
        if self.error.total == 0:
            return 1.0
        norms = math.sqrt(self.quantized_square) * math.sqrt(self.reference_square)
        return max(-1.0, min(1.0, self.dot / norms)) if norms else math.nan

    def relative_error(self) -> float:
        """‖q − r‖₂ / ‖r‖₂ over everything; 0 without any error, NaN where the reference is zero."""
        if self.error.total == 0:
            return 0.0
        return (
            math.sqrt(self.squared_error.total / self.reference_square) if self.reference_square else math.nan
        )

    def range(self) -> float:
        """Of the reference over everything seen."""
        return self.reference_max - self.reference_min

    def result(self) -> dict[str, float | int | bool | None]:
        broken = not self.error.count or self.non_finite or self.reference_non_finite
        scores: dict[str, float | None] = {}
        for metric in metrics("output"):
            if metric.measures(self.name) and metric.function:
                # The entropy is the reference's own, whatever the quantized output holds.
                scores[metric.key] = math.nan if broken and metric.direction else metric.function(self)
        for key, mean in self.frames.items():
            scores[key] = None if not mean.count else math.nan if broken else mean.mean
        return {**scores, "non_finite": self.non_finite, "identical": self.identical}


@dataclass
class CameraSums:
    """Angles between the cameras of the quantized and the reference model, in degrees and float64."""

    rotation: _Mean = field(default_factory=_Mean)
    translation: _Mean = field(default_factory=_Mean)
    fov: _Mean = field(default_factory=_Mean)

    def add(self, quantized: Mapping[str, Tensor], reference: Mapping[str, Tensor]) -> None:
        """The outputs of one scene; without cameras nothing is added."""
        pose_q, pose_r = extrinsics_of(quantized), extrinsics_of(reference)
        if pose_q is None or pose_r is None:
            return
        pose_q, pose_r = pose_q.detach().cpu(), pose_r.detach().cpu()
        self.rotation.add(rotation_angle_deg(pose_q[:, :, :3].mT @ pose_r[:, :, :3]))
        (_, moved_q), (_, moved_r) = relative_poses(pose_q), relative_poses(pose_r)
        # Two frames from one place have no direction that could be kept or lost, so such pairs are left out.
        has_baseline = ~(moved_r == 0).all(-1)
        self.translation.add(direction_angle_deg(moved_q[has_baseline], moved_r[has_baseline]))
        if "pose_enc" in reference:
            q, r = (outputs["pose_enc"].detach().cpu().double() for outputs in (quantized, reference))
            self.fov.add(torch.rad2deg(q[:, 7:9] - r[:, 7:9]).abs())

    def result(self) -> dict[str, float]:
        """The metrics that have a value: a network without a field of view has no error of it."""
        found = {metric.key: metric.function(self) for metric in metrics("cameras") if metric.function}
        return {key: value for key, value in found.items() if value is not None}


class Fidelity:
    """Accumulates the fidelity of every output over scenes: `update` per scene, then `result`."""

    def __init__(self) -> None:
        self.scenes: list[dict[str, float]] = []  # per update, the mean squared error of every output
        self._outputs: dict[str, OutputSums] = {}
        self._pose = CameraSums()

    def update(self, outputs: Mapping[str, Tensor], reference: Mapping[str, Tensor]) -> None:
        """Adds one scene (or some of its frames: then pairs of frames in different calls are not compared).

        Both: output name → tensor with S frames along the first axis, no batch axis. Raises ValueError where
        the names or the shapes differ.
        """
        if outputs.keys() != reference.keys():
            raise ValueError(f"outputs {sorted(outputs)} and reference {sorted(reference)} differ in names")
        for name, expected in reference.items():
            got = outputs[name]
            if got.shape != expected.shape:
                raise ValueError(f"{name}: output {tuple(got.shape)}, reference {tuple(expected.shape)}")
        self._pose.add({k: v.to(reference[k].device) for k, v in outputs.items()}, reference)
        self.scenes.append(
            {name: self._add(name, outputs[name], expected) for name, expected in reference.items()}
        )

    def _add(self, name: str, quantized: Tensor, reference: Tensor) -> float:
        """Enters one output of one scene; returns its mean squared error."""
        quantized = quantized.to(reference.device)
        sums = self._outputs.setdefault(name, OutputSums(name))
        sums.identical = sums.identical and same_bits(quantized, reference)
        if name == "pose_enc":
            quantized = align_quaternions(quantized, reference)
        for q, r in zip(quantized, reference, strict=True):
            sums.add(q, r)
        return (quantized.double() - reference.double()).square().mean().item()

    def result(self) -> dict[str, dict[str, float | int | bool | None]]:
        """The scores so far, per output, and under "pose" the camera angles where there are cameras.

        Per output the metrics of scopes `output` and `frame` (psnr: peak = range of the reference over everything
        seen; entropies: nats, softmax over the pixels of a frame per channel, over the last axis for what is no map,
        mean over all), non_finite (values of the quantized output; NaN errors with 0 of them come from a reference
        that is not finite), identical (bitwise).

        Under "pose", degrees: rotation_deg_mean/_max over frames, translation_deg_mean/_max between the
        directions of E_i·E_j⁻¹ over the pairs i < j of each scene, sign included (NaN without a pair that has
        a baseline), fov_deg_mean over both fields of view, where the network predicts them.
        """
        results = {name: sums.result() for name, sums in self._outputs.items()}
        if self._pose.rotation.count:
            results["pose"] = {**self._pose.result()}
        return results
