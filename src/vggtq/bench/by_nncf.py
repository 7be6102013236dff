"""OpenVINO's own quantization, NNCF, of a file in a process of its own: it takes several times the memory of the weights."""

from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vggtq.terminal.logs import quiet

if TYPE_CHECKING:
    import numpy as np


def in_own_process(function: Callable[..., None], *arguments: Any) -> None:
    """Raises what it raises, and BrokenProcessPool if the system ends the process, for lack of memory for example."""
    with ProcessPoolExecutor(1, get_context("spawn")) as pool:
        pool.submit(function, *arguments).result()


def quantize_file(kind: str, source: Path, target: Path, x: "np.ndarray") -> None:
    """kind: int8 quantizes weights and activations, int4 weights in groups of 64. Raises ModuleNotFoundError without NNCF.

    INT8 is calibrated on `x` alone, so its error is at its best; its time is the result that counts.
    """
    import nncf
    import openvino

    model = openvino.Core().read_model(source)
    with quiet("nncf"):
        quantized = _int8(nncf, model, x) if kind == "int8" else _int4(nncf, model)
    openvino.save_model(quantized, target, compress_to_fp16=False)


def _int8(nncf: Any, model: Any, x: "np.ndarray") -> Any:
    return nncf.quantize(model, nncf.Dataset([x]), model_type=nncf.ModelType.TRANSFORMER, subset_size=1)


def _int4(nncf: Any, model: Any) -> Any:
    """Layers whose inputs are no multiple of 64 get smaller groups; without that NNCF refuses the network."""
    return nncf.compress_weights(
        model,
        mode=nncf.CompressWeightsMode.INT4_SYM,
        group_size=64,
        ratio=1.0,
        all_layers=True,
        advanced_parameters=nncf.AdvancedCompressionParameters(
            group_size_fallback_mode=nncf.GroupSizeFallbackMode.ADJUST
        ),
    )
