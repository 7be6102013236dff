"""Our exported files beside our own rows: where an engine computes something else, its row says so."""

import importlib.util

import pytest
import torch

from helpers.exported_nets import pictures, small
from vggtq.bench import exported
from vggtq.bench.rows import Candidate, Missing
from vggtq.engines.network import ExportedNetwork
from vggtq.errors import ExportError, MissingExtraError
from vggtq.models.checkpoints.fingerprint import WeightsInfo
from vggtq.models.loading import LoadedModel
from vggtq.quant.scheme.scheme import Scheme
from vggtq.quant.scheme.weights import Weights

INT8 = Scheme("INT8 weights", Weights())
installed = pytest.mark.skipif(
    not all(map(importlib.util.find_spec, ("onnxruntime", "openvino"))),
    reason="needs onnxruntime and openvino",
)


def loaded() -> LoadedModel:
    return LoadedModel(small(), WeightsInfo("seed 0", "random", "0" * 64, random=True))


@installed
def test_engines_run_our_codes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(exported, "has_bf16", lambda device: False)  # where OpenVINO would multiply in it
    model, images = loaded(), pictures()
    found = list(exported.exported_candidates(model, images, (INT8,)))
    names = ["FP32 in ONNX Runtime", "INT8 weights in ONNX Runtime", "INT8 weights in OpenVINO"]
    assert [candidate.name for candidate in found] == names
    exact = ExportedNetwork(model.module)(images)["depth"]
    errors = []
    for candidate in found:
        assert isinstance(candidate, Candidate) and "MiB file" in candidate.backend
        errors.append(float((candidate.call() - exact).norm() / exact.norm()))
    assert errors[0] < 1e-5 < errors[1] == pytest.approx(errors[2], rel=1e-2)


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (MissingExtraError("onnx is not installed"), "not installed: pip install 'vggtq[onnx]'"),
        (ExportError("further off than its limit"), "ExportError: further off than its limit"),
    ],
)
def test_what_does_not_run_is_a_row_that_says_why(
    error: Exception, reason: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails(*_: object) -> None:
        raise error

    monkeypatch.setattr(exported, "check_format", fails)
    first, *_ = exported.exported_candidates(loaded(), torch.rand(2, 3, 32, 24), (INT8,))
    assert isinstance(first, Missing) and first.reason == reason
