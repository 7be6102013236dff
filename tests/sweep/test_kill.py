"""A sweep that is killed again and again ends with the table of one that nobody disturbed.

Run it alone by python -m pytest tests/sweep/test_kill.py.
Five signals at moments drawn with a fixed seed, each followed by a new start of the same command.
"""

import os
import random
import signal
import time
from pathlib import Path

import pytest

from helpers.forked import finished, printed, started
from helpers.runs import TINY
from vggtq.report.rows.collection import collect

KILLS = 5
SWEEP = [*TINY, "timing=off", "fresh_memory=false", "picture_frames=1", "--multirun"]
SWEEP += ["scheme=int8_symmetric,int4_group", "bits=4,8"]
TIMES = ("started", "total_s")


def table(folder: Path) -> list[dict[str, object]]:
    """The report's rows without times."""
    found = collect([folder / "outputs/runs"])
    assert not found.unreadable
    return [
        {column: value for column, value in source.row.items() if column not in TIMES}
        for source in found.sources
    ]


@pytest.mark.parametrize("seed", [20261121])
def test_a_sweep_that_is_killed_five_times_ends_like_one_that_is_not(tmp_path: Path, seed: int) -> None:
    calm, disturbed = tmp_path / "calm", tmp_path / "disturbed"
    calm.mkdir()
    disturbed.mkdir()
    began = time.monotonic()
    status, output = finished(calm, *SWEEP)
    took = time.monotonic() - began
    assert status == 0, output
    assert "4 of 4 runs finished" in output

    rng = random.Random(seed)
    signals = [signal.SIGKILL, signal.SIGTERM, signal.SIGINT]
    killed = 0
    for _ in range(KILLS):
        process = started(disturbed, *SWEEP)
        process.join(timeout=rng.uniform(0, took / 2))
        if process.is_alive():
            os.kill(process.pid, rng.choice(signals))
            killed += 1
        process.join(timeout=300)
        assert process.exitcode is not None, "a killed sweep has to end"
        if "[HYDRA]" in printed(disturbed):  # before, Python itself answers signals
            assert "Traceback" not in printed(disturbed)
    assert killed >= 2, "nothing was disturbed"
    status, output = finished(disturbed, *SWEEP)
    assert status == 0, output
    assert "4 of 4 runs finished" in output
    assert "measured earlier" in output
    assert len(table(calm)) == 4
    assert table(disturbed) == table(calm)
    left = [
        p for p in disturbed.rglob("*") if p.suffix == ".tmp" or p.name.startswith((".sweep-", ".vggtq-"))
    ]
    assert not left
    assert len(list(disturbed.glob("outputs/cache/baseline/*.safetensors"))) == 1
