"""A float network in OpenVINO: one stream, as many threads as torch has. Installed by the extra `bench`."""

import importlib.util
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn

from vggtq.bench.rows import INSTALL, Candidate, Missing, reason_of
from vggtq.machine.device import has_bf16
from vggtq.terminal.logs import quiet

TOOL = "openvino"


def openvino_candidates(network: nn.Module, x: Tensor) -> Iterator[Candidate | Missing]:
    """FP32, BF16 where the CPU has it, INT8 and INT4 by NNCF. network: x to tensors; the first one is compared.

    INT8 quantizes weights and activations. It is calibrated on `x` alone, so its error is at its best; its time
    is the result that counts. INT4 quantizes weights in groups of 64.
    """
    half = has_bf16(x.device)
    names = {"OpenVINO FP32": "f32"} | ({"OpenVINO BF16": "bf16"} if half else {})
    by_nncf = {"OpenVINO INT8 (NNCF)": _int8, "OpenVINO INT4 group 64 (NNCF)": _int4}
    if not importlib.util.find_spec("openvino"):
        yield from (Missing(name, TOOL, INSTALL) for name in (*names, *by_nncf))
        return
    try:
        model = _converted(network, x)
    except Exception as error:  # whatever another tool raises is that tool's row
        yield from (Missing(name, TOOL, reason_of(error)) for name in (*names, *by_nncf))
        return
    for name, precision in names.items():
        yield _candidate(name, model, x, precision)
    for name, quantize in by_nncf.items():
        try:
            quantized = quantize(model, x)
        except ModuleNotFoundError:
            yield Missing(name, TOOL, INSTALL)
        except Exception as error:
            yield Missing(name, TOOL, reason_of(error))
        else:
            yield _candidate(name, quantized, x, "bf16" if half else "f32")


def _converted(network: nn.Module, x: Tensor) -> Any:
    import openvino

    with torch.no_grad(), quiet("openvino", "torch"):
        return openvino.convert_model(network, example_input=x, input=[x.shape])


def _int8(model: Any, x: Tensor) -> Any:
    import nncf

    with quiet("nncf"):
        return nncf.quantize(
            model, nncf.Dataset([x.numpy()]), model_type=nncf.ModelType.TRANSFORMER, subset_size=1
        )


def _int4(model: Any, x: Tensor) -> Any:
    """Layers whose inputs are no multiple of 64 get smaller groups; without that NNCF refuses the network."""
    import nncf

    with quiet("nncf"):
        return nncf.compress_weights(  # in place
            model.clone(),
            mode=nncf.CompressWeightsMode.INT4_SYM,
            group_size=64,
            ratio=1.0,
            all_layers=True,
            advanced_parameters=nncf.AdvancedCompressionParameters(
                group_size_fallback_mode=nncf.GroupSizeFallbackMode.ADJUST
            ),
        )


def _candidate(name: str, model: Any, x: Tensor, precision: str) -> Candidate | Missing:
    import openvino

    settings = {
        "INFERENCE_PRECISION_HINT": precision,
        "INFERENCE_NUM_THREADS": torch.get_num_threads(),
        "NUM_STREAMS": 1,
    }
    try:
        compiled = openvino.Core().compile_model(model, "CPU", settings)
    except Exception as error:
        return Missing(name, TOOL, reason_of(error))
    request, inputs = compiled.create_infer_request(), x.numpy()

    def call() -> Tensor:
        request.infer({0: inputs}, share_inputs=True, share_outputs=True)
        return torch.from_numpy(request.get_output_tensor(0).data.copy())

    # It repacks weights, and does not give their size.
    return Candidate(name, call, f"OpenVINO CPU, {precision}", None, tool=TOOL)
