"""Outlier channels must be there and must change nothing."""

import copy

import pytest
import torch

from vggtq.config.compose import compose
from vggtq.config.validate import validated
from vggtq.errors import ConfigError
from vggtq.models.outliers import VGGTWithOutliers, add_outliers_
from vggtq.models.vggt.initialize import initialize_
from vggtq.models.vggt.network import VGGT, build

SMALL = {
    "aggregator": {"img_size": 56, "embed_dim": 32, "depth": 4, "num_heads": 2},
    "patch_embed": {"img_size": 56, "embed_dim": 32, "depth": 1, "num_heads": 2},
    "camera_head": {"trunk_depth": 1, "num_heads": 2},
    "dpt": {"features": 16, "out_channels": [16, 16, 16, 16], "intermediate_layer_idx": [0, 1, 2, 3]},
    "heads": {"track": False},
}


@pytest.fixture
def model() -> VGGT:
    model = build(SMALL)
    initialize_(model, 0, lively=True)
    return model


def test_the_function_is_the_same(model: VGGT) -> None:
    changed = copy.deepcopy(model).double()
    # Aggregator (1 + 2·4 blocks) and camera head (1 block), two norms each.
    assert add_outliers_(changed, 3, 64) == 10 * 2 * 3
    images = torch.rand(3, 3, 56, 56, dtype=torch.float64)
    with torch.inference_mode():
        before, after = model.double()(images), changed(images)
    for key in ("pose_enc", "depth", "world_points"):
        assert (before[key] - after[key]).abs().max() <= 1e-9


def test_activations_have_outliers(model: VGGT) -> None:
    seen: dict[bool, torch.Tensor] = {}
    for outliers in (False, True):
        if outliers:
            add_outliers_(model, 3, 64)
        norm = model.aggregator.global_blocks[1].get_submodule("norm1")
        handle = norm.register_forward_hook(
            lambda _m, _i, out, key=outliers: seen.update({key: out.abs().amax((0, 1))})
        )
        with torch.inference_mode():
            model(torch.rand(2, 3, 56, 56))
        handle.remove()
    ratio = {key: (value.max() / value.median()).item() for key, value in seen.items()}
    assert ratio[True] > 30 > 10 > ratio[False]


def test_the_yaml_names_the_shipped_model() -> None:
    mini, outliers = (
        validated(compose([f"model={name}"])).model for name in ("vggt_mini", "vggt_mini_outliers")
    )
    assert isinstance(outliers, VGGTWithOutliers)
    assert (outliers.source, outliers.architecture) == (mini.source, mini.architecture)


def test_factors_that_would_round_are_refused() -> None:
    with pytest.raises(ConfigError, match="power of two"):
        VGGTWithOutliers(outlier_factor=60)
