"""Trains the small VGGT on procedural rooms: python -m vggtq.train (conf/train.yaml).

Rooms are rendered on the fly and never repeat; a rendered batch is used a few times, each time with another reference
frame. Every few minutes a checkpoint is written; the same command continues from it. `start=SOURCE` begins with existing
weights, `package:vggt_mini` or a file, instead of random ones. `export=FILE` packs the averaged weights in half
precision at the end.
"""

import json
import logging
import time
from pathlib import Path
from typing import Any

import hydra
import torch
from hydra.core.config_store import ConfigStore
from omegaconf import DictConfig, OmegaConf
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from vggtq.config import CONF
from vggtq.data.room_render import Frames
from vggtq.evaluate_mini import export, held_out, quality
from vggtq.models.vggt import VGGT, build
from vggtq.training.batches import Batch, RoomStream
from vggtq.training.config import Phase, TrainConfig, learning_rate, schedule
from vggtq.training.losses import camera_loss, dense_loss, direction_loss
from vggtq.training.start import compile_blocks, first_model
from vggtq.training.supervision import AttentionTap, fresh_readout, readout_loss

log = logging.getLogger(__name__)

AVERAGE_EVERY = 4  # steps


def losses(
    model: VGGT,
    readout: nn.ModuleDict,
    tap: AttentionTap,
    batch: Batch,
    chosen: Tensor,
    config: TrainConfig,
    phase: Phase,
) -> dict[str, Tensor]:
    """The parts of the loss, unweighted. chosen: which of the batch's frames, over all scenes, learn dense maps."""
    assert model.camera_head and model.depth_head and model.point_head
    with torch.autocast("cpu", torch.bfloat16, enabled=config.bfloat16):
        tokens = (tap.first_blocks if phase.only_matching else model.aggregator)(batch.images)
        parts = tap.loss(model, batch)
    parts["readout"] = readout_loss(readout, tokens, batch, model)
    if phase.only_matching:
        return parts
    encodings = model.camera_head(tokens[model.config.aggregator.depth - 1].float())
    truth = batch.encoding()
    parts["camera"] = camera_loss(encodings, truth)
    parts["direction"] = direction_loss(encodings[-1], truth)
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


def optimizer_for(model: VGGT, readout: nn.ModuleDict, config: TrainConfig) -> torch.optim.AdamW:
    """Weight decay on matrices only."""
    parameters = [p for p in model.parameters() if p.requires_grad]
    groups = [
        {"params": [p for p in parameters if p.ndim > 1], "weight_decay": config.weight_decay},
        {"params": [p for p in parameters if p.ndim <= 1], "weight_decay": 0.0},
        {"params": list(readout.parameters()), "weight_decay": 0.0},
    ]
    return torch.optim.AdamW(groups, lr=config.learning_rate, betas=(0.9, 0.98), fused=True)


class Trainer:
    """The state of a training that can be written down and taken up again."""

    def __init__(self, config: TrainConfig) -> None:
        self.config, self.folder = config, Path(config.folder)
        self.folder.mkdir(parents=True, exist_ok=True)
        self.model = first_model(config)
        self.average = build(config.architecture)
        self.average.load_state_dict(self.model.state_dict())
        self.readout = fresh_readout(self.model)
        self.optimizer = optimizer_for(self.model, self.readout, config)
        self.step, self.scene, self.seconds = 0, 0, 0.0
        if self.checkpoint.exists():
            self._resume()
        self.tap = AttentionTap(self.model, config.matching_blocks, config.matching_heads)
        if config.compiled:
            compile_blocks(self.model, config.matching_blocks)
        self.stream = RoomStream(config.seed, self.scene)
        self.held_out: dict[tuple[int, float], Frames] = {}

    @property
    def checkpoint(self) -> Path:
        return self.folder / "checkpoint.pt"

    def _resume(self) -> None:
        state = torch.load(self.checkpoint, weights_only=True)
        self.model.load_state_dict(state["model"])
        self.average.load_state_dict(state["average"])
        self.readout.load_state_dict(state["readout"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.step, self.scene, self.seconds = state["step"], state["scene"], state["seconds"]
        log.info("continuing from step %d", self.step)

    def save(self) -> None:
        state = {
            "model": self.model.state_dict(),
            "average": self.average.state_dict(),
            "readout": self.readout.state_dict(),
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
            if self.seconds - before > self.config.stop_at_s or 0 < self.config.budget_s <= self.seconds:
                break
        self.save()

    def _train_step(self, phase: Phase, spread: float) -> dict[str, float]:
        rate = learning_rate(self.step, self.seconds, self.config)
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        begin = time.perf_counter()
        batch = self.stream.batch(phase, spread)
        rendered = time.perf_counter()
        chosen = torch.randperm(batch.images.shape[0] * batch.images.shape[1])[: phase.dense_frames]
        # On a CPU the fused kernel's backward pass is slower than plain products for so few tokens.
        with sdpa_kernel(SDPBackend.MATH):
            parts = losses(self.model, self.readout, self.tap, batch, chosen, self.config, phase)
        total = sum(
            (getattr(self.config.weights, name) * part for name, part in parts.items()), torch.zeros(())
        )
        self.optimizer.zero_grad()
        total.backward()
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
        """Every few steps, since going through all weights costs about as much as a small layer."""
        if self.step % AVERAGE_EVERY:
            return
        decay = min(self.config.ema_decay**AVERAGE_EVERY, (1 + self.step) / (10 + self.step))
        with torch.no_grad():
            for mine, theirs in zip(self.average.parameters(), self.model.parameters(), strict=True):
                mine.lerp_(theirs, 1 - decay)

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
    """The mean of every value that the last record has, over the records that have it."""
    columns = {key: [r[key] for r in records if key in r] for key in records[-1]}
    return {key: sum(values) / len(values) for key, values in columns.items()}


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
        export(trainer.average, Path(config.export))


if __name__ == "__main__":
    main()
