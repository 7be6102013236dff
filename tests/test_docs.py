"""What the documentation shows has to work: its commands compose, its Python runs, its links lead somewhere."""

import hashlib
import json
import re
import shlex
import shutil
import subprocess
import sys
from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hydra.core.override_parser.overrides_parser import OverridesParser
from PIL import Image
from safetensors import safe_open
from torch import nn

from helpers.forked import finished
from vggtq.config.compose import compose, quote_numbers
from vggtq.config.schema import Calibration, Config, Engine, Timing, Tracker
from vggtq.machine.device import Device
from vggtq.quant.scheme.methods import ROUNDINGS, SCALES
from vggtq.quant.scheme.scheme import Scheme
from vggtq.terminal.commands import COMMANDS

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", ROOT / "README.zh-CN.md", *sorted((ROOT / "docs").rglob("*.md"))]
EXTENDING = [ROOT / "docs" / folder / "extending.md" for folder in ("guide", "zh")]
COMMAND = re.compile(r"(?:\$ )?(?:python -m vggtq\.|vggtq )run (.*?)(?:\s{2,}.*)?$", re.MULTILINE)


def commands() -> list[str]:
    found = [match.group(1) for page in PAGES for match in COMMAND.finditer(page.read_text("utf-8"))]
    return sorted({line.partition("`")[0].strip() for line in found if "…" not in line})


def test_there_are_commands_to_check() -> None:
    assert len(commands()) >= 8


def _is_an_override(command: str) -> bool:
    # Options of Hydra's own, and what is shown because it fails, are no part of a composition.
    refused = ("group_size=96", "num_bits=4", "dataset.path=photos", "sche⇥ int4⇥", "peak_memory")
    flags = ("--help", "--config-dir", "--cfg", "-sc")
    return command not in refused and not any(flag in command.split() for flag in flags)


@pytest.mark.parametrize("command", list(filter(_is_an_override, commands())))
def test_every_command_composes(command: str) -> None:
    # Launchers are extras, and Hydra's own part is no part of a run's configuration.
    words = [word for word in shlex.split(command) if word != "--multirun" and not word.startswith("hydra")]
    overrides = quote_numbers(words)
    parsed = [OverridesParser.create().parse_override(override) for override in overrides]
    first = [
        f"{o.get_key_element()}={next(iter(o.sweep_string_iterator()))}" if o.is_sweep_override() else text
        for o, text in zip(parsed, overrides, strict=True)
    ]
    compose(first)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(ROOT).as_posix())
def test_links_lead_to_files(page: Path) -> None:
    for target in re.findall(r"\]\(([^)#\s]+)(?:#[^)]*)?\)", page.read_text("utf-8")):
        if not target.startswith(("http://", "https://")):
            assert (page.parent / target).exists(), target


def shown_files(page: Path) -> dict[str, str]:
    """The files of a page, by the names that it gives them."""
    return dict(re.findall(r"```\w+ title=\"([^\"]+)\"\n(.*?)```", page.read_text("utf-8"), re.DOTALL))


def test_both_pages_on_extending_show_the_same_files_and_commands() -> None:
    english, chinese = EXTENDING
    assert len(shown_files(english)) == 12
    assert shown_files(english) == shown_files(chinese)
    commands = [re.findall(r"^python -m .*", page.read_text("utf-8"), re.MULTILINE) for page in EXTENDING]
    assert commands[0] == commands[1] and len(commands[0]) == 10


def _in_folder(folder: Path, module: str, *arguments: str) -> str:
    """Runs a Python module there as a user would, without the tests' own path; its output."""
    status, output = finished(folder, *arguments, module=module)
    assert status == 0, output
    return output


@pytest.fixture(scope="module")
def extended(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the files of the page, and a sweep over its schemes with its data set, model and metric."""
    folder = tmp_path_factory.mktemp("extended")
    for name, content in shown_files(EXTENDING[0]).items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(content, "utf-8")
    (folder / "stacks").mkdir()
    frames = np.random.default_rng(0).integers(0, 255, (2, 56, 56, 3), "uint8")
    np.save(folder / "stacks" / "one.npy", frames)
    small = [
        "save_predictions=true",
        "calibration.samples=1",
        "timing=off",
        "model=mine",
        "dataset=stacks",
        "dataset.path=stacks",
    ]
    plugins = "plugins=[my_metric,my_rounding,my_format]"
    own = ("vggtq.run", "--config-dir", "my_conf", "--multirun", plugins, *small)
    _in_folder(folder, *own, "scheme=int3_group,shorter", "fresh_memory=false")
    _in_folder(
        folder, *own, "scheme=ternary"
    )  # memory is measured in processes of their own, with the plugins too
    return folder


def extended_records(folder: Path) -> dict[str, dict[str, Any]]:
    records = [json.loads(path.read_text("utf-8")) for path in folder.glob("outputs/runs/*/result.json")]
    return {record["scheme"]["name"]: record for record in records}


def test_what_the_page_adds_is_in_the_records(extended: Path) -> None:
    records = extended_records(extended)
    assert records.keys() == {"int3_group", "shorter", "ternary"}
    for record in records.values():
        assert (record["status"], record["model"]["name"]) == ("ok", "mine")
        assert [scene["name"] for scene in record["dataset"]["scenes"]] == ["one"]
        assert 0 <= record["fidelity"]["depth"]["kept_pixels"] <= 1
        digests = {plugin["module"]: plugin["sha256"] for plugin in record["environment"]["plugins"]}
        content = (extended / "my_format.py").read_bytes()
        assert digests["my_format"] == hashlib.sha256(content).hexdigest() and len(digests) == 3
        assert "--config-dir my_conf" in record["command"]
    bits = {layer["name"].endswith("attn.proj"): layer["bits"] for layer in records["int3_group"]["layers"]}
    assert bits == {True: 8, False: 3}
    assert records["ternary"]["backends"].keys() == {"blocked"} and not records["ternary"]["simulated"]
    assert not records["shorter"]["simulated"]
    assert records["ternary"]["memory"]["reason"] is None


def test_what_the_page_adds_is_in_the_reports(extended: Path) -> None:
    for lang, heading in (("en", "depth kept pixels"), ("zh", "depth 保持的像素")):
        _in_folder(extended, "vggtq.report", f"report.lang={lang}", f"report.out=report_{lang}")
        table = (extended / f"report_{lang}" / "comparison.md").read_text("utf-8")
        assert heading in table and "TERNARY" in table and "0.9 of the range" in table
        page = (extended / f"report_{lang}" / "index.html").read_text("utf-8")
        data = json.loads(re.findall(r'<script[^>]*id="data"[^>]*>(.*?)</script>', page, re.DOTALL)[0])
        assert "depth.kept_pixels" in [metric["column"] for metric in data["metrics"]]
        assert data["texts"]["zh"]["metric.kept_pixels"] == "保持的像素"
    columns = (extended / "report_zh" / "comparison.csv").read_text("utf-8").splitlines()[0].split(",")
    assert "depth.kept_pixels" in columns


def test_earlier_runs_are_scored_again_with_the_metric_and_never_without(extended: Path) -> None:
    (run,) = extended.glob("outputs/runs/ternary*")
    kept = shutil.copytree(run, extended / "kept" / run.name)
    with pytest.raises(
        AssertionError, match=r"kept_pixels come from plugins; add plugins=\[my_format,my_metric"
    ):
        _in_folder(extended, "vggtq.rescore", "kept")
    plugins = "plugins=[my_format,my_metric,my_rounding]"
    _in_folder(extended, "vggtq.rescore", "kept", plugins)
    before, after = (json.loads((folder / "result.json").read_text("utf-8")) for folder in (run, kept))
    assert after["fidelity"] == before["fidelity"] and after["metrics"] == before["metrics"]
    assert len(after["rescored"]["plugins"]) == 3


def test_what_the_page_adds_can_be_exported_and_predicted_with(extended: Path) -> None:
    own = ("--config-dir", "my_conf", "model=mine")
    _in_folder(extended, "vggtq.export", *own, "scheme=ternary", "out=ternary.safetensors")
    header = json.loads(safe_open(extended / "ternary.safetensors", "pt").metadata()["vggtq"])
    assert header["scheme"]["weights"]["format"] == "ternary"
    assert [plugin["module"] for plugin in header["plugins"]] == ["my_format"]
    (extended / "photos").mkdir()
    for i in range(2):
        pixels = np.random.default_rng(i).integers(0, 255, (56, 56, 3), "uint8")
        Image.fromarray(pixels).save(extended / "photos" / f"{i}.png")
    predict = ("vggtq.predict", "model=ternary.safetensors", "images=photos", "out=reconstruction")
    with pytest.raises(AssertionError, match=r"plugins=\[my_format\]"):
        _in_folder(extended, *predict)
    _in_folder(extended, *predict, "plugins=[my_format]")
    assert (extended / "reconstruction" / "points.ply").is_file()
    _in_folder(extended, "vggtq.export", *own, "scheme=shorter", "out=shorter.safetensors")
    header = json.loads(safe_open(extended / "shorter.safetensors", "pt").metadata()["vggtq"])
    assert header["scheme"]["rounding"]["method"] == "shorter"


def test_sensitivity_takes_a_scheme_and_a_rounding_of_ones_own(extended: Path) -> None:
    own = ("--config-dir", "my_conf", "model=mine", "scheme=shorter", "calibration.samples=1")
    _in_folder(extended, "vggtq.sensitivity", *own, "bits=[4,8]", "out=sensitivity")
    found = json.loads((extended / "sensitivity" / "sensitivity.json").read_text("utf-8"))
    assert (found["model"], found["scheme"]["name"]) == ("mine", "shorter")


def test_the_tests_of_the_page_pass(extended: Path) -> None:
    words = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "--rootdir", str(extended), "."]
    done = subprocess.run(words, cwd=extended, capture_output=True, text=True)
    assert done.returncode == 0 and "3 passed" in done.stdout, done.stdout + done.stderr


@pytest.mark.parametrize("name", ["README.md", "README.zh-CN.md"])
def test_the_python_example_runs(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    (code,) = re.findall(r"```python\n(.*?)```", (ROOT / name).read_text("utf-8"), re.DOTALL)
    model = nn.Sequential()
    model.add_module("body", nn.Linear(64, 32))
    model.add_module("head", nn.Linear(32, 8))
    exec(code, {"model": model})
    assert re.fullmatch(r"body \w+ \d+ [\d.]+ dB\n", capsys.readouterr().out)
    assert model(torch.zeros(2, 64)).shape == (2, 8)


@pytest.mark.parametrize("name", ["README.md", "README.zh-CN.md"])
def test_readmes_name_every_choice_of_a_recipe(name: str) -> None:
    text = (ROOT / name).read_text("utf-8")
    assert f"`scheme.rounding.method={'|'.join(ROUNDINGS)}`" in text
    assert f"`scheme.transform.scale={'|'.join(SCALES)}`" in text


def test_both_readmes_show_the_same_commands_and_numbers() -> None:
    english, chinese = ((ROOT / name).read_text("utf-8") for name in ("README.md", "README.zh-CN.md"))
    shown = [
        sorted(match.group(1).partition("`")[0].strip() for match in COMMAND.finditer(text))
        for text in (english, chinese)
    ]
    assert shown[0] == shown[1]
    numbers = [
        set(re.findall(r"\d+\.\d+", text)) for text in (english, chinese.replace("910 万", "9.1 百万"))
    ]
    assert numbers[0] == numbers[1]


@pytest.mark.parametrize("page", ["docs/guide/parameters.md", "docs/zh/parameters.md"])
def test_the_guide_names_every_option(page: str) -> None:
    words = set(re.findall(r"\w+", (ROOT / page).read_text(encoding="utf-8")))
    parts = [
        Config,
        Scheme,
        *(field.type for field in fields(Scheme)),
        Calibration,
        Device,
        Engine,
        Timing,
        Tracker,
    ]
    options = {field.name for part in parts if is_dataclass(part) for field in fields(part)} - {"name"}
    assert len(options) > 50 and not options - words


@pytest.mark.parametrize("page", ["docs/guide/command_line.md", "docs/zh/command_line.md"])
def test_the_page_on_the_command_line_names_every_command(page: str) -> None:
    text = (ROOT / page).read_text("utf-8")
    assert [name for name in COMMANDS if f"`{name}`" not in text] == []
