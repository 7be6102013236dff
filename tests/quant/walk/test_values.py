"""Transforms of what attention returns, merged into the layer that makes its values: exact, stored nowhere, done nowhere."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import vggtq
from vggtq.artifact.write import save
from vggtq.errors import QuantizationError
from vggtq.models.checkpoints.fingerprint import WeightsInfo
from vggtq.models.vggt.vit import Block
from vggtq.quant.bits.candidates import Candidates
from vggtq.quant.kernels.linear import QuantLinear
from vggtq.quant.kernels.modules import TransformedLinear
from vggtq.quant.numbers.packed import PackedWeight
from vggtq.quant.scheme.activations import Activations
from vggtq.quant.scheme.methods import Rounding, Transform
from vggtq.quant.scheme.parts import Layers, Mixed
from vggtq.quant.scheme.scheme import Scheme
from vggtq.quant.scheme.weights import Weights
from vggtq.quant.walk.fold import folds_of
from vggtq.quant.walk.observe import MEMORY_BYTES, Observer, observer_for
from vggtq.quant.walk.quantize import Quantization, quantize_
from vggtq.quant.walk.recipe import Recipe
from vggtq.quant.walk.select import observed_layers, select_layers
from vggtq.quant.walk.stored import stored_bytes, stored_tensors

QKV, PROJ = "block.attn.qkv", "block.attn.proj"


class Net(nn.Module):
    """A block that declares what is in front of its layers, and one linear layer without anything."""

    def __init__(self, dim: int = 64, heads: int = 2) -> None:
        super().__init__()
        self.block, self.last = Block(dim, heads, 2.0, 1.0), nn.Linear(dim, 8)
        for norm in (self.block.norm1, self.block.norm2):
            nn.init.normal_(norm.weight, 1, 0.3)
            nn.init.normal_(norm.bias, 0, 0.3)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.last(self.block(x))
        return out

    def norms_before(self) -> dict[str, str]:
        return {QKV: "block.norm1", "block.mlp.fc1": "block.norm2"}

    def values_before(self) -> dict[str, tuple[str, int, int]]:
        dim = self.last.in_features
        return {PROJ: (QKV, 2 * dim, dim // self.block.attn.heads)}


class NotRounded(QuantLinear):
    """Multiplies by what was to be rounded."""

    backend = "exact"

    def __init__(self, packed: PackedWeight, bias: nn.Parameter | None, activations: Activations) -> None:
        super().__init__(packed, bias, activations)
        self.exact = packed.exact

    def weight_tensors(self) -> dict[str, Tensor]:
        return {}

    def multiply(self, rows: Tensor) -> Tensor:
        return F.linear(rows, self.exact, self.bias)


def made(dim: int = 64, heads: int = 2) -> tuple[Net, Tensor]:
    torch.manual_seed(0)
    return Net(dim, heads).double().requires_grad_(False), torch.randn(3, 10, dim, dtype=torch.float64)


def scheme_of(transform: Transform, **other: object) -> Scheme:
    return Scheme(transform=transform, layers=Layers(skip_first_last=False), **other)


def transformed(model: nn.Module) -> dict[str, TransformedLinear]:
    return {name: m for name, m in model.named_modules() if isinstance(m, TransformedLinear)}


TRANSFORMS = [
    Transform(hadamard=True),
    *(Transform(scale) for scale in ("smooth", "balance", "awq", "sinkhorn")),
    *(Transform(scale, hadamard=True) for scale in ("smooth", "balance", "sinkhorn")),
    *(
        Transform(scale, hadamard=True, first="hadamard")
        for scale in ("smooth", "balance", "awq", "sinkhorn")
    ),
]


@pytest.mark.parametrize("transform", TRANSFORMS, ids=str)
@pytest.mark.parametrize(
    ("dim", "heads", "merged", "left"),
    [
        (64, 2, 32, 2),
        (64, 4, 16, 4),
        (192, 3, 64, 1),
        (96, 6, 16, 2),
        (96, 2, 16, 2),
        (48, 2, 8, 2),
        (24, 8, 1, 8),
    ],
)
def test_nothing_changes_before_rounding(
    transform: Transform, dim: int, heads: int, merged: int, left: int
) -> None:
    model, x = made(dim, heads)
    expected = model(x)
    scheme = scheme_of(transform, rounding=Rounding("gptq" if transform.hadamard else "nearest"))
    result = quantize_(model, scheme, calibrate=lambda m: m(x), keep_exact=True, linear=NotRounded)
    assert (model(x) - expected).abs().max() < 1e-9
    entry = next(layer for layer in result.layers if layer.name == PROJ)
    if transform.hadamard:
        assert (entry.merged, entry.rotation) == (merged, merged * left)
    wrapped = transformed(model)
    assert (PROJ in wrapped) is (transform.hadamard and left > 1)
    if PROJ in wrapped:  # scales of channels that are rotated across heads have to wait for that
        assert (wrapped[PROJ].transform.scale is None) is (
            transform.first == "scale" or transform.scale == "none"
        )


def test_the_transform_reaches_the_weight_that_is_rounded() -> None:
    """Merged or not, `proj` is rounded in the same basis, so that its codes are equal; of `qkv` only values change."""
    codes = {}
    for declared in (True, False):
        for scale in ("none", "smooth"):
            model, x = made()
            if not declared:
                model.values_before = dict  # type: ignore[method-assign]
            quantize_(model, scheme_of(Transform(scale, hadamard=True)), calibrate=lambda m: m(x))  # noqa: B023
            codes[declared, scale] = stored_tensors(model)
    for scale in ("none", "smooth"):
        assert torch.equal(codes[True, scale][f"{PROJ}.codes"], codes[False, scale][f"{PROJ}.codes"])
    assert f"{PROJ}.input_scale" in codes[False, "smooth"]
    assert f"{PROJ}.input_scale" not in codes[True, "smooth"]
    qkv = [codes[declared, "none"][f"{QKV}.codes"] for declared in (True, False)]
    assert torch.equal(qkv[0][:128], qkv[1][:128])
    assert not torch.equal(qkv[0][128:], qkv[1][128:])


@pytest.mark.parametrize("first", ["scale", "hadamard"])
def test_rounding_changes_nothing_of_the_network_and_depends_on_no_order(first: str) -> None:
    model, x = made()
    scheme = scheme_of(Transform("smooth", hadamard=True, first=first), rounding=Rounding("gptq"))
    before = {name: value.clone() for name, value in model.state_dict().items()}
    codes = {}
    for backwards in (False, True):
        modules = select_layers(model, scheme).replace
        observer = observer_for(model, scheme, observed_layers(modules), lambda m: m(x))
        folds = folds_of(model, scheme, observed_layers(modules), observer)
        recipe = Recipe(model, scheme, modules, observer, folds)
        assert folds.norms and folds.values
        weights = [weight for of_module in modules for weight in of_module]
        for weight in reversed(weights) if backwards else weights:
            rounded = recipe.round(weight, scheme.weights)
            codes[weight.name, backwards] = rounded.packed.codes
            again = recipe.round(weight, scheme.weights)
            assert torch.equal(again.packed.codes, rounded.packed.codes)
            for name, values in rounded.parameters.items():
                assert torch.equal(again.parameters[name], values)
    assert all(torch.equal(codes[name, False], codes[name, True]) for name, _ in codes)
    after = model.state_dict()
    assert all(torch.equal(after[name], value) for name, value in before.items())


def merged_in(result: Quantization) -> int:
    return next(layer.merged for layer in result.layers if layer.name == PROJ)


def test_what_cannot_be_merged_stays_in_front_of_the_layer() -> None:
    transform = Transform("smooth", hadamard=True)
    for change in ("per_tensor", "values in float", "too little memory", "shared"):
        model, x = made()
        scheme = scheme_of(transform)
        if change == "per_tensor":  # one scale for rows that were divided by others
            scheme = scheme_of(transform, weights=Weights(granularity="per_tensor"))
        if change == "values in float":
            scheme.layers.exclude = [QKV]
        if change == "shared":
            model.other = nn.Linear(64, 192)
            model.other.weight = model.block.attn.qkv.weight
        expected = model(x)
        with pytest.MonkeyPatch.context() as patch:
            if (
                change == "too little memory"
            ):  # each layer is observed by itself, values before their projection
                patch.setattr("vggtq.quant.walk.observe.Observer", _small_observer)
            result = quantize_(model, scheme, calibrate=lambda m: m(x))  # noqa: B023
        assert merged_in(result) == 0, change
        assert transformed(model)[PROJ].transform.scale is not None, change
        assert (model(x) - expected).norm() / expected.norm() < 0.05, change


def _small_observer(*arguments: object, **named: object) -> object:
    assert MEMORY_BYTES > 1
    return Observer(*arguments, **named, memory_bytes=1)  # type: ignore[arg-type]


def test_a_rotation_is_merged_with_one_scale_for_the_tensor() -> None:
    model, _ = made()
    result = quantize_(model, scheme_of(Transform(hadamard=True), weights=Weights(granularity="per_tensor")))
    assert merged_in(result) == 32


@pytest.mark.parametrize("first", ["scale", "hadamard"])
@pytest.mark.parametrize("heads", [1, 2])
def test_candidates_count_the_bytes_of_the_model_that_they_become(first: str, heads: int) -> None:
    model, x = made(64, heads)
    scheme = scheme_of(
        Transform("smooth", hadamard=True, first=first),
        weights=Weights(bits=4, granularity="group", group_size=16),
        mixed=Mixed(candidates=[3, 4]),
    )
    candidates = Candidates(model, scheme, calibrate=lambda m: m(x))
    counted = candidates.other_bytes(torch.float32) + sum(
        candidates.stored_bytes(candidates.packed(unit, 4), torch.float32) for unit in candidates.units
    )
    quantize_(model, replace(scheme, mixed=Mixed()), calibrate=lambda m: m(x))
    assert counted == stored_bytes(model)


@pytest.mark.parametrize("first", ["scale", "hadamard"])
@pytest.mark.parametrize("heads", [1, 2])
def test_an_artifact_brings_merged_rotations_back(tmp_path: Path, heads: int, first: str) -> None:
    model, x = made(64, heads)
    model, x = model.float(), x.float()
    transform = Transform("smooth", hadamard=True, first=first)
    scheme = scheme_of(transform, activations=Activations("dynamic", 4))
    result = quantize_(model, scheme, calibrate=lambda m: m(x))
    assert (PROJ in transformed(model)) is (heads > 1)
    path = tmp_path / "net.safetensors"
    save(model, path, scheme, result, WeightsInfo("random", "none", "", ""))
    fresh = Net(64, heads)
    restored = vggtq.load_into_(fresh, path)
    assert torch.equal(fresh(x), model(x))
    assert merged_in(restored) == merged_in(result) == 64 // heads
    layers = transformed(fresh)
    assert all(layer.transform.rotation_first is (first == "hadamard") for layer in layers.values())
    assert (layers[QKV].transform.scale is not None) is (first == "hadamard"), (
        "no norm takes scales behind a rotation"
    )


def test_a_weight_that_cannot_be_rounded_is_named_where_its_values_are() -> None:
    model, _ = made()
    model.block.attn.proj.weight[0, 0] = torch.nan
    with pytest.raises(QuantizationError, match=f"{PROJ}, which reads its values: 1 of 4096 weights are NaN"):
        quantize_(model, scheme_of(Transform(hadamard=True)))
