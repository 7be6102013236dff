"""Training in miniature: it learns something, and an interrupted one goes on where it stopped."""

import json
import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from vggtq.errors import ConfigError
from vggtq.train.config import PoolConfig, Progress, TrainConfig, learning_rate
from vggtq.train.evaluate import export
from vggtq.train.pool import Pool, rendering
from vggtq.train.trainer import Trainer, computing_dtype, train

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


def tiny(folder: Path, steps: int, **changes: object) -> TrainConfig:
    values: dict[str, object] = {
        "size": 28,
        "pool": PoolConfig(scenes=4, first_scenes=2, views=3, renewed=0.25, antialiased=False),
        "frames": [2, 3],
        "frames_per_step": 6,
        "dense_frames": 3,
        "evaluate_every": 1000,
        "evaluation_scenes": 2,
        "warmup_steps": 2,
        "learning_rate": 3e-4,
        "log_every": 50,
    }
    return TrainConfig(TINY, steps=steps, folder=str(folder), **(values | changes))  # type: ignore[arg-type]


def test_an_interrupted_training_goes_on_where_it_stopped(tmp_path: Path) -> None:
    assert train(tiny(tmp_path, 6, stop_at_s=1e-9)).step == 1
    trainer = train(tiny(tmp_path, 6))
    assert trainer.step == 6
    resumed = Trainer(tiny(tmp_path, 6))
    assert resumed.step == 6
    assert resumed.seconds == trainer.seconds
    assert resumed.dense_steps == trainer.dense_steps > 0
    for mine, theirs in zip(resumed.average.parameters(), trainer.average.parameters(), strict=True):
        assert torch.equal(mine, theirs)
    assert resumed.optimizer.state_dict()["state"].keys() == trainer.optimizer.state_dict()["state"].keys()


def test_a_signal_ends_a_training_with_a_checkpoint(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    step = Trainer._train_step

    def interrupted(self: Trainer) -> dict[str, float]:
        if self.step == 1:
            os.kill(os.getpid(), signal.SIGTERM)
        return step(self)

    monkeypatch.setattr(Trainer, "_train_step", interrupted)
    before = signal.getsignal(signal.SIGTERM)
    train(tiny(tmp_path, 1000))
    assert signal.getsignal(signal.SIGTERM) is before
    assert Trainer(tiny(tmp_path, 1000)).step == 2


def test_the_loss_falls_and_is_logged(tmp_path: Path) -> None:
    trainer = train(tiny(tmp_path, 100))
    assert all(p.isfinite().all() for p in trainer.average.parameters())
    records = [json.loads(line) for line in (tmp_path / "log.jsonl").read_text().splitlines()]
    losses = [r for r in records if "loss" in r]
    assert [r["step"] for r in losses] == [50, 100]
    # The dense heads begin in between, so the sum of all parts need not fall.
    for part in ("camera", "readout"):
        assert losses[1][part] < losses[0][part]
    assert "depth" not in {k for r in records if r["step"] < 30 for k in r}
    assert [r["step"] for r in records if "evaluation" in r] == [100]


def test_dense_losses_begin_at_their_share_and_grow(tmp_path: Path) -> None:
    config = tiny(tmp_path, 10, dense_from=0.5, dense_ramp_steps=4)
    trainer = Trainer(config)
    weights = []
    for _ in range(10):
        parts = trainer._train_step()
        weights.append(trainer._weight("depth") if "depth" in parts else None)
    assert weights == [None] * 5 + [0.25, 0.5, 0.75, 1.0, 1.0]
    assert trainer._weight("camera") == config.weights.camera


def test_a_warm_restart_from_weights_alone(tmp_path: Path) -> None:
    first = train(tiny(tmp_path / "first", 4))
    export(first.average, tmp_path / "weights.safetensors")
    config = tiny(tmp_path / "second", 6, start=str(tmp_path / "weights.safetensors"), budget_s=1e-9)
    second = Trainer(config)
    assert second.step == 0
    for mine, theirs in zip(second.model.parameters(), first.average.parameters(), strict=True):
        assert torch.equal(mine, theirs.half().float())
    second.run()
    assert second.step == 1  # the budget by the clock is over after one step


def test_a_pool_renews_its_scenes_and_draws_views_of_one_scene(tmp_path: Path) -> None:
    config = tiny(tmp_path, 1)
    pool = Pool(config.pool, rendering(config, torch.device("cpu")), 0, torch.device("cpu"))
    assert (len(pool), pool.next_scene) == (2, 2)
    for _ in range(4):  # twice as fast until there are four
        pool.renew()
    assert (len(pool), pool.next_scene) == (4, 4)
    for _ in range(4):
        pool.renew()
    assert (len(pool), pool.next_scene) == (4, 5)
    batch = pool.draw(5, 3, 0.2, torch.Generator().manual_seed(0))
    assert batch.images.shape == (5, 3, 3, 28, 28)
    torch.testing.assert_close(batch.poses[:, 0], torch.eye(3, 4).expand(5, 3, 4), rtol=0, atol=1e-5)
    camera = batch.points.flatten(2, 3) @ batch.poses[..., :3].mT + batch.poses[..., 3:].mT
    torch.testing.assert_close(camera[..., 2], batch.depth.flatten(2), rtol=0, atol=1e-3)
    distance = batch.points.flatten(1, 3).norm(dim=-1).mean(-1)
    torch.testing.assert_close(distance, torch.ones(5))


def test_a_pool_that_goes_on_has_the_latest_scenes(tmp_path: Path) -> None:
    config = tiny(tmp_path, 1)
    numbers: list[int] = []
    render = rendering(config, torch.device("cpu"))

    def counted(index: int) -> object:
        numbers.append(index)
        return render(index)

    assert Pool(config.pool, counted, 7, torch.device("cpu")).next_scene == 7  # type: ignore[arg-type]
    assert numbers == [5, 6]


def test_rooms_can_be_trained_on(tmp_path: Path) -> None:
    config = tiny(tmp_path, 1, dataset="rooms")
    assert rendering(config, torch.device("cpu"))(3).images.shape == (1, 3, 3, 28, 28)


def test_the_rate_can_follow_the_clock() -> None:
    config = TrainConfig(warmup_steps=1, decay_share=0.5, budget_s=100.0)
    rates = [learning_rate(Progress(7, seconds), config) for seconds in (0.0, 50.0, 75.0, 100.0)]
    assert rates[0] == rates[1] == pytest.approx(config.learning_rate)
    assert rates[2] == pytest.approx((config.learning_rate + config.final_learning_rate) / 2)
    assert rates[3] == pytest.approx(config.final_learning_rate)


def test_the_rate_warms_up_stays_and_falls() -> None:
    config = TrainConfig(steps=1000, warmup_steps=100, decay_share=0.5)
    rates = [learning_rate(Progress(step, 0.0), config) for step in range(1000)]
    assert rates[0] == pytest.approx(config.learning_rate / 100)
    assert rates[100] == rates[499] == pytest.approx(config.learning_rate)
    assert rates[999] == pytest.approx(config.final_learning_rate, rel=0.01)
    assert rates[500:] == sorted(rates[500:], reverse=True)


def test_bfloat16_only_where_the_device_has_it(monkeypatch: pytest.MonkeyPatch) -> None:
    cpu = torch.device("cpu")
    for has in (True, False):
        monkeypatch.setattr("vggtq.train.trainer.has_bf16", lambda device, has=has: has)
        assert computing_dtype("auto", cpu) == (torch.bfloat16 if has else torch.float32)
        assert computing_dtype("float32", cpu) == torch.float32


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"dataset": "room"}, "did you mean"),
        ({"precision": "fp16"}, "auto, float32, bfloat16"),
        ({"frames": [1, 4]}, "from 2 to pool.views=10"),
        ({"frames": [11]}, "from 2 to pool.views=10"),
        ({"pool": PoolConfig(scenes=3, first_scenes=4)}, "first_scenes=4"),
    ],
    ids=["dataset", "precision", "one frame", "more frames than views", "pool"],
)
def test_bad_options_are_explained(change: dict[str, object], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        TrainConfig(**change)  # type: ignore[arg-type]


def test_the_yaml_has_every_number() -> None:
    """What conf/train.yaml leaves out would be a number of the recipe that nobody sees."""
    from dataclasses import fields

    from omegaconf import OmegaConf

    from vggtq.config.compose import CONF
    from vggtq.train.config import Weights

    yaml = OmegaConf.load(CONF / "train.yaml")
    assert {f.name for f in fields(TrainConfig)} == set(yaml) - {"defaults", "hydra"}
    assert {f.name for f in fields(PoolConfig)} == set(yaml.pool)
    assert {f.name for f in fields(Weights)} == set(yaml.weights)
