"""Formats, roundings, channel scales and kernels from outside of the package, first of all those of docs/guide/extending.md."""

import importlib
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

import vggtq
from vggtq import (
    Activations,
    Kernel,
    Layers,
    Mixed,
    Rounding,
    ScaleMethod,
    Scheme,
    Transform,
    Weights,
    artifact,
    quantize_,
)
from vggtq.errors import ConfigError, WeightsError
from vggtq.models.checkpoints.fingerprint import WeightsInfo
from vggtq.quant.kernels.linear import ReferenceLinear
from vggtq.quant.kernels.table import KERNELS
from vggtq.quant.methods.round import pack_weight
from vggtq.quant.scheme.formats import FORMATS
from vggtq.quant.scheme.methods import ROUNDINGS, SCALES
from vggtq.quant.scheme.registry import Registry

GUIDE = Path(__file__).parents[2] / "docs" / "guide" / "extending.md"
MODULES = ("my_rounding", "my_format")
WHOLE = Layers(skip_first_last=False)
NOWHERE = WeightsInfo("here", "random", "0" * 64, random=True)


@pytest.fixture(autouse=True)
def my_methods(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """The guide's module, imported as a user would, and forgotten again."""
    text = GUIDE.read_text("utf-8")
    for name in MODULES:
        (code,) = re.findall(rf"```python title=\"{name}.py\"\n(.*?)```", text, re.DOTALL)
        (tmp_path / f"{name}.py").write_text(code, "utf-8")
    monkeypatch.syspath_prepend(tmp_path)
    before = [dict(table._entries) for table in (FORMATS, ROUNDINGS, SCALES)], list(KERNELS)
    for name in MODULES:
        importlib.import_module(name)
    yield
    for name in MODULES:
        del sys.modules[name]
    for table, entries in zip((FORMATS, ROUNDINGS, SCALES), before[0], strict=True):
        table._entries = entries  # type: ignore[assignment]
    KERNELS[:] = before[1]


def net() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(32, 16), nn.GELU(), nn.Linear(16, 8)).requires_grad_(False)


@pytest.fixture
def spec() -> Weights:
    return Weights("ternary", 2)


def ternary(weight: Tensor) -> Tensor:
    """Li and Liu 2016, eq. 5 and 6, one row after the other."""
    rows = []
    for row in weight.double():
        kept = row.abs() > 0.7 * row.abs().mean()
        rows.append(torch.where(kept, row.sign() * row[kept].abs().mean(), 0.0))
    return torch.stack(rows)


def test_a_format_from_outside_is_packed_saved_and_loaded(tmp_path: Path, spec: Weights) -> None:
    model, x = net(), torch.randn(5, 32)
    scheme = Scheme("mine", weights=spec, layers=WHOLE)
    expected = nn.functional.linear(x.double(), ternary(model[0].weight), model[0].bias.double())
    result = quantize_(model, scheme)
    assert {layer.backend for layer in result.layers} == {"blocked"}
    assert [layer.stored_bytes for layer in result.layers] == [16 * 8 + 4 * 16 + 64, 8 * 4 + 4 * 8 + 32]
    torch.testing.assert_close(model[0](x).double(), expected, rtol=1e-5, atol=1e-5)
    assert scheme.label == "TERNARY weights per-channel"
    path = tmp_path / "ternary.safetensors"
    artifact.save(model, path, scheme, result, NOWHERE)
    again = net()
    vggtq.load_into_(again, path)
    assert torch.equal(again(x), model(x))
    assert artifact.read_header(path).scheme == scheme


def test_a_file_whose_format_nobody_registered_names_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, spec: Weights
) -> None:
    model, path = net(), tmp_path / "ternary.safetensors"
    scheme = Scheme("mine", weights=spec, layers=WHOLE)
    artifact.save(model, path, scheme, quantize_(model, scheme), NOWHERE)
    monkeypatch.delitem(FORMATS._entries, "ternary")
    with pytest.raises(
        WeightsError, match="number format ternary, which nothing here has registered; import"
    ):
        vggtq.load_into_(net(), path)


@pytest.mark.parametrize(
    ("weights", "others", "message"),
    [
        ({"bits": 4}, {}, "ternary weights have 2 bits"),
        ({"granularity": "group", "group_size": 8}, {}, "use granularity=per_channel group_size=null"),
        ({"scale_dtype": "float16"}, {}, "ternary weights have float32 scales"),
        ({}, {"rounding": Rounding("gptq")}, "rounding.method=nearest"),
        ({}, {"transform": Transform("awq")}, "another basis"),
        ({}, {"mixed": Mixed(candidates=[2, 4])}, "need integer weights"),
    ],
)
def test_what_a_format_cannot_do_is_refused_from_its_entry(weights: dict, others: dict, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        Scheme(weights=Weights(**{"format": "ternary", "bits": 2, **weights}), **others)


def test_inputs_have_only_formats_that_say_so() -> None:
    with pytest.raises(ConfigError, match="ternary is not one of int, float8_e4m3, mxfp4, nvfp4"):
        Activations("dynamic", 2, "ternary")


def test_a_rounding_from_outside_is_used_and_named(tmp_path: Path) -> None:
    model, spec = net(), Weights(bits=4)
    scheme = Scheme("mine", weights=spec, rounding=Rounding("shorter"), layers=WHOLE)
    weight = model[0].weight.double()
    result = quantize_(model, scheme)
    scale = 0.9 * weight.abs().amax(1, keepdim=True) / 7
    expected = (weight / scale).round().clamp(-7, 7) * scale
    packed = pack_weight(weight.float(), spec, Rounding("shorter"))
    torch.testing.assert_close(packed.dequantize().double(), expected, rtol=1e-5, atol=1e-6)
    assert scheme.label == "INT4 per-channel symmetric 0.9 of the range"
    path = tmp_path / "shorter.safetensors"
    artifact.save(model, path, scheme, result, NOWHERE)
    assert artifact.read_header(path).label == scheme.label


def test_a_scale_from_outside_gets_what_it_asks_for() -> None:
    def power(rows: Tensor, statistics: object, alpha: float) -> Tensor:
        return (1 + statistics.gram.diagonal()) ** alpha  # type: ignore[attr-defined]

    vggtq.register_scale(
        ScaleMethod(name="power", label="power", function=power, takes=("statistics", "alpha"))
    )
    model, exact, x = net(), net(), torch.randn(64, 32)
    scheme = Scheme("mine", transform=Transform("power", alpha=0.25), layers=WHOLE)
    assert scheme.needs_calibration and scheme.label.endswith("symmetric power")
    quantize_(model, scheme, calibrate=lambda m: m(x))
    expected = (1 + x.square().mean(0)) ** 0.25
    torch.testing.assert_close(model[0].transform.scale, expected, rtol=1e-4, atol=1e-5)
    assert (model(x) - exact(x)).norm() / exact(x).norm() < 0.02


def test_a_kernel_from_outside_comes_first(spec: Weights) -> None:
    class Mine(ReferenceLinear):
        backend = "mine"

    vggtq.register_kernel(Kernel(Mine, device="cpu", formats=("ternary",)))
    model = net()
    assert {layer.backend for layer in quantize_(model, Scheme(weights=spec, layers=WHOLE)).layers} == {
        "mine"
    }
    others = {layer.backend for layer in quantize_(net(), Scheme(layers=WHOLE)).layers}
    assert "mine" not in others


def test_a_name_is_taken_once() -> None:
    entry = FORMATS["ternary"]
    vggtq.register_format(entry)
    with pytest.raises(ConfigError, match="number format int: the name is taken"):
        vggtq.register_format(vggtq.Format(name="int", label="", bits=(1,), granularities=(), arithmetic=""))


@pytest.mark.parametrize("table", [FORMATS, ROUNDINGS, SCALES], ids=lambda table: table.what)
def test_what_entries_name_can_be_imported(table: Registry) -> None:
    from vggtq.quant.scheme.registry import resolved

    for entry in table.values():
        for key in ("arithmetic", "parameters", "codes", "function"):
            assert getattr(entry, key, None) is None or resolved(getattr(entry, key)) is not None


def test_schemes_are_checked_without_torch() -> None:
    scheme = "vggtq.Scheme(weights=vggtq.Weights('mxfp4', 4, True, 'group', 32, 'float8_e8m0')).label"
    code = f"import sys, vggtq; {scheme}; print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.stdout.strip() == "False", done.stderr
