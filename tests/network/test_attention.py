"""Scaled dot products in half precision: against float64, for modules that offer it, in records, labels and artifacts."""

from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import vggtq
from vggtq import artifact
from vggtq.config.compose import compose
from vggtq.config.validate import validated
from vggtq.errors import ConfigError, QuantizationError
from vggtq.models.vggt.vit import Attention, Block
from vggtq.network.attention import attend, set_attention_
from vggtq.quant.kernels.modules import QuantMultiheadAttention
from vggtq.quant.scheme.parts import Layers
from vggtq.quant.scheme.scheme import Scheme
from vggtq.quant.scheme.weights import Weights
from vggtq.quant.walk.quantize import quantize_
from vggtq.records.describe import describe_scheme

EPS = {"float16": 2.0**-11, "bfloat16": 2.0**-8}


def draw(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def float64_attention(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None = None) -> Tensor:
    logits = q.double() @ k.double().transpose(-2, -1) / q.shape[-1] ** 0.5
    return (logits if mask is None else logits + mask.double()).softmax(-1) @ v.double()


@pytest.mark.parametrize("name", EPS)
@pytest.mark.parametrize("masked", [False, True], ids=["plain", "masked"])
def test_half_precision_stays_within_its_rounding(name: str, masked: bool) -> None:
    q, k, v = (draw(2, 3, 33, 16, seed=seed) for seed in range(3))
    mask = torch.zeros(33, 33).masked_fill(draw(33, 33, seed=3) > 1, float("-inf")) if masked else None
    out = attend(q, k, v, getattr(torch, name), mask)
    assert out.dtype == torch.float32
    # Logits are off by 2 eps Σ|q k|/√d, which shifts weights by as much; v, weights and the output are rounded as well.
    logit_error = 2 * EPS[name] * (q.abs() @ k.abs().transpose(-2, -1)).amax() / 4
    bound = (2 * logit_error + 4 * EPS[name]) * v.abs().amax()
    error = (out - float64_attention(q, k, v, mask)).abs().max()
    assert 0 < error <= bound


def test_without_a_dtype_nothing_changes() -> None:
    q, k, v = (draw(1, 2, 9, 8, seed=seed) for seed in range(3))
    assert torch.equal(attend(q, k, v, None), F.scaled_dot_product_attention(q, k, v))
    assert torch.equal(attend(q, k, v, torch.float32), F.scaled_dot_product_attention(q, k, v))


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.block = Block(16, 2, 4, scale=1.0)
        self.other = nn.MultiheadAttention(16, 2, batch_first=True)

    def forward(self, x: Tensor) -> Tensor:
        x = self.block(x)
        return x + self.other(x, x, x, need_weights=False)[0]


def test_all_modules_that_offer_it_take_the_dtype() -> None:
    net = Net().eval().requires_grad_(False)
    x = draw(2, 12, 16)
    scheme = Scheme("int8", Weights(), attention="float16")
    result = quantize_(net, scheme, first_last=())
    assert result.notes == ["scaled dot products of 2 attention modules run in float16"]
    assert isinstance(net.other, QuantMultiheadAttention)
    assert net.other.attention_dtype == net.block.attn.attention_dtype == torch.float16
    half = net(x)
    assert set_attention_(net, "float32") == 2
    assert net.block.attn.attention_dtype is None
    error = (half - net(x)).norm() / net(x).norm()
    assert 0 < error < 4 * EPS["float16"]


def test_other_instances_keep_theirs() -> None:
    one, other = Attention(8, 2), Attention(8, 2)
    set_attention_(one, "bfloat16")
    assert other.attention_dtype is None


def test_a_model_without_such_modules_is_refused_before_anything_is_replaced() -> None:
    net = nn.Sequential(nn.Linear(8, 8))
    with pytest.raises(
        QuantizationError, match=r"scheme\.attention=float16: no module .* use scheme\.attention=float32"
    ):
        quantize_(net, Scheme("int8", Weights(), attention="float16"), first_last=())
    assert isinstance(net[0], nn.Linear)
    only_linears = Scheme("int8", Weights(), layers=Layers(types=["Linear"]), attention="float16")
    with pytest.raises(QuantizationError, match="no module"):
        quantize_(nn.Sequential(nn.Linear(8, 8), nn.MultiheadAttention(8, 2)), only_linears, first_last=())


def test_an_unknown_dtype_is_refused() -> None:
    with pytest.raises(
        ConfigError, match=r"scheme\.attention=float17 is not one of float32, float16, bfloat16, int8"
    ):
        Scheme(attention="float17")


@pytest.mark.parametrize(
    ("attention", "suffix"),
    [
        ("float32", ""),
        ("float16", ", attention FP16"),
        ("bfloat16", ", attention BF16"),
        ("int8", ", attention INT8"),
    ],
)
def test_labels_and_records_tell(attention: str, suffix: str) -> None:
    scheme = Scheme("int8", Weights(), attention=attention)
    assert scheme.label == "INT8 per-channel symmetric" + suffix
    assert describe_scheme(scheme).attention == attention


@pytest.mark.parametrize("scheme", ["int8_dynamic", "fp32"])
def test_an_artifact_brings_it_back(scheme: str, tmp_path: Path) -> None:
    options = [
        "model=vggt_mini",
        "model.source=null",
        "dataset=rooms",
        f"scheme={scheme}",
        "scheme.attention=bfloat16",
    ]
    config = validated(compose(options))
    model = config.model.load(torch.device("cpu"))
    images = torch.rand(2, 3, 28, 28, generator=torch.Generator().manual_seed(0))
    exact = model.predict(images)["depth"]
    result = quantize_(model.module, config.scheme)
    path = tmp_path / "model.safetensors"
    artifact.save(model.module, path, config.scheme, result, model.weights, config.model.identity())
    loaded = vggtq.load(path)
    assert loaded.header.label.endswith("attention BF16")
    assert "attention modules run in bfloat16" in loaded.quantization.notes[0]
    found = loaded.predict(images)["depth"]
    assert torch.equal(found, model.predict(images)["depth"])
    assert not torch.equal(found, exact)
