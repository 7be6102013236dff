"""What is kept for later runs: that the packages which compute it are named, and how much is kept."""

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch

from helpers.runs import tiny
from vggtq.config.validate import validated
from vggtq.files.cache import TensorCache
from vggtq.machine.source_code import PACKAGE
from vggtq.prepare import cache, finetune
from vggtq.prepare.cache import Kind
from vggtq.prepare.find_bits import measured
from vggtq.prepare.quantized import Prepared, prepared, quantize
from vggtq.terminal.progress import Steps

FEW = ["calibration.samples=2", "calibration.frames=2", "scheme.layers.include=['*frame_blocks.[01].*']"]
# They refuse, store, tell and describe the machine and the plugins; the identity of an entry has the values of both.
WITHOUT_NUMBERS = {"errors", "files", "machine", "plugins", "terminal"}


class Used:
    """The packages of vggtq whose functions ran inside `recording`."""

    def __init__(self) -> None:
        self._files: set[str] = set()

    @contextmanager
    def recording(self) -> Iterator[None]:
        before = sys.gettrace()
        # Told of calls alone: what the function returns would be told of the lines of the called one.
        sys.settrace(lambda frame, *_: self._files.add(frame.f_code.co_filename))
        try:
            yield
        finally:
            sys.settrace(before)

    @property
    def packages(self) -> set[str]:
        inside = [Path(file).relative_to(PACKAGE) for file in self._files if file.startswith(f"{PACKAGE}/")]
        return {path.with_suffix("").parts[0] for path in inside} - WITHOUT_NUMBERS


def source(*overrides: str) -> Prepared:
    return prepared(validated(tiny(*FEW, *overrides)), Steps())


def compute_outputs(used: Used, monkeypatch: pytest.MonkeyPatch) -> None:
    model = source().model
    with used.recording():
        model.predict(torch.rand(1, 3, 56, 56))


def compute_statistics(used: Used, monkeypatch: pytest.MonkeyPatch) -> None:
    get = TensorCache.get

    def recorded(self: TensorCache, identity: dict, compute: object) -> object:
        with used.recording():
            return get(self, identity, compute)

    monkeypatch.setattr(TensorCache, "get", recorded)
    quantize(source("scheme=gptq_w4a16", "group_size=16"), Steps(), {})


def compute_sensitivities(used: Used, monkeypatch: pytest.MonkeyPatch) -> None:
    for method in ("jacobian", "exact"):
        model = source("scheme=auto_mixed", "group_size=16", f"scheme.mixed.sensitivity={method}")
        assert model.samples is not None
        with used.recording():
            measured(model.config, model.model, model.samples, Steps())


def compute_trainings(used: Used, monkeypatch: pytest.MonkeyPatch) -> None:
    original = finetune.finetune_

    def recorded(*arguments: object, **named: object) -> object:
        with used.recording():
            return original(*arguments, **named)

    monkeypatch.setattr(finetune, "finetune_", recorded)
    quantize(source("scheme=qat", "scheme.finetune.steps=1", "scheme.finetune.batch=1"), Steps(), {})


@pytest.mark.parametrize(
    ("kind", "compute"),
    [
        (cache.OUTPUTS, compute_outputs),
        (cache.STATISTICS, compute_statistics),
        (cache.SENSITIVITIES, compute_sensitivities),
        (cache.TRAININGS, compute_trainings),
    ],
    ids=lambda value: value.folder if isinstance(value, Kind) else "",
)
def test_the_packages_that_compute_an_entry_are_named(
    kind: Kind, compute: object, monkeypatch: pytest.MonkeyPatch
) -> None:
    used = Used()
    assert callable(compute)
    compute(used, monkeypatch)
    assert used.packages == set(kind.packages)


def test_entries_that_were_used_longest_ago_make_room(tmp_path: Path) -> None:
    def compute() -> dict[str, torch.Tensor]:
        return {"x": torch.zeros(1000)}

    limited = TensorCache(tmp_path, limit_bytes=13_500)  # three entries of 4000 bytes and their headers
    for number in range(3):
        limited.get({"number": number}, compute)
        path = limited.entry({"number": number}).path
        assert path is not None
        os.utime(path, (number, number))
    assert limited.get({"number": 0}, compute)[1], "and now it is the one that was used last"
    limited.get({"number": 3}, compute)
    assert [limited.get({"number": n}, compute)[1] for n in (0, 2, 3)] == [True, True, True]
    assert not limited.get({"number": 1}, compute)[1]
    assert sum(path.stat().st_size for path in tmp_path.glob("*.safetensors")) <= 13_500
    assert not limited.notes
