"""Frames that wait as bytes are the frames of preprocessing, wherever they wait."""

from pathlib import Path

import pytest
import torch
from PIL import Image

from vggtq.data.frames import ALL_IN_MEMORY
from vggtq.data.preprocess import prepare, preprocess


@pytest.fixture
def photographs(tmp_path: Path) -> list[Path]:
    """Three sizes, one of which is cut and two of which are padded."""
    paths = []
    for number, size in enumerate([(60, 40), (56, 90), (70, 20)]):
        paths.append(tmp_path / f"{number}.png")
        Image.radial_gradient("L").resize(size).convert("RGB").save(paths[-1])
    return paths


@pytest.mark.parametrize("mode", ["crop", "pad"])
@pytest.mark.parametrize("memory_bytes", [0, 10_000, ALL_IN_MEMORY])
def test_frames_are_those_of_preprocessing(photographs: list[Path], mode: str, memory_bytes: int) -> None:
    images, *others = preprocess(photographs, mode, 56)
    frames, *same = prepare(photographs, mode, 56, memory_bytes=memory_bytes)
    assert same == others
    assert frames.shape == images.shape
    assert torch.equal(frames[:], images)
    assert torch.equal(frames[1:], images[1:])
    assert torch.equal(frames[[2, 0]], images[[2, 0]])
    assert all(torch.equal(frames[i], image) for i, image in enumerate(images))
