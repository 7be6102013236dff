"""Memory and disks that end: recorded with the size that did not fit and a remedy, and nothing is left half-written."""

import errno
import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from helpers.runs import job, recorded
from vggtq.files import atomic
from vggtq.machine.exhausted import exhausted
from vggtq.run.experiment import run

CUDA = (
    "CUDA out of memory. Tried to allocate 20.00 GiB. GPU 0 has a total capacity of 79.15 GiB of which 3.2 GiB is free. "
    "Including non-PyTorch memory, this process has 75.9 GiB memory in use."
)
CPU = (
    "[enforce fail at alloc_cpu.cpp:127] . DefaultCPUAllocator: can't allocate memory: you tried to allocate "
    "34359738368 bytes. Error code 12 (Cannot allocate memory)"
)


@pytest.mark.parametrize(
    ("error", "size", "device"),
    [
        (torch.OutOfMemoryError(CUDA), "20 GiB more did not fit on the GPU", "device=cpu"),
        (RuntimeError(CPU), "32 GiB more did not fit in memory", "device=cuda"),
        (MemoryError("Unable to allocate 7.28 TiB for an array"), "7.28 TiB more did not fit", "device=cuda"),
        (MemoryError(), "an allocation failed in memory", "device=cuda"),
        (RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling"), "an allocation failed on the GPU", "device=cpu"),
    ],
    ids=["CUDA", "CPU", "NumPy", "Python", "cuBLAS"],
)  # fmt: skip
def test_lack_of_memory_names_size_and_remedy(error: Exception, size: str, device: str) -> None:
    config = {"model": {"image_size": 518}, "dataset": {"name": "images", "max_images": None}}
    line = str(exhausted(error, config))
    assert size in line
    assert f"({device})" in line
    assert "dataset.max_images=N" in line and "model.image_size=252" in line
    assert "frames=N" in str(exhausted(error, config | {"dataset": {"frames": 4}}))


def test_other_errors_are_left_alone() -> None:
    assert exhausted(RuntimeError("shapes differ"), None) is None
    assert exhausted(OSError(errno.EACCES, "Permission denied"), None) is None


@pytest.mark.parametrize(
    "real", [lambda: torch.empty(2**50), lambda: np.zeros(2**50)], ids=["torch", "numpy"]
)
def test_a_run_that_does_not_fit_is_recorded(
    real: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("vggtq.prepare.finetune.quantize_", lambda *_, **__: real())
    error = recorded(tmp_path)["error"]
    assert (error["type"], error["expected"]) == ("OutOfMemory", True)
    assert "PiB more did not fit in memory" in error["message"]
    assert "test_exhausted.py" in error["traceback"], "where it happened is kept"


def test_a_full_disk_is_recorded_if_there_is_room_for_that(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr("vggtq.records.preview.Preview.write", full)
    error = recorded(tmp_path)["error"]
    assert error["type"] == "DiskFull"
    assert "No space left on device" in error["message"] and "hydra.run.dir=DIR" in error["message"]


def test_without_room_for_a_record_the_earlier_one_stays_whole(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = recorded(tmp_path)

    def full(_: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr("vggtq.records.files.os.fsync", full)
    record = run(job(), tmp_path, "")
    assert record.status == "failed"
    assert "no record: No space left on device" in record.error.message
    assert json.loads((tmp_path / "result.json").read_text()) == first
    assert not list(tmp_path.glob(".vggtq-*"))


def test_leftovers_of_one_file_are_not_those_of_another(tmp_path: Path) -> None:
    for name in ("a", "b"):
        with atomic.replacing(tmp_path / name) as temporary:
            (tmp_path / f"{temporary.stem}-killed.tmp").touch()
    (tmp_path / ".vggtq-folder.tmp").mkdir()
    atomic.remove_leftovers(tmp_path / "a")
    assert len(list(tmp_path.glob(".vggtq-*"))) == 2
    atomic.remove_leftovers(tmp_path)
    assert {path.name for path in tmp_path.iterdir()} == {"a", "b"}
