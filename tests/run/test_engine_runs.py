"""Runs whose quantized model is in another engine."""

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from helpers.runs import recorded_of
from vggtq.config.compose import compose
from vggtq.config.names import config_hash, plain
from vggtq.config.validate import Job, composed
from vggtq.engines.exporting import ExportedFile
from vggtq.errors import ConfigError, MissingExtraError
from vggtq.export import main as export
from vggtq.quant.kernels.cpu.onednn_int8 import onednn_activation_bits
from vggtq.quant.walk.stored import stored_tensors

pytest.importorskip("onnxruntime")
pytest.importorskip("openvino")

# One block and no dense head: torch.export takes most of the time, and it grows with the layers. The position table is that
# of 280 pixels, too large for the exporter to shrink it by itself.
SMALLEST = [
    *("dataset=rooms", "dataset.size=[28,42]", "dataset.count=1", "dataset.frames=2", "model=vggt_small"),
    *("model.image_size=28", "device=cpu", "device.threads=1", "cache=null", "picture_frames=0"),
    "model.architecture.aggregator={img_size:280,embed_dim:32,depth:1,num_heads:2}",
    "model.architecture.patch_embed={img_size:280,embed_dim:32,depth:1,num_heads:2}",
    "model.architecture.camera_head={trunk_depth:1,num_heads:2}",
    "+model.architecture.camera_head.num_iterations=1",
    "model.architecture.dpt={features:16,out_channels:[8,8,16,16],intermediate_layer_idx:[0,0,0,0]}",
    "+model.architecture.heads={point:false,depth:false}",
]


def run(folder: Path, *overrides: str) -> dict[str, Any]:
    return recorded_of(Job(compose([*SMALLEST, *overrides])), folder)


def test_a_run_in_openvino_has_that_engines_numbers(tmp_path: Path) -> None:
    """OpenVINO would shrink the position table without the low-pass filter."""
    bits = ("scheme=mixed_precision", "group_size=16")
    record = run(tmp_path, "engine=openvino", *bits, "timing.rounds=2")
    assert record["status"] == "ok", record["error"]
    engine = record["engine"]
    assert engine["name"] == "openvino" and engine["threads"] == 1 and engine["file_bytes"] > 0
    assert engine["arithmetic"] == "weights dequantized, products in float"
    assert set(engine["parity"]) == {"pose_enc"}
    assert all(entry["error"] < 1e-4 < entry["limit"] == 1e-3 for entry in engine["parity"].values())
    assert record["scheme"]["label"].endswith(" in OpenVINO")
    assert record["memory"]["quantized"]["peak_rss_bytes"] > 0
    assert record["fidelity"] is not None
    timed = record["latency"]["references"]
    assert {"fp32", "engine_float"} <= set(timed) and len(timed["engine_float"]["ratios"]) == 2
    assert [path.name for path in tmp_path.iterdir()] == ["result.json"], "no exported file is left"


def test_a_run_in_onnx_runtime_multiplies_integers(tmp_path: Path) -> None:
    if onednn_activation_bits() == 7:
        pytest.skip("ONNX Runtime's int8 products saturate on this CPU")
    quick = ("timing=off", "fresh_memory=false", "preview_scenes=0")
    record = run(tmp_path, "engine=onnxruntime", "scheme=int8_dynamic", *quick)
    assert record["status"] == "ok", record["error"]
    assert record["engine"]["arithmetic"] == "integer products"
    assert record["engine"]["ran"]["MatMulInteger"] > 0


def test_an_export_from_an_artifact_and_one_from_the_checkpoint_are_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The exporter, which takes most of the time, gets the same network and the same recipe."""
    given: list[tuple[nn.Module, str, Path, Tensor, dict[str, str]]] = []

    def take(*arguments: Any, keep: bool) -> ExportedFile:
        assert not keep
        given.append(arguments)
        return ExportedFile(arguments[2], (), "none", {})

    monkeypatch.setattr("vggtq.engines.exporting.export_network", take)
    model = [*(word for word in SMALLEST if word.startswith(("model", "+model", "device"))), "cache=null"]
    scheme = ["scheme=mixed_precision", "group_size=16"]
    stored = tmp_path / "model.safetensors"
    assert export([*model, *scheme, f"out={stored}"]) == 0
    size = ["format=openvino", "image_size=[28,42]"]
    assert export([f"artifact={stored}", *size, f"out={tmp_path / 'artifact.xml'}"]) == 0
    assert export([*model, *scheme, *size, f"out={tmp_path / 'direct.xml'}"]) == 0
    (one, *rest, about), (other, *others, its_own) = given
    assert about == its_own and {"recipe", "fingerprint"} <= about.keys()
    assert rest[0] == others[0] == "openvino" and rest[1].name == "artifact.xml"
    assert rest[2].shape[-2:] == (28, 42) and torch.equal(rest[2], others[2])
    assert [*map(str, one.modules())] == [*map(str, other.modules())]
    tensors, its_tensors = stored_tensors(one), stored_tensors(other)
    assert tensors.keys() == its_tensors.keys()
    assert all(torch.equal(tensor, its_tensors[name]) for name, tensor in tensors.items())


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["format=onnx", "out=model.xml"], "format=onnx writes a .onnx file; use out=model.onnx"),
        (["format=onnx", "out=model.onnx", "image_size=[30,42]"], "multiples of the patch size 14"),
        (["out=model.safetensors", "image_size=[28,42]"], "artifact= and image_size= are for other engines"),
        (
            ["format=tensorrt", "out=model.onnx"],
            "format=tensorrt is not one of safetensors, onnx, openvino, torch_export",
        ),
    ],
)
def test_mistakes_are_told_in_one_line(
    options: list[str],
    said: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    model = [word for word in SMALLEST if word.startswith(("model", "+model"))]
    assert export([*model, *options]) != 0
    (line,) = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error")]
    assert said in line
    assert list(tmp_path.iterdir()) == []


def test_an_engine_is_refused_where_it_cannot_run(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ConfigError, match="device=cuda with engine=openvino"):
        composed([*SMALLEST, "engine=openvino", "device=cuda"])
    with pytest.raises(ConfigError, match="engine=tensorflow is not one of onnxruntime, openvino, torch"):
        composed([*SMALLEST, "engine=tensorflow"])
    monkeypatch.delitem(__import__("sys").modules, "onnxruntime", raising=False)
    monkeypatch.setattr("vggtq.config.schema.find_spec", lambda name: None)
    with pytest.raises(MissingExtraError, match=r"pip install 'vggtq\[onnx\]'"):
        composed([*SMALLEST, "engine=onnxruntime"])


def test_torch_as_the_engine_keeps_the_hash_of_runs_that_had_no_choice() -> None:
    values = plain(compose(SMALLEST))
    older = {key: value for key, value in values.items() if key != "engine"}
    assert config_hash(values) == config_hash(older)
    assert config_hash(plain(compose([*SMALLEST, "engine=openvino"]))) != config_hash(older)
