"""The model in the package: small, quick to load, and better than not looking."""

import time

import pytest
import torch
from safetensors import safe_open

from vggtq.config import compose, validated
from vggtq.evaluate_mini import compare, point_error, shipped
from vggtq.models.weight_source import PACKAGED, locate

WEIGHTS = PACKAGED / "vggt_mini.safetensors"
SCENES = 12  # docs/vggt_mini.md has the figures of 64; the limits below leave room for so few


@pytest.fixture(scope="module")
def results() -> dict[str, dict[str, float]]:
    model, size = shipped()
    return compare(model, SCENES, 4, (size, size))


def test_the_file_is_small_and_half_precision() -> None:
    assert WEIGHTS.stat().st_size <= 20_000_000
    with safe_open(str(WEIGHTS), "pt") as file:
        tensors = [file.get_tensor(name) for name in file.keys()]  # noqa: SIM118
    assert {t.dtype for t in tensors} == {torch.float16}
    assert sum(t.numel() for t in tensors) <= 10_000_000


def test_it_loads_in_under_a_second() -> None:
    config = validated(compose(["model=vggt_mini"])).model
    config.load(torch.device("cpu"))  # the first time imports and reads the disk
    start = time.perf_counter()
    loaded = config.load(torch.device("cpu"))
    assert time.perf_counter() - start < 1
    assert loaded.weights.kind == "package"
    assert loaded.weights.license == "Apache-2.0"
    assert not loaded.weights.random


def test_unknown_packaged_weights_are_explained() -> None:
    from vggtq.errors import WeightsError

    with pytest.raises(WeightsError, match="it has package:vggt_mini"):
        locate("package:vggt_maxi", None)


def test_point_error_ignores_scale_and_sees_offsets() -> None:
    truth = torch.randn(2, 6, 7, 3, dtype=torch.float64)
    assert point_error(3 * truth, truth) == pytest.approx(0, abs=1e-12)
    assert point_error(truth + torch.tensor([0.0, 0.0, 1.0]), truth) > 0.1


def test_it_reconstructs_rooms_it_has_never_seen(results: dict[str, dict[str, float]]) -> None:
    """Against the constant predictor on the same scenes, with room for the few scenes."""
    model, constant = results["model"], results["constant"]
    assert model["abs_rel"] < 0.65 * constant["abs_rel"]
    assert model["delta_1_25"] > constant["delta_1_25"] + 0.15
    assert model["point_error"] < 0.5 * constant["point_error"]
    assert model["rra_15"] > constant["rra_15"] + 0.4
    assert model["rta_15"] > constant["rta_15"] + 0.12
    assert model["auc_30"] > constant["auc_30"] + 0.15
