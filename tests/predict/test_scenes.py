"""Many scenes with one command: python -m pytest tests/predict/test_scenes.py"""

import importlib.util
import json
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from filelock import FileLock

from helpers.prediction_cases import photographs, write_model
from vggtq.artifact.read import load
from vggtq.errors import DataError, WeightsError
from vggtq.predict import pipeline
from vggtq.predict.__main__ import main
from vggtq.predict.files import writer
from vggtq.predict.scenes import job as job_module
from vggtq.predict.scenes.find import Scene, find_scenes
from vggtq.predict.scenes.job import Job, read_listing, write_listing
from vggtq.predict.scenes.states import Wanted

NAMES = ("bath", "hall 2", "厨房")
FEW = ("a.png", "b.png")


@pytest.fixture(autouse=True)
def _three_scenes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(
        writer, "write_sheet", lambda path, *_: path.touch()
    )  # matplotlib takes most of the time
    for name in NAMES:
        photographs(tmp_path / "photos" / name, FEW)
    threads = torch.get_num_threads()
    yield
    torch.set_num_threads(threads)


def index(folder: str = "out") -> dict[str, Any]:
    return json.loads(Path(folder, "scenes.json").read_text(encoding="utf-8"))


def statuses(folder: str = "out") -> list[str]:
    return [scene["status"] for scene in index(folder)["scenes"]]


def last_line(capsys: pytest.CaptureFixture) -> str:
    return capsys.readouterr().out.splitlines()[-1]


def failing(name: str, monkeypatch: pytest.MonkeyPatch, error: BaseException) -> None:
    """Predicting the scene raises the error."""
    real = pipeline.predict

    def predict(options: Any, argv: list[str]) -> None:
        if Path(options.out).name == name:
            raise error
        real(options, argv)

    monkeypatch.setattr(job_module, "predict", predict)


def test_scenes_are_those_of_single_commands_with_the_model_loaded_once(
    model: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    loads = []
    monkeypatch.setattr(pipeline, "load", lambda *a: (loads.append(a), load(*a))[1])
    (Path("photos") / "notes.txt").touch()
    assert main([f"model={model}", "scenes=photos/*", "out=out", "confidence=20"]) == 0
    assert last_line(capsys) == "3 done, 0 skipped, 0 failed"
    assert len(loads) == 1
    assert sorted(path.name for path in Path("out").iterdir()) == sorted([*NAMES, "scenes.json"])
    assert [scene["name"] for scene in index()["scenes"]] == list(NAMES)
    for scene in index()["scenes"]:
        report = json.loads(Path("out", scene["name"], "prediction.json").read_text(encoding="utf-8"))
        assert scene["status"] == "done" and scene["images"] == 2 and scene["error"] is None
        assert scene["points"] == report["points"]["count"] and scene["seconds"] == report["seconds"]["all"]
        assert {f.name for f in Path("out", scene["name"]).iterdir() if f.name.startswith(".")} == set()
    assert main([f"model={model}", "images=photos/hall 2", "out=alone", "confidence=20"]) == 0
    assert len(loads) == 2, "what was kept has been let go of"
    for kind in ("depth", "confidence"):
        for name in ("a", "b"):
            one, many = (np.load(Path(out, kind, f"{name}.npy")) for out in ("alone", "out/hall 2"))
            np.testing.assert_array_equal(one, many)
    assert Path("alone/points.ply").read_bytes() == Path("out/hall 2/points.ply").read_bytes()
    command = json.loads(Path("out/hall 2/prediction.json").read_text(encoding="utf-8"))["command"]
    assert command.endswith("confidence=20 'images=photos/hall 2' 'out=out/hall 2'")


def test_the_same_command_goes_on(
    model: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    command = [f"model={model}", "scenes=photos/*", "out=out"]
    with monkeypatch.context() as patch:
        failing("hall 2", patch, KeyboardInterrupt())
        assert main(command) == 130
    told = capsys.readouterr()
    assert "interrupted with 1 of 3 scenes done, 0 skipped" in told.out and "interrupted" in told.err
    assert not Path("out/scenes.json").exists() and not Path("out/.jobs").exists()
    half = Path("out/厨房/depth")  # what a killed process leaves
    half.mkdir(parents=True)
    (half / "a.npy").write_bytes(b"half")
    (half / ".vggtq-12345678-x.tmp").touch()
    before = Path("out/bath/prediction.json").read_bytes()
    assert main([*command, "device=cpu", "threads=1"]) == 0
    assert last_line(capsys) == "2 done, 1 skipped, 0 failed"
    assert statuses() == ["skipped", "done", "done"]
    assert Path("out/bath/prediction.json").read_bytes() == before
    assert [path.name for path in sorted(half.iterdir())] == ["a.npy", "b.npy"]
    assert np.load(half / "a.npy").shape == (56, 84)
    photographs(Path("photos/bath"))  # one more image
    assert main(command) == 0
    assert statuses() == ["done", "skipped", "skipped"] and index()["scenes"][0]["images"] == 3


def test_another_model_or_other_settings_are_refused_and_overwrite_takes_them(
    model: Path, tmp_path: Path, capsys: pytest.CaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.rmtree("photos/bath")
    command = [f"model={model}", "scenes=photos/*", "out=out"]
    assert main(command) == 0
    assert main([*command, "confidence=50"]) == 1
    assert "out=out: hall 2 was predicted with confidence=30.0 instead of 50.0;" in capsys.readouterr().err
    other = write_model(tmp_path, bits=4)
    again = [f"model={other}", "scenes=photos/*", "out=out", "depth=png16"]
    assert main([*again[:3]]) == 1
    assert (
        "was predicted with another model; name another folder, or overwrite=true" in capsys.readouterr().err
    )
    with monkeypatch.context() as patch:
        failing("hall 2", patch, DataError("x.png: cannot be decoded"))
        assert main([*again, "overwrite=true"]) == 1
    assert statuses() == ["failed", "done"], "the earlier prediction of the first is there and does not count"
    assert Path("out/厨房/depth/a.png").exists() and not Path("out/厨房/depth/a.npy").exists()


def test_a_failed_scene_says_why_and_the_others_go_on(
    model: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    image = Path("photos/bath/a.png")
    whole = image.read_bytes()
    image.write_bytes(whole[:200])
    command = [f"model={model}", "scenes=photos/*", "out=out"]
    with monkeypatch.context() as patch:
        failing("hall 2", patch, ZeroDivisionError("1/0"))
        assert main(command) == 1
    line = last_line(capsys)
    assert line.startswith("1 done, 0 skipped, 2 failed: bath: ") and line.endswith("(scenes.json has all)")
    errors = [json.loads(Path("out", name, "error.json").read_text()) for name in ("bath", "hall 2")]
    assert "a.png: cannot be decoded" in errors[0]["error"] and errors[0]["traceback"] is None
    assert errors[1]["error"] == "ZeroDivisionError: 1/0" and "Traceback" in errors[1]["traceback"]
    assert [scene["error"] for scene in index()["scenes"]] == [errors[0]["error"], errors[1]["error"], None]
    image.write_bytes(whole)
    assert main(command) == 0
    assert last_line(capsys) == "2 done, 1 skipped, 0 failed"
    assert not list(Path("out").glob("*/error.json"))


def test_a_scene_without_a_place_for_its_results_is_missing(
    model: Path, capsys: pytest.CaptureFixture
) -> None:
    Path("out").mkdir()
    Path("out/bath").touch()
    assert main([f"model={model}", "scenes=[photos/bath,photos/hall 2]", "out=out"]) == 1
    told = capsys.readouterr().out.splitlines()
    assert told[1].startswith("bath failed: ") and told[-1] == "1 done, 0 skipped, 0 failed, 1 missing"


def test_a_model_that_cannot_be_loaded_ends_the_job(
    model: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    failing("hall 2", monkeypatch, WeightsError("m.safetensors: damaged"))
    assert main([f"model={model}", "scenes=photos/*", "out=out"]) == 1
    told = capsys.readouterr().out.splitlines()
    assert told[-2:] == [
        "a process ended before its scenes were done: m.safetensors: damaged",
        "1 done, 0 skipped, 0 failed, 2 missing",
    ]
    assert statuses() == ["done", "missing", "missing"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["scenes=nowhere/*"], "scenes=nowhere/*: nothing matches this pattern; check it"),
        (["scenes=nowhere"], "scenes=nowhere: no such folder; check the path"),
        (["scenes=photos/bath/a.png"], "is a file; name folders, or use images= for one scene"),
        (["scenes=photos/bath/*"], "none of 2 matching files is a folder"),
        (["scenes=photos"], "its images lie in 3 subfolders; scenes='photos/*' takes each as a scene"),
        (["scenes=*/*"], "scenes=*/*: 1 scene of 5 cannot be read: other/empty: no image found here or below"),
        (["scenes=[other/empty]"], "1 scene of 1 cannot be read: other/empty: no image found"),
        (["scenes=[photos/bath,other/Bath]"], "scenes: photos/bath and other/Bath have the same name, so that"),
        (["scenes=[photos/bath]", "images=photos"], "scenes=photos/bath with images=photos: give one of them"),
        (["jobs=2", "images=photos"], "jobs=2 without scenes=: one prediction is one process"),
        (["hydra/launcher=joblib", "images=photos"], "hydra/launcher=joblib without scenes="),
        (["scenes=photos/*", "hydra/launcher=job"], "hydra/launcher=job is not one of ray_cluster, slurm, joblib"),
        (["scenes=photos/*", "hydra.launcher.n_jobs=2"], "hydra.launcher.n_jobs is no option of this launcher"),
        (["scenes=photos/*", "viewer=open"], "viewer=open with scenes=: a window for each scene"),
        (["scenes=photos/*", "image_size=100"], "image_size=100 is not a positive multiple of the patch size"),
        (["scenes=photos/*", "model=gone.safetensors"], "gone.safetensors: no such file"),
        (["scenes=photos/*", "out=photos"], "scenes=photos/*: nothing but what lies in out=photos"),
        (["scenes=[photos/bath]", "out=photos/bath/out"], "out=photos/bath/out lies in the scene photos/bath"),
        (["scenes=photos/*", "out=photos/bath/a.png"], "out=photos/bath/a.png is a file; name a folder"),
        ([], "images is missing; name the folder of your photographs: images=DIR"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)  # fmt: skip
def test_mistakes_are_one_line_before_a_model_is_loaded(
    model: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture,
    arguments: list[str],
    message: str,
) -> None:
    def refuse(*_: object) -> None:
        raise AssertionError("a model was loaded")

    monkeypatch.setattr(pipeline, "load", refuse)
    Path("other/empty").mkdir(parents=True)
    if "Bath" in str(arguments):
        photographs(Path("other/Bath"), FEW)
    elif "*/*" in str(arguments):
        photographs(Path("other/yard"), FEW)
    given = [*arguments]
    for default in (f"model={model}", "out=out"):
        if not any(a.startswith(default[:4]) for a in arguments):
            given.append(default)
    assert main(given) == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("error: ") and message in line
    assert not [path for path in Path("out").rglob("*") if path.is_file()]


def test_folders_are_taken_once_and_what_lies_in_out_is_none() -> None:
    shutil.copytree("photos", "photos/out/earlier")
    found = find_scenes(["photos/*", "photos/hall 2/", "photos/bath/../厨房"], Path("photos/out"))
    assert [scene.name for scene in found] == list(NAMES)
    write_listing(Path("jobs/list"), found)
    assert read_listing(Path("jobs/list")) == found


def test_a_scene_that_another_process_does_is_left_to_it(
    model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    turns: list[str] = []
    held = FileLock("out/bath/.lock")
    Path("out/bath").mkdir(parents=True)
    held.acquire()

    def predicted(self: Job, scene: Scene, folder: Path) -> None:
        turns.append(scene.name)
        if scene.name == NAMES[-1]:
            held.release()

    monkeypatch.setattr(Job, "_predict", predicted)
    monkeypatch.setattr(Wanted, "made", lambda self, scene: {} if turns.count(scene.name) else None)
    assert main([f"model={model}", "scenes=photos/*", "out=out"]) == 0
    assert turns == ["hall 2", "厨房", "bath"]


def test_shares_are_strided_and_leave_nothing_out(model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shares: list[list[str]] = [[], []]

    def turn(self: Job, scene: Scene, wait: bool) -> bool:
        shares[min(len(shares[0]) // 2, 1)].append(scene.name)
        return True

    monkeypatch.setattr(Job, "_turn", turn)
    assert main([f"model={model}", "scenes=photos/*", "out=out", "jobs=2"]) == 1
    assert shares == [["bath", "厨房"], ["hall 2"]]
    assert statuses() == ["missing"] * 3


def test_joblib_shares_scenes_among_processes(model: Path, capfd: pytest.CaptureFixture) -> None:
    loky = pytest.importorskip("joblib.externals.loky", reason="vggtq[joblib] is not installed")
    shutil.rmtree("photos/hall 2")
    Path("photos/bath/a.png").write_bytes(b"")
    launcher = ["hydra/launcher=joblib", "hydra.launcher.n_jobs=2", "threads=1"]
    try:
        assert main([f"model={model}", "scenes=photos/*", "out=out", *launcher]) == 1
    finally:
        loky.get_reusable_executor().shutdown(wait=True)
    output = capfd.readouterr().out
    assert output.splitlines()[-1].startswith("1 done, 0 skipped, 1 failed: bath: "), output
    assert "厨房: 2 images" in output, "what the processes print is seen"
    assert statuses() == ["failed", "done"]
    assert not Path("out/.jobs").exists()


def test_slurm_is_asked_for_an_array_with_a_job_for_each_share(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    """A cluster that takes the script and refuses it."""
    if importlib.util.find_spec("hydra_plugins.hydra_submitit_launcher") is None:
        pytest.skip("vggtq[slurm] is not installed")
    commands = tmp_path / "bin"
    commands.mkdir()
    sbatch = (
        '#!/bin/sh\nfor script; do :; done\ncp "$script" submitted.sh\necho no such partition >&2\nexit 1\n'
    )
    for name, text in (("sbatch", sbatch), ("srun", "#!/bin/sh\n")):
        (commands / name).write_text(text)
        (commands / name).chmod(0o755)
    monkeypatch.setenv("PATH", f"{commands}:{os.environ['PATH']}")
    launcher = ["hydra/launcher=slurm", "hydra.launcher.partition=gpu", "hydra.launcher.array_parallelism=2"]
    assert main([f"model={model}", "scenes=photos/*", "out=out", *launcher]) == 1
    assert "no such partition" in capsys.readouterr().err
    script = Path("submitted.sh").read_text()
    for line in ("--array=0-1%2", "--gpus-per-node=1", "--cpus-per-task=8", "--partition=gpu"):
        assert f"#SBATCH {line}\n" in script
    assert f"{Path('out').resolve()}/.jobs/.submitit/" in script
    assert len(list(Path("out/.jobs").glob("scenes-*.jsonl"))) == 1, "jobs in the queue would read it"
