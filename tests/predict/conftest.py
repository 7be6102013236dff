"""What several files of predictions share: a small model's file, and a folder to predict in."""

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from helpers.prediction_cases import write_model


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_model(tmp_path_factory.mktemp("model"))


@pytest.fixture
def own_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """The test runs in `tmp_path`, and with as many threads as before afterwards."""
    monkeypatch.chdir(tmp_path)
    threads = torch.get_num_threads()
    yield
    torch.set_num_threads(threads)
