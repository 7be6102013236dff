"""`vggtq export` and runs with save=true: the files that they leave, and mistakes in one line."""

import re
from pathlib import Path

import pytest
import torch

import vggtq
from helpers.runs import TINY, recorded
from vggtq.config.compose import compose
from vggtq.config.validate import validated
from vggtq.export import main


def test_a_run_keeps_the_model_that_it_measured(tmp_path: Path) -> None:
    record = recorded(tmp_path, "scheme=int4_group", "group_size=16", "rest=float16", "save=true")
    path = tmp_path / record["artifact"]["file"]
    assert path.stat().st_size == record["artifact"]["file_bytes"]
    header = 8 + int.from_bytes(path.read_bytes()[:8], "little")
    assert record["size"]["stored_bytes"] == path.stat().st_size - header
    again = vggtq.load(path)
    assert again.header.digest == record["artifact"]["sha256"]
    assert again.weights.fingerprint == record["model"]["fingerprint"]
    recorded(tmp_path, "scheme=int4_group", "group_size=16", "rest=float16")
    assert not path.exists(), "the record no longer speaks of it"


def test_export_from_the_command_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "folder" / "model.safetensors"
    assert main([*TINY, "scheme=int4_group", "group_size=16", f"out={out}"]) == 0
    assert vggtq.load(out).header.label == "INT4 group 16"
    assert main([*TINY, f"out={out}"]) == 1
    assert "overwrite=true" in capsys.readouterr().err
    assert main([*TINY, f"out={out}", "overwrite=true"]) == 0
    assert vggtq.load(out).header.scheme.name == "int8_symmetric"
    assert [path.name for path in out.parent.iterdir()] == [out.name]


def test_the_float_network_can_be_exported_to_compare_with(tmp_path: Path) -> None:
    out = tmp_path / "fp32.safetensors"
    assert main([*TINY, "scheme=fp32", f"out={out}"]) == 0
    loaded = vggtq.load(out)
    assert not loaded.header.layers
    given = validated(compose([*TINY, "scheme=fp32"])).model.load(torch.device("cpu"))
    images = torch.rand(2, 3, 56, 56, generator=torch.Generator().manual_seed(0))
    expected, found = given.predict(images), loaded.predict(images)
    assert expected.keys() == found.keys()
    assert all(torch.equal(expected[key], found[key]) for key in expected)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["scheme=int4_group"], "out is missing; name the file"),
        (["out=model.bin"], r"try model\.safetensors"),
        (["out=model.safetensors", "scheme=int4"], "did you mean int4_group"),
        (["out=model.safetensors", "scheem=int4_group"], "did you mean scheme"),
        (["out=model.safetensors", "rest=half"], "rest=half is not one of"),
        (["out=model.safetensors", "model.source=absent.safetensors"], "no such weights file"),
    ],
)
def test_mistakes_on_the_command_line_are_told_in_one_line(
    arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(arguments) == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert re.search(message, line)
