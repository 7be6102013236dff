"""The training loop of the small model: a pool of scenes, the losses of VGGT and a few more, averaged weights, checkpoints."""

import functools
import json
import logging
import signal
import time
from pathlib import Path
from types import FrameType
from typing import Any

import torch
from torch import Tensor, nn

from vggtq.data.procedural import Frames
from vggtq.machine.device import has_bf16
from vggtq.models.vggt.network import VGGT, build
from vggtq.train.config import Progress, TrainConfig, learning_rate
from vggtq.train.evaluate import held_out, quality
from vggtq.train.losses import AttentionTap, camera_loss, dense_loss, fresh_readout, pair_losses, readout_loss
from vggtq.train.pool import Batch, Pool, rendering
from vggtq.train.start import compile_blocks, first_model

log = logging.getLogger(__name__)

AVERAGE_EVERY = 4  # steps
DENSE_HEADS = ("depth_head.", "point_head.")


def losses(
    model: VGGT,
    readout: nn.ModuleDict,
    tap: AttentionTap,
    batch: Batch,
    chosen: Tensor,
    dtype: torch.dtype,
) -> dict[str, Tensor]:
    """The parts of the loss, unweighted. chosen: which of the batch's frames, over all scenes, learn dense maps."""
    assert model.camera_head and model.depth_head and model.point_head
    mixed = functools.partial(torch.autocast, batch.images.device.type, dtype, enabled=dtype != torch.float32)
    with mixed():
        tokens = model.aggregator(batch.images)
    parts = {
        "matching": tap.loss(model, batch),
        "readout": readout_loss(readout, tokens, batch, model),
    }
    encodings = model.camera_head(tokens[model.config.aggregator.depth - 1].float())
    truth = batch.encoding()
    parts |= {"camera": camera_loss(encodings, truth), **pair_losses(encodings, truth)}
    if not len(chosen):
        return parts
    picked = {i: t.flatten(0, 1)[chosen][None] for i, t in tokens.items()}
    for name, head, wanted in (
        ("depth", model.depth_head, batch.depth[..., None]),
        ("points", model.point_head, batch.points),
    ):
        with mixed():
            values, confidence = head(picked, model.aggregator.patch_start_idx, batch.size_hw)
        parts[name] = dense_loss(values[0].float(), confidence[0].float(), wanted.flatten(0, 1)[chosen])
    return parts


def optimizer_for(model: VGGT, readout: nn.ModuleDict, config: TrainConfig) -> torch.optim.AdamW:
    """Weight decay on matrices only."""
    parameters = [p for p in model.parameters() if p.requires_grad]
    groups = [
        {"params": [p for p in parameters if p.ndim > 1], "weight_decay": config.weight_decay},
        {"params": [p for p in parameters if p.ndim <= 1], "weight_decay": 0.0},
        {"params": list(readout.parameters()), "weight_decay": 0.0},
    ]
    return torch.optim.AdamW(groups, lr=config.learning_rate, betas=(0.9, 0.98), fused=True)


def computing_dtype(precision: str, device: torch.device) -> torch.dtype:
    """The dtype of linears and convolutions; `auto` is bfloat16 where the device has it in hardware."""
    if precision == "auto":
        precision = "bfloat16" if has_bf16(device) else "float32"
    return torch.bfloat16 if precision == "bfloat16" else torch.float32


class Trainer:
    """The state of a training that can be written down and taken up again."""

    def __init__(self, config: TrainConfig) -> None:
        self.config, self.folder = config, Path(config.folder)
        self.device = torch.device(config.device)
        self.dtype = computing_dtype(config.precision, self.device)
        self.folder.mkdir(parents=True, exist_ok=True)
        self.model = first_model(config).to(self.device)
        self.average = build(config.architecture).to(self.device)
        self.average.load_state_dict(self.model.state_dict())
        self.readout = fresh_readout(self.model).to(self.device)
        self.optimizer = optimizer_for(self.model, self.readout, config)
        self.step, self.seconds, self.dense_steps, self.stopped = 0, 0.0, 0, False
        next_scene = self._resume() if self.checkpoint.exists() else 0
        self.choice = torch.Generator().manual_seed(config.seed + self.step)
        if (
            self.device.type == "cuda"
        ):  # it waits for launches, a dozen times as many with a few frames at a time
            for head in (self.model.depth_head, self.model.point_head):
                assert head is not None
                head.frames_at_a_time = config.dense_frames
        self.tap = AttentionTap(self.model, config.matching_blocks, config.matching_heads)
        if config.compiled:
            compile_blocks(self.model, config.matching_blocks)
        named = list(self.model.named_parameters())
        self.dense = [p for name, p in named if name.startswith(DENSE_HEADS)]
        self.rest = [p for name, p in named if not name.startswith(DENSE_HEADS)]
        self.pool = Pool(config.pool, rendering(config, self.device), next_scene, self.device)
        self.held_out: Frames | None = None

    @property
    def checkpoint(self) -> Path:
        return self.folder / "checkpoint.pt"

    def _resume(self) -> int:
        """Takes up the checkpoint; returns the next scene."""
        state = torch.load(self.checkpoint, weights_only=True, map_location=self.device)
        for name in ("model", "average", "readout", "optimizer"):
            getattr(self, name).load_state_dict(state[name])
        self.step, self.seconds, self.dense_steps = state["step"], state["seconds"], state["dense_steps"]
        log.info("continuing from step %d", self.step)
        return state["next_scene"]

    def save(self) -> None:
        state = {
            name: getattr(self, name).state_dict() for name in ("model", "average", "readout", "optimizer")
        }
        state |= {"step": self.step, "seconds": self.seconds, "dense_steps": self.dense_steps}
        state |= {"next_scene": self.pool.next_scene}
        partial = self.checkpoint.with_suffix(".partial")
        torch.save(state, partial)
        partial.replace(self.checkpoint)

    @property
    def progress(self) -> Progress:
        return Progress(self.step, self.seconds)

    def run(self) -> None:
        """Trains to the end of the schedule, or until this sitting's time is over or it is stopped."""
        started = saved = time.monotonic()
        before, recent = self.seconds, []
        while not self._over(before):
            recent.append(self._train_step())
            self.seconds = before + time.monotonic() - started
            if self.step % self.config.log_every == 0:
                self._log(_means(recent))
                recent = []
            if self.step % self.config.evaluate_every == 0:
                self._evaluate()
            if time.monotonic() - saved > self.config.save_every_s:
                self.save()
                saved = time.monotonic()
        self.save()
        if not self.stopped and self.step % self.config.evaluate_every:
            self._evaluate()

    def _over(self, before: float) -> bool:
        sitting = self.seconds - before
        return self.stopped or sitting >= self.config.stop_at_s or self.progress.done(self.config) >= 1

    def stop(self, number: int = 0, _frame: FrameType | None = None) -> None:
        """Ends the training after the current step, with a checkpoint; a handler of signals."""
        log.info("asked to stop by signal %d: the checkpoint follows this step", number)
        self.stopped = True

    def _train_step(self) -> dict[str, float]:
        config, begin = self.config, time.perf_counter()
        rate = learning_rate(self.progress, config)
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        self.pool.renew()
        frames = config.frames[int(torch.randint(len(config.frames), (), generator=self.choice))]
        scenes = max(1, config.frames_per_step // frames)
        batch = self.pool.draw(scenes, frames, config.brightness, self.choice)
        drawn = time.perf_counter()
        parts = losses(self.model, self.readout, self.tap, batch, self._dense_frames(batch), self.dtype)
        total = torch.stack([self._weight(name) * part for name, part in parts.items()]).sum()
        self.optimizer.zero_grad()
        total.backward()
        # Apart, so that maps that have just begun to learn do not shrink the step of the cameras.
        norms = [nn.utils.clip_grad_norm_(group, config.clip_norm) for group in (self.rest, self.dense)]
        if all(norm.isfinite() for norm in norms):
            self.optimizer.step()
            self._update_average()
        else:
            log.warning("step %d: gradients are not finite, skipped", self.step)
        self.step += 1
        values = {name: part.item() for name, part in parts.items()}
        times = {"data_s": drawn - begin, "step_s": time.perf_counter() - begin}
        return {"loss": total.item(), **values, "norm": norms[0].item(), "rate": rate, **times}

    def _dense_frames(self, batch: Batch) -> Tensor:
        """Indices into the frames of all scenes; none before the dense heads begin to learn."""
        if self.progress.done(self.config) < self.config.dense_from:
            return torch.zeros(0, dtype=torch.int64)
        self.dense_steps += 1
        count = batch.images.shape[0] * batch.images.shape[1]
        return torch.randperm(count, generator=self.choice)[: self.config.dense_frames]

    def _weight(self, part: str) -> float:
        weight: float = getattr(self.config.weights, part)
        if part in ("depth", "points"):
            # Switched on at once they threw the cameras back for minutes.
            weight *= min(1.0, self.dense_steps / self.config.dense_ramp_steps)
        return weight

    def _update_average(self) -> None:
        """Every few steps, since going through all weights costs about as much as a small layer."""
        if self.step % AVERAGE_EVERY:
            return
        decay = min(self.config.ema_decay**AVERAGE_EVERY, (1 + self.step) / (10 + self.step))
        with torch.no_grad():
            for mine, theirs in zip(self.average.parameters(), self.model.parameters(), strict=True):
                mine.lerp_(theirs, 1 - decay)

    def _evaluate(self) -> None:
        """The averaged weights on scenes of the calibration split."""
        if self.held_out is None:
            size = (self.config.size, self.config.size)
            self.held_out = held_out(
                self.config.dataset, "calibration", 0, self.config.evaluation_scenes, 4, size
            )
        scores = quality(self.average, self.held_out, self.device)
        means = {name: float(values.mean()) for name, values in scores.items()}
        self._log({"evaluation": self.config.evaluation_scenes, **means})

    def _log(self, values: dict[str, Any]) -> None:
        record = {
            "step": self.step,
            "seconds": round(self.seconds, 1),
            "scenes": self.pool.next_scene,
            **values,
        }
        record = {k: float(f"{v:.4g}") if isinstance(v, float) else v for k, v in record.items()}
        with (self.folder / "log.jsonl").open("a") as stream:
            stream.write(json.dumps(record) + "\n")
        log.info("  ".join(f"{k} {v}" for k, v in record.items()))


def _means(records: list[dict[str, float]]) -> dict[str, float]:
    """The mean of every value that the last record has, over the records that have it."""
    columns = {key: [r[key] for r in records if key in r] for key in records[-1]}
    return {key: sum(values) / len(values) for key, values in columns.items()}


def train(config: TrainConfig) -> Trainer:
    """Trains, or continues; Ctrl-C and SIGTERM end it with a checkpoint."""
    torch.set_num_threads(config.threads)
    torch.set_flush_denormal(True)
    torch.manual_seed(config.seed)
    trainer = Trainer(config)
    previous = {number: signal.signal(number, trainer.stop) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        trainer.run()
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)
    return trainer
