"""A float network in OpenVINO: one stream, as many threads as torch has. Installed by the extra `bench`."""

import importlib.util
import tempfile
from collections.abc import Iterator
from pathlib import Path

import torch
from torch import Tensor, nn

from vggtq.bench.by_nncf import in_own_process, quantize_file
from vggtq.bench.rows import INSTALL, Candidate, Missing, reason_of
from vggtq.machine.device import has_bf16
from vggtq.terminal.logs import quiet

TOOL = "openvino"


def openvino_candidates(network: nn.Module, x: Tensor) -> Iterator[Candidate | Missing]:
    """FP32, BF16 where the CPU has it, INT8 and INT4 by NNCF. network: x to tensors; the first one is compared.

    The converted network lies in a file, so that its weights need not be in memory beside those of a candidate.
    """
    half = has_bf16(x.device)
    names = {"OpenVINO FP32": "f32"} | ({"OpenVINO BF16": "bf16"} if half else {})
    by_nncf = {"OpenVINO INT8 (NNCF)": "int8", "OpenVINO INT4 group 64 (NNCF)": "int4"}
    if not importlib.util.find_spec("openvino"):
        yield from (Missing(name, TOOL, INSTALL) for name in (*names, *by_nncf))
        return
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "float.xml")
        try:
            _convert(network, x, path)
        except Exception as error:  # whatever another tool raises is that tool's row
            yield from (Missing(name, TOOL, reason_of(error)) for name in (*names, *by_nncf))
            return
        for name, precision in names.items():
            yield _candidate(name, path, x, precision)
        for name, kind in by_nncf.items():
            quantized = path.with_name(f"{kind}.xml")
            try:
                in_own_process(quantize_file, kind, path, quantized, x.numpy())
            except ModuleNotFoundError:
                yield Missing(name, TOOL, INSTALL)
            except Exception as error:
                yield Missing(name, TOOL, reason_of(error))
            else:
                yield _candidate(name, quantized, x, "bf16" if half else "f32")


def _convert(network: nn.Module, x: Tensor, path: Path) -> None:
    import openvino

    with torch.no_grad(), quiet("openvino", "torch"):
        model = openvino.convert_model(network, example_input=x, input=[x.shape])
    openvino.save_model(model, path, compress_to_fp16=False)


def _candidate(name: str, path: Path, x: Tensor, precision: str) -> Candidate | Missing:
    import openvino

    settings = {
        "INFERENCE_PRECISION_HINT": precision,
        "INFERENCE_NUM_THREADS": torch.get_num_threads(),
        "NUM_STREAMS": 1,
    }
    try:
        compiled = openvino.Core().compile_model(path, "CPU", settings)
    except Exception as error:
        return Missing(name, TOOL, reason_of(error))
    request, inputs = compiled.create_infer_request(), x.numpy()

    def call() -> Tensor:
        request.infer({0: inputs}, share_inputs=True, share_outputs=True)
        return torch.from_numpy(request.get_output_tensor(0).data.copy())

    # It repacks weights, and does not give their size.
    return Candidate(name, call, f"OpenVINO CPU, {precision}", None, tool=TOOL)
