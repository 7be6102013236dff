"""The command line as users type it, in an empty folder: forked processes, and some of their own."""

import json
import re
import shlex
import signal
import subprocess
import sys
import time
import tomllib
from importlib.metadata import EntryPoint
from importlib.util import find_spec
from pathlib import Path

import pytest

from helpers.command import FAST, vggtq
from helpers.forked import printed, started
from helpers.runs import TINY
from vggtq import __version__
from vggtq.machine import native


def records(folder: Path) -> list[dict]:
    return [json.loads(path.read_text()) for path in sorted(folder.glob("outputs/runs/*/result.json"))]


def test_one_run_and_its_report(tmp_path: Path) -> None:
    done = vggtq(tmp_path, *TINY, "scheme=int4_group", "group_size=64", "timing.rounds=1")
    assert done.returncode == 0, done.stderr
    assert "INT4 group 64" in done.stdout
    (record,) = records(tmp_path)
    assert record["scheme"]["group_size"] == 64
    assert record["command"].startswith("python -m vggtq.run ")
    assert "group_size=64" in record["command"]
    (folder,) = (p for p in tmp_path.glob("outputs/runs/*") if p.is_dir())
    assert {p.name for p in folder.iterdir()} == {
        *(".hydra", ".lock", "comparison.png", "preview.safetensors", "result.json", "run.log")
    }
    done = vggtq(tmp_path, module="vggtq.report")
    assert done.returncode == 0, done.stderr
    expected = {
        *("comparison.csv", "index.html", "comparison.md", "comprehensive_report.txt"),
        *("comprehensive_results.json", "comprehensive_visualizations.png"),
        *(["comparison.parquet"] if find_spec("pyarrow") else []),
    }
    # Records of the last two seconds are too new for the index.
    assert {p.name for p in (tmp_path / "outputs/report").iterdir()} == expected


def test_a_sweep_goes_on_after_a_failure_and_exits_with_1(tmp_path: Path) -> None:
    done = vggtq(
        tmp_path,
        *FAST,
        "--multirun",
        "scheme=int8_symmetric",
        "granularity=per_tensor,per_channel",
        "group_size=null,64",
    )
    assert done.returncode == 1
    found = records(tmp_path)
    assert sorted(r["status"] for r in found) == ["failed", "failed", "ok", "ok"]
    assert {r["scheme"]["granularity"] for r in found if r["status"] == "ok"} == {"per_tensor", "per_channel"}
    assert "2 of 4 runs finished" in done.stdout
    assert "Traceback" not in done.stdout + done.stderr
    for record in found:
        if record["status"] == "failed":
            assert f"failed: {record['name']}: group_size=64" in done.stdout
    done = vggtq(tmp_path, module="vggtq.report")
    assert done.returncode == 0
    table = (tmp_path / "outputs/report/comparison.md").read_text()
    assert table.count("group_size=64 with granularity=") == 2


def test_the_command_of_a_sweep_s_job_repeats_that_job(tmp_path: Path) -> None:
    done = vggtq(tmp_path, *FAST, "+experiment=group_size_search", "group_size=32,300", "scheme.name=mine")
    assert done.returncode == 1, "300 is no option, so nothing may start"
    assert "group_size=300 is not one of" in done.stderr
    assert not records(tmp_path)
    done = vggtq(tmp_path, *FAST, "+experiment=group_size_search", "group_size=32")
    assert done.returncode == 0, done.stdout + done.stderr
    (record,) = records(tmp_path)
    assert record["command"].endswith("hydra.mode=RUN")
    arguments = shlex.split(record["command"])[3:]
    again = vggtq(tmp_path, *arguments, "resume=never")
    assert again.returncode == 0, again.stderr
    (repeated,) = records(tmp_path)
    assert repeated["config_hash"] == record["config_hash"]
    assert repeated["fidelity"] == record["fidelity"]
    assert repeated["started"] > record["started"]


def test_the_eight_schemes_are_the_eight_rows(tmp_path: Path) -> None:
    done = vggtq(tmp_path, *FAST, "+experiment=eight_schemes")
    assert done.returncode == 0, done.stderr
    assert {r["scheme"]["label"] for r in records(tmp_path)} == {
        "FP32",
        *(f"INT8 per-{a} {b}" for a in ("tensor", "channel") for b in ("symmetric", "asymmetric")),
        *(f"INT4 group {size}" for size in (128, 64, 32)),
    }
    assert "8 of 8 runs finished" in done.stdout


# test_wrong_inputs.py has many more.
@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["dataset=null"], "name one of its options"),
        (["granularity=per_tensor", "group_size=64"], "set group_size=null"),
        (["dataset=eth3d"], "vggtq download courtyard"),
        (["nonsense"], "nonsense"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else None,
)
def test_mistakes_are_one_line_and_an_exit_status(arguments: list[str], message: str, tmp_path: Path) -> None:
    done = vggtq(tmp_path, *arguments)
    assert done.returncode == 1, done.stdout
    lines = [line for line in (done.stdout + done.stderr).splitlines() if line.strip()]
    errors = [line for line in lines if line.startswith("error: ")]
    assert len(errors) == 1, lines
    assert message in errors[0]
    assert "Traceback" not in done.stdout + done.stderr
    assert not [p for p in tmp_path.rglob("*") if p.suffix == ".tmp"]


def test_the_traceback_comes_when_asked_for(tmp_path: Path) -> None:
    done = vggtq(tmp_path, "bits=9", "hydra.verbose=true")
    assert done.returncode == 1
    assert "Traceback" in done.stderr


def test_ctrl_c_leaves_a_record_and_status_130(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "vggtq.run", *TINY, "timing.rounds=100000", "timing.references=[fp32]"]
    process = subprocess.Popen(
        command, cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    try:
        deadline = time.monotonic() + 120
        while not list(
            tmp_path.glob("outputs/runs/*/comparison.png")
        ):  # the next step is timing, without end
            if time.monotonic() > deadline:
                pytest.fail("the run never came to timing")
            time.sleep(0.1)
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=60)
    finally:
        process.kill()
    assert process.returncode == 130, out + err
    assert "Traceback" not in out + err
    (record,) = records(tmp_path)
    assert record["status"] == "failed"
    assert record["error"]["type"] == "KeyboardInterrupt"
    assert record["fidelity"]["depth"]["mae"] > 0, "what was known by then is kept"


def test_sigterm_is_recorded(tmp_path: Path) -> None:
    process = started(tmp_path, *TINY, "timing.rounds=100000", "timing.references=[fp32]")
    try:
        deadline = time.monotonic() + 120
        while not list(tmp_path.glob("outputs/runs/*/comparison.png")) and time.monotonic() < deadline:
            time.sleep(0.1)
        process.terminate()
        process.join(timeout=60)
    finally:
        process.kill()
    assert process.exitcode == 143, printed(tmp_path)
    assert "Traceback" not in printed(tmp_path)
    assert records(tmp_path)[0]["error"]["message"] == "terminated by SIGTERM"


def test_an_output_folder_that_cannot_be_made_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "outputs").write_text("in the way")
    done = vggtq(tmp_path, *FAST)
    assert done.returncode == 1
    assert re.fullmatch(r"error: .*outputs.*hydra.run.dir=DIR\n", done.stderr)


def test_help_shows_commands_and_choices(tmp_path: Path) -> None:
    done = vggtq(tmp_path, "--help")
    assert done.returncode == 0
    assert re.search(r"scheme=… [^=]*int4_group", done.stdout)
    assert "scheme.weights.group_size=96" in done.stdout


def test_the_console_script_of_the_package_exists() -> None:
    # An installed script of an older version would hide a wrong name.
    scripts = tomllib.loads((Path(__file__).parents[2] / "pyproject.toml").read_text())["project"]["scripts"]
    for target in scripts.values():
        assert callable(EntryPoint("vggtq", target, "console_scripts").load())


def test_the_console_script_hands_over(tmp_path: Path) -> None:
    script = Path(sys.executable).parent / "vggtq"
    run = lambda *a: subprocess.run([script, *a], cwd=tmp_path, capture_output=True, text=True, check=False)  # noqa: E731
    assert "vggtq run scheme=int4_group" in run("--help").stdout
    number, kernels = run("--version").stdout.splitlines()
    assert number == __version__
    assert kernels == f"native CPU kernels: {native.describe()}"
    assert "did you mean report" in run("repart").stderr
    done = run("run", *FAST)
    assert done.returncode == 0, done.stderr
    assert len(records(tmp_path)) == 1
