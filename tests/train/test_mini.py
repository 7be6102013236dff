"""The model in the package: small, and better than not looking."""

import pytest
import torch
from safetensors import safe_open

from vggtq.config.compose import compose
from vggtq.config.validate import validated
from vggtq.models.checkpoints.source import PACKAGED, locate
from vggtq.train.evaluate import Scores, compare, held_out, point_error, predict, predict_poses, shipped

WEIGHTS = PACKAGED / "vggt_mini.safetensors"
SCENES = 12  # docs/vggt_mini.md has the figures of more; the limits below leave room for so few


@pytest.fixture(scope="module")
def results() -> dict[str, Scores]:
    model, size = shipped()
    return compare(model, "objects", held_out("objects", "test", 0, SCENES, 4, (size, size)))


def test_the_file_is_small_and_half_precision() -> None:
    assert WEIGHTS.stat().st_size <= 20_000_000
    with safe_open(str(WEIGHTS), "pt") as file:
        tensors = [file.get_tensor(name) for name in file.keys()]  # noqa: SIM118
    assert {t.dtype for t in tensors} == {torch.float16}
    assert sum(t.numel() for t in tensors) <= 10_000_000


def test_it_says_where_its_weights_come_from() -> None:
    loaded = validated(compose(["model=vggt_mini"])).model.load(torch.device("cpu"))
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


def test_poses_alone_are_those_of_the_whole_network() -> None:
    model, size = shipped()
    images = torch.rand(2, 3, 3, size, size, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(predict_poses(model, images), predict(model, images)["pose_enc"])


def test_it_reconstructs_objects_it_has_never_seen(results: dict[str, Scores]) -> None:
    """Against the constant predictor on the same scenes, with room for the few scenes."""
    model, constant = ({name: v.mean() for name, v in results[who].items()} for who in ("model", "constant"))
    assert model["abs_rel"] < 0.8 * constant["abs_rel"]
    assert model["delta_1_25"] > constant["delta_1_25"] + 0.1
    assert model["point_error"] < 0.7 * constant["point_error"]
    assert model["rra_15"] > constant["rra_15"] + 0.3
    assert model["rta_15"] > constant["rta_15"] + 0.3
    assert model["auc_30"] > constant["auc_30"] + 0.2
