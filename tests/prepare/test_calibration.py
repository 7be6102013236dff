"""Calibration: which images, what layers see of them, block by block or as a whole, and what is kept of it on disk."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from torch import Tensor, nn

from helpers.calibrated import GPTQ, W4A4, pictures, small
from helpers.eth3d_files import write_scene
from helpers.runs import recorded, tiny
from vggtq.config.compose import compose
from vggtq.config.schema import Calibration
from vggtq.config.validate import validated
from vggtq.data.eth3d.scenes import ETH3D
from vggtq.data.images import ImageFolder, ImageSequences
from vggtq.data.rooms import Rooms
from vggtq.errors import ConfigError, DataError
from vggtq.models.checkpoints.fingerprint import tensor_digest
from vggtq.prepare.cache import STATISTICS, CalibrationCache, cache_of
from vggtq.prepare.diverse import diverse, outliers
from vggtq.prepare.samples import Samples
from vggtq.quant.methods.statistics import InputStatistics
from vggtq.quant.scheme.parts import Layers
from vggtq.quant.scheme.scheme import Scheme
from vggtq.quant.scheme.weights import Weights
from vggtq.quant.walk.observe import Observer
from vggtq.quant.walk.quantize import quantize_
from vggtq.quant.walk.select import select_layers

SETTINGS = [
    *("scheme=gptq_w4a16", "group_size=16", "scheme.rounding.clip=false"),
    *("calibration.samples=2", "calibration.frames=2"),
]


def names_of(model: nn.Module) -> list[str]:
    return [weight.name for own in select_layers(model, GPTQ).replace for weight in own]


def test_stages_are_the_forward_pass() -> None:
    model, images = small(), pictures(1)[0]
    called: list[tuple[str, Any]] = []
    with torch.inference_mode():
        stages = model.stages({"inputs": images})  # type: ignore[operator]
        name, arguments = next(stages)
        with pytest.raises(StopIteration):
            while True:
                called.append((name, model.get_submodule(name)(*arguments())))
                name, arguments = stages.send(called[-1][1])
        whole = model(images)
    assert [name for name, _ in called] == model.stage_names()  # type: ignore[operator]
    outputs = dict(called)
    assert torch.equal(outputs["camera_head"][-1], whole["pose_enc"])
    assert torch.equal(outputs["depth_head"][0], whole["depth"])
    assert torch.equal(outputs["point_head"][1], whole["world_points_conf"])


@pytest.mark.parametrize("scheme", [GPTQ, W4A4], ids=lambda s: s.name)
def test_block_by_block_is_what_whole_passes_in_the_same_order_give(scheme: Scheme) -> None:
    """The whole-pass way for exactly the same groups, each with a pass of its own."""
    samples = pictures()
    staged, whole = small(), small()
    quantize_(staged, scheme, calibrate=samples)

    groups = Observer(small(), names_of(small()), samples).groups
    for group in groups:
        seen = quantize_one(whole, scheme, group.names, samples)
        assert seen == set(group.names)
    for (name, a), (other, b) in zip(staged.named_buffers(), whole.named_buffers(), strict=True):
        assert name == other
        if a.is_floating_point():
            torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-6)
        else:
            assert (a != b).float().mean() < 0.01, name


def quantize_one(model: nn.Module, scheme: Scheme, names: Sequence[str], samples: list[Tensor]) -> set[str]:
    """Quantizes some layers, with a whole pass to look at their inputs."""
    only = replace(scheme, layers=Layers(include=list(names), skip_first_last=False))

    def show(network: nn.Module) -> None:
        for images in samples:
            network(images)

    result = quantize_(model, only, calibrate=show)
    assert result.calibration_passes == 1
    return {layer.name for layer in result.layers}


def test_layers_are_observed_in_as_few_passes_as_memory_allows() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(16, 32), nn.GELU(), nn.Linear(32, 32), nn.GELU(), nn.Linear(32, 16))
    shown = [torch.randn(64, 16)]
    names = ["0", "2", "4"]
    roomy = Observer(model, names, shown)
    assert all(roomy.of(name) is not None for name in names)
    tight = Observer(model, names, shown, memory_bytes=4 * 32 * 32)
    for name in names:
        statistics = tight.of(name)
        assert statistics is not None and statistics.rows == 64
    assert (roomy.whole_passes, tight.whole_passes) == (1, 3)
    assert not any(module._forward_pre_hooks for module in model.modules())


def test_no_more_than_one_blocks_statistics_are_alive() -> None:
    model = small()
    observer = Observer(model, names_of(model), pictures(1))
    assert len(observer.groups) == len({group.stage for group in observer.groups}) == 10
    for group in observer.groups:
        assert all(name.startswith(f"{group.stage}.") for name in group.names)
        first, *others = group.names
        statistics = observer.of(first)
        assert observer.of(first) is statistics and set(observer._held) == set(group.names)
        observer.release(first)
        assert set(observer._held) == set(others)
        with pytest.raises(LookupError, match="released"):
            observer.of(first)
    assert observer.whole_passes == 0


def test_special_tokens_are_told_from_patches() -> None:
    model, images = small(), pictures(1)[0]
    observer = Observer(model, names_of(model), [images])
    seen: dict[str, Tensor] = {}
    wanted = ("aggregator.frame_blocks.1.attn.qkv", "aggregator.global_blocks.1.mlp.fc1")
    for name in wanted:
        layer = model.get_submodule(name)
        layer.register_forward_pre_hook(
            lambda _, x, name=name: seen.__setitem__(name, x[0].reshape(2, -1, 32))
        )
    with torch.inference_mode():
        model(images)
    for name in wanted:
        statistics = observer.of(name)
        assert statistics is not None
        special, patches = seen[name][:, :5].abs(), seen[name][:, 5:].abs()
        assert patches.shape[1] == 2 * 3
        torch.testing.assert_close(statistics.special, special.amax((0, 1)))
        torch.testing.assert_close(statistics.ordinary, patches.amax((0, 1)))
        assert statistics.special_ratio == pytest.approx(float(special.max() / patches.max()), rel=1e-4)
        assert torch.equal(statistics.largest, torch.maximum(statistics.special, statistics.ordinary))
    head = observer.of("camera_head.trunk.0.attn.qkv")
    assert head is not None and head.special_ratio is None


def test_networks_without_a_declaration_have_one_kind_of_token() -> None:
    statistics = InputStatistics.empty(4, torch.device("cpu"))
    statistics.update(torch.randn(3, 5, 4))
    assert statistics.special_ratio is None


def photographs(folder: Path, count: int) -> Path:
    folder.mkdir()
    for i in range(count):
        Image.fromarray(np.random.default_rng(i).integers(0, 255, (60, 80, 3), dtype=np.uint8)).save(
            folder / f"{i}.png"
        )
    return folder


def test_sequences_of_a_folder_are_neighbours_that_do_not_overlap(tmp_path: Path) -> None:
    folder = photographs(tmp_path / "photos", 10)

    def files(**changes: Any) -> list[list[str]]:
        dataset = ImageSequences(path=str(folder), image_size=28, **({"count": 99, "frames": 3} | changes))
        return [[file.path for file in scene.files] for scene in dataset.scenes()]

    assert sorted(files()) == [
        ["0.png", "1.png", "2.png"],
        ["3.png", "4.png", "5.png"],
        ["6.png", "7.png", "8.png"],
    ]
    assert files() == files() and any(files(seed=0) != files(seed=seed) for seed in range(1, 5))
    assert files(count=2) == files()[:2]
    assert files(frames=99) == [[f"{i}.png" for i in range(10)]]


def test_a_folders_own_samples_are_the_images_that_are_not_evaluated(tmp_path: Path) -> None:
    folder = photographs(tmp_path / "photos", 10)
    evaluated = ImageFolder(path=str(folder), image_size=28, start=1, stride=2, max_images=3)
    sequences = evaluated.calibration(99, 2, 0)
    names = {file.path for scene in sequences.scenes() for file in scene.files}
    assert names == {"0.png", "2.png", "4.png", "6.png", "7.png", "8.png"}
    samples = Samples.of(Calibration(samples=3, dataset=sequences))
    samples.check_disjoint(next(evaluated.scenes()))
    with pytest.raises(DataError, match="none is left"):
        next(ImageFolder(path=str(folder), image_size=28).calibration(1, 2, 0).scenes())


def test_eth3ds_own_samples_are_other_places(tmp_path: Path) -> None:
    write_scene(tmp_path).rename(tmp_path / "relief")
    here = ETH3D(root=str(tmp_path), scene="relief_2", image_size=56).calibration(9, 2, 0)
    with pytest.raises(DataError, match=r"no scene but relief_2.*vggtq download courtyard"):
        next(here.scenes())
    both = ETH3D(root=str(tmp_path), scene="relief_2+courtyard", image_size=56).calibration(9, 2, 0)
    with pytest.raises(DataError, match=r"no scene but relief_2\+courtyard.*vggtq download delivery_area"):
        next(both.scenes())
    with pytest.raises(ConfigError, match="evaluates every scene"):
        next(ETH3D(scene="all").calibration(9, 2, 0).scenes())
    elsewhere = ETH3D(root=str(tmp_path), scene="courtyard", image_size=56).calibration(9, 2, 0)
    (scene,) = elsewhere.scenes()
    assert (scene.name, len(scene.images)) == ("relief from image 0", 2)


def test_rooms_own_samples_are_of_another_split() -> None:
    for split in ("train", "calibration", "test"):
        other = Rooms(size=[28, 28], split=split).calibration(3, 2, 5)
        assert other.split != split and (other.count, other.frames, other.seed) == (3, 2, 5)


def test_data_without_other_images_say_so(tmp_path: Path) -> None:
    record = recorded(tmp_path, *SETTINGS, "calibration=dataset")
    assert "dataset=motorcycle has no images that are not evaluated" in record["error"]["message"]
    missing = recorded(tmp_path, *SETTINGS, "calibration=images")["error"]["message"]
    assert "calibration.dataset.path is empty" in missing and " dataset.path" not in missing


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"samples": 0}, "at least 1"),
        ({"frames": 0}, "at least 1 image"),
        ({"selection": "divers"}, "did you mean diverse"),
        ({"pool": 99}, "candidates are for selection=diverse"),
        ({"selection": "diverse", "pool": 3}, "at least as many as samples"),
    ],
)
def test_options_of_calibration_are_checked(wrong: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        Calibration(**wrong)


def test_what_was_calibrated_on_is_never_evaluated(tmp_path: Path) -> None:
    rooms = Rooms(count=2, frames=2, size=[28, 28])
    samples = Samples.of(Calibration(dataset=rooms))
    first, other = next(rooms.scenes()), next(Rooms(frames=2, size=[28, 28], seed=1).scenes())
    samples.check_disjoint(other)
    with pytest.raises(DataError, match=r"image 0 of scene test-0-0 is among the calibration samples"):
        samples.check_disjoint(first)
    overlap = ["dataset=objects", "scenes=1", "frames=2", "size=[56,56]", "calibration.dataset.split=test"]
    record = recorded(tmp_path, *SETTINGS, *overlap)
    assert "among the calibration samples" in record["error"]["message"]


def test_the_same_photograph_is_known_by_its_file_however_it_was_cropped(tmp_path: Path) -> None:
    folder = photographs(tmp_path / "photos", 2)
    samples = Samples.of(Calibration(samples=1, dataset=ImageSequences(path=str(folder), image_size=28)))
    with pytest.raises(DataError, match="image 0"):
        samples.check_disjoint(next(ImageFolder(path=str(folder), image_size=56, mode="pad").scenes()))


def test_a_record_says_what_the_recipe_was_calibrated_on(tmp_path: Path) -> None:
    choice = ["calibration.selection=diverse", "calibration.pool=5", "calibration.samples=3"]
    record = recorded(tmp_path, *SETTINGS, *choice)
    assert record["status"] == "ok", record["error"]
    calibration = record["calibration"]
    assert (calibration["name"], calibration["scenes"], calibration["frames"]) == ("objects", 3, 6)
    assert (calibration["selection"], calibration["candidates"]) == ("diverse", 5)
    assert set(calibration["samples"]) < {f"calibration-0-{i}" for i in range(5)}
    assert (calibration["passes"], calibration["groups"]) == (0, 10)
    assert (calibration["cached"], calibration["computed"]) == (0, 10)
    ratios = {layer["name"]: layer["special_ratio"] for layer in record["layers"]}
    assert ratios["aggregator.frame_blocks.0.attn.qkv"] > 0
    assert recorded(tmp_path, "scheme=int4_group", "group_size=16")["calibration"] is None


def test_fewer_samples_than_asked_for_are_noted(tmp_path: Path) -> None:
    folder = photographs(tmp_path / "photos", 5)
    images = ["dataset=images", f"dataset.path={folder}", "dataset.max_images=1", "calibration=dataset"]
    record = recorded(tmp_path / "run", *images, *SETTINGS, "calibration.samples=3")
    assert record["status"] == "ok", record["error"]
    assert record["calibration"]["scenes"] == 2
    assert "calibration=dataset has 2 of the 3 samples asked for" in record["notes"]


@given(seed=st.integers(0, 10**6), clusters=st.integers(1, 6), extra=st.integers(0, 20))
@settings(max_examples=30)
def test_a_choice_has_the_size_asked_for_and_no_candidate_twice(seed: int, clusters: int, extra: int) -> None:
    features = np.random.default_rng(seed).standard_normal((clusters + extra, 8))
    chosen = diverse(features, clusters, seed).chosen
    assert len(chosen) == len(set(chosen)) == clusters
    assert chosen == diverse(features, clusters, seed).chosen


def test_every_cluster_is_represented_and_lonely_candidates_are_not() -> None:
    rng = np.random.default_rng(0)
    centres = 20 * np.eye(4, 16)
    features = np.concatenate([c + rng.standard_normal((12, 16)) for c in centres] + [np.full((1, 16), 90.0)])
    selection = diverse(features, 4, seed=1)
    assert selection.outliers == [48]
    assert sorted(index // 12 for index in selection.chosen) == [0, 1, 2, 3]
    assert outliers(np.zeros((5, 3)), 4) == [], "candidates that are all the same"


def cached(
    folder: Path, scheme: Scheme = GPTQ, seed: int = 0, shown: Sequence[Tensor] = ()
) -> tuple[nn.Module, Any]:
    """The quantized small network, and the cache that was used on the way."""
    loaded = validated(tiny(f"model.seed={seed}")).model.load(torch.device("cpu"))
    samples = list(shown) or pictures()
    statistics = cache_of(STATISTICS, str(folder), "settings", loaded)
    cache = CalibrationCache(statistics, tensor_digest(torch.stack(samples)), scheme)
    quantize_(loaded.module, scheme, calibrate=samples, cache=cache)
    return loaded.module, cache


def test_the_cache_serves_the_same_recipe_and_nothing_else(tmp_path: Path) -> None:
    first, before = cached(tmp_path)
    second, after = cached(tmp_path)
    assert (before.cached, before.computed, after.cached, after.computed) == (0, 10, 10, 0)
    for (name, a), b in zip(first.named_buffers(), second.buffers(), strict=True):
        assert torch.equal(a, b), name
    # Nothing is quantized when the first block is observed, so it looks the same to every scheme.
    assert cached(tmp_path, replace(GPTQ, weights=Weights(bits=3)))[1].cached == 1
    assert cached(tmp_path, replace(GPTQ, name="renamed"))[1].cached == 10
    assert cached(tmp_path, seed=7)[1].cached == 0
    assert cached(tmp_path, shown=pictures()[:1])[1].cached == 0


def test_a_damaged_entry_is_computed_anew_and_the_rest_stays_right(tmp_path: Path) -> None:
    first, _ = cached(tmp_path)
    entries = sorted(tmp_path.glob("calibration/*.safetensors"))
    for entry in entries[::2]:
        entry.write_bytes(entry.read_bytes()[:-50])
    second, cache = cached(tmp_path)
    assert (cache.cached, cache.computed) == (5, 5)
    for (name, a), b in zip(first.named_buffers(), second.buffers(), strict=True):
        assert torch.equal(a, b), name


def test_what_changes_the_numbers_changes_the_identity(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cached(tmp_path)
    monkeypatch.setenv("ONEDNN_MAX_CPU_ISA", "AVX2")
    assert cached(tmp_path)[1].cached == 0
    monkeypatch.delenv("ONEDNN_MAX_CPU_ISA")
    monkeypatch.setattr("vggtq.prepare.cache.digest_of_packages", lambda *_: "another version")
    assert cached(tmp_path)[1].cached == 0


def test_samples_are_the_same_in_memory_and_on_disk(monkeypatch: pytest.MonkeyPatch) -> None:
    rooms = Rooms(count=3, frames=2, size=[28, 28])
    found = []
    for limit in (2**28, 0):
        monkeypatch.setattr("vggtq.prepare.samples.IMAGE_BYTES", limit)
        samples = Samples.of(Calibration(dataset=rooms, samples=3))
        found.append((samples.sha256, *samples.images))
        assert (samples._overflow.file_bytes == 0) is (limit > 0)
        assert [images.shape for images in samples.inputs] == [(1, 2, 3, 28, 28)] * 3
    exact = [scene.images for scene in rooms.scenes()]
    assert found[0][0] == found[1][0]
    assert all(
        torch.equal(a, b) and torch.equal(a, c)
        for a, b, c in zip(exact, found[0][1:], found[1][1:], strict=True)
    )


def test_one_block_of_vggt_1b_is_observed_at_a_time() -> None:
    model = validated(compose(["model=vggt_1b", "model.source=null"])).model.skeleton()
    for group in Observer(model, names_of(model), pictures()).groups:
        blocks = {name.rpartition(".attn.")[0] or name.rpartition(".mlp.")[0] for name in group.names} - {""}
        assert len(blocks) <= 1, group.names
        if blocks:
            assert len(group.names) == 4, "its values and what reads them together"
