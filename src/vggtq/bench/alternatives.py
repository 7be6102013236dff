"""Tools that a user might choose instead, used as their documentation shows. Installed by the extra `bench`."""

import copy
import importlib.util
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from vggtq.bench.rows import INSTALL, Candidate, Missing, reason_of
from vggtq.terminal.logs import quiet

ONNX = "onnxruntime"
GROUP_SIZE = 64


def onnx_candidates(x: Tensor, linear: nn.Linear) -> list[Candidate | Missing]:
    """x: (T, in) float32 on the CPU."""
    kinds: dict[str, Callable[[Any], Any]] = {
        "ONNX Runtime FP32": lambda model: model,
        "ONNX Runtime int8 dynamic": _onnx_int8,
        f"ONNX Runtime int4 group {GROUP_SIZE}": _onnx_int4,
    }
    needed = ("onnxruntime", "onnx", "onnx_ir")
    if not all(importlib.util.find_spec(package) for package in needed):
        return [Missing(name, ONNX, INSTALL) for name in kinds]
    return [_onnx_candidate(name, convert, x, linear) for name, convert in kinds.items()]


def _onnx_candidate(
    name: str, convert: Callable[[Any], Any], x: Tensor, linear: nn.Linear
) -> Candidate | Missing:
    try:
        session = _onnx_session(convert(_onnx_model(linear)))
    except Exception as error:  # whatever another tool raises is that tool's row
        return Missing(name, ONNX, reason_of(error))
    feed = {"x": x.numpy()}
    call = lambda: torch.from_numpy(session.run(None, feed)[0])  # noqa: E731
    # It repacks weights, and does not give their size.
    return Candidate(name, call, "CPUExecutionProvider", None, tool=ONNX)


def _onnx_model(linear: nn.Linear) -> Any:
    """y = x Wᵀ + b as MatMul and Add."""
    from onnx import TensorProto, helper, numpy_helper

    rows, columns = linear.in_features, linear.out_features
    weight = numpy_helper.from_array(linear.weight.t().contiguous().numpy(), "w")
    graph = helper.make_graph(
        [
            helper.make_node("MatMul", ["x", "w"], ["xw"], name="matmul"),
            helper.make_node("Add", ["xw", "b"], ["y"]),
        ],
        "linear",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [None, rows])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [None, columns])],
        [weight, numpy_helper.from_array(linear.bias.numpy(), "b")],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10)


def _onnx_int8(model: Any) -> Any:
    import onnx
    from onnxruntime.quantization import QuantType, quantize_dynamic

    # The root logger gets advice on a preparation that changes nothing for one product.
    with tempfile.TemporaryDirectory() as folder, quiet("root"):
        before, after = Path(folder, "float.onnx"), Path(folder, "int8.onnx")
        onnx.save(model, before)
        quantize_dynamic(before, after, weight_type=QuantType.QInt8, per_channel=True)
        return onnx.load(after)


def _onnx_int4(model: Any) -> Any:
    from onnxruntime.quantization.matmul_nbits_quantizer import MatMulNBitsQuantizer

    quantizer = MatMulNBitsQuantizer(model, block_size=GROUP_SIZE, is_symmetric=True)
    quantizer.process()
    return quantizer.model.model


def _onnx_session(model: Any) -> Any:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    # Threads that spin between calls would slow down the other timings.
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    options.log_severity_level = 3
    return onnxruntime.InferenceSession(
        model.SerializeToString(), options, providers=["CPUExecutionProvider"]
    )


INT8_DYNAMIC = "Int8DynamicActivationInt8WeightConfig"  # of torchao


@dataclass(frozen=True)
class Tool:
    """A way to quantize the linear layers of any module, in place or not; `package` is the package that it
    imports.
    """

    name: str
    package: str
    quantize: Callable[[nn.Module], nn.Module]
    compiled: bool = False  # by torch.compile, which takes some seconds per shape and a C++ compiler


def _torch_dynamic(module: nn.Module) -> nn.Module:
    return torch.ao.quantization.quantize_dynamic(module, {nn.Linear}, dtype=torch.qint8)


def _torchao(config: str, **options: Any) -> Callable[[nn.Module], nn.Module]:
    def quantize(module: nn.Module) -> nn.Module:
        import torchao.quantization as ao

        ao.quantize_(module, getattr(ao, config)(**options))
        return module

    return quantize


def _torchao_int4(module: nn.Module) -> nn.Module:
    import torchao.quantization as ao

    # Int4WeightOnlyConfig has kernels for GPUs alone; this is torchao's 4-bit scheme that runs anywhere.
    config = ao.IntxWeightOnlyConfig(
        weight_dtype=getattr(torch, "int4"),  # noqa: B009  # type stubs lack it
        granularity=ao.PerGroup(64),
    )
    ao.quantize_(module, config)
    return module


def _quanto(weights: str) -> Callable[[nn.Module], nn.Module]:
    def quantize(module: nn.Module) -> nn.Module:
        from optimum import quanto

        quanto.quantize(module, weights=getattr(quanto, weights))
        quanto.freeze(module)
        return module

    return quantize


def compiled(module: nn.Module) -> nn.Module:
    """`module` behind torch.compile, weights folded in; it compiles at the first call."""
    optimized: Any = torch.compile(module, dynamic=False, options={"freezing": True})
    return optimized


def _float32(module: nn.Module) -> nn.Module:
    return module


TOOLS = (
    Tool("torch.compile FP32", "torch", _float32, compiled=True),
    Tool("torch quantize_dynamic", "torch", _torch_dynamic),
    Tool("torchao int8 weights", "torchao", _torchao("Int8WeightOnlyConfig")),
    Tool("torchao int8 dynamic", "torchao", _torchao(INT8_DYNAMIC)),
    Tool("torchao int8 dynamic, compiled", "torchao", _torchao(INT8_DYNAMIC), compiled=True),
    Tool("torchao int4 group 64", "torchao", _torchao_int4),
    Tool("quanto int8 weights", "optimum.quanto", _quanto("qint8")),
    Tool("quanto int4 weights", "optimum.quanto", _quanto("qint4")),
)


def is_installed(package: str) -> bool:
    """Whether `package` can be found; nothing is imported but the packages around it."""
    try:
        return importlib.util.find_spec(package) is not None
    except ModuleNotFoundError:
        return False


def quantized_by(tool: Tool, module: nn.Module) -> nn.Module | Missing:
    """A copy of `module` as `tool` quantizes it, or why that does not work here."""
    if not is_installed(tool.package):
        return Missing(tool.name, tool.package, INSTALL)
    try:
        with quiet("torchao", "torch.utils._pytree"):
            quantized = tool.quantize(copy.deepcopy(module)).eval()
            return compiled(quantized) if tool.compiled else quantized
    except Exception as error:  # whatever another tool raises is that tool's row
        return Missing(tool.name, tool.package, reason_of(error))


def linear_alternatives(x: Tensor, linear: nn.Linear, full: bool = False) -> list[Candidate | Missing]:
    """Every tool on one linear layer; with `full` also those that compile, ten seconds for each. x: (T, in)."""
    found: list[Candidate | Missing] = []
    for tool in (tool for tool in TOOLS if not tool.compiled or full):
        # Tools replace children, so the layer needs a parent.
        module = quantized_by(tool, nn.Sequential(linear))
        found.append(
            module if isinstance(module, Missing) else candidate_of(tool, module, partial(module, x))
        )
    return found + (onnx_candidates(x, linear) if x.device.type == "cpu" else [])


def candidate_of(tool: Tool, module: nn.Module, call: Callable[[], Tensor]) -> Candidate:
    """Compiled modules keep weights in layouts that cannot be asked for their size."""
    if tool.compiled:
        return Candidate(tool.name, call, "inductor", None, tool=tool.package)
    return Candidate(tool.name, call, "eager", resident_bytes(module), tool=tool.package)


def resident_bytes(module: nn.Module) -> int | None:
    """Bytes of all tensors, also inside tensor subclasses; None for torch's packed weights, which do not give
    their size.
    """
    if any("torch.ao.nn.quantized" in type(part).__module__ for part in module.modules()):
        return None
    tensors = {id(t): t for t in (*module.parameters(), *module.buffers())}
    return sum(_bytes(tensor) for tensor in tensors.values())


def _bytes(tensor: Tensor) -> int:
    if hasattr(tensor, "__tensor_flatten__"):
        names, _ = tensor.__tensor_flatten__()
        return sum(_bytes(getattr(tensor, name)) for name in names)
    return tensor.numel() * tensor.element_size()
