"""What a record says of a scheme, a model, its layers, its bytes and its images: plain values for JSON."""

import hashlib
import math
from collections import Counter
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from vggtq.quant.scheme import Scheme

if TYPE_CHECKING:
    from torch import nn

    from vggtq.data.scene import Scene
    from vggtq.models.loading import LoadedModel
    from vggtq.quant.quantize import Quantization


def describe_scheme(scheme: Scheme) -> dict[str, Any]:
    """The record's `scheme`: what tables say of it."""
    inputs = scheme.activations
    rounded, static = inputs.mode != "none", inputs.mode == "static"
    return {
        "name": scheme.name,
        "label": scheme.label,
        "family": scheme.family,
        **asdict(scheme.weights),
        **({} if scheme.mixed.mean_bits is None else {"bits": None}),
        "mean_bits": scheme.mixed.mean_bits,
        "activation_bits": inputs.bits if rounded else None,
        "attention": scheme.attention,
        "activations": {
            "mode": inputs.mode,
            "granularity": inputs.scale_granularity,
            "symmetric": inputs.symmetric if rounded else None,
            "observer": inputs.observer if static else None,
            "percentile": inputs.percentile if inputs.observer == "percentile" else None,
        },
    }


def describe_model(name: str, model: "LoadedModel") -> dict[str, Any]:
    """The record's `model`."""
    weights = model.weights
    return {
        "name": name,
        "weights": "random" if weights.random else weights.kind,
        "source": weights.source,
        "revision": weights.revision,
        "commit": weights.commit,
        "fingerprint": weights.fingerprint,
        "licence": weights.license,
        "parameters": sum(p.numel() for p in model.module.parameters()),
    }


def describe_layers(quantization: "Quantization") -> dict[str, Any]:
    """layers, fused, kept, backends and simulated of the record."""
    layers = []
    for layer in quantization.layers:
        entry = {k: v for k, v in asdict(layer).items() if k not in ("weights", "weight_notes")} | asdict(
            layer.weights
        )
        layers.append(entry | {"exact": math.isinf(layer.weight_sqnr_db)})
    return {
        "layers": layers,
        "fused": quantization.fused,
        "kept": [asdict(kept) for kept in quantization.kept],
        "backends": dict(Counter(layer.backend for layer in quantization.layers)),
        "simulated": any(layer.simulated for layer in quantization.layers),
    }


def describe_size(
    original: "nn.Module", twin: "nn.Module", quantization: "Quantization", rest: str
) -> dict[str, Any]:
    """The record's `size`. rest: the dtype in which unquantized tensors are stored."""
    import torch

    from vggtq.quant.size import resident_bytes, stored_bytes

    parameters = sum(p.numel() for p in original.parameters())
    stored = stored_bytes(twin, getattr(torch, rest))
    return {
        "stored_bytes": stored,
        "resident_bytes": resident_bytes(twin),
        "float32_bytes": 4 * parameters,
        "float16_bytes": 2 * parameters,
        "compression_vs_fp32": 4 * parameters / stored,
        "compression_vs_fp16": 2 * parameters / stored,
        "bits_per_weight": 8 * stored / parameters,
        "quantized_layers": len(quantization.layers),
        "quantized_parameters": sum(layer.float32_bytes // 4 for layer in quantization.layers),
        "parameters": parameters,
    }


def describe_scene(scene: "Scene") -> dict[str, Any]:
    """One entry of the record's `dataset.scenes`."""
    return {
        "name": scene.name,
        "frames": len(scene.images),
        "size": list(scene.images.shape[-2:]),
        "images_sha256": hashlib.sha256(scene.images.contiguous().numpy().tobytes()).hexdigest(),
        "files": [asdict(file) for file in scene.files],
        "notes": list(scene.notes),
    }
