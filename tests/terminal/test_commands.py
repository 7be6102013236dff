"""Every command is found, tells what it takes in one style, and can be completed at a tab."""

import importlib
import os
import re
import shutil
import subprocess
import sys
from dataclasses import fields
from pathlib import Path

import pytest

from vggtq.terminal.command_line import version_text
from vggtq.terminal.commands import COMMANDS, named
from vggtq.terminal.completion import SCRIPT, answer, handed_over
from vggtq.terminal.help import Command, help_text, overview
from vggtq.version import __version__

MODULES = {
    **{
        name: f"vggtq.{name}.__main__"
        for name in ("run", "report", "predict", "sensitivity", "bench", "accuracy", "train")
    },
    **{name: f"vggtq.{name}" for name in ("export", "rescore", "push", "pull")},
    "download": "vggtq.data.eth3d.__main__",
    "run peak_memory": "vggtq.run.peak_memory",
    "bench quantizing": "vggtq.bench.quantizing",
    "bench cuda": "vggtq.bench.cuda.__main__",
    "accuracy layers": "vggtq.accuracy.layers",
    **{f"train {name}": f"vggtq.train.{name}" for name in ("evaluate", "outliers", "curves")},
    **{f"data {name}": f"vggtq.data.{name}.__main__" for name in ("objects", "rooms")},
}
# `vggtq` as bash finds it; the module needs no installation.
SHIM = f'#!/bin/sh\nexec {sys.executable} -m vggtq "$@"\n'


def command(name: str) -> Command:
    found = importlib.import_module(MODULES[name]).COMMAND
    assert isinstance(found, Command) and found.name == name
    return found


def vggtq(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    line = [sys.executable, "-m", "vggtq", *arguments]
    return subprocess.run(line, env=os.environ | environment, capture_output=True, text=True, check=False)


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_is_a_module(name: str) -> None:
    module = f"vggtq.{name.replace(' ', '.')}"
    found = importlib.util.find_spec(module)
    assert found is not None
    if found.submodule_search_locations is not None:
        assert importlib.util.find_spec(f"{module}.__main__") is not None


@pytest.mark.parametrize("name", MODULES)
def test_help_has_one_style(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "120")
    made = command(name)
    text = help_text(made)
    assert text.startswith(f"vggtq {name}: {COMMANDS[name]}\n\nUsage: vggtq {name} ")
    assert len(made.examples) >= 2 and text.count(f"\n  vggtq {name}") >= 2
    assert max(map(len, text.splitlines())) <= 128
    for option in fields(made.options):
        if option.metadata.get("rest"):
            assert "\n  key=value" in text
        elif "meaning" in option.metadata:
            assert re.search(rf"^  {option.name} +\S", text, re.MULTILINE)
        else:  # a group of a run's configuration, or one whose options stand one by one
            assert f"\n  {option.name}=…" in text or re.search(
                rf"^  {option.name}\.\w+ +\S", text, re.MULTILINE
            )


def test_the_overview_has_a_line_for_each_and_imports_nothing_heavy() -> None:
    code = (
        "import sys; sys.argv = ['vggtq', '--help']; from vggtq.__main__ import main; main()\n"
        "print([m for m in ('torch', 'numpy', 'hydra', 'omegaconf', 'pandas') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "[]"
    text = overview()
    for name, what in COMMANDS.items():
        assert re.search(rf"^  {name} +{re.escape(what.split()[0])}", text, re.MULTILINE)


def test_commands_are_explained_and_completed_without_torch() -> None:
    modules = ", ".join(MODULES[name] for name in ("run", "export", "predict", "sensitivity"))
    code = f"import sys, {modules}, vggtq.config.validate; print([m for m in ('torch', 'numpy') if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"


@pytest.mark.parametrize("mistake", ["scheme=int4_groop", "grup_size=64"])
def test_a_misspelt_run_is_refused_before_torch_is_imported(mistake: str, tmp_path: Path) -> None:
    code = """
import sys
from vggtq.run.__main__ import main
try:
    main()
except SystemExit as end:
    print(end, "torch" in sys.modules)
"""
    line = [sys.executable, "-c", code, mistake]
    done = subprocess.run(line, capture_output=True, text=True, check=True, cwd=tmp_path)
    assert re.search(r"did you mean (int4_group|group_size)\? False$", done.stdout.strip())


def test_names_have_one_word_or_two() -> None:
    assert named(["bench", "cuda", "rounds=3"]) == ("bench cuda", ["rounds=3"])
    assert named(["bench", "kernels"]) == ("bench", ["kernels"])
    assert named(["run"]) == ("run", []) and named(["runn"]) == ("", ["runn"]) and named([]) == ("", [])


def test_the_version_is_ours_everywhere() -> None:
    line = [sys.executable, "-m", "vggtq.run", "--version"]
    assert subprocess.run(line, capture_output=True, text=True, check=True).stdout == version_text()
    assert vggtq("pull", "--version").stdout == vggtq("--version").stdout == version_text()
    assert version_text().splitlines()[0] == __version__


def test_a_subcommand_is_reached_from_its_command() -> None:
    line = [sys.executable, "-m", "vggtq.accuracy", "layers", "--help"]
    done = subprocess.run(line, capture_output=True, text=True, check=True)
    assert done.stdout.startswith("vggtq accuracy layers: ")


def test_dashes_are_told_apart_from_flags_of_hydra() -> None:
    for argument, words in (
        ("--num_bits", "--num_bits is not an option; did you mean bits?"),
        ("--group-size=64", "--group-size: options are written without dashes: group_size=…"),
    ):
        done = vggtq("run", argument)
        assert (done.returncode, done.stderr, done.stdout) == (1, f"error: {words}\n", "")


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("vggtq ", {"run", "report", "download"}),
        ("vggtq pu", {"push", "pull"}),
        ("vggtq run sch", {"scheme=", "scheme."}),
        ("vggtq run scheme=int8_sy", {"scheme=int8_symmetric"}),
        ("vggtq run group_size=64 +exp", {"+experiment="}),
        ("vggtq run +experiment=eig", {"+experiment=eight_schemes"}),
        ("vggtq run scheme.weights.gro", {"scheme.weights.group_size="}),
        ("vggtq run resume=f", {"resume=failed"}),
        ("vggtq run dataset=images dataset.pa", {"dataset.path=", "dataset.patch_size="}),
        ("vggtq predict depth=", {"depth=npy", "depth=png16"}),
        ("vggtq predict over", {"overwrite="}),
        ("vggtq bench ", {"kernels", "frames", "cuda", "quantizing"}),
        ("vggtq export overwrite=", {"overwrite=true", "overwrite=false"}),
        ("vggtq export scheme=fp8", {"scheme=fp8"}),
        ("vggtq train pool.sc", {"pool.scenes="}),
        ("vggtq train evaluate dataset=r", {"dataset=rooms"}),
        ("vggtq nothing x", set()),
    ],
)
def test_what_can_follow(line: str, expected: set[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COMP_LINE", line)
    name = handed_over()
    found = answer("query=bash", command(name) if name else None).split()
    assert expected <= set(found) and len(found) == len(set(found))
    assert all(word.startswith(line.split(" ")[-1]) for word in found)
    if not line.endswith(" "):
        assert set(found) == expected


def test_bash_completes_at_a_tab(tmp_path: Path) -> None:
    if shutil.which("bash") is None:
        pytest.skip("needs bash")
    shim = tmp_path / "vggtq"
    shim.write_text(SHIM)
    shim.chmod(0o755)
    program = """
eval "$(vggtq run -sc install=bash)"
complete -p vggtq
for COMP_LINE in "vggtq pre" "vggtq run scheme=int4" "vggtq predict depth=p"; do
    COMP_POINT=${#COMP_LINE}
    _vggtq
    echo "${COMPREPLY[@]}"
done
eval "$(vggtq run -sc uninstall=bash)"
complete -p vggtq 2>/dev/null || echo none
"""
    env = os.environ | {"PATH": f"{tmp_path}{os.pathsep}{os.environ['PATH']}"}
    done = subprocess.run(["bash", "-c", program], env=env, capture_output=True, text=True, check=True)
    lines = done.stdout.splitlines()
    # What follows the last = is what bash replaces.
    assert lines[1:] == ["predict", "int4_group", "png16", "none"], done.stdout + done.stderr
    assert lines[0].endswith("-F _vggtq vggtq")
    assert answer("install=bash", None) == SCRIPT


def test_another_shell_is_told_what_there_is() -> None:
    done = vggtq("-sc", "install=tcsh")
    assert done.returncode == 1 and "completion is for bash" in done.stderr
    assert vggtq("run", "-sc", "install=tcsh").stderr == done.stderr
