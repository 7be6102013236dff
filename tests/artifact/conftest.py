"""The file of a small quantized model, and a copy of it for each test."""

import shutil
from pathlib import Path

import pytest

from helpers.artifacts import config, saved


@pytest.fixture(scope="session")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("made") / "model.safetensors"
    saved(config("scheme=int4_group", "group_size=16"), path)
    return path


@pytest.fixture
def file(made: Path, tmp_path: Path) -> Path:
    return shutil.copy(made, tmp_path / made.name)
