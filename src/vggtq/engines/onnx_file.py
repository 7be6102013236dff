"""An ONNX file of a quantized network: our codes as int4, uint4, int8 or uint8 initializers, opset 21."""

import logging
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from vggtq.engines.extras import required
from vggtq.engines.layers import StoredWeight
from vggtq.engines.network import INPUT, traced
from vggtq.errors import ExportError, describe

if TYPE_CHECKING:
    import onnx_ir

OPSET = 21  # the first with blocks in DequantizeLinear and with int4
# Bytes of weights within the file. A file is in memory as a whole while it is written, and protobuf allows 2 GiB.
LARGEST = 2**28
OPERATORS = torch.ops.vggtq_export


def write_onnx(
    network: nn.Module, images: torch.Tensor, path: Path, metadata: Mapping[str, str], outputs: list[str]
) -> None:
    """Writes the file, and more than LARGEST bytes of weights as NAME.onnx.data beside it. Raises ExportError.

    network: from `exportable`. images: (S, 3, H, W) of the size that the file takes. outputs: names, in the network's order.
    """
    onnx, ir = required("onnx", "onnx"), required("onnx_ir", "onnx")
    required("onnxscript", "onnx")
    program = traced(network, images)
    try:
        with _quiet():
            exported = torch.onnx.export(
                program,
                dynamo=True,
                opset_version=OPSET,
                input_names=[INPUT],
                output_names=outputs,
                custom_translation_table=_translations(),
                optimize=False,  # half of the time goes to patterns that engines look for themselves
                verbose=False,
            )
            assert exported is not None
            _simplify_(exported.model)
    except RuntimeError as error:  # that of the exporter is one
        raise ExportError(
            f"the ONNX exporter of torch {torch.__version__} does not translate this network: {describe(error)}"
        ) from error
    model = exported.model
    _store_half_bytes(model, network, ir)
    _name_frames(model, ir)
    model.metadata_props.update(metadata)
    size = sum(value.const_value.nbytes for value in model.graph.initializers.values())
    if size > LARGEST:
        ir.save(model, path, external_data=f"{path.name}.data")
    else:
        ir.save(model, path)
    try:
        onnx.checker.check_model(str(path), full_check=True)
    except (onnx.checker.ValidationError, onnx.shape_inference.InferenceError) as error:
        raise ExportError(f"the ONNX checker refuses what was exported: {describe(error)}") from error


def _simplify_(model: "onnx_ir.Model") -> None:
    """Computes all constants, and holds everything once."""
    from onnx_ir import passes
    from onnx_ir.passes import common
    from onnxscript import optimizer

    passes.Sequential(common.InlinePass())(model)
    optimizer.fold_constants(model)
    passes.Sequential(
        common.RemoveUnusedNodesPass(),
        common.RemoveUnusedFunctionsPass(),
        common.RemoveUnusedOpsetsPass(),
        common.LiftConstantsToInitializersPass(lift_all_constants=True, size_limit=0),
        common.DeduplicateInitializersPass(),
        common.CommonSubexpressionEliminationPass(),
        common.OutputFixPass(),
        common.NameFixPass(),
    )(model)


@contextmanager
def _quiet() -> Iterator[None]:
    """Keeps messages about every node, from passes over the graph, out of our log."""
    loggers = [logging.getLogger(name) for name in ("onnxscript", "onnx_ir", "torch.onnx")]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", FutureWarning)
            yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)


def _translations() -> dict[Any, Callable[..., Any]]:
    """Each of `operators` in ONNX."""
    from onnxscript import opset21 as op

    def weight(
        codes: Any, scale: Any, zero: Any, shape: Any, bits: int, signed: bool, group: int, by_row: bool
    ) -> Any:
        numbers = (codes, scale) if zero is None else (codes, scale, zero)
        if group:
            return op.DequantizeLinear(*numbers, axis=1 if by_row else 0, block_size=group)
        return op.DequantizeLinear(*numbers, axis=0 if by_row else 1)

    def integer_matmul(inputs: Any, zero: int, codes: Any, weight_zero: Any) -> Any:
        middle = op.Cast(op.Constant(value_int=zero), to=2)
        sums = op.MatMulInteger(inputs, codes, middle, *([] if weight_zero is None else [weight_zero]))
        return op.Cast(sums, to=1)

    def fixed_range(inputs: Any, scale: Any, zero: Any) -> Any:
        return op.DequantizeLinear(op.QuantizeLinear(inputs, scale, zero), scale, zero)

    return {
        OPERATORS.weight.default: weight,
        OPERATORS.integer_matmul.default: integer_matmul,
        OPERATORS.fixed_range.default: fixed_range,
    }


def _store_half_bytes(model: "onnx_ir.Model", network: nn.Module, ir: Any) -> None:
    """Gives weights of 4 bits their type: torch has none, so that they come as bytes that hold two each."""
    initializers = model.graph.initializers
    for name, module in network.named_modules():
        if not isinstance(module, StoredWeight) or module.bits != 4 or module.scale is None:
            continue
        shapes = {"codes": module.shape, "zero": list(module.scale.shape)}
        for key, shape in shapes.items():
            value = initializers.get(f"{name}.{key}")
            if value is None:
                continue
            kind = ir.DataType.INT4 if module.signed else ir.DataType.UINT4
            packed = value.const_value.numpy()
            value.const_value = ir.PackedTensor(packed, kind, shape=ir.Shape(shape), name=value.name)
            value.dtype, value.shape = kind, ir.Shape(shape)


def _name_frames(model: "onnx_ir.Model", ir: Any) -> None:
    """The free axis, named after the things that it counts."""
    free = {str(size) for size in model.graph.inputs[0].shape if not isinstance(size, int)}
    for value in (*model.graph.inputs, *model.graph.outputs):
        value.shape = ir.Shape(["frames" if str(size) in free else size for size in value.shape])
