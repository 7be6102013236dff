"""Progressive scales: integers of 1 … 15 below a float scale of the channel, for every rounding."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from vggtq import Activations, Rounding, Scheme
from vggtq.errors import ConfigError
from vggtq.quant.kernels.linear import ReferenceLinear
from vggtq.quant.methods.round import pack_weight
from vggtq.quant.numbers.packing import unpack
from vggtq.quant.numbers.progressive import joined_scales, split_scales
from vggtq.quant.scheme.parts import Finetune
from vggtq.quant.scheme.weights import Weights


def spec_of(scale_dtype: str, group: int = 32, bits: int = 4) -> Weights:
    return Weights(bits=bits, granularity="group", group_size=group, scale_dtype=scale_dtype)


@settings(max_examples=60, deadline=None)
@given(st.integers(1, 9), st.integers(1, 20), st.floats(0.01, 3), st.integers(0, 2**20))
def test_scales_are_integers_of_the_channels(rows: int, groups: int, spread: float, seed: int) -> None:
    scales = (spread * torch.randn(rows, groups, generator=torch.Generator().manual_seed(seed))).exp()
    channel, group = split_scales(scales)
    assert channel.shape == (rows, 1) and channel.dtype == torch.float32
    assert group.shape == scales.shape and group.dtype == torch.uint8
    assert int(group.min()) >= 1 and int(group.max()) <= 15
    # Never worse than the plain choice, where the largest scale is 15 of the channel's.
    plain = scales.amax(1, keepdim=True) / 15
    error = (scales - joined_scales(channel, group)).square().sum(1)
    worst = (scales - plain * torch.round(scales / plain).clamp(1, 15)).square().sum(1)
    assert (error <= worst * 1.001 + 1e-12).all()


@pytest.mark.parametrize("method", ["nearest", "mse", "hqq", "gptq"])
def test_every_rounding_aims_at_the_scales_that_are_stored(method: str) -> None:
    torch.manual_seed(0)
    rows, inputs = torch.randn(48, 128), torch.randn(400, 128)
    gram = inputs.T @ inputs / 400
    packed, plain = (
        pack_weight(rows, spec_of(dtype), Rounding(method), gram) for dtype in ("progressive", "float32")
    )
    codes = unpack(packed.codes, 4, 128).double() - 8
    scale = packed.tensor_scale.double() * packed.scale.double()
    exact = codes * scale.repeat_interleave(32, 1)
    torch.testing.assert_close(packed.dequantize().double(), exact, rtol=1e-6, atol=0)
    assert codes.abs().max() <= 7
    if method != "gptq":  # whose codes are not the nearest ones
        # Half a step at most inside of the range.
        inside = rows.abs() <= 7 * scale.repeat_interleave(32, 1)
        off = (rows - exact).abs() / scale.repeat_interleave(32, 1)
        assert (off[inside] <= 0.5001).all()
    assert packed.sqnr_db > plain.sqnr_db - 0.4
    assert packed.stored_bytes == 48 * (64 + 4 + 4)


def test_the_reference_multiplies_with_them() -> None:
    packed, x = pack_weight(torch.randn(12, 80), spec_of("progressive")), torch.randn(5, 80)
    out = ReferenceLinear(packed, None, Activations())(x)
    torch.testing.assert_close(out, x @ packed.dequantize().T)


@pytest.mark.parametrize(
    "changes", [{"bits": 5}, {"symmetric": False}, {"group_size": None}], ids=["bits", "zeros", "rows"]
)
def test_what_would_not_fit_bytes_is_refused(changes: dict[str, object]) -> None:
    numbers = {"bits": 4, "granularity": "group", "group_size": 64, "scale_dtype": "progressive"}
    with pytest.raises(ConfigError, match=r"scale_dtype=progressive with bits=.*use bits=4"):
        Weights(**(numbers | changes))


def test_steps_are_not_learned_as_integers() -> None:
    with pytest.raises(ConfigError, match=r"finetune.steps=3 with scheme.weights.scale_dtype=progressive"):
        Scheme(weights=spec_of("progressive"), finetune=Finetune(steps=3))


def test_tables_tell_them_apart() -> None:
    assert Scheme(weights=spec_of("progressive")).label == "INT4 group 32 progressive"
