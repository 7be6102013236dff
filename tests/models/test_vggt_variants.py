"""What the parity fixture cannot see: other sizes, precisions, heads and configurations."""

from collections.abc import Iterable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from helpers.small_vggt import CONFIG, inputs, network, weights
from vggtq.errors import ConfigError
from vggtq.models.vggt import dpt
from vggtq.models.vggt.initialize import initialize_
from vggtq.models.vggt.network import VGGT, build
from vggtq.models.vggt.track import correlation, correlation_pyramid

DENSE = ("depth", "depth_conf", "world_points", "world_points_conf")


@pytest.fixture(scope="module")
def model() -> VGGT:
    return network()


def run(model: VGGT, images: Tensor, points: Tensor | None = None) -> dict[str, Any]:
    with torch.inference_mode():
        return model(images, points)


def close(a: Tensor, b: Tensor, tolerance: float = 2e-5) -> None:
    assert a.shape == b.shape
    assert (a - b).abs().max() <= tolerance


def test_non_square_image_with_as_many_patches_as_the_table_resamples_it(model: VGGT) -> None:
    table = weights()["aggregator.patch_embed.pos_embed"]
    embed = model.aggregator.patch_embed
    image = table[:, 1:].reshape(1, 4, 4, -1).permute(0, 3, 1, 2)
    image = F.interpolate(image, size=(2, 8), mode="bicubic", antialias=True)
    expected = torch.cat([table[:, :1], image.permute(0, 2, 3, 1).reshape(1, 16, -1)], dim=1)
    close(embed._positions(28, 112), expected, 1e-7)
    assert torch.equal(embed._positions(56, 56), table)
    assert run(model, torch.rand(1, 3, 28, 112))["depth"].shape == (1, 1, 28, 112, 1)


def test_convolution_alone_as_patch_embed() -> None:
    with torch.device("meta"):
        model = build(CONFIG | {"patch_embed": {**CONFIG["patch_embed"], "type": "conv"}})
    names = [name for name in model.state_dict() if name.startswith("aggregator.patch_embed.")]
    assert names == ["aggregator.patch_embed.proj.weight", "aggregator.patch_embed.proj.bias"]
    assert model.first_last_layers()[0] == "aggregator.patch_embed.proj"
    initialize_(model, 0)
    images = torch.rand(2, 3, 28, 42)
    kernel = model.state_dict()[names[0]].flatten(1)
    patches = F.unfold(images, 14, stride=14).transpose(1, 2)
    expected = patches @ kernel.T + model.state_dict()[names[1]]
    close(model.aggregator.patch_embed(images), expected, 1e-5)
    assert run(model, images)["pose_enc"].isfinite().all()


def test_heads_read_the_layers_that_the_configuration_names() -> None:
    chosen = network({"dpt": {**CONFIG["dpt"], "intermediate_layer_idx": [2, 0, 2, 1]}})
    full = network()
    images, _ = inputs("square")
    with torch.inference_mode():
        tokens = full.aggregator(images)
        moved = dict(enumerate(tokens[i] for i in (2, 0, 2, 1)))
        expected, _ = full.depth_head(moved, 5, (56, 56))
    assert chosen.aggregator.keep == {0, 1, 2, 3}
    close(run(chosen, images)["depth"], expected)
    assert (run(full, images)["depth"] - expected).abs().max() > 1e-3


def test_layers_that_no_head_reads_are_dropped() -> None:
    small = network({"dpt": {**CONFIG["dpt"], "intermediate_layer_idx": [1, 1, 1, 1]}})
    with torch.inference_mode():
        assert small.aggregator(inputs("single")[0]).keys() == {1, 3}


@pytest.mark.parametrize("frames", [9, 17])
def test_dense_heads_treat_every_frame_alone(model: VGGT, frames: int) -> None:
    """Frames beyond the first chunk, against running each frame's tokens by themselves."""
    images = torch.rand(1, frames, 3, 28, 42, generator=torch.Generator().manual_seed(0))
    out = run(model, images)
    with torch.inference_mode():
        tokens = model.aggregator(images)
        for i in (0, 7, 8, frames - 1):
            one = {k: v[:, i : i + 1] for k, v in tokens.items()}
            close(out["depth"][:, i : i + 1], model.depth_head(one, 5, (28, 42))[0])


def test_dense_heads_take_eight_frames_at_a_time(model: VGGT, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[int] = []
    original = dpt.DPT._fused

    def spy(self: dpt.DPT, layers: Iterable[Tensor], *args: Any, **kwargs: Any) -> Tensor:
        layers = list(layers)
        seen.append(len(layers[0]))
        return original(self, layers, *args, **kwargs)

    monkeypatch.setattr(dpt.DPT, "_fused", spy)
    run(model, torch.rand(1, 17, 3, 14, 14))
    assert seen == [8, 8, 1] * 2


def test_a_batch_is_its_sequences(model: VGGT) -> None:
    images, points = inputs("batch")
    both = run(model, images, points)
    for i in range(2):
        alone = run(model, images[i], points[i])
        for key in (*DENSE, "pose_enc", "track", "vis", "conf"):
            close(both[key][i : i + 1], alone[key])


def test_camera_feeds_back_the_raw_estimate() -> None:
    """With a field of view that the activation clips, feedback of the clipped one gives other updates."""
    model = network()
    bias = model.camera_head.pose_branch.fc2.bias
    with torch.no_grad():
        bias[7:] = -3.0
    tokens = torch.randn(1, 3, 1, 64, generator=torch.Generator().manual_seed(0))
    head = model.camera_head
    with torch.inference_mode():
        encodings = head(tokens)
        z = head.token_norm(tokens[:, :, 0])
        estimate = head._update(z, None)
        clipped = estimate.clone()
        for _ in range(3):
            estimate = estimate + head._update(z, estimate)
            clipped = clipped + head._update(z, torch.cat([clipped[..., :7], clipped[..., 7:].relu()], -1))
    assert (encodings[-1][..., 7:] == 0).all()
    close(encodings[-1][..., :7], estimate[..., :7])
    assert (encodings[-1][..., :7] - clipped[..., :7]).abs().max() > 1e-3


def test_correlation_window_against_a_direct_computation() -> None:
    """Seven levels, down to one pixel: x moves with the outer index, outside is 0, one pixel answers for all."""
    generator = torch.Generator().manual_seed(0)
    maps = torch.randn(1, 1, 4, 64, 96, generator=generator, dtype=torch.float64)
    feat = torch.randn(1, 1, 1, 4, generator=generator, dtype=torch.float64)
    pyramid = correlation_pyramid(maps, 7, 2)
    assert [tuple(level.shape[-2:]) for level in pyramid][-2:] == [(2, 3), (1, 1)]
    out = correlation(feat, pyramid, torch.tensor([[[[3.0, 62.0]]]], dtype=torch.float64), 2).reshape(7, 5, 5)
    expected = torch.zeros(5, 5, dtype=torch.float64)
    for i, x in enumerate(range(1, 6)):
        for j, y in enumerate(range(60, 65)):
            if y < 64:
                expected[i, j] = (feat[0, 0, 0] * maps[0, 0, :, y, x]).sum() / 2
    close(out[0], expected, 1e-12)
    pixel = (feat[0, 0, 0] * maps[0, 0, :, :64, :64].mean(dim=(1, 2))).sum() / 2
    close(out[6], pixel.expand(5, 5), 1e-12)


def test_too_small_for_tracking_names_the_remedy(model: VGGT) -> None:
    with pytest.raises(ValueError, match="at least 8 pixels"):
        correlation_pyramid(torch.rand(1, 1, 4, 3, 9), 3, 2)
    assert run(model, torch.rand(1, 3, 14, 14), torch.zeros(1, 2))["track"].shape == (1, 1, 1, 2)


def test_autocast_leaves_camera_depth_and_points_in_float32(model: VGGT) -> None:
    images, points = inputs("rect")
    full = run(model, images)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        out = run(model, images, points)
        with torch.inference_mode():
            tokens = model.aggregator(images)
    assert all(t.dtype == torch.float32 for t in tokens.values())
    assert all(out[key].dtype == torch.float32 for key in (*DENSE, "pose_enc", "track"))
    assert (tokens[3] - network().aggregator(images)[3]).abs().max() > 1e-4, "autocast had no effect"
    with torch.inference_mode():
        expected, _ = model.depth_head(tokens, 5, (42, 56))
    assert torch.equal(out["depth"], expected)
    close(out["depth"], full["depth"], 0.2)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64], ids=str)
def test_whole_model_in_another_precision(dtype: torch.dtype) -> None:
    images, points = inputs("rect")
    reference = run(network(), images, points)
    out = run(network().to(dtype), images.to(dtype), points)
    tolerance = {torch.bfloat16: 0.5, torch.float16: 0.05, torch.float64: 5e-5}[dtype]
    for key in (*DENSE, "pose_enc", "track"):
        close(out[key].float(), reference[key], tolerance)
    assert all(out[key].dtype == dtype for key in (*DENSE, "pose_enc", "vis"))


@pytest.mark.parametrize("head", ["camera", "depth", "point", "track"])
def test_a_head_that_is_off_has_no_parameters_and_no_outputs(model: VGGT, head: str) -> None:
    keys = {
        "camera": {"pose_enc", "pose_enc_list"},
        "depth": {"depth", "depth_conf"},
        "point": {"world_points", "world_points_conf"},
        "track": {"track", "vis", "conf"},
    }[head]
    off = network({"heads": {head: False}})
    images, points = inputs("single")
    out, full = run(off, images, points), run(model, images, points)
    assert not [name for name in off.state_dict() if name.startswith(f"{head}_head.")]
    assert not [name for name in off.first_last_layers() if name.startswith(f"{head}_head.")]
    assert out.keys() == full.keys() - keys
    for key in out.keys() - {"pose_enc_list"}:
        assert torch.equal(out[key], full[key])


def test_input_contract(model: VGGT) -> None:
    with pytest.raises(ValueError, match=r"got \(1, 1, 4, 28, 28\)"):
        model(torch.rand(1, 4, 28, 28))
    with pytest.raises(AssertionError, match="14 must divide"):
        model(torch.rand(1, 3, 28, 30))
    images, points = inputs("square")
    out = run(model, images[0], points[0])
    assert out["track"].shape == (1, 3, 5, 2) and torch.equal(out["images"], images)
    assert "track" not in run(model, images)
    assert torch.equal(out["track"][:, 0], points)


def test_images_are_returned_in_eval_mode_only() -> None:
    with torch.no_grad():
        assert "images" not in network().train()(inputs("single")[0])


def test_gradients_reach_every_parameter_that_is_read() -> None:
    model = network().train()
    out = model(*inputs("rect"))
    loss = sum(out[key].float().square().mean() for key in (*DENSE, "pose_enc", "track", "vis", "conf"))
    loss.backward()
    without = [name for name, p in model.named_parameters() if p.grad is None]
    assert without == ["aggregator.patch_embed.mask_token"]


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"agregator": {}}, "did you mean aggregator"),
        ({"dpt": {"featurs": 8}}, "did you mean features"),
        ({"heads": {"camra": False}}, "did you mean camera"),
        ({"aggregator": 3}, "expected a mapping"),
        ({"aggregator": {"num_heads": 7}}, "7 does not divide 1024"),
        ({"aggregator": {"num_heads": 512}}, "4 does not divide 2"),
        ({"aggregator": {"depth": 12}}, "17 is out of range"),
        ({"aggregator": {"depth": -1}}, "too small"),
        ({"aggregator": {"depth": 24.0}}, "expected a finite int"),
        ({"aggregator": {"img_size": 500, "patch_size": 14}}, "14 does not divide 500"),
        ({"patch_embed": {"embed_dim": 512}}, "512 differs from aggregator.embed_dim 1024"),
        ({"patch_embed": {"num_heads": 15}}, "15 does not divide 1024"),
        ({"patch_embed": {"type": "dino"}}, "did you mean dinov2"),
        ({"patch_embed": {"norm_eps": float("nan")}}, "finite float"),
        ({"camera_head": {"num_heads": 3}}, "3 does not divide 2048"),
        ({"dpt": {"intermediate_layer_idx": [4, 11, 17, 24]}}, "24 is out of range"),
        ({"dpt": {"intermediate_layer_idx": [4, 11]}}, "expected 4 integers"),
        ({"dpt": {"features": 12}}, "8 does not divide 12"),
        ({"track_head": {"hidden_size": 380}}, "8 does not divide 380"),
        ({"track_head": {"features": 6}}, "4 does not divide 6"),
        ({"heads": {"camera": 1}}, "expected a bool"),
        ({"heads": dict.fromkeys(("camera", "depth", "point", "track"), False)}, "all four are off"),
    ],
)
def test_impossible_configurations_are_refused(config: dict, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        build(config)


def small_random(seed: int, lively: bool = False, config: dict | None = None) -> VGGT:
    with torch.device("meta"):
        model = build(CONFIG | (config or {}))
    initialize_(model, seed, lively)
    return model


def test_random_weights_depend_on_seed_and_name_only() -> None:
    first = small_random(3).state_dict()
    state = torch.random.get_rng_state()
    torch.manual_seed(99)
    again = small_random(3, config={"heads": {"depth": False}}).state_dict()
    torch.random.set_rng_state(state)
    assert all(torch.equal(first[name], value) for name, value in again.items())
    assert not torch.equal(
        first["camera_head.embed_pose.weight"], small_random(4).state_dict()["camera_head.embed_pose.weight"]
    )


def test_random_weights_follow_the_training_start() -> None:
    state = small_random(0).state_dict()
    assert (state["aggregator.frame_blocks.0.ls1.gamma"] == 0.01).all()
    assert (state["aggregator.patch_embed.blocks.0.ls2.gamma"] == 1).all()
    assert 5e-7 < state["aggregator.camera_token"].std() < 2e-6
    assert (state["camera_head.empty_pose_tokens"] == 0).all()
    assert (state["aggregator.patch_embed.blocks.0.mlp.fc1.bias"] == 0).all()
    bound = (6 / (32 + 128)) ** 0.5
    xavier = state["track_head.tracker.updateformer.time_blocks.0.mlp.fc1.weight"]
    assert 0.9 * bound < xavier.abs().max() <= bound
    default = state["camera_head.pose_branch.fc1.weight"]
    assert 0.9 / 8 < default.abs().max() <= 1 / 8
    transposed = state["depth_head.resize_layers.0.weight"]
    assert 0.9 / 128**0.5 < transposed.abs().max() <= 1 / 128**0.5


def test_lively_weights_give_cameras_and_make_blocks_matter() -> None:
    model = small_random(0, lively=True)
    images = torch.rand(3, 3, 56, 56, generator=torch.Generator().manual_seed(1))
    out = run(model, images)
    assert ((out["pose_enc"][..., 7:] > 0.3) & (out["pose_enc"][..., 7:] < 2.5)).all()
    assert (out["pose_enc"][..., 3:7].norm(dim=-1) > 0.3).all()
    block = model.aggregator.global_blocks[1]
    with torch.no_grad():
        block.ls1.gamma.zero_()
        block.ls2.gamma.zero_()
    assert (run(model, images)["depth"] - out["depth"]).abs().mean() > 0.01 * out["depth"].std()
