"""Tensors that wait in memory up to a limit and on disk beyond it: the same tensors, and nothing else that stays alive."""

import errno
import gc
import io
from functools import partial
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from helpers.calibrated import GPTQ, W4A4, pictures, small
from vggtq.errors import DiskFull
from vggtq.files.spill import HeldTensors, Overflow
from vggtq.network.stages import StagedPasses
from vggtq.quant.scheme.scheme import Scheme
from vggtq.quant.walk.quantize import quantize_
from vggtq.quant.walk.stored import stored_tensors

STEPS = st.lists(st.tuples(st.sampled_from("abc"), st.integers(0, 40), st.booleans()), max_size=30)
DTYPES = (torch.float32, torch.float16, torch.bfloat16, torch.uint8, torch.int64)


@given(STEPS, st.sampled_from([0, 64, 10**6]))
def test_what_is_held_is_what_a_plain_dict_holds(steps: list[tuple[str, int, bool]], limit: int) -> None:
    overflow = Overflow(limit)
    held, other, plain = HeldTensors(overflow), HeldTensors(overflow), {}
    other["a"] = kept = torch.arange(7.0)
    for step, (name, size, delete) in enumerate(steps):
        if delete and name in plain:
            del held[name], plain[name]
        else:
            plain[name] = (torch.randn(size, 2) * 100).to(DTYPES[step % len(DTYPES)])
            held[name] = plain[name].T.T if step % 2 else plain[name][:]
        assert held.keys() == plain.keys()
        assert all(torch.equal(held[key], tensor) for key, tensor in plain.items())
        assert all(held[key].dtype == tensor.dtype for key, tensor in plain.items())
        assert overflow.memory_left >= 0
    assert torch.equal(other["a"], kept)


def test_the_file_is_as_long_as_what_waits_at_a_time() -> None:
    overflow = Overflow(0)
    held = HeldTensors(overflow)
    for step in range(10):
        held["x"] = torch.full((100,), float(step))
        held["y"] = held["x"][:50]
    assert overflow.file_bytes == 600
    assert held["y"].tolist() == [9.0] * 50


class Halting(io.BytesIO):
    """Reads and writes a few bytes at a time, as a system does with gigabytes."""

    def readinto(self, buffer: memoryview) -> int:  # type: ignore[override]
        return super().readinto(buffer[:7])

    def write(self, buffer: memoryview) -> int:  # type: ignore[override]
        return super().write(buffer[:5])


def test_reads_and_writes_that_are_cut_short_go_on(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("vggtq.files.spill.tempfile.TemporaryFile", lambda **_: Halting())
    held = HeldTensors(overflow := Overflow(0))
    held["x"] = x = torch.randn(33)
    assert torch.equal(held["x"], x)
    overflow._file.truncate(100)
    with pytest.raises(OSError, match="32 bytes of a waiting tensor are missing"):
        held["x"]


def test_a_view_counts_for_what_it_keeps_alive() -> None:
    overflow = Overflow(1000)
    HeldTensors(overflow)["x"] = torch.zeros(1000)[:2]
    assert (overflow.memory_left, overflow.file_bytes) == (1000, 8)


@pytest.mark.parametrize("scheme", [GPTQ, W4A4], ids=lambda s: s.name)
@pytest.mark.parametrize("limit", [0, 50_000])
def test_statistics_do_not_depend_on_where_passes_wait(
    scheme: Scheme, limit: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected, model = small(), small()
    quantize_(expected, scheme, calibrate=pictures(3))
    monkeypatch.setattr("vggtq.quant.walk.observe.StagedPasses", partial(StagedPasses, memory_bytes=limit))
    quantize_(model, scheme, calibrate=pictures(3))
    tensors = stored_tensors(model)
    assert all(torch.equal(tensors[name], tensor) for name, tensor in stored_tensors(expected).items())


def test_waiting_passes_hold_no_tensor_outside_of_the_overflow() -> None:
    """In front of every block, with nothing allowed to stay in memory: as many bytes for five samples as for one."""
    model = small().requires_grad_(False)
    most = {}
    for count in (1, 5):
        samples = pictures(count)
        known = {tensor.data_ptr() for tensor in (*model.parameters(), *model.buffers(), *samples)}
        gc.collect()
        gc.freeze()  # what is there by now need not be searched again and again
        with torch.inference_mode():
            passes = StagedPasses(model, samples, memory_bytes=0)
            most[count] = []
            for stage in model.stage_names():  # type: ignore[operator]
                for waiting in passes.before(stage):
                    assert waiting.inputs.shape == samples[0].shape
                del waiting
                most[count].append(_alive(known))
    assert most[5] == most[1]


def _alive(known: set[int]) -> int:
    """Bytes of all tensors in memory, without those that lie at the addresses `known`."""
    gc.collect()
    tensors = [item for item in gc.get_objects() if type(item) is Tensor and not item.is_meta]
    storages = {t.data_ptr(): t.untyped_storage().nbytes() for t in tensors if t.data_ptr() not in known}
    return sum(storages.values())


def test_a_full_disk_is_named_with_what_helps(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(Overflow, "_write", full)
    with pytest.raises(DiskFull, match=r"1 MiB of activations.*TMPDIR.*calibration\.samples"):
        HeldTensors(Overflow(0))["x"] = torch.zeros(2**18)
