"""Captures of objects: the geometry that a scene states must be the one that its pixels show, and splits must not meet."""

import math
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from vggtq.config.compose import compose
from vggtq.config.validate import validated
from vggtq.data.contact_sheet import contact_sheet
from vggtq.data.objects import Objects, render
from vggtq.data.objects.layout import BOX, CYLINDER, KINDS, ROOM, STACKED, TABLE, Layout, random_layout
from vggtq.data.objects.surfaces import FIRST_OBJECT
from vggtq.data.procedural import SPLITS, Frames, scene_seed
from vggtq.errors import ConfigError
from vggtq.geometry import unproject_depth

SIZE = (42, 56)
SCENES = 5


@pytest.fixture(scope="module")
def layout() -> Layout:
    return random_layout([scene_seed("test", 3, i) for i in range(SCENES)], 4)


@pytest.fixture(scope="module")
def frames(layout: Layout) -> Frames:
    return render.render(layout, SIZE)


def outside(layout: Layout, scene: int, points: Tensor) -> Tensor:
    """How far points (N, 3) are outside of every solid, relative to its size, (N, K): 0 on its surface, below 0 within it."""
    values = []
    for k, kind in enumerate(KINDS):
        yaw = float(layout.yaw[scene, k])
        turn = torch.tensor(
            [[math.cos(yaw), 0, math.sin(yaw)], [0, 1, 0], [-math.sin(yaw), 0, math.cos(yaw)]],
            dtype=torch.float64,
        )
        local = (points - layout.centre[scene, k]) @ turn.T / layout.half[scene, k]
        flat = local[:, [0, 2]].norm(dim=1)
        if kind in (ROOM, BOX):
            value = local.abs().amax(1) - 1
        elif kind == CYLINDER:
            value = torch.maximum(flat, local[:, 1].abs()) - 1
        else:
            value = local.norm(dim=1) - 1
        values.append(-value if kind == ROOM else value)
    return torch.stack(values, 1)


def test_depth_ends_at_the_first_surface(layout: Layout, frames: Frames) -> None:
    """Against a search along the ray with each solid's inequality, which shares nothing with the intersections."""
    generator = torch.Generator().manual_seed(0)
    seen = set()
    for scene in range(SCENES):
        for frame in range(4):
            focal = frames.intrinsics[scene, frame, 0, 0]
            for _ in range(25):
                v, u = (int(torch.randint(n, (), generator=generator)) for n in SIZE)
                ray = torch.tensor([(u - SIZE[1] / 2) / focal, (v - SIZE[0] / 2) / focal, 1.0]).double()
                direction = layout.rotation[scene, frame].T @ ray
                depth = frames.depth[scene, frame, v, u]
                steps = torch.linspace(0, 1 - 1e-6, 4000, dtype=torch.float64)[:, None] * depth
                before = outside(layout, scene, layout.camera[scene, frame] + steps * direction)
                assert before.min() > 0
                end = outside(layout, scene, (layout.camera[scene, frame] + depth * direction)[None])[0]
                assert end.abs().min() < 1e-9
                met = int(end.abs().argmin())
                assert frames.objects[scene, frame, v, u] == (met not in (0, TABLE))
                seen.add(met)
    assert {0, TABLE} < seen
    assert len(seen) >= 6


def test_unprojected_depth_is_the_world_points(frames: Frames) -> None:
    for scene in range(SCENES):
        points = unproject_depth(frames.depth[scene], frames.extrinsics[scene], frames.intrinsics[scene])
        torch.testing.assert_close(points, frames.points[scene], rtol=0, atol=1e-9)


def test_the_first_camera_is_the_world(frames: Frames) -> None:
    rotation = frames.extrinsics[..., :3]
    identity = torch.eye(3, dtype=torch.float64).expand_as(rotation)
    torch.testing.assert_close(rotation @ rotation.mT, identity, rtol=0, atol=1e-12)
    assert torch.equal(frames.extrinsics[:, 0], torch.eye(3, 4, dtype=torch.float64).expand(SCENES, 3, 4))


def test_frames_agree_on_the_colour_of_a_surface(frames: Frames) -> None:
    same, other = [], []
    for scene in range(SCENES):
        camera = frames.points[scene, 0].flatten(0, 1) @ frames.extrinsics[scene, 1, :, :3].T
        camera = camera + frames.extrinsics[scene, 1, :, 3]
        pixel = camera @ frames.intrinsics[scene, 1].T
        u, v = (pixel[:, i] / pixel[:, 2] for i in (0, 1))
        inside = (camera[:, 2] > 0) & (u > 0) & (u < SIZE[1] - 1) & (v > 0) & (v < SIZE[0] - 1)
        column, row = u.round().long().clamp(0, SIZE[1] - 1), v.round().long().clamp(0, SIZE[0] - 1)
        found = frames.depth[scene, 1, row, column]
        visible = inside & ((found / camera[:, 2] - 1).abs() < 0.02)
        here = frames.images[scene, 0].flatten(1)[:, visible]
        there = frames.images[scene, 1][:, row[visible], column[visible]]
        same.append((here - there).abs().mean(0))
        other.append((here - there.roll(9, 1)).abs().mean(0))
    assert len(torch.cat(same)) > 0.2 * SCENES * SIZE[0] * SIZE[1]
    assert torch.cat(same).median() < 0.02
    assert torch.cat(same).mean() < 0.4 * torch.cat(other).mean()


def test_images_are_images(frames: Frames) -> None:
    assert frames.images.shape == (SCENES, 4, 3, *SIZE)
    assert frames.images.dtype == torch.float32
    assert frames.images.min() >= 0
    assert frames.images.max() <= 1
    assert frames.images.flatten(1).std(dim=1).min() > 0.05
    assert ((frames.depth > 0.1) & (frames.depth < 8)).all()


def test_single_precision_agrees_with_double(layout: Layout, frames: Frames) -> None:
    fast = render.render(layout, SIZE, exact=False)
    close = (fast.depth / frames.depth - 1).abs() < 1e-4
    assert close.double().mean() > 0.999  # a ray along an edge may fall to either side
    assert torch.equal(fast.images, frames.images)


def test_more_rays_on_edges_come_closer_to_many_rays_everywhere(layout: Layout) -> None:
    """Against the mean of the 25 pixels of a picture five times as large around each pixel's centre."""
    large = render.render(layout, (5 * SIZE[0], 5 * SIZE[1]), antialiased=False, exact=False).images
    large = torch.nn.functional.pad(large.flatten(0, 1), (2, 2, 2, 2), mode="replicate")
    wanted = torch.nn.functional.avg_pool2d(large, 5, 5)[:, :, : SIZE[0], : SIZE[1]]
    errors = {}
    for antialiased in (True, False):
        image = render.render(layout, SIZE, antialiased, exact=False).images.flatten(0, 1)
        errors[antialiased] = (image - wanted)[..., 1:-1, 1:-1].square().mean().sqrt()
    assert errors[True] < 0.6 * errors[False]


def test_parts_of_one_size_give_the_same_picture(
    layout: Layout, frames: Frames, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A compiled function gets a fixed number of rays; here it is the function itself, cut into small parts."""
    lengths = set()

    def function(x: Tensor, *rest: Tensor) -> render.Colours:
        lengths.add(len(x))
        return render.colour_of_rays(x, *rest)

    monkeypatch.setattr(render, "RAYS", 500)
    monkeypatch.setattr(render, "_compiled", lambda: function)
    parts = render.render(layout, SIZE, compiled=True)
    assert lengths == {500}
    torch.testing.assert_close(parts.images, frames.images, rtol=0, atol=1e-5)


def test_objects_stand_on_the_table_beside_each_other(layout: Layout) -> None:
    """Nothing floats, crosses another object or hangs over the edge."""
    layout = random_layout(range(60), 1)
    top = layout.centre[:, TABLE, 1] - layout.half[:, TABLE, 1]
    for scene in range(60):
        here = [k for k in range(1, len(KINDS)) if k != TABLE and layout.centre[scene, k, 0] < 100]
        for k in here:
            foot = layout.centre[scene, k, 1] + layout.half[scene, k, 1]
            standing = top[scene] if k != STACKED else layout.centre[scene, 1, 1] - layout.half[scene, 1, 1]
            assert foot == pytest.approx(float(standing), abs=1e-9)
            reach = layout.half[scene, k, [0, 2]].norm()
            assert layout.centre[scene, k, [0, 2]].norm() < layout.half[scene, TABLE, 0] + 0.1 * reach
            for other in here:
                if other < k and STACKED not in (k, other):
                    gap = (layout.centre[scene, k] - layout.centre[scene, other])[[0, 2]].norm()
                    assert gap >= reach + layout.half[scene, other, [0, 2]].norm() - 1e-9
    assert layout.surfaces.first.shape[1] == FIRST_OBJECT + len(KINDS) - 2


def azimuths(layout: Layout) -> Tensor:
    """(B, S) degrees, of cameras around the table, from the first camera."""
    angle = torch.atan2(layout.camera[..., 2], layout.camera[..., 0])
    turned = angle - angle[:, :1]
    return torch.rad2deg(torch.atan2(turned.sin(), turned.cos()))


def test_frames_come_in_random_order() -> None:
    azimuth = azimuths(random_layout(range(300), 4))
    steps = azimuth.diff(dim=1).sign()
    in_order = (steps[:, 0] == steps[:, 1]) & (steps[:, 1] == steps[:, 2])
    assert 0.02 < in_order.double().mean() < 0.16  # two of 24 orders: 0.083
    # The mean place of a slot tells nothing.
    assert azimuth.mean(0).abs().max() < 12


def test_arcs_span_50_to_150_degrees() -> None:
    azimuth = azimuths(random_layout(range(200), 6))
    span = azimuth.amax(1) - azimuth.amin(1)
    assert span.min() > 35  # ends of an arc move by a third of a step
    assert span.max() < 175
    assert 80 < span.mean() < 115


def test_no_azimuth_is_preferred() -> None:
    """In the table's own axes, which a network could learn if anything there were the same in all scenes."""
    camera = random_layout(range(400), 2).camera[:, 0]
    direction = camera[:, [0, 2]] / camera[:, [0, 2]].norm(dim=1, keepdim=True)
    assert direction.mean(0).norm() < 0.12


def test_a_walk_is_smooth_and_a_longer_one_begins_alike() -> None:
    layout = random_layout(range(8), 300, "walk")
    step = (layout.camera[:, 1:] - layout.camera[:, :-1]).norm(dim=-1)
    turn = layout.rotation[:, 1:] @ layout.rotation[:, :-1].mT
    angle = torch.rad2deg(((turn.diagonal(dim1=-2, dim2=-1).sum(-1) - 1) / 2).clamp(-1, 1).acos())
    assert 0 < step.min() < step.max() < 0.12  # metres
    assert angle.max() < 5
    # Changes of the step, too: no camera jumps back and forth.
    jerk = (layout.camera[:, 2:] - 2 * layout.camera[:, 1:-1] + layout.camera[:, :-2]).norm(dim=-1)
    assert jerk.median() < 0.1 * step.median()
    azimuth = torch.atan2(layout.camera[..., 2], layout.camera[..., 0]).diff(dim=1)
    total = torch.atan2(azimuth.sin(), azimuth.cos()).sum(1).abs()
    assert torch.rad2deg(total).min() > 150
    shorter = random_layout(range(8), 20, "walk")
    assert torch.equal(shorter.camera, layout.camera[:, :20])
    assert torch.equal(shorter.centre, random_layout(range(8), 4).centre)  # the same scenes as on orbits


def test_long_walks_reach_the_data_set() -> None:
    config = validated(compose(["dataset=objects", "frames=200", "path=walk"]))
    assert (config.dataset.frames, config.dataset.camera_path) == (200, "walk")
    with pytest.raises(ConfigError, match="did you mean walk"):
        validated(compose(["dataset=objects", "path=wolk"]))
    with pytest.raises(ConfigError, match="dataset=objects"):
        validated(compose(["dataset=rooms", "path=walk"]))


def test_splits_and_seeds_share_no_scene() -> None:
    pictures = [next(Objects(count=1, frames=1, size=[28, 28], split=s).scenes()).images for s in SPLITS]
    pictures += [next(Objects(count=1, frames=1, size=[28, 28], seed=1).scenes()).images]
    for i, picture in enumerate(pictures):
        assert all(not torch.equal(picture, other) for other in pictures[:i])


def test_calibration_takes_another_split() -> None:
    assert Objects().calibration(3, 2, 5) == Objects(count=3, frames=2, seed=5, split="calibration")
    assert Objects(split="calibration").calibration(3, 2, 5).split == "train"


def test_a_seed_gives_the_same_bits_again_and_neighbours_do_not_matter() -> None:
    dataset = Objects(count=2, frames=2, size=[28, 28], seed=9)
    first, again = list(dataset.scenes())[1], list(replace(dataset, count=3).scenes())[1]
    assert torch.equal(first.images, again.images)
    assert torch.equal(first.images, dataset.render(1).images[0])


def test_a_contact_sheet_has_a_row_of_depth() -> None:
    sheet = contact_sheet(Objects(count=1, frames=2, size=[28, 28]), columns=1)
    assert sheet.shape == (2 * 30, 2 * 30, 3)


def test_options_are_checked() -> None:
    with pytest.raises(ConfigError, match="1 to 1000 frames"):
        Objects(frames=1001)
    with pytest.raises(ConfigError, match="did you mean"):
        Objects(split="tset")


def test_short_keys_reach_the_data_set() -> None:
    config = validated(compose(["dataset=objects", "scenes=3", "frames=2", "size=[56,70]", "seed=4"]))
    assert config.dataset == Objects(count=3, frames=2, size=[56, 70], seed=4)
