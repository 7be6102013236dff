"""Windows on disk: what an interruption leaves, what is used again and what is not, and memory for many frames."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from filelock import FileLock

from helpers.prediction_cases import video, write_model
from vggtq import artifact
from vggtq.files.atomic import replacing
from vggtq.predict.__main__ import main
from vggtq.predict.files import writer

WINDOWS = ["windows.frames=4", "windows.overlap=1"]  # 4 windows of 13 images
MIB = 2**20


pytestmark = pytest.mark.usefixtures("own_folder")


@pytest.fixture
def command(model: Path, tmp_path: Path) -> list[str]:
    video(tmp_path / "video", 13)
    return [f"model={model}", "images=video", "device=cpu", "image_size=28"]


def predict(command: list[str], *more: str, out: str = "out") -> int:
    return main([*command, f"out={out}", *(more or WINDOWS)])


def index(out: str = "out") -> dict:
    return json.loads(Path(out, "prediction.json").read_text())


def contents(out: str) -> dict[str, bytes]:
    """All files but the index, which has times and the command."""
    files = {path.relative_to(out).as_posix(): path for path in Path(out).rglob("*") if path.is_file()}
    return {name: path.read_bytes() for name, path in files.items() if name != "prediction.json"}


def interrupt_after(windows: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Ctrl-C in the window after so many."""
    seen, real = list[int](), artifact.QuantizedModel.predict

    def counted(self: artifact.QuantizedModel, images: torch.Tensor) -> dict:
        if len(seen) == windows:
            raise KeyboardInterrupt
        seen.append(len(images))
        return real(self, images)

    monkeypatch.setattr(artifact.QuantizedModel, "predict", counted)


def interrupted(command: list[str], windows: int, *more: str) -> None:
    with pytest.MonkeyPatch.context() as patch:
        interrupt_after(windows, patch)
        assert predict(command, *more) == 130


def kept() -> list[Path]:
    return sorted(Path("out/.windows/model").glob("*.safetensors"))


def test_the_same_command_goes_on_and_writes_the_same_files(
    command: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert predict(command, out="whole") == 0
    interrupted(command, 2)
    assert "finished windows stay in out/.windows; the same command goes on" in capsys.readouterr().out
    assert len(kept()) == 2
    left = Path("out/.windows/model/.vggtq-0-killed.tmp")
    left.write_text("half of a window")
    interrupted(command, 1)
    assert len(kept()) == 3 and not left.exists()
    assert predict(command) == 0
    assert (index("whole")["windows"]["found"], index()["windows"]["found"]) == (0, 3)
    assert contents("out") == contents("whole")  # and no .windows


@pytest.mark.parametrize("broken", ["write_ply", "write_sheet"])
def test_an_interruption_while_files_are_written_costs_no_window(
    command: list[str], monkeypatch: pytest.MonkeyPatch, broken: str
) -> None:
    def stopped(path: Path, *_: object) -> None:
        with replacing(path):
            raise KeyboardInterrupt

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(writer, broken, stopped)
        assert predict(command) == 130
    assert Path("out/cameras.json").exists() and not Path("out/prediction.json").exists()
    interrupt_after(0, monkeypatch)
    assert predict(command) == 0
    assert index()["windows"]["found"] == 4
    assert set(index()["files"]) == set(contents("out"))


@pytest.mark.parametrize(
    ("changed", "used"),
    [
        ("windows.overlap=2", 1),
        ("points=head", 0),
        ("mode=pad", 0),
        ("memory.head_frames=1", 0),
        ("image", 1),
    ],
)
def test_windows_of_something_else_are_named_and_replaced(
    command: list[str], capsys: pytest.CaptureFixture[str], changed: str, used: int
) -> None:
    """used: windows that hold the same images, prepared in the same way for the same model."""
    interrupted(command, 2)
    if changed == "image":
        Path("video/0001.png").write_bytes(Path("video/0009.png").read_bytes())
    more = [] if changed == "image" else [changed]
    options = [*(option for option in WINDOWS if option.split("=")[0] not in changed), *more]
    assert predict(command, *options) == 0
    number = "1 file" if used else "2 files"
    said = f"{number} of other images, options, model or version in out/.windows/model cannot be used"
    assert said in capsys.readouterr().out
    assert index()["windows"]["found"] == used


def test_a_damaged_window_is_predicted_anew(command: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert predict(command, out="whole") == 0
    interrupted(command, 3)
    first, second, _ = kept()
    first.write_bytes(first.read_bytes()[:-1] + b"\x55")
    second.write_bytes(second.read_bytes()[:100])
    assert predict(command) == 0
    assert capsys.readouterr().out.count("is not used") == 2
    assert index()["windows"]["found"] == 1
    assert contents("out") == contents("whole")


def test_an_unfinished_folder_is_for_windows_alone(
    command: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    interrupted(command, 1)
    assert predict(command, "windows.frames=null") == 1
    assert "out=out is not empty" in capsys.readouterr().err
    assert predict(command, "windows.frames=null", "overwrite=true") == 0
    assert not Path("out/.windows").exists()
    assert predict(command) == 1
    assert "out=out is not empty" in capsys.readouterr().err


def test_two_commands_in_one_folder_are_refused(
    command: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    Path("out/.windows").mkdir(parents=True)
    with FileLock("out/.windows/.lock"):
        assert predict(command) == 1
    assert "out=out: another command predicts into this folder" in capsys.readouterr().err


def test_both_models_of_a_comparison_go_on(
    command: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("rerun")
    (tmp_path / "other").mkdir()
    both = [*WINDOWS, f"compare={write_model(tmp_path / 'other', 4)}"]
    interrupted(command, 6, *both)
    assert len(kept()) == 4
    assert predict(command, *both) == 0
    assert index()["windows"]["found"] == 4
    assert Path("out/scene.rrd").exists()


def test_memory_does_not_grow_with_the_number_of_images(model: Path, tmp_path: Path) -> None:
    """Resident memory of processes of their own. No loops: their graph is solved at once, in some MiB."""
    video(tmp_path / "long", 1000, (28, 28))
    script = (
        "import sys; from vggtq.machine.memory import peak_rss_bytes; from vggtq.predict.__main__ import main\n"
        "status = main(); print(peak_rss_bytes()); sys.exit(status)"
    )
    cheap = [
        "windows.frames=16",
        "windows.overlap=1",
        "windows.loops=0",
        "colmap_points=100",
        "image_size=28",
    ]
    started = [
        subprocess.Popen(
            [sys.executable, "-c", script, f"model={model}", f"images={images}", f"out={out}", "device=cpu",
             "threads=1", *cheap],
            stdout=subprocess.PIPE,
            text=True,
        )
        for images, out in (("long/0[01]*.png", "few"), ("long", "many"))
    ]  # fmt: skip
    few, many = (int(process.communicate()[0].split()[-1]) for process in started)
    assert [len(index(out)["images"]) for out in ("few", "many")] == [200, 1000]
    # images and maps of 800 more images take 17 MB in float32, even if each is held only once
    assert many < few + 12 * MIB
