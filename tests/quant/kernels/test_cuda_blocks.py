"""What surrounds a product on CUDA: fused blocks, whole models, and formulas that are traced."""

import copy
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from helpers.cuda_layers import FLOAT8, INT4_GROUP, INT8, normal, there
from helpers.triton_device import DEVICE
from vggtq import artifact
from vggtq.models.checkpoints.fingerprint import WeightsInfo
from vggtq.models.vggt.initialize import initialize_
from vggtq.models.vggt.network import VGGT, build
from vggtq.models.vggt.vit import Block
from vggtq.quant.kernels.cuda.fuse import QuantizedMlp, QuantizingLayerNorm, fuse_blocks_
from vggtq.quant.kernels.cuda.rounded_rows import layer_norm_rows, quantize_rows
from vggtq.quant.kernels.cuda.triton_layers import (
    CudaLinear,
    Float8Linear,
    PackedWeightLinear,
    TritonInt8Linear,
)
from vggtq.quant.methods.round import pack_weight
from vggtq.quant.scheme.activations import Activations
from vggtq.quant.scheme.scheme import Scheme
from vggtq.quant.scheme.weights import Weights
from vggtq.quant.walk.quantize import fuse_, quantize_
from vggtq.records.describe import describe_layers_
from vggtq.records.schema import Record


def quantized_block(spec: Weights, activations: Activations, kind: type[CudaLinear]) -> tuple[Block, Block]:
    """A transformer block in float32, and with quantized linears."""
    torch.manual_seed(0)
    plain = Block(64, 4, 4.0, 1.0).eval().requires_grad_(False).to(DEVICE)
    for norm in (plain.norm1, plain.norm2):
        nn.init.normal_(norm.weight, 1, 0.3)
        nn.init.normal_(norm.bias, 0, 0.3)
    block = copy.deepcopy(plain)
    for parent, name in ((block.attn, "qkv"), (block.attn, "proj"), (block.mlp, "fc1"), (block.mlp, "fc2")):
        linear = parent.get_submodule(name)
        setattr(parent, name, kind(pack_weight(linear.weight, spec), linear.bias, activations))
    return plain, block


def error(out: Tensor, exact: Tensor) -> float:
    return float((out - exact).norm() / exact.norm())


@pytest.mark.parametrize(
    ("kind", "spec", "activations", "limit"),
    [(TritonInt8Linear, Weights(), INT8, 0.02), (Float8Linear, Weights("float8_e4m3"), FLOAT8, 0.05)],
    ids=["int8", "fp8"],
)
def test_fused_blocks_compute_the_same(
    kind: type[CudaLinear], spec: Weights, activations: Activations, limit: float
) -> None:
    plain, block = quantized_block(spec, activations, kind)
    x = normal(1, 12, 64, seed=5)
    unfused = block(x)
    names = list(block.state_dict())
    wrapper = nn.ModuleDict({"a": block})
    assert fuse_blocks_(wrapper) == ["a.norm1", "a.norm2", "a.mlp"]
    assert isinstance(block.norm1, QuantizingLayerNorm) and isinstance(block.mlp, QuantizedMlp)
    assert list(block.state_dict()) == names
    assert fuse_blocks_(wrapper) == []
    # In float32 both round the same values, up to the last bit of LayerNorm and GELU: a few codes fall to the other side.
    assert error(block(x), unfused) < limit / 10
    assert error(block(x), plain(x)) < limit
    assert block(x.bfloat16()).dtype == torch.promote_types(torch.bfloat16, torch.float32)


def tiny_model() -> VGGT:
    """Camera head alone, random weights, on DEVICE."""
    sizes = {"img_size": 28, "embed_dim": 64, "depth": 1, "num_heads": 2}
    heads = {"depth": False, "point": False, "track": False}
    camera = {"trunk_depth": 1, "num_heads": 2, "num_iterations": 1}
    model = build({"aggregator": sizes, "patch_embed": sizes, "camera_head": camera, "heads": heads})
    initialize_(model, seed=0, lively=True)
    return model.eval().requires_grad_(False).to(DEVICE)


def test_a_model_fuses_all_of_its_blocks_and_is_stored_as_before(tmp_path: Path) -> None:
    model = tiny_model()
    scheme = Scheme("int8_dynamic", Weights(), activations=INT8)
    result = quantize_(model, scheme, linear=lambda p, b, a: TritonInt8Linear(there(p), b, a))
    images = torch.rand(1, 2, 3, 28, 28, generator=torch.Generator().manual_seed(0)).to(DEVICE)
    unfused = model(images)["pose_enc"]
    weights = WeightsInfo("seed 0", "random", "0", random=True)
    before = artifact.save(model, tmp_path / "before.safetensors", scheme, result, weights)
    fuse_(model, result)
    blocks = [name for name, module in model.named_modules() if isinstance(module, Block)]
    assert len(blocks) >= 4
    assert result.fused == [f"{block}.{part}" for block in blocks for part in ("norm1", "norm2", "mlp")]
    record = Record(name="", command="", started="")
    describe_layers_(record, result)
    assert record.fused == result.fused
    assert result.notes[-1].endswith(f"in {3 * len(blocks)} places")
    assert error(model(images)["pose_enc"], unfused) < 0.01
    after = artifact.save(model, tmp_path / "after.safetensors", scheme, result, weights)
    assert before.digest == after.digest


def test_on_a_cpu_triton_fuses_nothing() -> None:
    model = nn.ModuleDict({"a": Block(64, 4, 4.0, 1.0)})
    result = quantize_(model, Scheme("int8_dynamic", Weights(), activations=INT8), first_last=())
    native = list(result.fused)
    fuse_(model, result)
    assert result.fused == native
    assert isinstance(model["a"].norm1, nn.LayerNorm)


def test_a_block_compiles_as_one_graph() -> None:
    plain, block = quantized_block(Weights(symmetric=False), INT8, TritonInt8Linear)
    x = normal(1, 12, 64, seed=5)
    torch._dynamo.reset()
    with torch.no_grad():
        compiled = torch.compile(block, fullgraph=True, backend="aot_eager", dynamic=False)
        assert error(compiled(x), block(x)) < 0.002
        assert error(compiled(x), plain(x)) < 0.02


def test_a_block_with_float_inputs_is_left_alone() -> None:
    _, block = quantized_block(INT4_GROUP, Activations(), PackedWeightLinear)
    assert fuse_blocks_(nn.ModuleDict({"a": block})) == []
    assert isinstance(block.norm1, nn.LayerNorm)


@pytest.mark.parametrize("numbers", [INT8, FLOAT8], ids=["int8", "fp8"])
@pytest.mark.parametrize(
    "call",
    [quantize_rows, lambda x, numbers: layer_norm_rows(x, x[0] + 1, x[1], 1e-6, numbers)],
    ids=["plain", "layer-norm"],
)
def test_traced_formulas_give_the_kernels_codes(numbers: Activations, call: Callable[..., object]) -> None:
    x = normal(20, 96)
    torch._dynamo.reset()
    traced = torch.compile(call, fullgraph=True, backend="eager")(x, numbers)
    launched = call(x, numbers)
    torch.testing.assert_close(traced.scale, launched.scale, rtol=1e-5, atol=0)
    different = (traced.codes.float() != launched.codes.float()).float().mean()
    # CUDA's torch divides by numbers only approximately, and LayerNorm has an order of sums of its own.
    assert different <= (0 if call is quantize_rows and DEVICE.type == "cpu" else 0.01)
