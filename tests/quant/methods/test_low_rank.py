"""The branch beside a quantized weight: the optimum that SVD gives, its bytes, and the same outputs from a file."""

from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from vggtq import artifact
from vggtq.errors import ConfigError
from vggtq.models.checkpoints.fingerprint import WeightsInfo
from vggtq.quant.kernels.modules import TransformedLinear
from vggtq.quant.methods.low_rank import low_rank
from vggtq.quant.methods.scales import output_error
from vggtq.quant.scheme.activations import Activations
from vggtq.quant.scheme.methods import Compensation, Rounding, Transform
from vggtq.quant.scheme.parts import Layers
from vggtq.quant.scheme.scheme import Scheme
from vggtq.quant.scheme.weights import Weights
from vggtq.quant.walk.quantize import quantize_
from vggtq.quant.walk.stored import resident_bytes, round_rest_, stored_bytes, stored_tensors

WHOLE = Layers(skip_first_last=False)


def weight(rows: int, columns: int) -> Tensor:
    """Singular values that fall like those of trained layers."""
    generator = torch.Generator().manual_seed(0)
    left, right = (torch.randn(n, n, generator=generator) for n in (rows, columns))
    values = torch.logspace(0, -1.5, min(rows, columns))
    return left[:, : len(values)] / rows**0.5 * values @ right[: len(values)]


@pytest.mark.parametrize("shape", [(24, 40), (40, 24)], ids=["wide", "tall"])
def test_without_data_the_branch_is_the_truncated_svd(shape: tuple[int, int]) -> None:
    exact = weight(*shape)
    left, values, right = torch.linalg.svd(exact.double(), full_matrices=False)
    best = (left[:, :5] * values[:5]) @ right[:5]
    assert (low_rank(exact, 5).weight() - best).abs().max() < 2e-3 * exact.abs().max()


def test_with_data_no_other_branch_of_that_rank_disturbs_the_output_less() -> None:
    exact = weight(24, 40)
    inputs = torch.randn(500, 40, generator=torch.Generator().manual_seed(1)) * torch.logspace(-1, 1, 40)
    gram = inputs.T @ inputs / 500
    values = torch.linalg.svdvals((inputs @ exact.T).double())
    least = float(values[5:].square().sum()) / 500  # Eckart and Young, on the outputs themselves
    found = output_error(exact, low_rank(exact, 5, gram).weight(), gram)
    assert least * (1 - 1e-3) <= found < 1.05 * least  # damping and half precision
    assert found < 0.7 * output_error(exact, low_rank(exact, 5).weight(), gram)


def test_a_full_rank_branch_leaves_half_precision_only() -> None:
    exact = weight(12, 30)
    assert (low_rank(exact, 100).weight() - exact).abs().max() < 2e-3 * exact.abs().max()
    assert low_rank(torch.zeros(4, 6), 2).weight().abs().max() == 0


def net() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(64, 96), nn.GELU(), nn.Linear(96, 64))


def show(model: nn.Module) -> None:
    model(torch.randn(256, 64, generator=torch.Generator().manual_seed(1)) * torch.logspace(-1, 1, 64))


def scheme(rank: int) -> Scheme:
    parts = (Weights(bits=4), Activations("dynamic", 4), WHOLE)
    recipe = (Rounding("gptq"), Transform("smooth"), Compensation(rank))
    return Scheme("test", *parts, rounding=recipe[0], transform=recipe[1], compensation=recipe[2])


def test_a_branch_takes_most_of_the_error_of_w4a4_and_its_bytes_are_counted() -> None:
    exact, errors, sizes = net(), {}, {}
    x = torch.randn(300, 64, generator=torch.Generator().manual_seed(2)) * torch.logspace(-1, 1, 64)
    for rank in (0, 16):
        model = net()
        result = quantize_(model, scheme(rank), calibrate=show)
        errors[rank] = (model(x) - exact(x)).square().mean().item()
        sizes[rank] = (stored_bytes(model), resident_bytes(model), sum(e.stored_bytes for e in result.layers))
        assert [entry.rank for entry in result.layers] == [rank, rank]
        tensors = stored_tensors(model).values()
        assert stored_bytes(model) == sum(t.numel() * t.element_size() for t in tensors)
    branch = 2 * 16 * (64 + 96) * 2
    assert [b - a for a, b in zip(sizes[0], sizes[16], strict=True)] == [branch] * 3
    assert errors[16] < 0.7 * errors[0]


@pytest.mark.parametrize("rest", ["float32", "float16"])
def test_a_file_brings_the_branch_back_bit_for_bit(tmp_path: Path, rest: str) -> None:
    model, x = net(), torch.randn(10, 64)
    recipe = scheme(8)
    result = quantize_(model, recipe, calibrate=show)
    round_rest_(model, rest)
    info = WeightsInfo("seed 0", "random", "0" * 64, random=True)
    saved = artifact.save(model, tmp_path / "m.safetensors", recipe, result, info, rest=rest)
    assert saved.stored_bytes == stored_bytes(model, getattr(torch, rest))
    again = net()
    loaded = artifact.load_into_(again, saved.path)
    assert torch.equal(again(x), model(x))
    assert [entry.rank for entry in loaded.layers] == [8, 8]
    assert artifact.read_header(saved.path).scheme == recipe


def test_a_branch_keeps_its_numbers_when_the_model_is_cast() -> None:
    model = net()
    quantize_(model, scheme(4), calibrate=show)
    layers = [module for module in model.double().modules() if isinstance(module, TransformedLinear)]
    assert all(layer.low_rank is not None and layer.low_rank.down.dtype == torch.float16 for layer in layers)
    assert model(torch.randn(3, 64, dtype=torch.float64)).dtype == torch.float64


def test_a_rank_that_makes_no_sense_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"rank=-1"):
        Compensation(-1)
    with pytest.raises(ConfigError, match=r"rank=4 with float16 weights"):
        Scheme(weights=Weights("float16", 16, granularity="none"), compensation=Compensation(4))
    assert scheme(16).label.endswith("SmoothQuant GPTQ rank 16")
