"""Pi3, Pi3X and VGGT-Ω without the originals: names, eps, symmetries, checkpoints, licences."""

from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import huggingface_hub
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import save_file
from torch import Tensor, nn

from helpers.family import OVERRIDES, digest, shapes_of
from vggtq.config.validate import composed
from vggtq.errors import ConfigError, WeightsError
from vggtq.geometry import fit_intrinsics
from vggtq.models.checkpoints.source import cached, is_local, locate
from vggtq.models.loading import CheckpointModel, LoadedModel
from vggtq.models.network import Network
from vggtq.models.omega.config import OmegaConfig
from vggtq.models.omega.network import Omega
from vggtq.models.pi3.config import Pi3Config, Pi3XConfig
from vggtq.models.pi3.heads import nearest_rotation
from vggtq.models.pi3.network import Pi3
from vggtq.models.pi3.pi3x import Pi3X
from vggtq.models.vggt.config import parse
from vggtq.models.vggt.initialize import initialize_
from vggtq.network.stages import run_stages

CPU = torch.device("cpu")
FULL = {
    "pi3": (Pi3, Pi3Config(), 958_696_732),
    "pi3x": (Pi3X, Pi3XConfig(), 992_465_329),
    "vggt_omega": (Omega, OmegaConfig(), 1_143_814_185),
}
DIGESTS = {
    "pi3": "c21a249c654620a75207c8add8fcf54c1467870a20a73b105b0e456c3662a862",
    "pi3x": "2f4f70bde0ff922ed4603a289919837a033dc0f0feaccda618b29f7b0b0baf91",
    "vggt_omega": "edac88040ea5d12fdc5b6d3028f2bfa4b8107f67f809efa85de9dee8b0a189b5",
}
FAMILY = tuple(DIGESTS)


def full(name: str) -> Network:
    network, config, _ = FULL[name]
    with torch.device("meta"):
        return network(config)  # type: ignore[call-arg]


@cache
def config(name: str) -> CheckpointModel:
    """Composing takes longer than everything else here."""
    model: CheckpointModel = composed(OVERRIDES[name]).model
    return model


def small(name: str, seed: int = 0, source: Path | None = None) -> LoadedModel:
    return replace(config(name), seed=seed, source=None if source is None else str(source)).load(CPU)


def images(frames: int, height: int, width: int, seed: int = 0) -> Tensor:
    return torch.rand(frames, 3, height, width, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("name", FAMILY)
def test_names_shapes_and_parameters(name: str) -> None:
    network = full(name)
    assert digest(shapes_of(network)) == DIGESTS[name]
    assert sum(p.numel() for p in network.parameters()) == FULL[name][2]


@pytest.mark.parametrize("name", FAMILY)
def test_every_norm_has_its_eps(name: str) -> None:
    """A wrong eps changes outputs by about 1e-5, which no comparison of outputs shows."""
    for path, module in full(name).named_modules():
        if isinstance(module, nn.LayerNorm | nn.GroupNorm):
            one_in_100_000 = name == "vggt_omega" or path.endswith(("q_norm", "k_norm")) or ".layers." in path
            assert module.eps == (1e-5 if one_in_100_000 else 1e-6), path


@pytest.mark.parametrize("name", FAMILY)
def test_first_and_last_layers_and_stages_exist(name: str) -> None:
    network = full(name)
    for layer in network.first_last_layers():
        assert isinstance(network.get_submodule(layer), nn.Linear | nn.Conv2d), layer
    assert all(network.get_submodule(stage) for stage in network.stage_names())
    for linear, norm in network.norms_before().items():
        assert network.get_submodule(linear).in_features == network.get_submodule(norm).normalized_shape[0]


@pytest.mark.parametrize("name", FAMILY)
def test_stages_are_called_in_the_order_that_is_declared(name: str) -> None:
    network = small(name).module
    size = (56, 70) if name != "vggt_omega" else (48, 64)
    names = []

    def told() -> Any:
        stages = network.stages({"inputs": images(2, *size)})
        output = None
        while True:
            try:
                stage, arguments = stages.send(output)
            except StopIteration as end:
                return end.value
            names.append(stage)
            output = yield stage, arguments

    with torch.inference_mode():
        run_stages(network, told())
    assert names == network.stage_names()


@settings(max_examples=8)
@given(st.permutations(range(4)), st.sampled_from(["pi3", "pi3x"]), st.integers(0, 3))
def test_frames_in_another_order_give_the_same_in_another_order(
    order: list[int], name: str, seed: int
) -> None:
    network = small(name).module
    frames = images(4, 28, 42, seed)
    with torch.inference_mode():
        one, other = network(frames), network(frames[order])
    for key in ("local_points", "conf", "camera_poses", "points"):
        torch.testing.assert_close(other[key], one[key][:, order], rtol=1e-4, atol=1e-4)


def test_omega_exchanges_frames_behind_the_first() -> None:
    model = small("vggt_omega")
    frames = images(4, 48, 64)
    one, other = model.predict(frames), model.predict(frames[[0, 2, 3, 1]])
    for key in ("pose_enc", "depth", "depth_conf"):
        torch.testing.assert_close(other[key], one[key][[0, 2, 3, 1]], rtol=1e-4, atol=1e-4)
    first = model.predict(frames[[1, 0, 2, 3]])
    assert (first["depth"][[1, 0, 2, 3]] - one["depth"]).abs().max() > 1e-3  # the first has tokens of its own


@pytest.mark.parametrize("name", ["pi3", "pi3x"])
def test_common_outputs_of_pi3_agree_with_each_other(name: str) -> None:
    outputs = small(name).predict(images(3, 28, 42))
    assert outputs.keys() == {"extrinsics", "depth", "depth_conf", "world_points"}
    rotation, translation = outputs["extrinsics"][..., :3], outputs["extrinsics"][..., 3]
    torch.testing.assert_close(outputs["extrinsics"][0], torch.eye(3, 4), rtol=0, atol=1e-5)
    local = outputs["world_points"] @ rotation[:, None].mT + translation[:, None, None]
    torch.testing.assert_close(local[..., 2:], outputs["depth"], rtol=1e-4, atol=1e-4)
    assert (
        (outputs["depth"] > 0).all() and outputs["depth_conf"].min() > 0 and outputs["depth_conf"].max() < 1
    )


@pytest.mark.parametrize("name", FAMILY)
def test_heads_run_in_float32_under_autocast(name: str) -> None:
    model = small(name)
    network = model.bfloat16_twin()
    frames = images(2, 64, 64) if name == "vggt_omega" else images(2, 56, 56)
    with torch.inference_mode(), torch.autocast("cpu", torch.bfloat16):
        raw = network(frames)
        outputs = network.common_outputs(raw)  # type: ignore[operator]
    assert all(tensor.dtype == torch.float32 for tensor in outputs.values())
    for key, exact in model.predict(frames).items():
        assert 0 <= float((outputs[key][0] - exact).norm() / exact.norm()) < 0.02, key
    if name != "vggt_omega":
        poses = raw["camera_poses"][:, :, None]
        expected = raw["local_points"] @ poses[..., :3, :3].mT + poses[..., None, :3, 3]
        torch.testing.assert_close(raw["points"], expected, rtol=1e-5, atol=1e-5)


def test_omega_gives_no_points() -> None:
    outputs = small("vggt_omega").predict(images(2, 50, 70))  # what is left over at the edges is not seen
    assert {name: tuple(t.shape) for name, t in outputs.items()} == {
        "pose_enc": (2, 9),
        "depth": (2, 48, 64, 1),
        "depth_conf": (2, 48, 64),
    }


def test_the_scale_of_pi3x_scales_all_that_has_a_length() -> None:
    network = small("pi3x").module
    frames = images(2, 28, 28)
    with torch.no_grad():
        one = network(frames)
        network.metric_head.bias += 1
        other = network(frames)
    factor = torch.e
    torch.testing.assert_close(other["metric"], factor * one["metric"])
    for key in ("points", "local_points"):
        torch.testing.assert_close(other[key], factor * one[key], rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(other["camera_poses"][..., :3, 3], factor * one["camera_poses"][..., :3, 3])
    torch.testing.assert_close(other["camera_poses"][..., :3, :3], one["camera_poses"][..., :3, :3])
    torch.testing.assert_close(one["rays"].norm(dim=-1), torch.ones_like(one["conf"][..., 0]))
    along = one["rays"] * one["local_points"].norm(dim=-1, keepdim=True)
    torch.testing.assert_close(along, one["local_points"], rtol=1e-4, atol=1e-5)


def test_nearest_rotation_and_its_gradient() -> None:
    generator = torch.Generator().manual_seed(0)
    matrix = torch.randn(5, 3, 3, generator=generator, dtype=torch.float64, requires_grad=True)
    rotation = nearest_rotation(matrix)
    torch.testing.assert_close(rotation @ rotation.mT, torch.eye(3, dtype=torch.float64).expand(5, 3, 3))
    assert (torch.linalg.det(rotation) > 0.99).all()
    for _ in range(20):  # nothing near is nearer
        turn = torch.linalg.matrix_exp(
            0.1 * torch.randn(3, 3, generator=generator, dtype=torch.float64).triu(1)
        )
        other = rotation @ torch.linalg.qr(turn)[0]
        other = other * torch.linalg.det(other)[:, None, None].sign()
        assert ((matrix - rotation).norm(dim=(1, 2)) <= (matrix - other).norm(dim=(1, 2)) + 1e-9).all()
    assert torch.autograd.gradcheck(nearest_rotation, (matrix,))
    exact = rotation.detach().requires_grad_()  # all singular values are equal
    assert torch.autograd.gradcheck(nearest_rotation, (exact,))


def test_focal_lengths_are_found_again() -> None:
    height, width, focal = 12, 16, torch.tensor([11.0, 9.0])
    u, v = torch.meshgrid(torch.arange(width), torch.arange(height), indexing="xy")
    depth = 1 + torch.rand(height, width, generator=torch.Generator().manual_seed(0))
    x, y = (u - (width - 1) / 2) / focal[0], (v - (height - 1) / 2) / focal[1]
    points = torch.stack([x * depth, y * depth, depth], dim=-1)[None]
    points[0, 0, 0] = torch.nan
    fitted = fit_intrinsics(points.double())[0]
    torch.testing.assert_close(fitted[[0, 1], [0, 1]], focal.double(), rtol=1e-5, atol=0)
    assert fitted[:2, 2].tolist() == [(width - 1) / 2, (height - 1) / 2]


def _checkpoint(name: str, folder: Path) -> tuple[dict[str, Tensor], Path]:
    """A file as it is published, with random masks, from random weights; and the state that it should make."""
    network = small(name, seed=3).module
    state = {key: t.clone() for key, t in network.state_dict().items()}
    masks = network.bias_masks()
    generator = torch.Generator().manual_seed(0)
    stored = dict(state)
    for bias, mask in masks.items():
        stored[mask] = torch.rand(state[bias].shape, generator=generator)
        state[bias] = state[bias] * stored[mask]
    if name == "vggt_omega":
        path = folder / "vggt_omega_1b_512.pt"
        torch.save(stored, path)
    else:
        path = folder / "model.safetensors"
        save_file(stored, path)
    return state, path


@pytest.mark.parametrize("name", FAMILY)
@pytest.mark.parametrize("whole_folder", [False, True], ids=["file", "folder"])
def test_checkpoints_load_by_their_published_names(name: str, whole_folder: bool, tmp_path: Path) -> None:
    state, path = _checkpoint(name, tmp_path)
    source = path.parent if whole_folder else path
    asked = replace(config(name), source=str(source))
    asked.check()
    model = asked.load(CPU)
    found = model.module.state_dict()
    assert found.keys() == state.keys()
    assert all(torch.equal(found[key], t) for key, t in state.items())
    assert "Noncommercial" in (model.weights.license or "") or "CC BY-NC" in (model.weights.license or "")
    stream = asked.stream(asked.skeleton())
    assert all(torch.equal(stream.get(key), t) for key, t in state.items())
    assert stream.info("").license == model.weights.license
    stream.close()


def test_a_checkpoint_of_a_repository_is_named_after_a_colon(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[tuple[str, str]] = []

    def found(repo: str, name: str, **_: Any) -> str:
        asked.append((repo, name))
        return str(tmp_path / name)

    monkeypatch.setattr(huggingface_hub, "try_to_load_from_cache", found)
    monkeypatch.setattr(huggingface_hub, "hf_hub_download", found)
    source = "facebook/VGGT-Omega:vggt_omega_1b_512.pt"
    assert not is_local(source) and is_local("vggt/omega.pt") and is_local("C:weights.pt")
    assert cached(source, None).path == tmp_path / "vggt_omega_1b_512.pt"
    assert (locate(source, None).name, locate(source, None).kind) == (source, "hub")
    assert set(asked) == {("facebook/VGGT-Omega", "vggt_omega_1b_512.pt")}


def test_a_folder_with_several_checkpoints_is_refused(tmp_path: Path) -> None:
    for name in ("vggt_omega_1b_256_text.pt", "vggt_omega_1b_512.pt"):
        (tmp_path / name).touch()
    with pytest.raises(WeightsError, match=r"several files of weights \(vggt_omega_1b_256_text\.pt, vggt"):
        locate(str(tmp_path), None)


def test_optional_parts_of_pi3x_are_passed_over(tmp_path: Path) -> None:
    state, path = _checkpoint("pi3x", tmp_path)
    more = {"depth_emb": torch.zeros(1, 1, 8), "pose_inject_blk.0.norm1.weight": torch.zeros(8)}
    save_file(state | more, path)
    found = small("pi3x", source=path)
    assert found.module.state_dict().keys() == state.keys()
    save_file(state | {"something": torch.zeros(1)}, path)
    with pytest.raises(WeightsError, match="something"):
        small("pi3x", source=path)


def test_pickled_code_is_refused(tmp_path: Path) -> None:
    torch.save(nn.Linear(1, 1), tmp_path / "vggt_omega_1b_512.pt")
    with pytest.raises(WeightsError, match="pickled code"):
        small("vggt_omega", source=tmp_path)


@pytest.mark.parametrize("name", FAMILY)
def test_random_weights_say_so_and_are_the_same_again(name: str) -> None:
    one, again, other = (small(name, seed) for seed in (0, 0, 1))
    assert one.weights.random and one.weights.license is None
    assert one.weights.fingerprint == again.weights.fingerprint != other.weights.fingerprint
    depth = one.predict(images(2, 64, 64) if name == "vggt_omega" else images(2, 56, 56))["depth"]
    assert depth.std() > 1e-3 and depth.isfinite().all()


@pytest.mark.parametrize("name", FAMILY)
def test_images_that_do_not_fit_are_refused(name: str) -> None:
    network = small(name).module
    with pytest.raises(ValueError, match="expected"):
        network(torch.zeros(2, 1, 56, 56))
    with pytest.raises(AssertionError, match="must divide"):
        network(torch.zeros(2, 3, 8, 57))


@pytest.mark.parametrize(
    ("kind", "wrong"),
    [
        (Pi3Config, {"decoder": {"depth": 3}}),
        (Pi3Config, {"encoder": {"embed_dim": 512}}),
        (Pi3Config, {"encoder": {"type": "conv"}}),
        (Pi3XConfig, {"conv_head": {"widths": [24, 16, 16]}}),
        (OmegaConfig, {"aggregator": {"register_attention_block_indices": [24]}}),
        (OmegaConfig, {"aggregator": {"patch_size": 14}}),
        (OmegaConfig, {"heads": {"camera": False, "depth": False}}),
    ],
)
def test_impossible_configurations_are_refused(kind: type, wrong: dict) -> None:
    with pytest.raises(ConfigError):
        parse(kind, wrong)


def test_initial_buffers_are_those_of_the_publication() -> None:
    network = Omega(parse(OmegaConfig, {"aggregator": {"embed_dim": 64, "num_heads": 2, "depth": 1,
        "register_attention_block_indices": []}, "patch_embed": {"depth": 1, "num_heads": 2}, "camera_head": {"num_heads": 2},
        "dense_head": {"intermediate_layer_idx": [0, 0, 0, 0]}, "text_alignment_head": {"num_heads": 2}}))  # fmt: skip
    initialize_(network, 0)
    periods = network.aggregator.rope_embed.periods
    expected = [100 ** (2 * k / (32 / 2)) for k in range(32 // 4)]
    torch.testing.assert_close(periods, torch.tensor(expected))
