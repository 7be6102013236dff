"""Modules and configurations of the user's own: found, loaded before the configuration is checked, named by what they made."""

import hashlib
import sys
from collections.abc import Iterator
from importlib.metadata import EntryPoint
from pathlib import Path

import pytest
import torch
from torch import nn

from vggtq import plugins
from vggtq.artifact import load_into_, save
from vggtq.artifact.header import read_header
from vggtq.config.compose import compose, config_folders, options
from vggtq.config.validate import composed
from vggtq.errors import ConfigError, WeightsError
from vggtq.machine import source_code
from vggtq.machine.environment import environment
from vggtq.models.checkpoints.fingerprint import WeightsInfo
from vggtq.plugins import load_plugins, loaded_plugins, missing_plugins
from vggtq.quant.scheme.scheme import Scheme
from vggtq.quant.walk.quantize import quantize_
from vggtq.report.page.data import export_command
from vggtq.run.peak_memory import Options
from vggtq.terminal.command_line import parse

SCHEME = "# @package _global_\ndefaults:\n  - override /bits: '3'\n  - _self_\nscheme:\n  name: mine\n"


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A working folder with a plugin; what it leaves in this process is taken back."""
    modules, path = set(sys.modules), list(sys.path)
    monkeypatch.setattr(plugins, "_loaded", {})
    monkeypatch.chdir(tmp_path)
    (tmp_path / "my_methods.py").write_text("VALUE = 1\n")
    yield tmp_path
    sys.path[:] = path
    for name in set(sys.modules) - modules:
        if name.partition(".")[0].startswith("my_"):
            del sys.modules[name]


def test_a_plugin_is_found_in_the_working_folder_and_is_part_of_the_code(here: Path) -> None:
    before = source_code.run_code()
    load_plugins(["my_methods"])
    (plugin,) = loaded_plugins()
    assert plugin.sha256 == hashlib.sha256((here / "my_methods.py").read_bytes()).hexdigest()
    assert source_code.run_code() != before
    assert environment(torch.device("cpu"), 0).plugins == [{"module": "my_methods", "sha256": plugin.sha256}]


def test_the_digest_of_a_package_covers_all_its_files(here: Path) -> None:
    digests = []
    for content in ("A = 1\n", "A = 2\n"):
        plugins._loaded.clear()
        sys.modules.pop("my_package", None)
        (here / "my_package").mkdir(exist_ok=True)
        (here / "my_package" / "__init__.py").write_text("")
        (here / "my_package" / "inner.py").write_text(content)
        load_plugins(["my_package"])
        digests.append(loaded_plugins()[0].sha256)
    assert digests[0] != digests[1]


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("my_typo", None, "there is no module my_typo in"),
        ("my_methods.py", None, r"without folder and \.py"),
        ("my_broken", "1 / 0", "division by zero"),
        ("my_import", "import my_absent", "imports my_absent, which is not installed"),
    ],
)
def test_what_cannot_be_imported_is_told_in_one_line(here: Path, name: str, content: str, words: str) -> None:
    if content:
        (here / f"{name}.py").write_text(content)
    with pytest.raises(ConfigError, match=words) as error:
        load_plugins([name])
    assert name in str(error.value) and "\n" not in str(error.value)


def test_plugins_load_before_the_configuration_is_checked(here: Path) -> None:
    with pytest.raises(ConfigError, match="there is no module my_absent"):
        composed(["plugins=[my_absent]", "seed=-1"])
    assert composed(["plugins=[my_methods]"]).plugins == ["my_methods"] and loaded_plugins()


def test_a_name_without_brackets_is_told_how_lists_are_written() -> None:
    with pytest.raises(ConfigError, match=r"plugins=\[my_methods\]"):
        composed(["plugins=my_methods"])


def test_an_installed_plugin_needs_no_option(monkeypatch: pytest.MonkeyPatch, here: Path) -> None:
    monkeypatch.syspath_prepend(here)
    point = EntryPoint("mine", "my_methods", plugins.GROUP)
    monkeypatch.setattr(plugins, "entry_points", lambda group: [point] if group == plugins.GROUP else [])
    composed([])
    assert [plugin.module for plugin in loaded_plugins()] == ["my_methods"]


def test_a_model_file_names_plugins_and_asks_for_them_where_it_needs_them(here: Path) -> None:
    def saved(name: str) -> Path:
        model = nn.Sequential(nn.Linear(16, 8))
        done = quantize_(model, Scheme())
        save(model, here / name, Scheme(), done, WeightsInfo("seed 0", "random", "0" * 64))
        return here / name

    plain = saved("plain.safetensors")
    assert read_header(plain).plugins == ()
    load_plugins(["my_methods"])
    named = saved("named.safetensors")
    assert [plugin["module"] for plugin in read_header(named).plugins] == ["my_methods"]
    plugins._loaded.clear()
    load_into_(nn.Sequential(nn.Linear(16, 8)), named)  # its recipe has nothing of the plugin's
    assert missing_plugins(read_header(named).plugins) == ["my_methods"]
    foreign = named.read_bytes().replace(b'\\"method\\": \\"nearest\\"', b'\\"method\\": \\"mineown\\"')
    assert foreign != named.read_bytes()
    named.write_bytes(foreign)
    with pytest.raises(WeightsError, match=r"plugins=\[my_methods\]"):
        read_header(named)


def test_the_process_that_measures_memory_gets_the_plugins() -> None:
    options_ = parse(["model=a.safetensors", "images=b", "plugins=[my_methods]"], Options)
    assert options_.plugins == ["my_methods"]


@pytest.mark.parametrize("flag", [["--config-dir", "my_conf"], ["--config-dir=my_conf"], ["-cd", "my_conf"]])
def test_configurations_of_ones_own_are_composed_by_every_command(here: Path, flag: list[str]) -> None:
    (here / "my_conf" / "scheme").mkdir(parents=True)
    (here / "my_conf" / "scheme" / "mine.yaml").write_text(SCHEME)
    config = composed([*flag, "scheme=mine"])
    assert (config.scheme.name, config.scheme.weights.bits) == ("mine", 3)
    assert compose(["scheme=mine", *flag]).scheme.name == "mine"
    assert "mine" in options("scheme")
    with pytest.raises(ConfigError, match="did you mean mine"):
        composed([*flag, "scheme=mien"])


def test_a_folder_with_spaces_and_signs_is_a_folder(here: Path) -> None:
    folder = here / "my conf, it's"
    (folder / "scheme").mkdir(parents=True)
    (folder / "scheme" / "mine.yaml").write_text(SCHEME)
    assert composed(["--config-dir", str(folder), "scheme=mine"]).scheme.name == "mine"


def test_a_folder_that_is_not_there_is_named() -> None:
    with pytest.raises(ConfigError, match="--config-dir nowhere: no such folder"):
        config_folders(["--config-dir", "nowhere"])
    with pytest.raises(ConfigError, match="--config-dir"):
        config_folders(["--config-dir"])


def test_the_export_of_a_run_keeps_its_folder_and_plugins() -> None:
    command = "python -m vggtq.run --config-dir my_conf scheme=mine 'plugins=[my_methods]' hydra.mode=RUN"
    expected = (
        "python -m vggtq.export --config-dir my_conf scheme=mine 'plugins=[my_methods]' out=model.safetensors"
    )
    assert export_command(command) == expected
