"""`vggtq report` as users call it: exit statuses, and one line for every mistake and every failed run."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from helpers.report_records import failed, fp32, record, write
from vggtq.errors import ConfigError, DataError
from vggtq.report import build_report
from vggtq.report.__main__ import main


def test_errors_of_the_python_entry(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="vggtq run"):
        build_report([tmp_path], tmp_path / "out")
    with pytest.raises(ConfigError, match="does not exist"):
        build_report([tmp_path / "nowhere"], tmp_path / "out")
    with pytest.raises(ConfigError, match="is not one of en, zh"):
        build_report([tmp_path], tmp_path / "out", "fr")


@pytest.mark.parametrize(
    ("arguments", "status", "words"),
    [
        (["report.lnag=zh"], 2, "did you mean lang?"),
        (["--lang", "zh"], 2, "--lang: options are written without dashes: lang=…"),
        (["nowhere"], 2, "folder nowhere does not exist"),
        ([], 1, "vggtq run"),
    ],
)
def test_command_line_errors_are_one_line(
    arguments: list[str], status: int, words: str, tmp_path: Path
) -> None:
    command = [sys.executable, "-m", "vggtq.report", *arguments]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == status
    assert words in done.stderr and len(done.stderr.splitlines()) == 1 and not done.stdout


def test_a_report_that_cannot_be_written_is_told_in_one_line(tmp_path: Path) -> None:
    write(tmp_path / "outputs", [fp32()])
    (tmp_path / "file").touch()
    command = [sys.executable, "-m", "vggtq.report", "report.out=file/report"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 2 and len(done.stderr.splitlines()) == 1
    for words in ("report.out=file/report", "Not a directory", "name a folder that you may write to"):
        assert words in done.stderr
    assert "Errno" not in done.stderr
    with pytest.raises(ConfigError, match=r"report\.out=.*cannot be written"):
        build_report([tmp_path / "outputs"], Path("/dev/null/x"))


def test_a_reader_that_stops_early_gets_no_traceback(tmp_path: Path) -> None:
    write(tmp_path / "outputs", [fp32(), record()])
    reading, writing = os.pipe()
    os.close(reading)
    with os.fdopen(writing, "wb") as pipe:
        command = [sys.executable, "-m", "vggtq.report"]
        done = subprocess.run(command, cwd=tmp_path, stdout=pipe, stderr=subprocess.PIPE, check=False)
    assert (done.returncode, done.stderr) == (0, b"")


def test_command_line_tells_each_failure_in_one_line(tmp_path: Path) -> None:
    write(tmp_path / "outputs", [fp32(), failed(message="a long reason " * 8)])
    command = [sys.executable, "-m", "vggtq.report"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=True)
    (line,) = (line for line in done.stdout.splitlines() if line.startswith("failed: "))
    assert line == "failed: INT3 group 96: QuantizationError: " + " ".join(["a long reason"] * 8)


def test_command_line_writes_a_report_without_importing_torch(tmp_path: Path) -> None:
    write(tmp_path / "outputs", [fp32(), record()])
    program = "import sys; from vggtq.report.__main__ import main; print(main([]), 'torch' in sys.modules)"
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=tmp_path, capture_output=True, text=True, check=True
    )
    assert done.stdout.splitlines()[-1] == "0 False"
    assert "INT8 per channel" in done.stdout
    assert (tmp_path / "outputs/report/comprehensive_visualizations.png").stat().st_size > 10_000


@pytest.mark.usefixtures("undrawn")
def test_files_that_are_no_records_are_named_and_fail_a_strict_report(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    write(tmp_path / "outputs", [fp32(), record()])
    for name, content in (("damaged", "{"), ("foreign", '{"loss": 1}')):
        (tmp_path / "outputs" / name).mkdir()
        (tmp_path / "outputs" / name / "result.json").write_text(content)
    assert main([]) == 0
    shown = capsys.readouterr().out
    assert "outputs/damaged/result.json: not valid JSON (line 1)" in shown
    assert "outputs/foreign/result.json: not a vggtq record" in shown
    assert main(["strict=true"]) == 1
    for name in ("damaged", "foreign"):
        (tmp_path / "outputs" / name / "result.json").unlink()
    assert main(["strict=true"]) == 0
