"""Training losses against hand-computed values and against a slow matcher."""

import math

import pytest
import torch

from vggtq.data.objects.layout import random_layout
from vggtq.data.objects.render import render
from vggtq.geometry import decode_pose
from vggtq.metrics.pose import direction_angle_deg, relative_poses, rotation_angle_deg
from vggtq.train.losses import (
    CONFIDENCE_ALPHA,
    HUBER_DELTA,
    ITERATION_DISCOUNT,
    camera_loss,
    dense_loss,
    matching_loss,
    matching_targets,
    pair_losses,
    patch_geometry,
)
from vggtq.train.pool import Batch, as_batch

PATCH = 14


def batch_of(seeds: list[int], frames: int, size: tuple[int, int], order: list[int]) -> Batch:
    rendered = render(random_layout(seeds, frames), size, exact=False)
    parts = (rendered.images, rendered.depth, rendered.extrinsics.float(), rendered.intrinsics.float())
    return as_batch(*(part[:, order] for part in parts))


def test_camera_loss_discounts_early_iterations() -> None:
    truth = torch.zeros(1, 2, 9)
    wrong = truth + 1.0
    # Beyond the threshold Huber is linear: (|e| − δ/2)·δ, here divided by δ.
    full = 1 - HUBER_DELTA / 2
    assert camera_loss([truth, truth], truth) == 0
    assert camera_loss([truth, wrong], truth).item() == pytest.approx(full / (1 + ITERATION_DISCOUNT))
    early = full * ITERATION_DISCOUNT / (1 + ITERATION_DISCOUNT)
    assert camera_loss([wrong, truth], truth).item() == pytest.approx(early)


def random_poses() -> torch.Tensor:
    """(2, 4, 9) encodings of cameras far apart."""
    generator = torch.Generator().manual_seed(0)
    return torch.randn(2, 4, 9, generator=generator, dtype=torch.float64)


def test_pair_losses_are_zero_at_the_truth_and_direction_ignores_scale() -> None:
    truth = random_poses()
    larger = torch.cat([3 * truth[..., :3], truth[..., 3:]], -1)
    for losses in (pair_losses([truth], truth), pair_losses([larger], truth)):
        assert losses["rotation"].item() == pytest.approx(1e-5**0.5, rel=0.01)  # the root's floor
        assert losses["direction"].item() == pytest.approx(1e-5**0.5, rel=0.01)
    assert pair_losses([truth], truth)["translation"] < 0.002
    assert pair_losses([larger], truth)["translation"] > 0.5


def test_pair_losses_compare_what_the_pose_metric_compares() -> None:
    """Chords of the angles between relative poses, over ordered pairs: 2 sin ½θ for directions, √8 sin ½θ for rotations."""
    truth, predicted = random_poses(), random_poses().flip(0)
    directions, rotations = [], []
    for flip in (False, True):
        poses = (decode_pose(p[0], (56, 56))[0] for p in (predicted, truth))
        (ra, ta), (rb, tb) = (relative_poses(p.flip(0) if flip else p) for p in poses)
        directions.append(2 * torch.sin(direction_angle_deg(ta, tb).deg2rad() / 2))
        rotations.append(8**0.5 * torch.sin(rotation_angle_deg(ra.mT @ rb).deg2rad() / 2))
    losses = pair_losses([predicted[:1]], truth[:1])
    assert losses["direction"].item() == pytest.approx(torch.cat(directions).mean().item(), abs=1e-4)
    assert losses["rotation"].item() == pytest.approx(torch.cat(rotations).mean().item(), abs=1e-4)


def test_pair_losses_see_every_iteration_and_survive_equal_poses() -> None:
    truth, wrong = random_poses(), random_poses().flip(0)
    late, early = (pair_losses(e, truth)["rotation"] for e in ([truth, wrong], [wrong, truth]))
    assert late > early > pair_losses([truth, truth], truth)["rotation"]
    same = truth.clone().requires_grad_()
    sum(pair_losses([same], truth).values()).backward()
    assert same.grad is not None
    assert same.grad.isfinite().all()


def test_dense_loss_of_a_constant_offset_has_no_gradient_term() -> None:
    truth, confidence = torch.rand(2, 4, 5, 1), torch.full((2, 4, 5), 2.0)
    expected = 2.0 * 0.3 - CONFIDENCE_ALPHA * math.log(2.0)
    assert dense_loss(truth + 0.3, confidence, truth).item() == pytest.approx(expected, abs=1e-5)


def test_dense_loss_of_a_ramp() -> None:
    truth = torch.zeros(1, 3, 4, 1)
    ramp = torch.arange(4.0).view(1, 1, 4, 1).expand(1, 3, 4, 1)
    # Values 1.5 on average, steps of 1 along the rows and of 0 along the columns.
    assert dense_loss(ramp, torch.ones(1, 3, 4), truth).item() == pytest.approx(1.5 + 0.5, abs=1e-3)


def test_confidence_pays_where_errors_are_small() -> None:
    truth = torch.zeros(1, 3, 3, 3)
    sure, unsure = torch.full((1, 3, 3), 5.0), torch.ones(1, 3, 3)
    assert dense_loss(truth, sure, truth) < dense_loss(truth, unsure, truth)
    assert dense_loss(truth + 1, sure, truth) > dense_loss(truth + 1, unsure, truth)


def test_batches_have_unit_scale_and_the_chosen_first_frame() -> None:
    batch = batch_of([3, 4], 3, (56, 56), [2, 0, 1])
    distance = batch.points.flatten(1, 3).norm(dim=-1).mean(-1)
    torch.testing.assert_close(distance, torch.ones(2))
    torch.testing.assert_close(batch.poses[:, 0], torch.eye(3, 4).expand(2, 3, 4), rtol=0, atol=1e-5)
    camera = batch.points.flatten(2, 3) @ batch.poses[..., :3].mT + batch.poses[..., 3:].mT
    torch.testing.assert_close(camera[..., 2], batch.depth.flatten(2), rtol=0, atol=1e-4)


def test_matches_agree_with_a_slow_projection() -> None:
    batch = batch_of([7], 3, (56, 70), [0, 1, 2])
    targets = matching_targets(batch.points, batch.depth, batch.poses, batch.intrinsics, PATCH)
    assert targets.shape == (1, 3, 20, 3)
    checked = 0
    for i in range(3):
        for p in range(20):
            row, column = PATCH * (p // 5) + PATCH // 2, PATCH * (p % 5) + PATCH // 2
            point = batch.points[0, i, row, column]
            assert targets[0, i, p, i] == p
            for j in range(3):
                if (match := int(targets[0, i, p, j])) >= 0:
                    pixel = batch.intrinsics[0, j] @ (
                        batch.poses[0, j, :, :3] @ point + batch.poses[0, j, :, 3]
                    )
                    u, v = (pixel[:2] / pixel[2]).round().int().tolist()
                    assert match == (v // PATCH) * 5 + u // PATCH
                    checked += 1
    assert checked > 100


def test_attention_on_the_match_costs_nothing() -> None:
    """Two frames of four patches, frame 1 being frame 0 in reverse order, with one-hot queries and keys."""
    codes = 100 * torch.eye(4)
    keys = torch.stack([codes, codes.flip(0)])[None, None]
    targets = torch.tensor([[0, 3], [1, 2], [2, 1], [3, 0]])
    targets = torch.stack([targets, targets.flip(1)])[None]
    assert matching_loss(keys, keys, targets) < 1e-6
    assert matching_loss(keys, keys.flip(3), targets) > 100


def test_a_patch_knows_its_point_its_depth_and_its_place_in_the_first_frame() -> None:
    batch = batch_of([5], 2, (28, 42), [0, 1])
    geometry = patch_geometry(batch.points, batch.depth, batch.intrinsics, PATCH)
    assert geometry.shape == (1, 2, 6, 6)
    for p in range(6):
        row, column = PATCH * (p // 3) + PATCH // 2, PATCH * (p % 3) + PATCH // 2
        torch.testing.assert_close(geometry[0, 1, p, :3], batch.points[0, 1, row, column])
        assert geometry[0, 1, p, 3].exp().item() == pytest.approx(batch.depth[0, 1, row, column].item())
        # In frame 0 itself the place is where the patch is.
        place = torch.tensor([column / 21 - 1, row / 14 - 1])
        torch.testing.assert_close(geometry[0, 0, p, 4:], place, rtol=0, atol=1e-3)


def test_no_match_is_no_loss() -> None:
    keys = torch.randn(1, 1, 2, 4, 8)
    assert matching_loss(keys, keys, torch.full((1, 2, 4, 2), -1)) == 0
