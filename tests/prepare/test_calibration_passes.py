"""What layers see of calibration samples, block by block or as a whole, and what is kept of it on disk."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from helpers.calibrated import GPTQ, W4A4, pictures, small
from helpers.runs import tiny
from vggtq.config.compose import compose
from vggtq.config.validate import validated
from vggtq.models.checkpoints.fingerprint import tensor_digest
from vggtq.prepare.cache import STATISTICS, CalibrationCache, cache_of
from vggtq.quant.methods.statistics import InputStatistics
from vggtq.quant.scheme.parts import Layers
from vggtq.quant.scheme.scheme import Scheme
from vggtq.quant.scheme.weights import Weights
from vggtq.quant.walk.observe import Observer
from vggtq.quant.walk.quantize import quantize_
from vggtq.quant.walk.select import select_layers


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
    scheme = replace(
        scheme, compute="float32"
    )  # else the rest changes with the first group, where the CPU has bfloat16
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


def test_one_block_of_vggt_1b_is_observed_at_a_time() -> None:
    model = validated(compose(["model=vggt_1b", "model.source=null"])).model.skeleton()
    for group in Observer(model, names_of(model), pictures()).groups:
        blocks = {name.rpartition(".attn.")[0] or name.rpartition(".mlp.")[0] for name in group.names} - {""}
        assert len(blocks) <= 1, group.names
        if blocks:
            assert len(group.names) == 4, "its values and what reads them together"
