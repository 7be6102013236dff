"""An OpenVINO IR of a quantized network, converted from its ONNX graph: our codes stay int4 and int8 constants with scales."""

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from vggtq.engines.extras import required
from vggtq.terminal.logs import quiet

if TYPE_CHECKING:
    import torch
    from torch import nn

GROUP = "DYNAMIC_QUANTIZATION_GROUP_SIZE"
ROUNDED = 32  # inputs that share a scale where the plug-in rounds them; it takes no whole token
KEY = "vggtq"  # of the metadata


def write_openvino(
    network: "nn.Module",
    images: "torch.Tensor",
    path: Path,
    metadata: Mapping[str, str],
    outputs: list[str],
    rounds_inputs: bool,
) -> None:
    """Writes NAME.xml and NAME.bin; arguments as `write_onnx`. Raises ExportError.

    rounds_inputs: whether the CPU plug-in is to round inputs at run time, in groups of 32. It would do so by default, to
    weight-only models too.
    """
    from vggtq.engines.onnx_file import write_onnx

    openvino = required("openvino", "openvino")
    graph = path.with_name("graph.onnx")
    write_onnx(network, images, graph, {}, outputs)
    with quiet("openvino"):
        model = openvino.convert_model(graph)
    model.set_rt_info(str(ROUNDED if rounds_inputs else 0), ["runtime_options", GROUP])
    for key, value in metadata.items():
        model.set_rt_info(value, [KEY, key])
    openvino.save_model(model, path, compress_to_fp16=False)
    for left in graph.parent.glob("graph.onnx*"):
        left.unlink()
