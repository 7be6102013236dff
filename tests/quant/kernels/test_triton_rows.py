"""Rounding per token on CUDA against torch's own arithmetic, bit for bit."""

import math

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from helpers.triton_device import DEVICE
from vggtq.quant.kernels.cuda.rounded_rows import QuantizedRows, gelu_rows, layer_norm_rows, quantize_rows
from vggtq.quant.numbers.float8 import FLOAT8, quantize_tokens
from vggtq.quant.numbers.input_codes import token_scales
from vggtq.quant.scheme.activations import Activations

FLOAT8_NUMBERS = Activations("dynamic", 8, "float8_e4m3")
SHAPES = [(1, 1), (3, 16), (2, 5, 100), (4, 1024), (2, 3000)]


def draw(*shape: int, dtype: torch.dtype = torch.float32, seed: int = 0) -> Tensor:
    """Rows of very different size, with outliers."""
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(*shape, generator=generator) * torch.exp(
        4 * torch.randn(*shape[:-1], 1, generator=generator)
    )
    x *= torch.where(torch.rand(*shape, generator=generator) < 0.01, 50.0, 1.0)
    return x.clamp(-6e4, 6e4).to(dtype).to(DEVICE)  # float16 ends at 65504


def expected(values: Tensor, numbers: Activations) -> tuple[Tensor, Tensor]:
    """Codes and scales of float32 rows (T, C), by torch on the CPU: on CUDA it divides by numbers only approximately."""
    values = values.cpu()
    if numbers.format != "int":
        return quantize_tokens(values)
    scale = token_scales(values, numbers.bits)
    return torch.round(values / scale).to(torch.int8), scale


def back(rows: QuantizedRows) -> Tensor:
    return rows.codes.to(torch.float32) * rows.scale


def same_bits(a: Tensor, b: Tensor) -> bool:
    return torch.equal(a.view(torch.uint8), b.view(torch.uint8))


@pytest.mark.parametrize(
    "numbers", [Activations("dynamic", b) for b in (2, 4, 7, 8)] + [FLOAT8_NUMBERS], ids=str
)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_codes_and_scales_are_torchs(
    numbers: Activations, dtype: torch.dtype, shape: tuple[int, ...]
) -> None:
    x = draw(*shape, dtype=dtype)
    rows = quantize_rows(x, numbers)
    codes, scale = expected(x.reshape(-1, shape[-1]).to(torch.float32), numbers)
    assert torch.equal(rows.scale.cpu(), scale)
    assert same_bits(rows.codes.cpu(), codes)
    assert (rows.shape, rows.dtype) == (x.shape, dtype)
    if numbers.format == "int":
        assert torch.equal(rows.sums.cpu(), codes.sum(1, dtype=torch.int32))


def test_every_float8_code_and_every_half_between_two_is_rounded_as_torch_does() -> None:
    codes = torch.arange(127, dtype=torch.uint8).view(FLOAT8).float()
    values = torch.cat(
        [codes, (codes[1:] + codes[:-1]) / 2, torch.nextafter(codes[:-1], torch.tensor(math.inf))]
    )
    x = torch.cat([values, -values, torch.tensor([448.0])])[None].to(DEVICE)  # so that the scale is 1
    assert same_bits(quantize_rows(x, FLOAT8_NUMBERS).codes.cpu(), x.cpu().to(FLOAT8))


@pytest.mark.filterwarnings("ignore:invalid value:RuntimeWarning")  # of the interpreter, for inf / inf
@pytest.mark.parametrize("numbers", [Activations("dynamic"), FLOAT8_NUMBERS], ids=["int8", "float8"])
def test_zeros_and_broken_rows(numbers: Activations) -> None:
    x = draw(5, 40)
    x[1], x[2, 3], x[3, 7] = 0, math.nan, -math.inf
    rows = quantize_rows(x, numbers)
    assert (rows.codes[1].float() == 0).all()
    assert rows.scale.isfinite().flatten().tolist() == [True, True, False, False, True]
    assert torch.equal(back(rows)[[0, 4]], back(quantize_rows(x[[0, 4]], numbers)))


@pytest.mark.parametrize("numbers", [Activations("dynamic"), FLOAT8_NUMBERS], ids=["int8", "float8"])
def test_strided_and_empty_inputs(numbers: Activations) -> None:
    x = draw(6, 64)
    for view in (x[:, :40], x[::2], x.t(), x[:, ::3]):
        assert same_bits(quantize_rows(view, numbers).codes, quantize_rows(view.contiguous(), numbers).codes)
    assert quantize_rows(x[:0], numbers).codes.shape == (0, 64)


def near(rows: QuantizedRows, exact: Tensor, numbers: Activations) -> bool:
    """Each value is within half a code's step of the exact one, and the float32 formula's own error (1e-5 of the row)."""
    peak = exact.abs().amax(1, keepdim=True)
    step = (
        peak / (2 ** (numbers.bits - 1) - 1)
        if numbers.format == "int"
        else torch.maximum(exact.abs() / 8, peak / 448 / 512)
    )
    return bool(((back(rows) - exact).abs() <= step / 2 + 1e-5 * peak).all())


@pytest.mark.parametrize("numbers", [Activations("dynamic"), FLOAT8_NUMBERS], ids=["int8", "float8"])
@pytest.mark.parametrize("shape", SHAPES[1:], ids=str)
@pytest.mark.parametrize("affine", [True, False], ids=["affine", "plain"])
def test_layer_norm_before_rounding(numbers: Activations, shape: tuple[int, ...], affine: bool) -> None:
    x = draw(*shape) + 3
    gain, shift = (draw(shape[-1], seed=1), draw(shape[-1], seed=2)) if affine else (None, None)
    rows = layer_norm_rows(x, gain, shift, 1e-6, numbers)
    wide = [None if w is None else w.double() for w in (gain, shift)]
    exact = F.layer_norm(x.double(), shape[-1:], *wide, 1e-6).reshape(-1, shape[-1]).float()
    assert near(rows, exact, numbers)
    assert rows.shape == x.shape


@pytest.mark.parametrize("numbers", [Activations("dynamic"), FLOAT8_NUMBERS], ids=["int8", "float8"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_gelu_before_rounding(numbers: Activations, dtype: torch.dtype) -> None:
    x = (torch.randn(9, 300, generator=torch.Generator().manual_seed(0)) * 3).to(dtype).to(DEVICE)
    assert near(gelu_rows(x, numbers), F.gelu(x.double()).float(), numbers)
