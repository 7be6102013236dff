"""Small runs that many tests make."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from omegaconf import DictConfig
from PIL import Image

from vggtq.config.compose import compose
from vggtq.config.validate import Job
from vggtq.run.experiment import run

# A network that predicts in milliseconds, with one block of everything.
TINY = [
    "dataset=motorcycle",
    "model=vggt_small",
    "model.image_size=56",
    "model.architecture.aggregator={img_size:56,embed_dim:32,depth:4,num_heads:2}",
    "model.architecture.patch_embed={img_size:56,embed_dim:32,depth:1,num_heads:2}",
    "model.architecture.camera_head={trunk_depth:1,num_heads:4}",
    "model.architecture.dpt={features:16,out_channels:[8,8,16,16],intermediate_layer_idx:[0,1,2,3]}",
]


QUICK = ["timing=off", "picture_frames=0", "cache=null", "fresh_memory=false"]


def tiny(*overrides: str) -> DictConfig:
    return compose([*TINY, *QUICK, *overrides])


def job(*overrides: str) -> Job:
    return Job(tiny(*overrides))


def recorded(folder: Path, *overrides: str) -> dict[str, Any]:
    """Runs a configuration of the tiny network and returns the record as a reader of the file sees it."""
    return recorded_of(job(*overrides), folder)


def recorded_of(asked: Job, folder: Path) -> dict[str, Any]:
    """Runs any configuration and returns its record."""
    run(asked, folder, "python -m vggtq.run")

    def refuse(token: str) -> None:
        raise AssertionError(f"{token} is not JSON")

    record: dict[str, Any] = json.loads((folder / "result.json").read_text(), parse_constant=refuse)
    return record


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    folder = tmp_path / "photos"
    folder.mkdir()
    rng = np.random.default_rng(0)
    for i in range(3):
        Image.fromarray(rng.integers(0, 255, (60, 80, 3), dtype=np.uint8)).save(folder / f"{i}.png")
    return folder
