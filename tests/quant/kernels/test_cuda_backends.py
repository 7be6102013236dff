"""Which CUDA layer is chosen for which numbers, GPUs and shapes."""

import pytest
import torch

from helpers.cuda_layers import FLOAT8, INT4_GROUP, INT8
from vggtq.quant.kernels.cuda import support
from vggtq.quant.kernels.table import linear_backend
from vggtq.quant.scheme.activations import Activations
from vggtq.quant.scheme.weights import Weights


@pytest.mark.parametrize(
    ("spec", "activations", "has", "expected"),
    [
        (Weights(), INT8, (9, 0), "triton_int8"),
        (Weights(symmetric=False), INT8, (8, 0), "triton_int8"),
        (Weights(), INT8, (7, 5), "reference"),
        (Weights(symmetric=False), INT8, (7, 5), "reference"),
        (Weights(), Activations("dynamic", granularity="per_tensor"), (9, 0), "reference"),
        (Weights(), Activations("dynamic", symmetric=False), (9, 0), "reference"),
        (Weights(), Activations("static"), (9, 0), "reference"),
        (Weights(bits=4, granularity="group", group_size=32), INT8, (9, 0), "reference"),
        (Weights("float8_e4m3"), FLOAT8, (9, 0), "cuda_fp8"),
        (Weights("float8_e4m3"), FLOAT8, (8, 9), "cuda_fp8"),
        (Weights("float8_e4m3"), FLOAT8, (8, 0), "reference"),
        (Weights("float8_e4m3"), Activations(), (9, 0), "reference"),
        (INT4_GROUP, Activations(), (9, 0), "triton_weights"),
        (Weights(bits=8), Activations(), (8, 0), "triton_weights"),
        (Weights(bits=16), Activations(), (9, 0), "reference"),
        (INT4_GROUP, Activations(), (0, 0), "reference"),
        (Weights("bfloat16", 16, granularity="none"), Activations(), (9, 0), "cuda_half"),
    ],
)
def test_backends_are_chosen_by_what_they_compute(
    spec: Weights,
    activations: Activations,
    has: tuple[int, int],
    expected: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(support, "runs_triton", lambda device, least: has >= least)
    assert linear_backend(spec, activations, (64, 64), torch.device("cuda")).backend == expected
    assert not linear_backend(spec, activations, (64, 64), torch.device("cpu")).backend.startswith(
        ("triton", "cuda")
    )


def test_rows_that_one_program_cannot_hold_go_elsewhere(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(support, "runs_triton", lambda device, least: True)
    assert linear_backend(Weights(), INT8, (8, 2**15), torch.device("cuda")).backend == "triton_int8"
    assert linear_backend(Weights(), INT8, (8, 2**15 + 8), torch.device("cuda")).backend == "reference"
