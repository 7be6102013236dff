"""The benchmark: that ratios, errors and bytes mean what the tables say, and that nothing is left out silently."""

import itertools
import json
import math
import os
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from helpers.command import vggtq
from vggtq.bench import alternatives, frames, kernels, networks, quantizing, table
from vggtq.bench.plot import plot
from vggtq.bench.rows import INSTALL, Candidate, Missing, rows_of
from vggtq.machine import timing
from vggtq.machine.environment import environment
from vggtq.machine.timing import OtherWork, interleaved_latency

CPU = torch.device("cpu")

# Tools that trace a network take seconds for each of its blocks.
ONE_BLOCK = (
    *("model=vggt_small", "model.image_size=28"),
    "model.architecture.aggregator={img_size:28,embed_dim:128,depth:1,num_heads:2}",
    "model.architecture.patch_embed={img_size:28,embed_dim:128,depth:1,num_heads:2}",
    "model.architecture.camera_head={trunk_depth:1,num_heads:2}",
    "model.architecture.dpt={features:16,out_channels:[8,8,16,16],intermediate_layer_idx:[0,0,0,0]}",
)


@pytest.fixture(autouse=True)
def uncompiled(monkeypatch: pytest.MonkeyPatch) -> None:
    """Compiling takes half a minute and changes no result that is tested here."""
    for module in (alternatives, networks):
        monkeypatch.setattr(module, "compiled", lambda network: network)


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


def test_a_kernel_case_has_every_scheme_and_every_tool(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kernels, "SECONDS", 0)
    (rows,) = kernels.kernel_rows(CPU, [(40, 256, 64)], full=True)
    by_name = {row["name"]: row for row in rows}
    tools = {tool.name for tool in alternatives.TOOLS}
    onnx = {name for name in by_name if name.startswith("ONNX Runtime")}
    assert set(by_name) - {"BF16"} == {"FP32", *kernels.SCHEMES, *tools, *onnx} and len(onnx) == 3
    for name, row in by_name.items():
        if "skipped" in row:
            assert row["tool"] not in ("vggtq", "torch"), (name, row["skipped"])
            continue
        low, high = row["speedup"]["fp32"]["q25"], row["speedup"]["fp32"]["q75"]
        assert 0 < low <= row["speedup"]["fp32"]["median"] <= high
        assert row["relative_error"] < 0.2, name
    # Independent of all kernels: Gaussian weights lose about a twelfth of a squared step.
    assert by_name["INT4 group 32"]["relative_error"] < by_name["INT4 group 128"]["relative_error"]
    assert by_name["INT8 per-channel"]["relative_error"] < by_name["INT4 group 64"]["relative_error"] / 8
    assert by_name["INT4 group 64"]["resident_bytes"] < by_name["INT8 per-channel"]["resident_bytes"]
    assert by_name["INT8 per-channel"]["resident_bytes"] < by_name["FP32"]["resident_bytes"] / 2


@pytest.mark.parametrize("tool", alternatives.TOOLS, ids=lambda tool: tool.name)
def test_other_tools_quantize_a_copy(tool: alternatives.Tool) -> None:
    if not alternatives.is_installed(tool.package):
        pytest.skip(f"{tool.package} is not installed")
    torch.manual_seed(0)
    module = nn.Sequential(nn.Linear(128, 64), nn.GELU(), nn.Linear(64, 32)).requires_grad_(False)
    before = [p.clone() for p in module.parameters()]
    quantized = alternatives.quantized_by(tool, module)
    assert isinstance(quantized, nn.Module), quantized
    x = torch.randn(70, 128)
    with torch.no_grad():
        error = (quantized(x) - module(x)).norm() / module(x).norm()
    assert error < 0.2
    assert error < 1e-6 if "FP32" in tool.name else error > 1e-4, "fewer bits lose something"
    assert all(torch.equal(p, q) for p, q in zip(module.parameters(), before, strict=True))
    assert all(type(p) is nn.Parameter for p in module.parameters())


def test_bytes_inside_tensor_subclasses_are_counted() -> None:
    tool = next(tool for tool in alternatives.TOOLS if tool.name == "torchao int8 weights")
    if not alternatives.is_installed(tool.package):
        pytest.skip("torchao is not installed")
    linear = nn.Linear(256, 512)
    quantized = alternatives.quantized_by(tool, nn.Sequential(linear))
    assert isinstance(quantized, nn.Module)
    codes, bias = 256 * 512, 4 * 512
    assert codes + bias < alternatives.resident_bytes(quantized) <= codes + bias + 8 * 512
    assert alternatives.resident_bytes(linear) == 4 * (256 * 512 + 512)


def test_what_is_not_installed_says_how_to_install_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(alternatives, "is_installed", lambda package: package == "torch")
    monkeypatch.setattr(alternatives.importlib.util, "find_spec", lambda name: None)
    x, linear = kernels.case_of(8, 64, 64, CPU)
    found = alternatives.linear_alternatives(x, linear, full=True)
    missing = [candidate for candidate in found if isinstance(candidate, Missing)]
    assert len(missing) == len(found) - 2, "all but torch's own"
    assert {candidate.reason for candidate in missing} == {INSTALL}
    rows = rows_of({}, [Candidate("FP32", lambda: linear(x), "", 1), *missing], 1, CPU)
    assert table.cells_of(rows[-1]) == ["–", "–", "–", "–", INSTALL]


def test_blocks_and_models_are_compared_in_the_same_way(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(networks, "DIM", 64)
    monkeypatch.setattr(networks, "HEADS", 2)
    monkeypatch.setattr(networks, "GRID", (3, 4))
    monkeypatch.setattr(networks, "FRAMES", (2,))
    monkeypatch.setattr(networks, "SECONDS", 0)
    (rows,) = networks.block_rows(CPU)
    assert rows[0]["tokens"] == 2 * (3 * 4 + 5)
    monkeypatch.setattr(
        networks, "exported_candidates", lambda *case: iter([Missing("exported", "onnxruntime", "why")])
    )
    tiny = networks.Case("one block", ONE_BLOCK, 1, 28, 0)
    single = replace(tiny, everything=False)
    together, *apart = networks.model_rows(CPU, (tiny, single))
    own = {scheme.name for scheme in networks.SCHEMES}
    for found in (rows, together):
        names = {row["name"] for row in found}
        tools = {tool.name for tool in alternatives.TOOLS if found is rows or not tool.compiled}
        assert own | tools <= names
        errors = {row["name"]: row["relative_error"] for row in found if "skipped" not in row}
        assert errors["FP16 weights"] < errors["INT8 weights"] < errors["INT4 group 64"] < 0.5
        assert {"OpenVINO FP32", "OpenVINO INT8 (NNCF)", "OpenVINO INT4 group 64 (NNCF)"} <= names
    assert "exported" in {row["name"] for row in together}
    beside = [group[-1]["name"] for group in apart]
    assert beside[: len(networks.SCHEMES)] == [scheme.name for scheme in networks.SCHEMES]
    assert beside[-1] == "exported" and len(beside) == len(set(beside))


def test_the_fastest_of_one_s_own_also_runs_on_one_thread() -> None:
    threads, seen = torch.get_num_threads(), []

    def call() -> torch.Tensor:
        seen.append(torch.get_num_threads())
        return torch.ones(1)

    found = [
        Candidate("FP32", call, "", 1),
        Missing("theirs", "other", "why"),
        Candidate(networks.THREADED, call, "k", 1),
    ]
    try:
        torch.set_num_threads(2)
        (alone,) = networks._one_thread(found)
        assert (alone.name, alone.backend) == (f"{networks.THREADED}, one thread", "k")
        alone.call(), found[2].call()
        assert seen == [1, 2]
        torch.set_num_threads(1)
        assert not list(networks._one_thread(found))
    finally:
        torch.set_num_threads(threads)


def made_up(section: str, case: str, name: str, ratio: float, **more: Any) -> dict[str, Any]:
    spread = {"median": ratio, "q25": 0.9 * ratio, "q75": 1.1 * ratio}
    row = {
        "section": section,
        "case": case,
        "name": name,
        "tool": "vggtq",
        "backend": "kernel",
        "simulated": False,
    }
    row |= {"resident_bytes": 25, "float32_bytes": 100, "relative_error": 0.01, "speedup": {"fp32": spread}}
    return row | {"tokens": 930} | more


def test_geometric_means_are_over_vggt_1b_s_linears_alone() -> None:
    rows = [
        made_up("kernel", "a", "X", 2.0),
        made_up("kernel", "b", "X", 8.0),
        made_up("kernel", "c", "X", 100.0, tokens=300),
        made_up("block", "d", "X", 100.0),
        made_up("kernel", "a", "Y", 3.0),
        {"section": "kernel", "case": "b", "name": "Y", "tool": "other", "tokens": 930, "skipped": "why"},
    ]
    means = table.geometric_means(rows)
    assert means == {"X": {"fp32": pytest.approx(math.sqrt(16))}}, "Y did not run everywhere"


def test_the_table_marks_what_is_simulated_and_shows_losers(capsys: pytest.CaptureFixture[str]) -> None:
    rows = [made_up("kernel", "a", "FP32", 1.0), made_up("kernel", "a", "slow", 0.25, simulated=True)]
    table.print_table(rows, environment(CPU, 0))
    shown = capsys.readouterr().out
    assert "0.25 (0.23 to 0.28) †" in shown and "1/4.0" in shown
    assert table.others([{"others_cpu_share": 0.1}, {"others_cpu_share": 0.3}]).startswith(
        "other processes had at most 30%"
    )
    text = table.markdown(rows)
    assert "| a | slow | 0.25 (0.23 to 0.28) † | – | 0.01 | 1/4.0 | kernel |" in text


def test_the_plot_shows_every_section(tmp_path: Path) -> None:
    rows = [
        made_up(section, f"{section} case", name, ratio)
        for section in ("kernel", "block", "model")
        for name, ratio in (("FP32", 1.0), ("fast", 2.0), ("slow", 0.5))
    ]
    plot(rows, environment(CPU, 0), tmp_path / "bench.png")
    pixels = np.asarray(Image.open(tmp_path / "bench.png").convert("RGB"))
    blue = (np.abs(pixels.astype(int) - [0x1F, 0x77, 0xB4]).sum(-1) < 30).sum()
    assert blue > 100
    plot(rows[:3], environment(CPU, 0), tmp_path / "one.png")
    assert np.asarray(Image.open(tmp_path / "one.png")).shape[0] < pixels.shape[0]


def test_frames_are_measured_in_processes_of_their_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(frames, "CASES", (frames.Case("vggt_small", 28, (2,), predictions=3),))
    chosen = {kind: frames.KINDS[kind] for kind in ("FP32", "W8A8")}
    monkeypatch.setattr(frames, "KINDS", chosen)
    frames.frames(CPU, environment(CPU, 0), tmp_path, full=False)
    rows = json.loads((tmp_path / "frames.json").read_text())["rows"]
    assert [(row["frames"], row["kind"]) for row in rows] == [(2, kind) for kind in chosen]
    weights = 4 * 8_200_000
    assert all(
        row["rss_loaded_bytes"] - row["rss_before_load_bytes"] > 0.9 * weights
        for row in rows
        if row["kind"] == "FP32"
    )
    for row in rows:
        assert frames.memory_bytes(row) > 0 and row["warm_seconds"] > 0
    assert np.asarray(Image.open(tmp_path / "frames.png")).std() > 5
    assert not list(tmp_path.glob(".vggtq-*"))


def test_a_model_that_does_not_fit_is_a_row_too(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def killed(*_: object) -> None:
        raise frames.CannotMeasureError("the measuring process ended with status -9")

    monkeypatch.setattr(frames, "measure_in_process", killed)
    monkeypatch.setattr(frames, "CASES", (frames.Case("vggt_small", 28, (50,), predictions=3),))
    frames.frames(CPU, environment(CPU, 0), tmp_path, full=False)
    assert "status -9" in capsys.readouterr().out


def test_mistakes_on_the_command_line_are_one_line(tmp_path: Path) -> None:
    done = vggtq(tmp_path, "kernel", module="vggtq.bench")
    assert done.returncode == 1
    assert (
        done.stderr
        == "error: sections=kernel is not one of kernels, blocks, models, frames, windows; did you mean kernels?\n"
    )


def test_recipes_are_timed_as_rows_of_a_table(capsys: pytest.CaptureFixture[str]) -> None:
    options = ["scheme=auto_mixed", "calibration.samples=1", "calibration=rooms"]
    assert quantizing.main(options) == 0
    header, row = (line.strip("| ").split(" | ") for line in capsys.readouterr().out.splitlines())
    values = dict(zip(header, row, strict=True))
    assert values["scheme"] == "auto_mixed" and values["layers"] == "55"
    assert 0 < float(values["CPU, s"]) < 600
    assert float(values["peak memory, GiB"]) >= float(values["peak memory before, GiB"]) > 0


def test_a_recipe_that_does_not_exist_ends_in_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    assert quantizing.main(["scheme=gptq_w4a15"]) == 1
    error = capsys.readouterr().err
    assert error.count("\n") == 1 and "gptq_w4a15" in error and "gptq_w4a16" in error
