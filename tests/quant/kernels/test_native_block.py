"""Blocks on the native kernels: against their own modules, torch's LayerNorm and GELU, hooks, training and tracing."""

import copy
import logging
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, Dataset

from helpers.guarded import Guarded
from helpers.threads import threads
from vggtq.machine import native
from vggtq.models.vggt.positions import rope_table
from vggtq.models.vggt.vit import Block
from vggtq.network.declared import set_fused_forward_
from vggtq.quant.kernels.cpu import native_block
from vggtq.quant.kernels.cpu.native_linear import NativeLinear
from vggtq.quant.kernels.native.operator import Around, surrounded
from vggtq.quant.methods.round import pack_weight
from vggtq.quant.scheme.activations import Activations
from vggtq.quant.scheme.scheme import Scheme
from vggtq.quant.scheme.weights import Weights
from vggtq.quant.walk.quantize import quantize_

built = pytest.mark.skipif(native.problem() is not None, reason=f"no native kernels: {native.problem()}")
DYNAMIC = Activations("dynamic")
Rope = tuple[Tensor, Tensor]


def quantized_block(
    dim: int = 128,
    heads: int = 2,
    qk_norm: bool = True,
    scheme: Scheme | None = None,
    scale: float | None = 0.5,
    rope_groups: int = 2,
) -> Block:
    torch.manual_seed(0)
    block = (
        Block(dim, heads, 2, scale=scale, qk_norm=qk_norm, rope_groups=rope_groups)
        .eval()
        .requires_grad_(False)
    )
    for parameter in block.parameters():  # biases and norms that matter
        parameter.add_(0.1 * torch.randn_like(parameter))
    quantize_(block, scheme or Scheme("w8a8", Weights(), activations=DYNAMIC), first_last=())
    return block


def table(tokens: int, width: int) -> Rope:
    cos, sin = rope_table((4, tokens // 4 + 1), 1, width, 100.0, torch.device("cpu"))
    return cos[:tokens], sin[:tokens]


def unfused(block: Block) -> Block:
    twin = copy.deepcopy(block)
    set_fused_forward_(twin, None)
    return twin


@pytest.mark.parametrize("qk_norm", [True, False], ids=["qk norm", "plain"])
@pytest.mark.parametrize("turned", [True, False], ids=["rope", "no rope"])
@pytest.mark.parametrize(("dim", "heads"), [(128, 2), (96, 4), (80, 2)])
def test_a_block_computes_what_its_modules_compute(
    isa: str, qk_norm: bool, turned: bool, dim: int, heads: int
) -> None:
    block = quantized_block(dim, heads, qk_norm)
    x = torch.randn(2, 21, dim)
    rope = table(21, dim // heads) if turned else None
    assert block.fused_forward is native_block.native_block
    found, wanted = block(x, rope), unfused(block)(x, rope)
    # A code may differ by one where LayerNorm and GELU differ in their last bits.
    assert ((found - wanted).norm() / wanted.norm()) < 2e-3
    assert ((found - wanted).abs() < 1e-5).float().mean() > 0.2


@pytest.mark.parametrize(("scale", "rope_groups"), [(None, 2), (0.5, 1)], ids=["no LayerScale", "one group"])
@pytest.mark.parametrize(("dim", "heads"), [(128, 2), (80, 2)])
def test_blocks_of_the_other_networks(
    isa: str, scale: float | None, rope_groups: int, dim: int, heads: int
) -> None:
    """Pi3's camera head has no LayerScale; VGGT-Ω pairs channels over the whole width of a head."""
    block = quantized_block(dim, heads, scale=scale, rope_groups=rope_groups)
    x, rope = torch.randn(2, 21, dim), table(21, dim // heads)
    found, wanted = block(x, rope), unfused(block)(x, rope)
    assert block.fused_forward is native_block.native_block
    assert ((found - wanted).norm() / wanted.norm()) < 2e-3
    assert ((found - wanted).abs() < 1e-5).float().mean() > 0.2


def layer_of(columns: int, rows: int, group: int | None = None) -> NativeLinear:
    spec = Weights(bits=4, granularity="group", group_size=group) if group else Weights()
    weight = torch.randn(rows, columns, generator=torch.Generator().manual_seed(0))
    return NativeLinear(pack_weight(weight, spec), nn.Parameter(torch.randn(rows)), DYNAMIC)


@pytest.mark.parametrize("group", [None, 32])
@pytest.mark.parametrize(("tokens", "rows"), [(1, 64), (29, 33), (40, 7)])
def test_factors_and_residuals_are_added_as_torch_does(
    isa: str, group: int | None, tokens: int, rows: int
) -> None:
    layer, x, guarded = layer_of(64, rows, group), torch.randn(tokens, 64), Guarded()
    gamma, residual = guarded.copy(torch.randn(rows)), guarded.copy(torch.randn(tokens, rows))
    around = Around(gelu=0, gamma=gamma.data_ptr(), residual=residual.data_ptr())
    found = surrounded(around, x, *layer.arguments())
    torch.testing.assert_close(found, residual + gamma * layer(x), rtol=1e-5, atol=1e-5)


def test_gelu_is_exact(isa: str) -> None:
    """By way of the bias of a product with zeros, from where nothing is left to where all of x is."""
    values = torch.cat([torch.linspace(-9, 9, 4001), torch.tensor([0.0, -30.0, 30.0, 1e-20, torch.nan])])
    layer = NativeLinear(pack_weight(torch.zeros(len(values), 32), Weights()), nn.Parameter(values), DYNAMIC)
    found = surrounded(Around(gelu=1), torch.ones(3, 32), *layer.arguments())
    wanted = F.gelu(values.double()).expand(3, -1)
    torch.testing.assert_close(found.double(), wanted, rtol=1e-6, atol=4e-7, equal_nan=True)


@pytest.mark.parametrize("offset", [0.0, 30.0])
def test_layer_norm_comes_before_rounding(isa: str, offset: float) -> None:
    layer, norm, x = layer_of(96, 48), nn.LayerNorm(96, eps=1e-3), torch.randn(25, 96) * 3 + offset
    norm.weight.data, norm.bias.data = torch.rand(96) + 0.5, torch.randn(96)
    around = Around(epsilon=norm.eps, norm_weight=norm.weight.data_ptr(), norm_bias=norm.bias.data_ptr())
    found, wanted = surrounded(around, x, *layer.arguments()), layer(norm(x))
    assert ((found - wanted).norm() / wanted.norm()) < 2e-3
    assert ((found - wanted).abs() < 1e-4).float().mean() > 0.8


def test_rotation_is_that_of_the_network_and_leaves_values_alone(isa: str) -> None:
    block, width = quantized_block(), 64
    qkv = torch.randn(2, 9, 3, 2, width)
    rope, before = table(9, width), qkv.clone()
    found = native_block._turned(qkv, block.attn, rope)
    q, k, v = before.permute(2, 0, 3, 1, 4)
    norms = [norm(t) for norm, t in ((block.attn.q_norm, q), (block.attn.k_norm, k))]
    for one, other in zip(found[:2], norms, strict=True):
        torch.testing.assert_close(one, native_block.apply_rope(other, rope), rtol=1e-5, atol=1e-5)
    assert torch.equal(found[2], v)


def test_results_do_not_depend_on_threads(isa: str) -> None:
    block, x, rope = quantized_block(), torch.randn(1, 250, 128), table(250, 64)
    found = []
    for count in (1, 2):
        with threads(count):
            found.append(block(x, rope))
    assert torch.equal(*found)


@pytest.mark.parametrize("attention", ["float32", "int8"])
def test_broken_tokens_come_out_as_torchs(isa: str, attention: str) -> None:
    block = quantized_block(scheme=Scheme("w8a8", Weights(), activations=DYNAMIC, attention=attention))
    x, rope = torch.randn(4, 21, 128), table(21, 64)
    clean = block(x, rope)
    x[0, 3, 5], x[1, 20, 0], x[2, 0, 127] = torch.nan, torch.inf, -torch.inf
    found = block(x, rope)
    exact = quantized_block(scheme=Scheme("fp32", Weights("float32", 32, granularity="none")))
    assert torch.equal(found.isnan(), exact(x, rope).isnan())
    assert found[:3].isnan().all()  # every token of a frame sees the broken one
    assert torch.equal(found[3], clean[3])


class Predictions(Dataset[Tensor]):
    """What a block makes of one frame after the other, computed where it is asked for."""

    def __init__(self, block: Block, x: Tensor, rope: Rope) -> None:
        self.block, self.x, self.rope = block, x, rope

    def __len__(self) -> int:
        return len(self.x)

    def __getitem__(self, index: int) -> Tensor:
        return self.block(self.x[index : index + 1], self.rope)[0]


@built
def test_workers_of_a_data_loader_compute_the_same() -> None:
    """Processes forked from one whose threads have worked."""
    block = quantized_block(scheme=Scheme("w8a8", Weights(), activations=DYNAMIC, attention="int8"))
    x, rope = torch.randn(4, 150, 128), table(150, 64)
    with threads(2):
        wanted = block(x, rope)
        predictions = Predictions(block, x, rope)
        loader = DataLoader(predictions, None, num_workers=2, multiprocessing_context="fork", timeout=100)
        assert torch.equal(torch.stack(list(loader)), wanted)


@built
def test_two_models_compute_at_once_with_threads_of_their_own() -> None:
    scheme = Scheme("w8a8", Weights(), activations=DYNAMIC, attention="int8")
    blocks = [quantized_block(64 * heads, heads, scheme=scheme) for heads in (1, 3)]
    cases = [(torch.randn(1, n, 64 * heads), table(n, 64)) for n, heads in ((300, 1), (120, 3))]

    def computed(i: int) -> list[Tensor]:
        torch.set_num_threads(2)
        return [blocks[i](*cases[i]) for _ in range(20)]

    with threads(2):
        wanted = [computed(i)[0] for i in (0, 1)]
        with ThreadPoolExecutor(2) as pool:
            found = list(pool.map(computed, (0, 1)))
    assert all(torch.equal(y, own) for many, own in zip(found, wanted, strict=True) for y in many)


@built
@pytest.mark.parametrize("wrong", ["surrounded", "_rotate"])
def test_wrong_surroundings_are_not_used(
    wrong: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    assert quantized_block().fused_forward is native_block.native_block
    right = getattr(native_block, wrong)
    broken = {"surrounded": lambda *rest: right(*rest) + 1, "_rotate": lambda *rest: None}
    monkeypatch.setattr(native_block, wrong, broken[wrong])
    native_block.is_right.cache_clear()
    try:
        with caplog.at_level(logging.WARNING):
            assert [quantized_block().fused_forward for _ in range(2)] == [None, None]
        assert caplog.text.count("blocks run on their modules") == 1
    finally:
        native_block.is_right.cache_clear()


@built
def test_modules_run_for_training_hooks_and_tracing() -> None:
    block, x, rope = quantized_block(), torch.randn(1, 21, 128), table(21, 64)
    seen: list[str] = []
    for name, module in block.named_modules():
        if isinstance(module, NativeLinear | nn.LayerNorm):
            module.register_forward_hook(lambda *_, name=name: seen.append(name))
    block(x, rope)
    assert sorted(seen) == sorted(
        ["norm1", "norm2", "attn.qkv", "attn.q_norm", "attn.k_norm", "attn.proj", "mlp.fc1", "mlp.fc2"]
    )
    called: list[str] = []
    block.mlp.register_forward_hook(lambda *_: called.append("mlp"))
    block(x, rope)
    assert called == ["mlp"]
    block = quantized_block()
    half = quantized_block()  # parameters of another type are read as what they are
    for parameter in (*half.norm1.parameters(), half.ls1.gamma, *half.attn.q_norm.parameters()):
        parameter.data = parameter.data.to(torch.bfloat16)
    assert ((half(x, rope) - block(x, rope)).norm() / block(x, rope).norm()) < 0.02
    assert native_block.native_block(block, x.double(), rope) is None
    assert native_block.native_block(block, x.clone().requires_grad_(), rope) is None
    block.attn.attention_dtype = None  # graphs have torch's kernels, also in bfloat16
    exported = torch.export.export(block, (x, rope))
    assert "vggtq.quantized_linear" in exported.graph_module.code
    torch.testing.assert_close(exported.module()(x, rope), unfused(block)(x, rope))


@built
def test_layers_of_other_kinds_and_float_blocks_are_left_to_their_modules() -> None:
    x, rope = torch.randn(1, 21, 128), table(21, 64)
    exact = quantized_block(scheme=Scheme("fp32", Weights("float32", 32, granularity="none")))
    assert exact.fused_forward is None
    for weights in (
        Weights("float16", 16, granularity="none"),
        Weights(bits=4, granularity="group", group_size=32),
    ):
        weight_only = quantized_block(scheme=Scheme("weights", weights))
        torch.testing.assert_close(weight_only(x, rope), unfused(weight_only)(x, rope), rtol=1e-4, atol=1e-4)
    block = quantized_block()
    block.mlp.fc1 = nn.Linear(128, 256)
    block.requires_grad_(False)
    wanted = unfused(block)(x, rope)
    assert ((block(x, rope) - wanted).norm() / wanted.norm()) < 2e-3
