"""The network against outputs, names and shapes of the published implementation."""

import json

import pytest
import torch
from safetensors.torch import load_file
from torch import nn

from helpers.small_vggt import CASES, CONFIG, FIXTURES, inputs, network
from vggtq.models.vggt.network import VGGT, build

EXPECTED = load_file(FIXTURES / "vggt_small_outputs.safetensors")
PARAMETERS_1B = 1_256_537_516


@pytest.fixture(scope="module")
def model() -> VGGT:
    return network()


@pytest.fixture(scope="module")
def full() -> VGGT:
    with torch.device("meta"):
        return build()


@pytest.mark.parametrize("case", CASES)
def test_reproduces_the_published_outputs(model: VGGT, case: str) -> None:
    images, points = inputs(case)
    with torch.inference_mode():
        out = model(images, points)
    out["pose_enc_list"] = torch.stack(out["pose_enc_list"])
    assert torch.equal(out.pop("images"), images)
    expected = {k.split("/")[1]: v for k, v in EXPECTED.items() if k.startswith(f"{case}/")}
    assert out.keys() == expected.keys()
    for key, value in expected.items():
        assert out[key].shape == value.shape, key
        assert (out[key] - value).abs().max() <= 2e-5, key


def test_fixture_is_not_trivial() -> None:
    tracks, points = EXPECTED["square/track"], inputs("square")[1]
    assert (tracks[:, 1:] - points).abs().min() > 0.01
    assert EXPECTED["square/depth"].std() > 0.01


def test_names_and_shapes_of_vggt_1b(full: VGGT) -> None:
    expected = json.loads((FIXTURES / "vggt_1b_shapes.json").read_text())
    assert {name: list(t.shape) for name, t in full.state_dict().items()} == expected
    assert sum(p.numel() for p in full.parameters()) == PARAMETERS_1B


def test_only_the_mask_token_is_frozen(full: VGGT) -> None:
    frozen = [name for name, p in full.named_parameters() if not p.requires_grad]
    assert frozen == ["aggregator.patch_embed.mask_token"]


def test_every_norm_has_its_eps(full: VGGT) -> None:
    """The fixture cannot see most of these: a wrong eps changes outputs by about 1e-6."""
    for name, module in full.named_modules():
        if isinstance(module, nn.LayerNorm | nn.GroupNorm):
            small = name.startswith("aggregator.patch_embed.") or name == "camera_head.adaln_norm"
            assert module.eps == (1e-6 if small else 1e-5), name


def test_nothing_stays_on_the_meta_device(model: VGGT) -> None:
    assert not any(t.is_meta for t in [*model.parameters(), *model.buffers()])


def test_runs_on_the_meta_device() -> None:
    with torch.device("meta"):
        small = build(CONFIG)
        out = small(torch.empty(2, 3, 56, 56), torch.empty(5, 2))
    assert out["depth"].shape == (1, 2, 56, 56, 1) and out["track"].shape == (1, 2, 5, 2)


def test_first_and_last_layers_exist_and_are_the_ends(full: VGGT) -> None:
    sizes = {
        "aggregator.patch_embed.patch_embed.proj": (3, 1024),
        "camera_head.pose_branch.fc2": (512 * 2, 9),
        "depth_head.scratch.output_conv2.2": (32, 2),
        "point_head.scratch.output_conv2.2": (32, 4),
        "track_head.tracker.updateformer.flow_head": (384, 130),
        "track_head.tracker.vis_predictor.0": (128, 1),
        "track_head.tracker.conf_predictor.0": (128, 1),
    }
    assert full.first_last_layers() == list(sizes)
    for name, (inward, outward) in sizes.items():
        layer = full.get_submodule(name)
        if isinstance(layer, nn.Linear):
            assert (layer.in_features, layer.out_features) == (inward, outward)
        else:
            assert isinstance(layer, nn.Conv2d)
            assert (layer.in_channels, layer.out_channels) == (inward, outward)
