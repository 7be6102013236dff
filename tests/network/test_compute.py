"""Dense heads and scaled dot products in bfloat16: in every family, by CPU, in records, labels and artifacts."""

from pathlib import Path

import pytest
import torch
from torch import nn

import vggtq
from helpers.family import OVERRIDES
from vggtq import artifact
from vggtq.config.compose import compose
from vggtq.config.validate import validated
from vggtq.errors import ConfigError
from vggtq.models.loading import LoadedModel
from vggtq.quant.scheme.activations import Activations
from vggtq.quant.scheme.scheme import Scheme
from vggtq.quant.scheme.weights import Weights
from vggtq.quant.walk import computing
from vggtq.quant.walk.computing import resolved_compute
from vggtq.quant.walk.quantize import quantize_

CPU = torch.device("cpu")
EXACT = Weights("float32", 32, granularity="none")
FAMILIES = {
    "vggt": ("depth_head", "point_head"),
    "pi3": ("point_head", "conf_head"),
    "pi3x": ("point_head", "conf_head"),
    "vggt_omega": ("dense_head",),
}


def loaded(family: str) -> LoadedModel:
    config = validated(compose([*OVERRIDES[family], "model.source=null", "dataset=rooms"]))
    return config.model.load(CPU)


@pytest.mark.parametrize("family", FAMILIES)
def test_dense_heads_multiply_in_bfloat16_and_hand_on_float32(family: str) -> None:
    model = loaded(family)
    size = model.module.patch_size * 2
    images = torch.rand(2, 3, size, size, generator=torch.Generator().manual_seed(0))
    exact = model.predict(images)
    result = quantize_(model.module, Scheme("fp32", EXACT, compute="bfloat16"))
    assert result.compute == "bfloat16"
    assert result.notes[-1] == f"{len(FAMILIES[family])} dense heads multiply in bfloat16"
    types: dict[str, set[torch.dtype]] = {"heads": set(), "norms": set()}
    for name, module in model.module.named_modules():
        if name.startswith(FAMILIES[family]) and isinstance(module, nn.Conv2d | nn.Linear):
            module.register_forward_hook(lambda *call: types["heads"].add(call[2].dtype))
        if isinstance(module, nn.LayerNorm) and "block" in name:
            module.register_forward_hook(lambda *call: types["norms"].add(call[2].dtype))
    found = model.predict(images)
    assert types == {"heads": {torch.bfloat16}, "norms": {torch.float32}}
    for name, value in exact.items():
        assert found[name].dtype == torch.float32
        assert (found[name] - value).norm() <= 0.05 * value.norm() + 1e-3, name
    assert not torch.equal(found["depth"], exact["depth"])
    quantize_(model.module, Scheme("fp32", EXACT, compute="float32"))
    assert torch.equal(model.predict(images)["depth"], exact["depth"])


@pytest.mark.parametrize("multiplies", [True, False])
def test_the_default_follows_the_cpu(multiplies: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(computing, "has_bf16", lambda device: multiplies)
    rounded = Scheme("w8a8", Weights(), activations=Activations("dynamic"))
    assert resolved_compute(rounded, CPU) == ("bfloat16" if multiplies else "float32")
    for scheme in (
        Scheme("fp32", EXACT),
        Scheme("int8", Weights()),
    ):  # compared with FP32 for their weights alone
        assert resolved_compute(scheme, CPU) == "float32"
    assert resolved_compute(rounded, torch.device("cuda")) == "float32"
    assert resolved_compute(Scheme("int8", Weights(), compute="bfloat16"), CPU) == "bfloat16"


@pytest.mark.parametrize(
    ("attention", "problem", "runs"),
    [
        ("float32", None, "bfloat16"),
        ("float16", None, "float16"),
        ("int8", None, "int8"),
        ("int8", "none", "bfloat16"),
    ],
)
def test_scaled_dot_products_follow_unless_the_scheme_says_otherwise(
    attention: str, problem: str | None, runs: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(computing, "int8_problem", lambda device: problem)
    model = loaded("vggt").module
    scheme = Scheme("w8a8", Weights(), attention=attention, compute="bfloat16")
    notes = computing.choose_computing_(model, scheme, CPU, loaded=True)
    assert model.aggregator.frame_blocks[0].attn.attention_dtype == getattr(torch, runs)
    assert f"run in {runs}" in notes[0]
    assert notes[1] == "2 dense heads multiply in bfloat16"


def test_labels_tell_and_an_unknown_dtype_is_refused() -> None:
    assert Scheme("int8", Weights(), compute="bfloat16").label == "INT8 per-channel symmetric, rest BF16"
    assert Scheme("int8", Weights(), compute="float32").label == Scheme("int8", Weights()).label
    with pytest.raises(ConfigError, match=r"scheme\.compute=float16 is not one of auto, float32, bfloat16"):
        Scheme(compute="float16")


def test_an_artifact_brings_it_back(tmp_path: Path) -> None:
    model = loaded("vggt")
    scheme = Scheme("int8", Weights(), compute="bfloat16")
    result = quantize_(model.module, scheme)
    path = tmp_path / "model.safetensors"
    artifact.save(model.module, path, scheme, result, model.weights, model_identity(model))
    images = torch.rand(2, 3, 28, 28, generator=torch.Generator().manual_seed(0))
    again = vggtq.load(path)
    assert again.quantization.compute == "bfloat16"
    assert torch.equal(again.predict(images)["depth"], model.predict(images)["depth"])


def model_identity(model: LoadedModel) -> dict[str, object]:
    return validated(compose([*OVERRIDES["vggt"], "model.source=null", "dataset=rooms"])).model.identity()
