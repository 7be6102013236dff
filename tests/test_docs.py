"""What the documentation shows has to work: its commands compose, its Python runs, its links lead somewhere."""

import re
import shlex
from pathlib import Path

import pytest
import torch
from hydra.core.override_parser.overrides_parser import OverridesParser
from torch import nn

from vggtq.config import compose, quote_numbers

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", ROOT / "README.zh-CN.md", *sorted((ROOT / "docs").glob("*.md"))]
COMMAND = re.compile(r"(?:\$ )?python -m vggtq\.run (.*?)(?:\s{2,}.*)?$", re.MULTILINE)


def commands() -> list[str]:
    found = [match.group(1) for page in PAGES for match in COMMAND.finditer(page.read_text("utf-8"))]
    return sorted({line.partition("`")[0].strip() for line in found if "…" not in line})


def test_there_are_commands_to_check() -> None:
    assert len(commands()) >= 8


@pytest.mark.parametrize("command", [c for c in commands() if "--help" not in c and c != "group_size=96"])
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


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_to_files(page: Path) -> None:
    for target in re.findall(r"\]\(([^)#\s]+)(?:#[^)]*)?\)", page.read_text("utf-8")):
        if not target.startswith(("http://", "https://")):
            assert (page.parent / target).exists(), target


@pytest.mark.parametrize("name", ["README.md", "README.zh-CN.md"])
def test_the_python_example_runs(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    (code,) = re.findall(r"```python\n(.*?)```", (ROOT / name).read_text("utf-8"), re.DOTALL)
    model = nn.Sequential()
    model.add_module("body", nn.Linear(64, 32))
    model.add_module("head", nn.Linear(32, 8))
    exec(code, {"model": model})
    assert re.fullmatch(r"body \w+ \d+ [\d.]+ dB\n", capsys.readouterr().out)
    assert model(torch.zeros(2, 64)).shape == (2, 8)


def test_both_readmes_show_the_same_commands_and_numbers() -> None:
    english, chinese = ((ROOT / name).read_text("utf-8") for name in ("README.md", "README.zh-CN.md"))
    shown = [
        sorted(match.group(1).partition("`")[0].strip() for match in COMMAND.finditer(text))
        for text in (english, chinese)
    ]
    assert shown[0] == shown[1]
    numbers = [set(re.findall(r"\d+\.\d+", text)) for text in (english, chinese)]
    assert numbers[0] == numbers[1]
