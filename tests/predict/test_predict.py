"""python -m vggtq.predict as users call it."""

import hashlib
import json
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from helpers.prediction_cases import photographs
from vggtq import artifact
from vggtq.data.preprocess import preprocess
from vggtq.files.atomic import replacing
from vggtq.predict.__main__ import COMMAND, main
from vggtq.predict.files import writer
from vggtq.predict.inputs import stems
from vggtq.predict.options import Options
from vggtq.terminal.help import help_text
from vggtq.terminal.options import options_of

pytestmark = pytest.mark.usefixtures("own_folder")


def files(folder: Path) -> set[str]:
    return {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}


def index(folder: Path) -> dict:
    return json.loads((folder / "prediction.json").read_text(encoding="utf-8"))


def test_everything_is_written_and_depth_is_the_model_s(tmp_path: Path, model: Path) -> None:
    photographs(tmp_path / "photos")
    assert main([f"model={model}", "images=photos", "out=out"]) == 0
    out = tmp_path / "out"
    per_image = {f"{kind}/{x}.{end}" for x in "abc" for kind, end in
                 (("depth", "npy"), ("confidence", "npy"), ("preview", "png"))}  # fmt: skip
    rest = {"cameras.json", "transforms.json", "points.ply", "scene.glb", "preview.png", "prediction.json"}
    assert files(out) == per_image | rest | {f"colmap/{n}.txt" for n in ("cameras", "images", "points3D")}
    paths = [tmp_path / f"photos/{x}.png" for x in "abc"]
    outputs = artifact.load(model).predict(preprocess(paths, size=84)[0])
    for i, x in enumerate("abc"):
        np.testing.assert_array_equal(np.load(out / f"depth/{x}.npy"), outputs["depth"][i, ..., 0])
        np.testing.assert_array_equal(np.load(out / f"confidence/{x}.npy"), outputs["depth_conf"][i])
    report = index(out)
    assert report["model"]["fingerprint"] == artifact.read_header(model).weights.fingerprint
    assert report["model"]["scheme"] == artifact.read_header(model).label
    assert report["command"].startswith("python -m vggtq.predict model=")
    assert [i["sha256"] for i in report["images"]] == [
        hashlib.sha256(p.read_bytes()).hexdigest() for p in paths
    ]
    assert report["files"] == {n: (out / n).stat().st_size for n in files(out) - {"prediction.json"}}
    assert report["points"]["of_pixels"] == 3 * 56 * 84
    assert 0.69 < report["points"]["count"] / report["points"]["of_pixels"] < 0.71


def test_png16_and_the_point_head(tmp_path: Path, model: Path) -> None:
    photographs(tmp_path / "photos")
    assert main([f"model={model}", "photos/a.png", "out=plain"]) == 0
    assert (
        main([f"model={model}", "photos/a.png", "out=other", "depth=png16", "points=head", "confidence=0"])
        == 0
    )
    scale = json.loads((tmp_path / "other/depth/scale.json").read_text())["scale"]
    assert scale == index(tmp_path / "other")["depth"]["scale"]
    with Image.open(tmp_path / "other/depth/a.png") as levels:
        depth = np.asarray(levels) * scale
    np.testing.assert_allclose(depth, np.load(tmp_path / "plain/depth/a.npy"), atol=scale / 2 * 1.001)
    outputs = artifact.load(model).predict(preprocess([tmp_path / "photos/a.png"], size=84)[0])
    body = (tmp_path / "other/points.ply").read_bytes().partition(b"end_header\n")[2]
    rows = np.frombuffer(body, np.uint8).reshape(-1, 15)
    xyz = rows[:, :12].copy().view("<f4")
    np.testing.assert_array_equal(xyz, outputs["world_points"][0].reshape(-1, 3))


def test_images_of_every_kind_go_together(tmp_path: Path, model: Path, capsys: pytest.CaptureFixture) -> None:
    folder = photographs(tmp_path / "照片", ("f10.png", "f9.png"))
    with Image.open(folder / "f9.png") as image:
        image.convert("L").save(folder / "grey.jpg")
        rgba = image.convert("RGBA")
        rgba.putalpha(100)
        rgba.rotate(90, expand=True).save(folder / "tall alpha.png")
        exif = Image.Exif()
        exif[0x0112] = 6
        image.crop((0, 0, 84, 30)).save(folder / "wide.JPG", exif=exif)
    assert main([f"model={model}", "images=照片", "out=out", "device=cpu"]) == 0
    report = index(tmp_path / "out")
    names = ["f9.png", "f10.png", "grey.jpg", "tall alpha.png", "wide.JPG"]
    assert [image["image"] for image in report["images"]] == names
    told = capsys.readouterr().out
    for words in (
        "EXIF",
        "differ in size",
        "tall alpha.png is taller than wide",
        "has a space",
        "was trained on",
        "reconstructs other scenes poorly",
    ):
        assert sum(words in note for note in report["notes"]) == 1
        assert told.count(words) == 1
    shapes = {name: np.load(tmp_path / f"out/depth/{Path(name).stem}.npy") for name in names}
    assert {depth.shape for depth in shapes.values()} == {(84, 84)}
    assert np.isfinite(shapes["wide.JPG"]).sum() == 84 * 28
    assert np.isfinite(shapes["tall alpha.png"]).all()


def test_files_patterns_and_folders_are_taken_once_and_in_order(tmp_path: Path, model: Path) -> None:
    photographs(tmp_path / "x", ("2.png", "10.png", "1.png"))
    photographs(tmp_path / "y", ("1.png",))
    (tmp_path / "x" / "notes.txt").touch()
    words = [f"model={model}", "out=out", "y/1.png", "images=x/*", "x/2.png"]
    assert main(words) == 0
    report = index(tmp_path / "out")
    assert [i["image"] for i in report["images"]] == ["x/1.png", "x/2.png", "x/10.png", "y/1.png"]
    assert [i["files"] for i in report["images"]] == ["0000-1", "0001-2", "0002-10", "0003-1"]
    assert main([f"model={model}", "out=list", "images=[x/2.png,x/1.png]"]) == 0
    assert [i["image"] for i in index(tmp_path / "list")["images"]] == ["2.png", "1.png"]


def test_a_second_run_in_the_same_folder_does_not_take_its_previews_for_photographs(
    tmp_path: Path, model: Path
) -> None:
    photographs(tmp_path / "all/sub")
    for more in ([], ["overwrite=true"]):
        assert main([f"model={model}", "images=all", "out=all/out", *more]) == 0
        assert len(index(tmp_path / "all/out")["images"]) == 3


def test_overwriting_removes_the_earlier_prediction_and_nothing_else(
    tmp_path: Path, model: Path, capsys: pytest.CaptureFixture
) -> None:
    photographs(tmp_path / "photos")
    assert main([f"model={model}", "images=photos", "out=out"]) == 0
    (tmp_path / "out/mine.txt").write_text("mine")
    (tmp_path / "mine.txt").write_text("mine")
    report = index(tmp_path / "out")
    report["files"] |= {"../mine.txt": 4, str(tmp_path / "photos/c.png"): 1, "depth": 1}
    (tmp_path / "out/prediction.json").write_text(json.dumps(report))
    before = files(tmp_path / "out")
    assert main([f"model={model}", "photos/b.png", "out=out"]) == 1
    assert capsys.readouterr().err == "error: out=out is not empty; name another folder, or overwrite=true\n"
    assert files(tmp_path / "out") == before
    assert main([f"model={model}", "photos/b.png", "out=out", "overwrite=true", "depth=png16"]) == 0
    assert {n for n in files(tmp_path / "out") if "/" in n and "colmap" not in n} == {
        *("depth/b.png", "depth/scale.json", "confidence/b.npy", "preview/b.png")
    }
    assert (tmp_path / "out/mine.txt").exists()
    assert (tmp_path / "mine.txt").exists()
    assert (tmp_path / "photos/c.png").exists()


@pytest.mark.parametrize("broken", ["write_ply", "write_sheet"])
def test_an_interruption_leaves_whole_files_and_no_index(
    tmp_path: Path, model: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture, broken: str
) -> None:
    photographs(tmp_path / "photos")

    def interrupted(path: Path, *_: object) -> None:
        with replacing(path) as temporary:
            temporary.write_text("half")
            raise KeyboardInterrupt

    monkeypatch.setattr(writer, broken, interrupted)
    assert main([f"model={model}", "images=photos", "out=out"]) == 130
    assert capsys.readouterr().err.startswith("interrupted")
    left = files(tmp_path / "out")
    assert "depth/a.npy" in left and "prediction.json" not in left
    assert ("points.ply" if broken == "write_ply" else "preview.png") not in left
    assert not any(name.endswith(".tmp") for name in left)
    monkeypatch.undo()
    monkeypatch.chdir(tmp_path)
    assert main([f"model={model}", "images=photos", "out=out", "overwrite=true"]) == 0
    assert set(index(tmp_path / "out")["files"]) == files(tmp_path / "out") - {"prediction.json"}


def test_a_failure_before_writing_leaves_the_earlier_prediction_alone(tmp_path: Path, model: Path) -> None:
    photographs(tmp_path / "photos")
    assert main([f"model={model}", "images=photos", "out=out"]) == 0
    before = {name: (tmp_path / "out" / name).read_bytes() for name in files(tmp_path / "out")}
    (tmp_path / "photos/b.png").write_bytes(b"")
    assert main([f"model={model}", "images=photos", "out=out", "overwrite=true"]) == 1
    assert {name: (tmp_path / "out" / name).read_bytes() for name in files(tmp_path / "out")} == before


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["images=photos", "out=out"], "model is missing; give a file that vggtq export wrote"),
        (["model=M", "out=out"], "images is missing; name the folder of your photographs: images=DIR"),
        (["model=M", "images=photos"], "out is missing; name a folder for the results: out=DIR"),
        (["model=M", "images=photos", "out=out", "dept=png16"], "dept is not an option; did you mean depth?"),
        (
            ["model=M", "images=photos", "out=out", "depth=png"],
            "is not one of npy, png16; did you mean png16?",
        ),
        (["model=M", "images=photos", "out=out", "confidence=100"], "from 0 to below 100"),
        (["model=M", "images=photos", "out=out", "image_size=100"], "multiple of the patch size 14"),
        (["model=M", "images=photos", "out=out", "threads=0"], "threads=0: use at least 1"),
        (["model=M", "images=photos", "out=out", "colmap_points=-1"], "use 0 for none"),
        (["model=vggt_mini", "images=photos", "out=out"], "vggtq export model=vggt_mini"),
        (["model=a/b", "images=photos", "out=out"], "vggtq pull a/b"),
        (["model=gone.safetensors", "images=photos", "out=out"], "gone.safetensors: no such file"),
        (["model=photos/a.png", "images=photos", "out=out"], "not a safetensors file"),
        (["model=M", "images=nowhere", "out=out"], "images=nowhere: no such folder or file"),
        (["model=M", "images=empty", "out=out"], "empty: no image found here or below"),
        (["model=M", "images=photos/*.tif", "out=out"], "nothing matches this pattern"),
        (["model=M", "images=photos/*.txt", "out=out"], "none of 1 matching file is a .jpg"),
        (["model=M", "images=cut.png", "out=out"], "cut.png: cannot be decoded"),
        (["model=M", "images=photos", "out=photos", "overwrite=true"], "nothing but what lies in out=photos"),
        (["model=M", "images=photos", "out=cut.png"], "out=cut.png is a file; name a folder"),
        (["model=M", "images=photos", "out=cut.png/x"], "cut.png"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_mistakes_are_one_line_and_write_nothing(
    tmp_path: Path, model: Path, capsys: pytest.CaptureFixture, arguments: list[str], message: str
) -> None:
    photographs(tmp_path / "photos")
    (tmp_path / "photos/x.txt").touch()
    (tmp_path / "empty").mkdir()
    (tmp_path / "cut.png").write_bytes((tmp_path / "photos/a.png").read_bytes()[:200])
    before = files(tmp_path)
    assert main([a.replace("model=M", f"model={model}") for a in arguments]) == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("error: ")
    assert message in line
    assert files(tmp_path) == before
    assert not (tmp_path / "out").exists()


def test_a_model_that_needs_too_much_memory_is_one_line(
    tmp_path: Path, model: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    photographs(tmp_path / "photos")
    monkeypatch.setattr(artifact.QuantizedModel, "predict", lambda *_: torch.empty(2**60, dtype=torch.uint8))
    assert main([f"model={model}", "images=photos", "out=out"]) == 1
    message = "not enough memory for 3 images of 84×56 pixels as the model sees them; use fewer images"
    assert message in capsys.readouterr().err


def test_sigterm_while_predicting_ends_with_143_and_no_file(tmp_path: Path, model: Path) -> None:
    photographs(tmp_path / "photos")
    slow = (
        "import sys, time; from vggtq import artifact; from vggtq.predict.__main__ import main\n"
        "def wait(*_): open('started', 'w').close(); time.sleep(60)\n"
        "artifact.QuantizedModel.predict = wait; sys.exit(main())"
    )
    command = [sys.executable, "-c", slow, f"model={model}", "images=photos", "out=out"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    try:
        while not (tmp_path / "started").exists() and process.poll() is None:
            time.sleep(0.05)
        process.send_signal(signal.SIGTERM)
        out, err = process.communicate(timeout=60)
    finally:
        process.kill()
    assert process.returncode == 143, out + err
    assert "Traceback" not in out + err
    assert not (tmp_path / "out").exists()


def test_help_names_every_option(capsys: pytest.CaptureFixture) -> None:
    assert main(["--help"]) == 0
    told = capsys.readouterr().out
    assert told == help_text(COMMAND)
    for option in options_of(Options):
        assert f"\n  {option} " in told


def test_names_of_files_are_short_and_unlike_each_other() -> None:
    assert stems(["a/x.png", "a/y.jpg"]) == ("x", "y")
    assert stems(["X.png", "x.jpg"]) == ("0000-X", "0001-x")
    long = stems(["长" * 84 + ".t", "长" * 84 + ".s"])
    assert len(set(long)) == 2 and all(len(stem.encode()) <= 155 for stem in long)
