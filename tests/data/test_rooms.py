"""Rooms: the geometry that a scene states must be the geometry that its pixels show."""

from dataclasses import replace

import pytest
import torch
from torch import Tensor

from vggtq.config.compose import compose
from vggtq.config.validate import validated
from vggtq.data.contact_sheet import contact_sheet
from vggtq.data.procedural import SPLITS, Frames, scene_seed
from vggtq.data.rooms import Rooms
from vggtq.data.rooms.layout import CLEARANCE, random_layout
from vggtq.data.rooms.raycast import BOX, CYLINDER, ROOM, SPHERE, Solids, cast
from vggtq.data.rooms.render import render
from vggtq.errors import ConfigError
from vggtq.geometry import decode_pose, encode_pose, unproject_depth

SIZE = (56, 84)


@pytest.fixture(scope="module")
def frames() -> Frames:
    return render(random_layout([scene_seed("test", 5, i) for i in range(6)], 4), SIZE)


def test_unprojected_depth_is_the_world_points(frames: Frames) -> None:
    for scene in range(6):
        points = unproject_depth(frames.depth[scene], frames.extrinsics[scene], frames.intrinsics[scene])
        torch.testing.assert_close(points, frames.points[scene], rtol=0, atol=1e-9)


def project(points: Tensor, extrinsics: Tensor, intrinsics: Tensor) -> tuple[Tensor, Tensor]:
    """Pixels (..., 2) and depths (...) of world points (..., 3) in one camera."""
    camera = points @ extrinsics[:, :3].mT + extrinsics[:, 3]
    pixel = camera @ intrinsics.mT
    return pixel[..., :2] / pixel[..., 2:], camera[..., 2]


def bilinear(image: Tensor, pixel: Tensor) -> Tensor:
    """image (C, H, W) at pixels (N, 2), centres at integers."""
    size = torch.tensor([image.shape[-1], image.shape[-2]])
    grid = (pixel + 0.5) / size * 2 - 1
    return torch.nn.functional.grid_sample(image[None], grid[None, None], align_corners=False)[0, :, 0]


def seen_by_both(frames: Frames, scene: int, i: int, j: int) -> tuple[Tensor, Tensor, Tensor]:
    """Which pixels of frame i frame j sees too, where, and how deep they lie there: masks by the second depth map."""
    pixel, depth = project(
        frames.points[scene, i].reshape(-1, 3), frames.extrinsics[scene, j], frames.intrinsics[scene, j]
    )
    edge = torch.tensor([SIZE[1] - 1.0, SIZE[0] - 1.0])
    inside = (depth > 0) & (pixel >= 0).all(-1) & (pixel <= edge).all(-1)
    nearest = bilinear(frames.depth[scene, j][None], pixel)[0]
    return inside & ((nearest - depth).abs() < 0.02 * depth), pixel, depth


def test_reprojected_depth_and_colour_agree_where_both_frames_see_the_surface(frames: Frames) -> None:
    shared, differences, colours, shuffled = 0, [], [], []
    for scene in range(6):
        for i, j in ((0, 1), (1, 0), (0, 3), (2, 1)):
            mask, pixel, depth = seen_by_both(frames, scene, i, j)
            shared += int(mask.sum())
            found = bilinear(frames.depth[scene, j][None], pixel[mask])[0]
            differences.append((found / depth[mask] - 1).abs())
            here = frames.images[scene, i].flatten(1)[:, mask]
            there = bilinear(frames.images[scene, j], pixel[mask].float())
            colours.append((here - there).abs().mean(0))
            shuffled.append((here - there.roll(7, -1)).abs().mean(0))
    assert shared > 0.3 * 24 * SIZE[0] * SIZE[1]
    # Planes are not linear in depth between pixels, hence not zero.
    assert torch.cat(differences).median() < 2e-3
    assert torch.cat(colours).median() < 0.06
    assert torch.cat(colours).mean() < 0.6 * torch.cat(shuffled).mean()


def test_poses_are_rotations_and_the_first_camera_is_the_world(frames: Frames) -> None:
    rotation = frames.extrinsics[..., :3]
    identity = torch.eye(3, dtype=torch.float64)
    torch.testing.assert_close(rotation @ rotation.mT, identity.expand_as(rotation), rtol=0, atol=1e-12)
    torch.testing.assert_close(torch.linalg.det(rotation), torch.ones(6, 4, dtype=torch.float64))
    assert torch.equal(frames.extrinsics[:, 0], torch.eye(3, 4, dtype=torch.float64).expand(6, 3, 4))
    assert (frames.extrinsics[:, 1:, :, 3].norm(dim=-1) > 0.02).all()


def test_cameras_survive_vggt_pose_encoding(frames: Frames) -> None:
    extrinsics, intrinsics = decode_pose(encode_pose(frames.extrinsics, frames.intrinsics, SIZE), SIZE)
    torch.testing.assert_close(extrinsics, frames.extrinsics, rtol=0, atol=1e-9)
    torch.testing.assert_close(intrinsics, frames.intrinsics, rtol=0, atol=1e-9)


def test_every_pixel_sees_a_surface_of_the_closed_room(frames: Frames) -> None:
    assert ((frames.depth > 0.05) & (frames.depth < 12)).all()
    assert frames.images.min() >= 0
    assert frames.images.max() <= 1
    assert frames.images.dtype == torch.float32
    assert frames.images.flatten(1).std(dim=1).min() > 0.05


def test_single_precision_agrees_with_double() -> None:
    layout = random_layout([1, 2], 3)
    exact, fast = (render(layout, (56, 56), exact=e) for e in (True, False))
    close = (fast.depth / exact.depth - 1).abs() < 1e-4
    assert close.double().mean() > 0.999  # a ray along an edge may fall to either side
    torch.testing.assert_close(fast.images, exact.images)


def one_solid(kind: int, half: tuple[float, float, float]) -> Solids:
    """A 10 m room and one solid 4 m ahead, turned by 45° about the vertical."""
    c = 0.5**0.5
    turn = torch.tensor([[c, 0, c], [0, 1, 0], [-c, 0, c]], dtype=torch.float64)
    return Solids(
        (ROOM, kind),
        torch.stack([torch.eye(3, dtype=torch.float64), turn])[None],
        torch.tensor([[[0.0, 0, 0], [0, 0, 4]]], dtype=torch.float64),
        torch.tensor([[[5.0, 5, 5], list(half)]], dtype=torch.float64),
    )


@pytest.mark.parametrize(
    ("kind", "half", "expected"),
    [(BOX, (1.0, 1, 1), 4 - 2**0.5), (SPHERE, (1.5, 1.5, 1.5), 2.5), (CYLINDER, (0.5, 1, 0.5), 3.5)],
    ids=["box", "sphere", "cylinder"],
)
def test_depth_of_hand_computed_solids(kind: int, half: tuple[float, float, float], expected: float) -> None:
    rays = torch.tensor([[0.0, 0, 1], [0, 1.9, 1]], dtype=torch.float64).T[None, None]
    eye = torch.eye(3, dtype=torch.float64)[None, None]
    hits = cast(one_solid(kind, half), torch.zeros(1, 1, 3, dtype=torch.float64), eye, rays)
    # The second ray passes above the solid and meets the ceiling at z = 5 / 1.9.
    torch.testing.assert_close(hits.depth.flatten(), torch.tensor([expected, 5 / 1.9], dtype=torch.float64))
    assert hits.solid.flatten().tolist() == [1, 0]


def test_cylinder_caps_are_flat() -> None:
    solids = one_solid(CYLINDER, (1.0, 0.5, 1.0))
    rays = torch.tensor([[0.0, 0.5, 1.0]], dtype=torch.float64).T[None, None]
    camera = torch.tensor([[[0.0, -2.5, 0.0]]], dtype=torch.float64)
    eye = torch.eye(3, dtype=torch.float64)[None, None]
    assert cast(solids, camera, eye, rays).depth.item() == pytest.approx(4.0)  # y = −0.5, the upper cap


def test_cameras_keep_clear_of_furniture_and_walls() -> None:
    layout = random_layout(range(40), 5)
    offset = (layout.centre[:, None] - layout.solids.centre[:, 1:, None]).norm(dim=-1)
    smallest = layout.solids.half[:, 1:, None].amin(-1)
    assert (offset > smallest + CLEARANCE / 2).all()
    assert (layout.centre.abs() < layout.solids.half[:, :1]).all()


def test_a_seed_gives_the_same_bits_again() -> None:
    first, again = (list(Rooms(count=2, frames=3, size=[56, 56], seed=9).scenes()) for _ in range(2))
    for a, b in zip(first, again, strict=True):
        assert torch.equal(a.images, b.images)
        assert a.truth.depth is not None
        assert b.truth.depth is not None
        assert torch.equal(a.truth.depth, b.truth.depth)
    assert not torch.equal(first[0].images, first[1].images)


def test_a_scene_does_not_depend_on_its_neighbours() -> None:
    few = Rooms(count=2, frames=2, size=[56, 56]).render(1)
    batch = render(random_layout([scene_seed("test", 0, i) for i in range(3)], 2), (56, 56), samples=3)
    torch.testing.assert_close(few.images[0], batch.images[1])
    torch.testing.assert_close(few.extrinsics[0], batch.extrinsics[1])


def test_splits_and_seeds_share_no_scene() -> None:
    keys = {scene_seed(split, seed, index) for split in SPLITS for seed in range(4) for index in range(50)}
    assert len(keys) == len(SPLITS) * 4 * 50
    pictures = [
        next(Rooms(count=1, frames=1, size=[56, 56], split=split).scenes()).images for split in SPLITS
    ]
    assert not torch.equal(pictures[0], pictures[1])
    assert not torch.equal(pictures[1], pictures[2])


def test_renders_on_the_device_of_the_layout() -> None:
    rendered = render(random_layout([1], 2).to(torch.device("meta")), (56, 56))
    assert {t.device.type for t in (rendered.images, rendered.points, rendered.extrinsics)} == {"meta"}


def test_contact_sheet_has_colour_above_depth() -> None:
    sheet = contact_sheet(Rooms(count=3, frames=2, size=[56, 56]))
    assert sheet.shape == (2 * 2 * 58, 2 * 2 * 58, 3)
    assert (sheet[2 * 58 :, 2 * 58 :] == 255).all()  # the empty fourth place


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"split": "tset"}, "did you mean"),
        ({"size": [100, 112]}, "multiples of the patch size, 14 or 16"),
        ({"frames": 0}, "frames=0: a scene has 1 to"),
        ({"count": -3}, "scenes=-3: must be 1 or more"),
    ],
    ids=["split", "size", "frames", "count"],
)
def test_bad_options_are_explained(change: dict[str, object], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        replace(Rooms(), **change)  # type: ignore[arg-type]


def test_short_keys_reach_the_data_set() -> None:
    config = validated(compose(["dataset=rooms", "scenes=3", "frames=2", "size=[56,70]", "seed=4"]))
    assert config.dataset == Rooms(count=3, frames=2, size=[56, 70], seed=4)


def test_short_keys_of_another_data_set_are_refused() -> None:
    with pytest.raises(ConfigError, match="dataset=objects"):
        validated(compose(["dataset=motorcycle", "scenes=3"]))
