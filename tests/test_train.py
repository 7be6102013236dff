"""Training in miniature: it learns something, and an interrupted one goes on where it stopped."""

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from vggtq.evaluate_mini import export
from vggtq.train import Trainer, train
from vggtq.training.config import Phase, TrainConfig, learning_rate, schedule

TINY = {
    "aggregator": {"img_size": 56, "embed_dim": 32, "depth": 4, "num_heads": 2, "init_values": 1.0},
    "patch_embed": {"img_size": 56, "embed_dim": 32, "depth": 1, "num_heads": 2},
    "camera_head": {"trunk_depth": 1, "num_heads": 2},
    "dpt": {"features": 16, "out_channels": [16, 16, 16, 16], "intermediate_layer_idx": [0, 1, 2, 3]},
    "heads": {"track": False},
}


@pytest.fixture(autouse=True)
def settings_of_the_process() -> Iterator[None]:
    """Training sets threads and flushes subnormal numbers to zero; tests that run later in this process want neither."""
    threads = torch.get_num_threads()
    yield
    torch.set_num_threads(threads)
    torch.set_flush_denormal(False)


def tiny(folder: Path, steps: int) -> TrainConfig:
    phases = [
        Phase(steps=2, only_matching=True, frames_per_step=6, max_frames=3),
        Phase(steps=steps - 2, frames_per_step=6, dense_frames=3, max_frames=3),
    ]
    return TrainConfig(TINY, phases, folder=str(folder), evaluate_every=1000, warmup_steps=2)


def test_a_training_can_be_interrupted(tmp_path: Path) -> None:
    interrupted = tiny(tmp_path, 6)
    interrupted.stop_at_s = 0
    assert train(interrupted).step == 1
    trainer = train(tiny(tmp_path, 6))
    assert trainer.step == 6
    resumed = Trainer(tiny(tmp_path, 6))
    assert resumed.step == 6
    for mine, theirs in zip(resumed.average.parameters(), trainer.average.parameters(), strict=True):
        assert torch.equal(mine, theirs)


def test_the_loss_falls_and_is_logged(tmp_path: Path) -> None:
    trainer = train(tiny(tmp_path, 100))
    assert all(p.isfinite().all() for p in trainer.average.parameters())
    records = [json.loads(line) for line in (tmp_path / "log.jsonl").read_text().splitlines()]
    assert [r["step"] for r in records] == [50, 100]
    assert records[1]["loss"] < records[0]["loss"]


def test_a_training_can_start_from_weights_and_end_by_the_clock(tmp_path: Path) -> None:
    first = train(tiny(tmp_path / "first", 4))
    export(first.average, tmp_path / "weights.safetensors")
    config = tiny(tmp_path / "second", 6)
    config.start, config.budget_s = str(tmp_path / "weights.safetensors"), 1e-9
    second = Trainer(config)
    for mine, theirs in zip(second.model.parameters(), first.average.parameters(), strict=True):
        assert torch.equal(mine, theirs.half().float())
    second.run()
    assert second.step == 1


def test_the_rate_can_follow_the_clock() -> None:
    config = TrainConfig(phases=[Phase(steps=10**6)], warmup_steps=1, decay_share=0.5, budget_s=100.0)
    rates = [learning_rate(7, seconds, config) for seconds in (0.0, 50.0, 75.0, 100.0)]
    assert rates[0] == rates[1] == pytest.approx(config.learning_rate)
    assert rates[2] == pytest.approx((config.learning_rate + config.final_learning_rate) / 2)
    assert rates[3] == pytest.approx(config.final_learning_rate)


def test_the_rate_warms_up_stays_and_falls() -> None:
    config = TrainConfig(phases=[Phase(steps=1000)], warmup_steps=100, decay_share=0.5)
    rates = [learning_rate(step, 0.0, config) for step in range(1000)]
    assert rates[0] == pytest.approx(config.learning_rate / 100)
    assert rates[100] == rates[499] == pytest.approx(config.learning_rate)
    assert rates[999] == pytest.approx(config.final_learning_rate, rel=0.01)
    assert rates[500:] == sorted(rates[500:], reverse=True)


def test_spread_widens_over_a_phase() -> None:
    spreads = [spread for _, spread in schedule(TrainConfig(phases=[Phase(steps=5, spread=[0.2, 1.0])]))]
    assert spreads == pytest.approx([0.2, 0.4, 0.6, 0.8, 1.0])
