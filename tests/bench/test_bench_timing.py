"""The benchmark's times: rounds, their order, the work of others, and what ratios and errors mean."""

import itertools
import os
import subprocess
import sys
import time
from typing import Any

import pytest
import torch

from vggtq.bench import table
from vggtq.bench.rows import Candidate, rows_of
from vggtq.machine import timing
from vggtq.machine.timing import OtherWork, interleaved_latency

CPU = torch.device("cpu")


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> dict[str, float]:
    """A clock that only calls move: clock["now"] in seconds."""
    state = {"now": 0.0}
    monkeypatch.setattr(timing.time, "perf_counter", lambda: state["now"])
    return state


def test_no_call_always_follows_the_same_one() -> None:
    order: list[str] = []
    calls = {name: (lambda name=name: order.append(name)) for name in "abcdef"}
    interleaved_latency(calls, dict.fromkeys(calls, 6), CPU)
    rounds = ["".join(order[i : i + 6]) for i in range(0, 36, 6)]
    assert all(sorted(one) == list("abcdef") for one in rounds)
    pairs = [one[i : i + 2] for one in rounds for i in range(5)]
    assert len(pairs) == len(set(pairs)) == 6 * 5, "every call once after every other"
    assert all({one[place] for one in rounds} == set("abcdef") for place in range(6))


def test_every_call_runs_once_per_round_and_the_order_rotates(clock: dict[str, float]) -> None:
    order: list[str] = []

    def call(name: str, seconds: float) -> Any:
        def run() -> None:
            order.append(name)
            clock["now"] += seconds

        return run

    calls = {"a": call("a", 1), "b": call("b", 2), "c": call("c", 4)}
    samples = interleaved_latency(calls, dict.fromkeys(calls, 3), CPU)
    assert "".join(order) == "abc" + "bca" + "cab"
    assert samples == {"a": [1000.0] * 3, "b": [2000.0] * 3, "c": [4000.0] * 3}


def test_rounds_fill_the_time_and_a_slow_call_runs_once(clock: dict[str, float]) -> None:
    def call(seconds: float) -> Any:
        def run() -> torch.Tensor:
            clock["now"] += seconds
            return torch.ones(1)

        return run

    candidates = [Candidate(name, call(s), "", 1) for name, s in (("FP32", 1.0), ("b", 3.0), ("slow", 50.0))]
    for seconds, rounds in ((40.0, 10), (1.0, 3), (1e6, 25)):
        rows = rows_of({}, candidates, seconds, CPU)
        assert [len(row["ms"]) for row in rows] == [rounds, rounds, 1]
    assert rows[2]["speedup"]["fp32"] == {"median": 0.02, "q25": 0.02, "q75": 0.02}


def test_the_work_of_others_is_seen_and_one_s_own_is_not() -> None:
    def work(seconds: float) -> None:
        end = time.process_time() + seconds
        while time.process_time() < end:
            pass

    with OtherWork() as alone:
        work(1.0)
    spin = "import time\nend = time.process_time() + 1\nwhile time.process_time() < end: pass"
    with OtherWork() as beside:
        started = time.perf_counter()
        subprocess.run([sys.executable, "-c", spin], check=True)
        elapsed = time.perf_counter() - started
    if alone.share is None:
        pytest.skip("no /proc/stat here")
    # One second of another process, of all processors' time; clock ticks are 10 ms long.
    assert beside.share is not None and beside.share > 0.9 / (elapsed * (os.cpu_count() or 1))
    assert 0 <= alone.share <= 1


def test_ratios_compare_times_of_the_same_round(clock: dict[str, float]) -> None:
    exact, off = torch.tensor([3.0, 4.0]), torch.tensor([3.0, 4.5])
    times = {
        "FP32": itertools.cycle([1.0, 2.0, 4.0]),
        "BF16": itertools.repeat(0.5),
        "mine": itertools.repeat(2.0),
    }

    def call(name: str, output: torch.Tensor) -> Any:
        next_time = times[name]

        def run() -> torch.Tensor:
            clock["now"] += next(next_time)
            return output

        return run

    candidates = [
        Candidate("FP32", call("FP32", exact), "F.linear", 400),
        Candidate("BF16", call("BF16", exact), "F.linear", 200),
        Candidate("mine", call("mine", off), "kernel", 100),
    ]
    rows = rows_of({"section": "kernel", "case": "x", "float32_bytes": 400}, candidates, 0, CPU)
    mine = rows[2]
    # Two calls come before the three rounds: FP32 takes 4, 1, 2 s in them.
    assert rows[0]["ms"] == [4000.0, 1000.0, 2000.0]
    assert mine["speedup"]["fp32"] == {"median": 1.0, "q25": 0.75, "q75": 1.5}
    assert mine["speedup"]["bf16"]["median"] == 0.25
    assert mine["relative_error"] == pytest.approx(0.1)
    assert rows[0]["relative_error"] == 0
    assert table.cells_of(mine) == ["1.00 (0.75 to 1.50)", "0.25", "0.1", "1/4.0", "kernel"]


def test_a_residual_block_is_judged_by_what_it_adds() -> None:
    base = torch.full((2,), 100.0)
    candidates = [
        Candidate("FP32", lambda: torch.tensor([101.0, 100.0]), "", 1),
        Candidate("off", lambda: torch.tensor([101.0, 100.5]), "", 1),
    ]
    rows = rows_of({"float32_bytes": 1}, candidates, 1, CPU, base=base)
    assert rows[1]["relative_error"] == pytest.approx(0.5)


def test_another_tool_that_fails_says_why_and_our_own_failure_is_an_error() -> None:
    def fail() -> torch.Tensor:
        raise RuntimeError("no kernel for this\nmore")

    exact = Candidate("FP32", lambda: torch.ones(1), "", 1, tool="torch")
    rows = rows_of({}, [exact, Candidate("theirs", fail, "", 1, tool="other")], 1, CPU)
    assert rows[1]["skipped"] == "RuntimeError: no kernel for this"
    with pytest.raises(RuntimeError, match="no kernel"):
        rows_of({}, [exact, Candidate("ours", fail, "", 1)], 1, CPU)
