"""Memory of a model in a process of its own: against the system's own account of a child process, and within a run."""

import json
import resource
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

from helpers.command import vggtq
from helpers.runs import recorded
from vggtq import artifact
from vggtq.config.compose import compose
from vggtq.config.validate import validated
from vggtq.files.tensors import write_safetensors
from vggtq.quant.scheme.activations import Activations
from vggtq.quant.scheme.scheme import Scheme
from vggtq.quant.scheme.weights import Weights
from vggtq.quant.walk.quantize import Quantization, quantize_
from vggtq.run import fresh_memory
from vggtq.run.peak_memory import read_images

MIB = 2**20


@pytest.fixture(scope="module")
def large(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An artifact of over 100 MiB, so that its weights stand out from what torch itself takes."""
    wide = "model.architecture.aggregator={img_size:56,embed_dim:768,depth:4,num_heads:2}"
    small = [f"model.architecture.{part}" for part in (
        "patch_embed={img_size:56,embed_dim:768,depth:1,num_heads:2}",
        "camera_head={trunk_depth:1,num_heads:4}",
        "dpt={features:16,out_channels:[8,8,16,16],intermediate_layer_idx:[0,1,2,3]}",
    )]  # fmt: skip
    config = validated(compose(["model=vggt_small", "model.image_size=56", wide, *small]))
    model = config.model.load(torch.device("cpu"))
    path = tmp_path_factory.mktemp("large") / "model.safetensors"
    identity = config.model.identity()
    artifact.save(model.module, path, fresh_memory.FLOAT32, Quantization(), model.weights, identity)
    assert path.stat().st_size > 100 * MIB
    return path


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("images") / "images.safetensors"
    write_safetensors(path, {"images": torch.rand(2, 3, 56, 56)}, {})
    return path


def measured(model: Path, images: Path, *more: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "vggtq.run.peak_memory", f"model={model}", f"images={images}", *more]
    return subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)


@pytest.fixture(scope="module")
def found(large: Path, images: Path) -> dict[str, Any]:
    """What is told of the large model in float32."""
    done = measured(large, images, "threads=1")
    assert done.returncode == 0, done.stderr
    told: dict[str, Any] = json.loads(done.stdout)
    return told


def test_the_weights_are_in_the_peak_and_nothing_is_hidden(large: Path, found: dict[str, Any]) -> None:
    weights = large.stat().st_size
    assert found["rss_loaded_bytes"] - found["rss_before_load_bytes"] == pytest.approx(weights, rel=0.25)
    assert found["load_peak_rss_bytes"] >= found["rss_loaded_bytes"] - MIB
    assert found["peak_rss_bytes"] == max(found["load_peak_rss_bytes"], found["predict_peak_rss_bytes"])
    # The kernel's account of the largest child: an independent clock of the same peak.
    largest = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss * 1024
    assert found["peak_rss_bytes"] <= 1.03 * largest  # kernels count pages in batches
    assert found["peak_rss_bytes"] > weights
    assert found["cuda_peak_bytes"] is None
    assert found["load_seconds"] > 0 and found["predict_seconds"] > 0


def test_bfloat16_weights_take_less_once_loaded(large: Path, images: Path, found: dict[str, Any]) -> None:
    half = json.loads(measured(large, images, "threads=1", "precision=bfloat16").stdout)
    assert half["rss_loaded_bytes"] < found["rss_loaded_bytes"] - 0.3 * large.stat().st_size


def test_what_kernels_lay_out_anew_does_not_stay_beside_the_weights(large: Path, images: Path) -> None:
    model = artifact.load(large)
    scheme, path = Scheme("int8_dynamic", Weights(), Activations("dynamic")), large.with_stem("int8")
    quantization = quantize_(model.module, scheme)
    artifact.save(model.module, path, scheme, quantization, model.weights, model.header.model)
    found = json.loads(measured(path, images, "threads=1").stdout)
    resident = found["rss_loaded_bytes"] - found["rss_before_load_bytes"]
    # Beside the file some 20 MiB of libraries; as much again as the weights was there before free memory was given back.
    assert resident < 1.5 * path.stat().st_size


def test_a_folder_of_photographs_is_read_at_the_model_s_size(large: Path, tmp_path: Path) -> None:
    for i in range(2):
        Image.new("RGB", (120, 80), (40 * i, 90, 10)).save(tmp_path / f"{i}.png")
    assert read_images(tmp_path, large).shape == (2, 3, 42, 56)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"model": "nothing.safetensors"}, "nothing.safetensors: no such file"),
        ({"images": "nothing"}, "nothing"),
        ({"precision": "float8"}, "precision=float8 is not one of float32, bfloat16"),
    ],
    ids=lambda value: str(value),
)
def test_mistakes_are_one_line(
    change: dict[str, str], message: str, large: Path, images: Path, tmp_path: Path
) -> None:
    options = {"model": str(large), "images": str(images)} | change
    done = vggtq(tmp_path, *(f"{k}={v}" for k, v in options.items()), module="vggtq.run.peak_memory")
    assert done.returncode == 1
    assert done.stderr.startswith("error: ") and message in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1


def test_a_run_measures_both_models_and_fp32_only_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    started: list[str] = []
    original = fresh_memory.measure_in_process

    def counted(model: Path, *rest: Any, **named: Any) -> fresh_memory.Numbers:
        started.append(artifact.read_header(model).scheme.name)
        return original(model, *rest, **named)

    monkeypatch.setattr(fresh_memory, "measure_in_process", counted)
    overrides = ("fresh_memory=true", f"cache={tmp_path / 'cache'}")
    first = recorded(tmp_path / "a", *overrides, "scheme=int8_symmetric")["memory"]
    second = recorded(tmp_path / "b", *overrides, "scheme=int4_group", "group_size=32")["memory"]
    assert started == ["int8_symmetric", "fp32", "int4_group"]
    assert (first["reference"].pop("cached"), second["reference"].pop("cached")) == (False, True)
    assert first["reference"] == second["reference"]
    assert first["frames"] == 2 and first["size"] and first["reason"] is None
    for numbers in (first["quantized"], second["quantized"], first["reference"]):
        assert numbers["peak_rss_bytes"] > numbers["rss_before_load_bytes"] > 50 * MIB
    assert not [p for folder in "ab" for p in (tmp_path / folder).glob(".vggtq-*")]


def test_a_measurement_that_dies_leaves_null_and_the_reason(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fresh_memory.sys, "executable", "/bin/false")
    record = recorded(tmp_path, "fresh_memory=true")
    assert record["status"] == "ok"
    memory = record["memory"]
    assert memory["quantized"] is None and memory["reference"] is None
    assert "ended with status 1" in memory["reason"]
