"""scheme=torch_dynamic is what PyTorch's quantize_dynamic makes of a model, bit for bit."""

import warnings

import pytest
import torch
from torch import nn

from vggtq.config.compose import compose
from vggtq.config.validate import Job
from vggtq.errors import ConfigError, QuantizationError
from vggtq.quant.kernels.table import linear_backend
from vggtq.quant.walk.quantize import quantize_


def by_pytorch(model: nn.Module) -> nn.Module:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        made: nn.Module = torch.ao.quantization.quantize_dynamic(model, {nn.Linear}, dtype=torch.qint8)
    return made


def scheme(*overrides: str):
    return Job(compose(["scheme=torch_dynamic", *overrides])).config.scheme


@pytest.mark.parametrize("bias", [True, False])
def test_outputs_and_codes_are_those_of_pytorch(bias: bool) -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(37, 64, bias=bias), nn.GELU(), nn.Linear(64, 19, bias=bias)).eval()
    model[0].weight.data[3, 5] = -4.0  # one outlier: most of the others share few codes
    x = torch.randn(3, 11, 37)
    with torch.inference_mode():
        expected = by_pytorch(model)(x)
        codes = by_pytorch(model)[0].weight().int_repr()
        done = quantize_(model, scheme("scheme.layers.skip_first_last=false"))
        assert torch.equal(model(x), expected)
    assert {layer.backend for layer in done.layers} == {"torch_dynamic"}
    assert not any(layer.simulated for layer in done.layers)
    assert torch.equal((model[0].stored_codes() ^ 128).view(torch.int8), codes)


def test_a_bias_that_changes_after_quantizing_is_the_one_that_is_added() -> None:
    torch.manual_seed(0)
    with torch.inference_mode():  # whose tensors count no versions
        model, x = nn.Sequential(nn.Linear(8, 5)), torch.randn(3, 8)
        quantize_(model, scheme("scheme.layers.skip_first_last=false"))
        before = model(x)
        model[0].bias.add_(1.0)
        torch.testing.assert_close(model(x), before + 1)
        model[0].bias = nn.Parameter((model[0].bias - 1).half(), requires_grad=False)
        torch.testing.assert_close(model(x), before, rtol=0, atol=1e-3)


@pytest.mark.parametrize(
    "overrides",
    [
        "scheme.activations.symmetric=true",
        "scheme.activations.bits=7",
        "granularity=per_channel",
        "scheme.weights.symmetric=false",
    ],
)
def test_other_numbers_are_refused_with_the_remedy(overrides: str) -> None:
    with pytest.raises(ConfigError, match="use scheme=torch_dynamic"):
        scheme(overrides)


def test_another_device_is_refused_instead_of_another_kernel() -> None:
    made = scheme()
    with pytest.raises(QuantizationError, match="use device=cpu"):
        linear_backend(made.weights, made.activations, (8, 8), torch.device("meta"))
