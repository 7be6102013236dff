"""Training losses against hand-computed values and against a slow matcher."""

import math

import pytest
import torch

from vggtq.data.room_layout import random_layout
from vggtq.data.room_render import render
from vggtq.geometry import decode_pose
from vggtq.metrics.pose import direction_angle_deg, relative_poses
from vggtq.training.batches import as_batch
from vggtq.training.losses import (
    CONFIDENCE_ALPHA,
    HUBER_DELTA,
    ITERATION_DISCOUNT,
    camera_loss,
    dense_loss,
    direction_loss,
    matching_loss,
    matching_targets,
    reference_loss,
)

PATCH = 14


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


def test_direction_loss_ignores_scale_and_is_zero_at_the_truth() -> None:
    truth = random_poses()
    larger = torch.cat([3 * truth[..., :3], truth[..., 3:]], -1)
    assert direction_loss(truth, truth).item() == pytest.approx(1e-3, rel=0.01)  # the root's floor
    assert direction_loss(larger, truth).item() == pytest.approx(1e-3, rel=0.01)


def test_direction_loss_compares_what_the_pose_metric_compares() -> None:
    """The chord of the angle between relative translations, over ordered pairs."""
    truth, predicted = random_poses(), random_poses().flip(0)
    chords = []
    for flip in (False, True):
        poses = (decode_pose(p[0], (56, 56))[0] for p in (predicted, truth))
        a, b = (relative_poses(p.flip(0) if flip else p)[1] for p in poses)
        chords.append(2 * torch.sin(direction_angle_deg(a, b).deg2rad() / 2))
    loss = direction_loss(predicted[:1], truth[:1]).item()
    assert loss == pytest.approx(torch.cat(chords).mean().item(), abs=1e-4)


def test_dense_loss_of_a_constant_offset_has_no_gradient_term() -> None:
    truth, confidence = torch.rand(2, 4, 5, 1), torch.full((2, 4, 5), 2.0)
    expected = 2.0 * 0.3 - CONFIDENCE_ALPHA * math.log(2.0)
    assert dense_loss(truth + 0.3, confidence, truth).item() == pytest.approx(expected, abs=1e-5)


def test_dense_loss_of_a_ramp() -> None:
    truth = torch.zeros(1, 3, 4, 1)
    ramp = torch.arange(4.0).view(1, 1, 4, 1).expand(1, 3, 4, 1)
    # Values 1.5 on average, steps of 1 along the rows and of 0 along the columns.
    assert dense_loss(ramp, torch.ones(1, 3, 4), truth).item() == pytest.approx(1.5 + 0.5)


def test_confidence_pays_where_errors_are_small() -> None:
    truth = torch.zeros(1, 3, 3, 3)
    sure, unsure = torch.full((1, 3, 3), 5.0), torch.ones(1, 3, 3)
    assert dense_loss(truth, sure, truth) < dense_loss(truth, unsure, truth)
    assert dense_loss(truth + 1, sure, truth) > dense_loss(truth + 1, unsure, truth)


def test_batches_have_unit_scale_and_the_chosen_first_frame() -> None:
    batch = as_batch(render(random_layout([3, 4], 3), (56, 56)), [2, 0, 1])
    distance = batch.points.flatten(1, 3).norm(dim=-1).mean(-1)
    torch.testing.assert_close(distance, torch.ones(2))
    torch.testing.assert_close(batch.poses[:, 0], torch.eye(3, 4).expand(2, 3, 4), rtol=0, atol=1e-5)
    camera = batch.points.flatten(2, 3) @ batch.poses[..., :3].mT + batch.poses[..., 3:].mT
    torch.testing.assert_close(camera[..., 2], batch.depth.flatten(2), rtol=0, atol=1e-4)


def test_matches_agree_with_a_slow_projection() -> None:
    batch = as_batch(render(random_layout([7], 3), (56, 70)), [0, 1, 2])
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
    # Without a frame tag, half of the attention stays on the patch it came from.
    special = torch.zeros(1, 1, 2, 1, 4)
    assert reference_loss(keys, torch.cat([special, keys], 3), targets).item() == pytest.approx(math.log(2))


def test_no_match_is_no_loss() -> None:
    keys = torch.randn(1, 1, 2, 4, 8)
    assert matching_loss(keys, keys, torch.full((1, 2, 4, 2), -1)) == 0
