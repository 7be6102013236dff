"""Files that are damaged, foreign, tampered with or incomplete are refused with a reason."""

import json
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import nn

import vggtq
from helpers.artifacts import NOWHERE, config, quantized
from vggtq import artifact
from vggtq.errors import QuantizationError, WeightsError
from vggtq.quant.scheme.parts import Layers
from vggtq.quant.scheme.scheme import Scheme
from vggtq.quant.walk.quantize import quantize_
from vggtq.quant.walk.stored import round_rest_


@given(position=st.floats(0, 1, exclude_max=True), keep=st.booleans())
@settings(max_examples=40)
def test_a_changed_or_truncated_file_is_never_loaded(
    tmp_path_factory: pytest.TempPathFactory, position: float, keep: bool
) -> None:
    """keep: one byte is changed; otherwise the file ends there."""
    path = tmp_path_factory.mktemp("artifact") / "model.safetensors"
    net = nn.Sequential(nn.Linear(8, 8), nn.LayerNorm(8))
    scheme = Scheme(layers=Layers(skip_first_last=False))
    artifact.save(net, path, scheme, quantize_(net, scheme), NOWHERE)
    content = bytearray(path.read_bytes())
    at = int(position * len(content))
    if keep:
        content[at] ^= 0x11
    path.write_bytes(content if keep else content[:at])
    with pytest.raises(WeightsError, match=path.stem):
        vggtq.load_into_(nn.Sequential(nn.Linear(8, 8), nn.LayerNorm(8)), path)


def _rewritten(file: Path, **changes: str) -> Path:
    """The same tensors under other metadata."""
    with safe_open(file, "pt") as stream:
        metadata = stream.metadata()
    save_file(load_file(file), file, metadata | changes)
    return file


def test_foreign_files_are_refused_with_a_reason(tmp_path: Path, file: Path) -> None:
    with pytest.raises(WeightsError, match=r"no such file.*vggtq export"):
        vggtq.load(tmp_path / "absent.safetensors")
    plain = tmp_path / "plain.safetensors"
    save_file({"weight": torch.zeros(2, 2)}, plain)
    with pytest.raises(WeightsError, match=r"not a quantized model.*vggtq export"):
        vggtq.load(plain)
    (tmp_path / "text.safetensors").write_text("no tensors")
    with pytest.raises(WeightsError, match="not a safetensors file"):
        vggtq.load(tmp_path / "text.safetensors")
    with pytest.raises(WeightsError, match=r"artifact format 99.*reads 1 to 4"):
        vggtq.load(_rewritten(file, format_version="99"))


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda h: h["model"].update(family="os.system"), "cannot be built"),
        (lambda h: h["model"]["architecture"]["aggregator"].update(depth=10**9), "cannot be built"),
        (lambda h: h["model"]["architecture"]["dpt"].update(features=8), "another network"),
        (lambda h: h["scheme"].update(_target_="os.system"), "header"),
        (lambda h: h["layers"][0].update(name="nowhere"), "another network"),
        (lambda h: h["layers"][0]["weights"].update(bits=99), "header"),
        (lambda h: h.update(rest="object"), "header"),
        (lambda h: h["scheme"].update(name="better"), "digest"),
        (lambda h: h.pop("weights"), "header"),
    ],
)
def test_a_tampered_header_is_refused(file: Path, change: object, reason: str) -> None:
    with safe_open(file, "pt") as stream:
        header = json.loads(stream.metadata()["vggtq"])
    change(header)  # type: ignore[operator]
    with pytest.raises(WeightsError, match=reason):
        vggtq.load(_rewritten(file, vggtq=json.dumps(header, sort_keys=True)))


def test_missing_and_additional_tensors_are_named(file: Path) -> None:
    with safe_open(file, "pt") as stream:
        metadata = stream.metadata()
    tensors = load_file(file)
    save_file(tensors | {"extra": torch.zeros(1)}, file, metadata)
    with pytest.raises(WeightsError, match="extra is unknown"):
        vggtq.load(file)
    del tensors["aggregator.camera_token"]
    save_file(tensors, file, metadata)
    with pytest.raises(WeightsError, match=r"aggregator\.camera_token is missing"):
        vggtq.load(file)


def test_a_rest_that_would_change_the_outputs_is_refused(tmp_path: Path) -> None:
    settings_ = config("scheme=int4_group")
    loaded, twin, result = quantized(settings_)
    path = tmp_path / "model.safetensors"
    with pytest.raises(WeightsError, match="round_rest_"):
        artifact.save(twin, path, settings_.scheme, result, loaded.weights, rest="float16")
    assert list(tmp_path.iterdir()) == []
    before = loaded.module.aggregator.camera_token.clone()
    round_rest_(twin, "float16")
    assert torch.equal(loaded.module.aggregator.camera_token, before), "the float model shares its tensors"
    twin.aggregator.camera_token = nn.Parameter(torch.full_like(before, 1e6))
    with pytest.raises(QuantizationError, match=r"camera_token.*1e\+06.*rest=bfloat16"):
        round_rest_(twin, "float16")
