"""What people mistype and misplace, for every command: one helpful line, a status that is not 0, and no model is loaded."""

import importlib
import json
import pickle
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hydra.core.global_hydra import GlobalHydra
from PIL import Image

from helpers.command import vggtq
from helpers.prediction_cases import write_model
from helpers.report_records import record, refused, write
from vggtq.models import loading
from vggtq.prepare import find_bits, quantized

NAMED = (find_bits, quantized)  # hold what `at_inputs` replaces: imported before that, and not in its midst
IMAGES = "dataset=images"
OWN = "model=vggt_small"
CASES: dict[str, list[tuple[str, str]]] = {
    "run": [
        ("scheme=int4_grup", "did you mean int4_group?"),
        ("group_sise=64", "did you mean group_size?"),
        ("--scheme int4_group", "--scheme: options are written without dashes"),
        ("group_size=96", "group_size=96 is not one of 16, 32, 64"),
        ("scheme=int4_group scheme.weights.group_size=0", "group_size=0"),
        ("scheme=int4_group scheme.weights.group_size=-64", "group_size=-64"),
        ("bits=9", "bits=9: integer weights have 2 to 8 or 16 bits"),
        ("bits=-4", "bits=-4: integer weights"),
        ("bits=four", "bits=four: integer weights"),
        ("scheme.weights.bits=17", "bits=17"),
        ("scheme.weights.bits=[8]", "scheme.weights.bits"),
        ("model=vggt_2b", "model=vggt_2b is not one of"),
        ("dataset=photos", "dataset=photos is not one of"),
        (IMAGES, "dataset.path"),
        (f"{IMAGES} dataset.path=nowhere", "nowhere"),
        (f"{IMAGES} dataset.path=text.txt", "text.txt"),
        (f"{IMAGES} dataset.path=empty", "empty"),
        (f"{IMAGES} dataset.path=words", "words"),
        (f"{IMAGES} dataset.path=damaged", "damaged"),
        (f"{IMAGES} dataset.path=photos dataset.max_images=-2", "max_images=-2"),
        (f"{IMAGES} dataset.path=photos dataset.stride=0", "stride=0"),
        (f"{IMAGES} dataset.path=photos dataset.start=50", "start=50"),
        (f"{IMAGES} dataset.path=photos dataset.cameras=text.txt", "text.txt"),
        (f"{IMAGES} dataset.path=photos dataset.cameras=nowhere.json", "nowhere.json"),
        (f"{IMAGES} dataset.path=photos dataset.cameras=list.json", "list.json"),
        (f"{IMAGES} dataset.path=photos dataset.mode=stretch", "stretch"),
        ("dataset=eth3d scene=moon", "moon"),
        ("dataset=co3d dataset.root=nowhere", "nowhere"),
        ("scenes=-3", "scenes=-3"),
        ("scenes=0", "scenes=0"),
        ("frames=0", "frames=0"),
        ("size=[85,85]", "85"),
        ("device=tpu", "device=tpu is not one of"),
        ("device=mps", "device=mps"),
        ("device.threads=0", "threads=0"),
        (f"{OWN} model.source=nowhere.safetensors", "nowhere.safetensors"),
        (f"{OWN} model.source=text.safetensors", "text.safetensors"),
        (f"{OWN} model.source=code.pt", "code.pt"),
        (f"{OWN} model.source=empty", "empty"),
        (f"{OWN} model.source=other.safetensors", "other.safetensors"),
        ("scheme=gptq_w4a16 calibration.samples=0", "calibration.samples=0"),
        ("scheme=gptq_w4a16 calibration=images", "calibration"),
        ("scheme=gptq_w4a16 calibration=images calibration.dataset.path=empty", "empty"),
        ("timing.rounds=0", "timing.rounds=0"),
        ("timing=sometimes", "timing=sometimes is not one of"),
        ("preview_scenes=-1", "preview_scenes=-1"),
        ("picture_frames=-1", "picture_frames=-1"),
        ("picture_frames=many", "picture_frames"),
        ("rest=int4", "rest=int4 is not one of"),
        ("depth_alignment=best", "depth_alignment=best is not one of"),
        ("resume=maybe", "resume=maybe"),
        ("seed=-1", "seed"),
        ("scheme.layers.include=[nothing.*]", "nothing.*"),
        ("scheme.layers.types=[Lineer]", "Lineer"),
        ("scheme=auto_mixed budget_mb=-5", "budget_mb=-5"),
        ("plugins=[no_such_module]", "no_such_module"),
        ("--config-dir nowhere", "nowhere"),
    ],
    "report": [
        ("nowhere", "folder nowhere does not exist"),
        ("lang=fr", "lang=fr is not one of en, zh"),
        ("template=essay", "template=essay is not one of"),
        ("runs out=text.txt", "text.txt is a file"),
        ("empty", "make some with: vggtq run"),
        ("foreign", "no readable record"),
        ("refused", "prune=refused"),
        ("prune=all", "prune=all is not one of"),
        ("strict=perhaps", "strict=perhaps"),
        ("lnag=zh", "did you mean lang?"),
    ],
    "export": [
        ("scheme=int4_group", "out=model.safetensors"),
        ("scheme=int4_group out=model.txt", "model.txt"),
        ("scheme=int4_group out=other.safetensors", "other.safetensors exists"),
        ("scheme=int4_group out=text.txt/new.safetensors", "text.txt"),
        ("scheme=int4_group bits=17 out=new.safetensors", "bits=17"),
        ("scheme=int4_groop out=new.safetensors", "did you mean int4_group?"),
    ],
    "predict": [
        ("images=photos out=made", "model=model.safetensors"),
        ("model=nowhere.safetensors images=photos out=made", "nowhere.safetensors"),
        ("model=text.safetensors images=photos out=made", "text.safetensors"),
        ("model=other.safetensors images=photos out=made", "other.safetensors"),
        ("model=empty images=photos out=made", "empty"),
        ("model=m.safetensors images=nowhere out=made", "nowhere"),
        ("model=m.safetensors images=empty out=made", "empty"),
        ("model=m.safetensors images=photos", "out=DIR"),
        ("model=m.safetensors images=photos out=text.txt", "text.txt"),
        ("model=m.safetensors images=photos out=made confidence=100", "confidence=100"),
        ("model=m.safetensors images=photos out=made colmap_points=-1", "colmap_points=-1"),
        ("model=m.safetensors images=photos out=made image_size=-14", "image_size=-14"),
        ("model=m.safetensors images=photos out=made depth=tiff", "depth=tiff is not one of"),
        ("model=m.safetensors images=photos out=made threads=0", "threads=0"),
        ("model=m.safetensors images=photos out=made viewer=browser", "viewer=browser is not one of"),
        ("model=m.safetensors images=photos out=made compare=nowhere.safetensors", "nowhere.safetensors"),
    ],
    "compare": [
        ("images=nowhere", "nowhere is not a folder"),
        ("images=text.txt", "text.txt is not a folder"),
        ("images=empty", "empty"),
        ("images=photos max_images=0", "max_images=0"),
        ("max_images=3", "images=DIR"),
        ("schemes=[int5]", "schemes: int5 is not one of"),
        ("schemes=[]", "name at least one"),
        ("lang=fr", "lang=fr is not one of"),
        ("out=text.txt", "text.txt"),
    ],
    "push": [
        ("other.safetensors", "vggtq push FILE owner/name"),
        ("nowhere.safetensors me/it", "nowhere.safetensors"),
        ("text.safetensors me/it", "text.safetensors"),
        ("other.safetensors nobody", "nobody"),
    ],
    "pull": [("nobody", "nobody"), ("me/it out=model.txt", "model.txt"), ("me/it out=other.safetensors", "exists")],
    "sensitivity": [
        ("bits=[]", "bits=[]"),
        ("bits=[99]", "99"),
        ("bits=[two]", "two"),
        ("method=guess", "method=guess is not one of"),
    ],
    "accuracy": [
        ("rows=[w9_magic]", "w9_magic"),
        ("models=[gpt]", "models=gpt is not one of"),
        ("jobs=0", "jobs=0"),
        ("quickly", "quickly is not an option"),
    ],
    "train": [("stepps=10", "did you mean steps?"), ("steps=ten", "steps"), ("steps=-1", "steps=-1")],
    "rescore": [
        ("nowhere", "nowhere does not exist"),
        ("empty", "empty"),
        ("depth_alignment=best", "depth_alignment=best is not one of"),
    ],
    "download": [("moon", "moon"), ("courtyard url=ftp://here", "not a web address")],
    "bench": [("kernals", "kernals is not one of")],
}  # fmt: skip
MODULES = {
    **{name: f"vggtq.{name}" for name in ("export", "push", "pull", "rescore")},
    "download": "vggtq.data.eth3d.__main__",
}
FLAT = [
    pytest.param(name, line, words, id=f"{name} {line}") for name, own in CASES.items() for line, words in own
]


@pytest.fixture(scope="module")
def inputs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Files and folders that are not what they are taken for."""
    folder = tmp_path_factory.mktemp("inputs")
    for name in ("empty", "photos", "words", "damaged", "foreign"):
        (folder / name).mkdir()
    for name in ("text.txt", "text.safetensors", "words/notes.txt"):
        (folder / name).write_text("no such thing\n")
    (folder / "damaged" / "a.jpg").write_bytes(b"\xff\xd8\xff no picture")
    (folder / "list.json").write_text("[1, 2]")
    (folder / "foreign" / "result.json").write_text('{"loss": 1}')
    (folder / "code.pt").write_bytes(pickle.dumps(Runs()))
    noise = np.random.default_rng(0)
    for i in range(2):
        Image.fromarray(noise.integers(0, 255, (60, 80, 3), dtype=np.uint8)).save(
            folder / "photos" / f"{i}.png"
        )
    from safetensors.torch import save_file

    save_file({"layer.weight": torch.zeros(2, 2)}, folder / "other.safetensors")
    write_model(folder)
    write(folder / "runs", [record()])
    write(folder / "refused", [refused()])
    return folder


class Runs:
    """Code, if anybody were to unpickle it."""

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[str]]:
        return (Path.touch, (Path("code_ran"),))  # type: ignore[return-value]


@pytest.fixture
def at_inputs(inputs: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """In that folder, where no model may be loaded: the embedded one is what a wrong line must not reach."""
    monkeypatch.chdir(inputs)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")

    def refuse(*_: Any, **__: Any) -> None:
        raise AssertionError("a model was loaded")

    monkeypatch.setattr(loading, "share_parameters", refuse)
    monkeypatch.setattr("vggtq.models.loading.LoadedModel.predict", refuse)
    monkeypatch.setattr("vggtq.predict.pipeline.load", refuse)
    monkeypatch.setattr("vggtq.prepare.streamed.streamed", refuse)
    before = {path for path in inputs.rglob("*") if "outputs" not in path.parts}
    GlobalHydra.instance().clear()
    yield inputs
    left = {path for path in inputs.rglob("*") if "outputs" not in path.parts} - before
    assert not left, "a refused command left something behind"


@pytest.mark.parametrize(("name", "line", "words"), FLAT)
def test_a_wrong_input_ends_in_one_helpful_line(
    name: str,
    line: str,
    words: str,
    at_inputs: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    status, said = _called(name, line.split(), monkeypatch)
    captured = capsys.readouterr()
    text = captured.out + captured.err + said
    told = [each for each in text.splitlines() if each.startswith("error: ")]
    assert status != 0, text
    assert len(told) == 1, text
    assert words in told[0], text
    assert "Traceback" not in text and "unexpected" not in text and "Errno" not in text, text
    assert len(told[0]) < 600


def _called(name: str, argv: list[str], monkeypatch: pytest.MonkeyPatch) -> tuple[int, str]:
    """Exit status, and what the end of the process would print. `run` and `train` begin with Hydra, in another process."""
    if name in ("run", "train"):  # it changes logging for as long as a process lives
        done = vggtq(Path.cwd(), *argv, module=f"vggtq.{name}")
        return done.returncode, done.stdout + done.stderr
    module = importlib.import_module(MODULES.get(name, f"vggtq.{name}.__main__"))
    monkeypatch.setattr(sys, "argv", [f"vggtq {name}", *argv])
    try:
        return module.main(argv), ""
    except SystemExit as end:
        return (1, str(end.code)) if isinstance(end.code, str) else (int(end.code or 0), "")


def test_the_list_is_long_enough() -> None:
    assert len(FLAT) >= 68
    assert len({(name, line) for name, own in CASES.items() for line, _ in own}) == len(FLAT)


def test_cuda_without_a_gpu_is_refused(
    at_inputs: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    if torch.cuda.is_available():
        pytest.skip("there is a GPU")
    status, said = _called("run", ["device=cuda"], monkeypatch)
    text = capsys.readouterr().out + said
    assert status == 1 and "cuda" in text.lower() and "Traceback" not in text


def test_a_damaged_record_is_named(
    at_inputs: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert json.loads((at_inputs / "foreign" / "result.json").read_text()) == {"loss": 1}
    status, _ = _called("report", ["runs", "foreign", "strict=true", "out=outputs/report"], monkeypatch)
    assert status == 1 and "not a vggtq record" in capsys.readouterr().out
