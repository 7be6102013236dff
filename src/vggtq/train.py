"""Trains the small VGGT on procedural rooms: python -m vggtq.train (conf/train.yaml).

Rooms are rendered on the fly and never repeat; each batch is used a second time with another reference frame.
Cameras start close together and spread over the first part of the training. Every few minutes a checkpoint is
written; the same command continues from it. Ends by packing the averaged weights in half precision.
"""

import copy
import json
import logging
import math
import random
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import hydra
import torch
from hydra.core.config_store import ConfigStore
from omegaconf import DictConfig, OmegaConf
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from vggtq.config import CONF
from vggtq.data.room_layout import random_layout
from vggtq.data.room_render import Frames, render
from vggtq.data.rooms import scene_seed
from vggtq.geometry import encode_pose
from vggtq.losses import camera_loss, dense_loss, matching_loss, matching_targets, reference_loss
from vggtq.evaluate_mini import held_out, quality
from vggtq.models.aggregator import Aggregator
from vggtq.models.initialize import initialize_
from vggtq.models.positions import apply_rope, grid_embedding, rope_table
from vggtq.models.vggt import VGGT, build
from vggtq.models.vit import LayerScale

log = logging.getLogger(__name__)

KEPT_BATCHES = 12  # rendered ones that may be used again


@dataclass
class Phase:
    """A stretch of training. spread: how far cameras are apart, from its start to its end."""

    steps: int
    sizes: list[int] = field(default_factory=lambda: [56])  # pixels, square; each batch draws one
    spread: list[float] = field(default_factory=lambda: [1.0, 1.0])
    only_matching: bool = False  # nothing but the attention of the first blocks is learned, several times faster
    fresh: float = 0.5  # share of batches that are newly rendered
    max_frames: int = 6
    frames_per_step: int = 24  # over all scenes of a batch
    dense_frames: int = 12  # of these, for how many depth and points are learned; cameras are for all


@dataclass
class Weights:
    """Of the parts of the loss."""

    camera: float = 5.0
    depth: float = 1.0
    points: float = 1.0
    reference: float = 0.5
    matching: float = 0.5


@dataclass
class TrainConfig:
    architecture: dict[str, Any] = field(default_factory=dict)
    phases: list[Phase] = field(default_factory=list)
    weights: Weights = field(default_factory=Weights)
    learning_rate: float = 6e-4
    final_learning_rate: float = 1e-5
    warmup_steps: int = 300
    decay_share: float = 0.5  # of all steps, the last ones, in which the rate falls
    weight_decay: float = 0.05
    clip_norm: float = 1.0
    ema_decay: float = 0.999
    matching_blocks: list[int] = field(default_factory=lambda: [0, 1])  # global blocks
    matching_heads: int = 2  # of each
    bfloat16: bool = True  # for linears and convolutions
    seed: int = 0
    threads: int = 1
    evaluate_every: int = 500
    save_every_s: float = 180.0
    stop_at_s: float = 1e9  # of this sitting
    folder: str = "outputs/train"
    export: str = ""


@dataclass
class Batch:
    """B scenes of S frames, scaled so that points lie at a mean distance of 1 from the first camera."""

    images: Tensor  # (B, S, 3, H, W)
    depth: Tensor  # (B, S, H, W)
    points: Tensor  # (B, S, H, W, 3)
    poses: Tensor  # (B, S, 3, 4)
    intrinsics: Tensor  # (B, S, 3, 3)

    @property
    def size_hw(self) -> tuple[int, int]:
        return (self.images.shape[-2], self.images.shape[-1])

    def encoding(self) -> Tensor:
        """(B, S, 9)."""
        return encode_pose(self.poses, self.intrinsics, self.size_hw)


def as_batch(frames: Frames, order: list[int]) -> Batch:
    """Reorders the frames, makes the first one the world and sets the scale to 1."""
    poses = frames.extrinsics[:, order].float()
    points, first = frames.points[:, order].float(), poses[:, :1]
    points = (points.flatten(1, 3) @ first[:, 0, :, :3].mT + first[:, 0, None, :, 3]).view(points.shape)
    rotation = poses[..., :3] @ first[..., :3].mT
    translation = poses[..., 3:] - rotation @ first[..., 3:]
    scale = points.flatten(1, 3).norm(dim=-1).mean(-1)[:, None, None, None]
    return Batch(
        frames.images[:, order],
        frames.depth[:, order].float() / scale,
        points / scale[..., None],
        torch.cat([rotation, translation / scale], -1),
        frames.intrinsics[:, order].float(),
    )


class RoomStream:
    """Endless batches of the training split."""

    def __init__(self, config: TrainConfig, start: int) -> None:
        self.config, self.next_scene = config, start
        self.recent: list[Frames] = []
        self.choice = random.Random(f"{config.seed}/{start}")

    def batch(self, phase: Phase, spread: float) -> Batch:
        if not self.recent or self.choice.random() < phase.fresh:
            self._render(phase, spread)
        frames = self.choice.choice(self.recent)
        order = list(range(frames.images.shape[1]))
        self.choice.shuffle(order)
        return as_batch(frames, order)

    def _render(self, phase: Phase, spread: float) -> None:
        count = self.choice.randint(2, phase.max_frames)
        scenes = max(1, phase.frames_per_step // count)
        seeds = [scene_seed("train", self.config.seed, self.next_scene + i) for i in range(scenes)]
        self.next_scene += scenes
        # Some scenes of every stage have narrow baselines and some wide ones.
        layout = random_layout(seeds, count, spread * self.choice.uniform(0.6, 1.1))
        size = self.choice.choice(phase.sizes)
        self.recent = [*self.recent[1 - KEPT_BATCHES :], render(layout, (size, size), exact=False)]


def first_blocks(aggregator: Aggregator, count: int) -> Aggregator:
    """The same modules, stopping after `count` pairs of blocks."""
    shorter = copy.copy(aggregator)
    shorter._modules = dict(aggregator._modules)
    shorter.frame_blocks = aggregator.frame_blocks[:count]
    shorter.global_blocks = aggregator.global_blocks[:count]
    return shorter


class AttentionTap:
    """Records queries and keys of some global blocks while the network runs."""

    def __init__(self, model: VGGT, blocks: list[int], heads: int) -> None:
        self.heads = heads
        self.first_blocks = first_blocks(model.aggregator, max(blocks) + 1)
        self.queries: dict[int, Tensor] = {}
        self.keys: dict[int, Tensor] = {}
        for i in blocks:
            attention = model.aggregator.global_blocks[i].attn
            attention.q_norm.register_forward_hook(self._into(self.queries, i))
            attention.k_norm.register_forward_hook(self._into(self.keys, i))

    def _into(self, store: dict[int, Tensor], i: int) -> Any:
        def hook(_module: nn.Module, _inputs: Any, output: Tensor) -> None:
            store[i] = output[:, : self.heads]

        return hook

    def loss(self, model: VGGT, batch: Batch) -> dict[str, Tensor]:
        """`reference` and `matching`, each the mean over the blocks."""
        config = model.config.aggregator
        grid = (batch.size_hw[0] // config.patch_size, batch.size_hw[1] // config.patch_size)
        special, width = model.aggregator.patch_start_idx, config.embed_dim // config.num_heads
        rope = rope_table(grid, special, width, config.rope_freq, batch.images.device)
        frames = batch.images.shape[1]
        targets = matching_targets(batch.points, batch.depth, batch.poses, batch.intrinsics, config.patch_size)
        reference, matching = [], []
        for i in self.queries:
            q, k = (
                apply_rope(t[i].float().unflatten(2, (frames, -1)), rope) for t in (self.queries, self.keys)
            )
            q = q[..., special:, :]
            # The first head learns to look from every frame at the first one, the others at every other frame.
            reference.append(reference_loss(q[:, :1], k[:, :1], targets))
            matching.append(matching_loss(q[:, 1:], k[:, 1:, ..., special:, :], targets))
        return {"reference": torch.stack(reference).mean(), "matching": torch.stack(matching).mean()}


def losses(
    model: VGGT, tap: AttentionTap, batch: Batch, config: TrainConfig, phase: Phase
) -> dict[str, Tensor]:
    """The parts of the loss, unweighted."""
    assert model.camera_head and model.depth_head and model.point_head
    with torch.autocast("cpu", torch.bfloat16, enabled=config.bfloat16):
        tokens = (tap.first_blocks if phase.only_matching else model.aggregator)(batch.images)
        parts = tap.loss(model, batch)
    if phase.only_matching:
        return parts
    encodings = model.camera_head(tokens[model.config.aggregator.depth - 1].float())
    parts["camera"] = camera_loss(encodings, batch.encoding())
    chosen = torch.randperm(batch.images.shape[0] * batch.images.shape[1])[: phase.dense_frames]
    picked = {i: t.flatten(0, 1)[chosen][None] for i, t in tokens.items()}
    special = model.aggregator.patch_start_idx
    for name, head, truth in (
        ("depth", model.depth_head, batch.depth[..., None]),
        ("points", model.point_head, batch.points),
    ):
        with torch.autocast("cpu", torch.bfloat16, enabled=config.bfloat16):
            values, confidence = head(picked, special, batch.size_hw)
        parts[name] = dense_loss(values[0].float(), confidence[0].float(), truth.flatten(0, 1)[chosen])
    return parts


def fresh_model(config: TrainConfig) -> VGGT:
    """Seeded random weights for a short training: full residual branches, tokens that differ, a plausible camera."""
    model = build(config.architecture)
    initialize_(model, config.seed, lively=True)
    generator = torch.Generator().manual_seed(config.seed)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if name.endswith(("_token", "register_tokens")):
                parameter.normal_(0, 0.02, generator=generator)
        for module in model.modules():
            if isinstance(module, LayerScale):
                module.gamma.fill_(0.5)
        _show_positions(model)
        assert model.camera_head
        last = model.camera_head.pose_branch.fc2
        last.weight.mul_(0.2)
        last.bias.mul_(0.5)
    return model.train()


def _show_positions(model: VGGT) -> None:
    """Sines and cosines as the first position table: matches mean nothing to a camera that cannot tell where they lie.

    The published start, normal numbers of deviation 0.02, is drowned by the patches' contents.
    """
    table = getattr(model.aggregator.patch_embed, "pos_embed", None)
    if table is None:
        return
    side = math.isqrt(table.shape[1] - 1)
    axis = torch.linspace(-math.pi / 2, math.pi / 2, side)
    waves = grid_embedding(axis, axis, table.shape[2], base=0.1)
    table[0, 1:] = 0.5 * waves.flatten(1).T


def learning_rate(step: int, config: TrainConfig) -> float:
    """Linear warm-up, a plateau, then half a cosine down to the final rate."""
    total = sum(phase.steps for phase in config.phases)
    warm = min(1.0, (step + 1) / config.warmup_steps)
    start = total * (1 - config.decay_share)
    cosine = 0.5 * (1 + math.cos(math.pi * min(1.0, max(0.0, step - start) / (total - start))))
    return warm * (config.final_learning_rate + (config.learning_rate - config.final_learning_rate) * cosine)


def optimizer_for(model: VGGT, config: TrainConfig) -> torch.optim.AdamW:
    """Weight decay on matrices only."""
    parameters = [p for p in model.parameters() if p.requires_grad]
    groups = [
        {"params": [p for p in parameters if p.ndim > 1], "weight_decay": config.weight_decay},
        {"params": [p for p in parameters if p.ndim <= 1], "weight_decay": 0.0},
    ]
    return torch.optim.AdamW(groups, lr=config.learning_rate, betas=(0.9, 0.98), foreach=True)


def schedule(config: TrainConfig) -> Iterator[tuple[Phase, float]]:
    """The phase and the spread of every step."""
    for phase in config.phases:
        low, high = phase.spread
        for i in range(phase.steps):
            yield phase, low + (high - low) * i / max(1, phase.steps - 1)


class Trainer:
    """The state of a training that can be written down and taken up again."""

    def __init__(self, config: TrainConfig) -> None:
        self.config, self.folder = config, Path(config.folder)
        self.folder.mkdir(parents=True, exist_ok=True)
        self.model = fresh_model(config)
        self.average = build(config.architecture)
        self.average.load_state_dict(self.model.state_dict())
        self.optimizer = optimizer_for(self.model, config)
        self.step, self.scene, self.seconds = 0, 0, 0.0
        if self.checkpoint.exists():
            self._resume()
        self.tap = AttentionTap(self.model, config.matching_blocks, config.matching_heads)
        self.stream = RoomStream(config, self.scene)
        self.held_out: dict[tuple[int, float], Frames] = {}

    @property
    def checkpoint(self) -> Path:
        return self.folder / "checkpoint.pt"

    def _resume(self) -> None:
        state = torch.load(self.checkpoint, weights_only=True)
        self.model.load_state_dict(state["model"])
        self.average.load_state_dict(state["average"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.step, self.scene, self.seconds = state["step"], state["scene"], state["seconds"]
        log.info("continuing from step %d", self.step)

    def save(self) -> None:
        state = {
            "model": self.model.state_dict(),
            "average": self.average.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "step": self.step,
            "scene": self.stream.next_scene,
            "seconds": self.seconds,
        }
        partial = self.checkpoint.with_suffix(".partial")
        torch.save(state, partial)
        partial.replace(self.checkpoint)

    def run(self) -> None:
        """Trains to the end of the schedule, or until this sitting's time is over."""
        started = saved = time.monotonic()
        before, recent = self.seconds, []
        for index, (phase, spread) in enumerate(schedule(self.config)):
            if index < self.step:
                continue
            recent.append(self._train_step(phase, spread))
            self.seconds = before + time.monotonic() - started
            if self.step % 50 == 0:
                self._log({"spread": round(spread, 3), **_means(recent)})
                recent = []
            if self.step % self.config.evaluate_every == 0:
                self._evaluate(phase)
            if time.monotonic() - saved > self.config.save_every_s:
                self.save()
                saved = time.monotonic()
            if time.monotonic() - started > self.config.stop_at_s:
                break
        self.save()

    def _train_step(self, phase: Phase, spread: float) -> dict[str, float]:
        rate = learning_rate(self.step, self.config)
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        begin = time.perf_counter()
        batch = self.stream.batch(phase, spread)
        rendered = time.perf_counter()
        # On a CPU the fused kernel's backward pass is slower than plain products for so few tokens.
        with sdpa_kernel(SDPBackend.MATH):
            parts = losses(self.model, self.tap, batch, self.config, phase)
        total = sum((getattr(self.config.weights, name) * part for name, part in parts.items()), torch.zeros(()))
        self.optimizer.zero_grad()
        total.backward()  # type: ignore[no-untyped-call]
        norm = nn.utils.clip_grad_norm_(self.model.parameters(), self.config.clip_norm)
        if norm.isfinite():
            self.optimizer.step()
            self._update_average()
        else:
            log.warning("step %d: gradients are not finite, skipped", self.step)
        self.step += 1
        values = {name: part.item() for name, part in parts.items()}
        times = {"render_s": rendered - begin, "step_s": time.perf_counter() - begin}
        return {"loss": total.item(), **values, "norm": norm.item(), "rate": rate, **times}

    def _update_average(self) -> None:
        decay = min(self.config.ema_decay, (1 + self.step) / (10 + self.step))
        mine, theirs = list(self.average.parameters()), list(self.model.parameters())
        with torch.no_grad():
            torch._foreach_lerp_(mine, theirs, 1 - decay)

    def _evaluate(self, phase: Phase) -> None:
        """The averaged weights on 12 scenes of the calibration split, with cameras close together and far apart."""
        for spread in (0.4, 1.0):
            size = phase.sizes[-1]
            key = (size, spread)
            if key not in self.held_out:
                self.held_out[key] = held_out("calibration", 0, 12, 4, (size, size), spread)
            self._log({"evaluation": spread, **quality(self.average, self.held_out[key])})

    def _log(self, values: dict[str, Any]) -> None:
        record = {"step": self.step, "seconds": round(self.seconds, 1), **values}
        record = {k: float(f"{v:.4g}") if isinstance(v, float) else v for k, v in record.items()}
        with (self.folder / "log.jsonl").open("a") as stream:
            stream.write(json.dumps(record) + "\n")
        log.info("  ".join(f"{k} {v}" for k, v in record.items()))


def _means(records: list[dict[str, float]]) -> dict[str, float]:
    return {key: sum(r[key] for r in records) / len(records) for key in records[0]}


def train(config: TrainConfig) -> Trainer:
    """Trains, or continues, on one CPU."""
    torch.set_num_threads(config.threads)
    torch.set_flush_denormal(True)
    torch.manual_seed(config.seed)
    trainer = Trainer(config)
    trainer.run()
    return trainer


ConfigStore.instance().store(name="train_schema", node=TrainConfig)


@hydra.main(version_base="1.3", config_path=str(CONF), config_name="train")
def main(cfg: DictConfig) -> None:
    config = OmegaConf.to_object(cfg)
    assert isinstance(config, TrainConfig)
    trainer = train(config)
    if config.export:
        from vggtq.evaluate_mini import export

        export(trainer.average, Path(config.export))


if __name__ == "__main__":
    main()
