"""One linear layer in ONNX Runtime: FP32, 8-bit dynamic (MatMulInteger) and 4-bit weights (MatMulNBits)."""

import importlib.util
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from vggtq.bench.rows import INSTALL, Candidate, Missing, reason_of
from vggtq.models.weight_source import quiet

TOOL = "onnxruntime"
GROUP_SIZE = 64


def candidates(x: Tensor, linear: nn.Linear) -> list[Candidate | Missing]:
    """x: (T, in) float32 on the CPU."""
    kinds: dict[str, Callable[[Any], Any]] = {
        "ONNX Runtime FP32": lambda model: model,
        "ONNX Runtime int8 dynamic": _int8,
        f"ONNX Runtime int4 group {GROUP_SIZE}": _int4,
    }
    needed = ("onnxruntime", "onnx", "onnx_ir")
    if not all(importlib.util.find_spec(package) for package in needed):
        return [Missing(name, TOOL, INSTALL) for name in kinds]
    return [_candidate(name, convert, x, linear) for name, convert in kinds.items()]


def _candidate(name: str, convert: Callable[[Any], Any], x: Tensor, linear: nn.Linear) -> Candidate | Missing:
    try:
        session = _session(convert(_model(linear)))
    except Exception as error:  # whatever another tool raises is that tool's row
        return Missing(name, TOOL, reason_of(error))
    feed = {"x": x.numpy()}
    call = lambda: torch.from_numpy(session.run(None, feed)[0])  # noqa: E731
    return Candidate(
        name, call, "CPUExecutionProvider", None, tool=TOOL
    )  # it repacks weights and does not tell


def _model(linear: nn.Linear) -> Any:
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


def _int8(model: Any) -> Any:
    import onnx
    from onnxruntime.quantization import QuantType, quantize_dynamic

    # The root logger gets advice on a preparation that changes nothing for one product.
    with tempfile.TemporaryDirectory() as folder, quiet("root"):
        before, after = Path(folder, "float.onnx"), Path(folder, "int8.onnx")
        onnx.save(model, before)
        quantize_dynamic(before, after, weight_type=QuantType.QInt8, per_channel=True)
        return onnx.load(after)


def _int4(model: Any) -> Any:
    from onnxruntime.quantization.matmul_nbits_quantizer import MatMulNBitsQuantizer

    quantizer = MatMulNBitsQuantizer(model, block_size=GROUP_SIZE, is_symmetric=True)
    quantizer.process()
    return quantizer.model.model


def _session(model: Any) -> Any:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    # Threads that spin between calls would slow whatever is timed beside them.
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    options.log_severity_level = 3
    return onnxruntime.InferenceSession(
        model.SerializeToString(), options, providers=["CPUExecutionProvider"]
    )
