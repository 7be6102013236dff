"""What the documentation shows has to work: its commands compose, its Python runs, its links lead somewhere."""

import json
import os
import re
import shlex
import subprocess
import sys
from dataclasses import fields, is_dataclass
from pathlib import Path

import numpy as np
import pytest
import torch
from hydra.core.override_parser.overrides_parser import OverridesParser
from torch import nn

from vggtq.calibration_config import Calibration
from vggtq.config import Config, Device, Timing, Tracker, compose, quote_numbers
from vggtq.quant.scheme import ROUNDINGS, SCALES, Scheme

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", ROOT / "README.zh-CN.md", *sorted((ROOT / "docs").rglob("*.md"))]
EXTENDING = [ROOT / "docs" / folder / "extending.md" for folder in ("guide", "zh")]
COMMAND = re.compile(r"(?:\$ )?python -m vggtq\.run (.*?)(?:\s{2,}.*)?$", re.MULTILINE)


def commands() -> list[str]:
    found = [match.group(1) for page in PAGES for match in COMMAND.finditer(page.read_text("utf-8"))]
    return sorted({line.partition("`")[0].strip() for line in found if "…" not in line})


def test_there_are_commands_to_check() -> None:
    assert len(commands()) >= 8


def _is_an_override(command: str) -> bool:
    # Options of Hydra's own, and what is shown because it fails, are no part of a composition.
    return "--help" not in command and "--config-dir" not in command and command != "group_size=96"


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


@pytest.mark.parametrize("page", EXTENDING, ids=lambda page: page.parent.name)
def test_extensions_run_as_shown(page: Path, tmp_path: Path) -> None:
    """The page's files, written where it says, and its commands on the small model."""
    text = page.read_text("utf-8")
    files = re.findall(r"```\w+ title=\"([^\"]+)\"\n(.*?)```", text, re.DOTALL)
    assert len(files) == 4
    for name, content in files:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(content, "utf-8")
    (tmp_path / "stacks").mkdir()
    frames = np.random.default_rng(0).integers(0, 255, (2, 56, 56, 3), "uint8")
    np.save(tmp_path / "stacks" / "one.npy", frames)
    shown = re.findall(r"python -m vggtq\.run (--config-dir my_conf .*)", text)
    assert len(shown) == 3
    # One run of everything: the options of all three commands, on the small network.
    options = dict.fromkeys(option for line in shown for option in line.split()[2:] if "int4" not in option)
    small = ["calibration.samples=1", "fresh_memory=false", "timing=off"]
    command = [
        sys.executable,
        "-m",
        "vggtq.run",
        "--config-dir",
        "my_conf",
        *dict.fromkeys([*options, *small]),
    ]
    environment = os.environ | {
        "PYTHONPATH": os.pathsep.join([str(tmp_path), os.environ.get("PYTHONPATH", "")])
    }
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr + done.stdout
    (record,) = (json.loads(path.read_text("utf-8")) for path in tmp_path.glob("outputs/runs/*/result.json"))
    assert [scene["name"] for scene in record["dataset"]["scenes"]] == ["one"]
    assert record["model"]["name"] == "mine"
    bits = {layer["name"].endswith("attn.proj"): layer["bits"] for layer in record["layers"]}
    assert bits == {True: 8, False: 3}


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
    numbers = [set(re.findall(r"\d+\.\d+", text)) for text in (english, chinese)]
    assert numbers[0] == numbers[1]


@pytest.mark.parametrize("page", ["docs/guide/parameters.md", "docs/zh/parameters.md"])
def test_the_guide_names_every_option(page: str) -> None:
    words = set(re.findall(r"\w+", (ROOT / page).read_text(encoding="utf-8")))
    parts = [Config, Scheme, *(field.type for field in fields(Scheme)), Calibration, Device, Timing, Tracker]
    options = {field.name for part in parts if is_dataclass(part) for field in fields(part)} - {"name"}
    assert len(options) > 50 and not options - words
