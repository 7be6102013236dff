"""A record's entries on a scheme, a model, its layers, its bytes and its images."""

import hashlib
import math
from collections import Counter
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from vggtq.quant.scheme.scheme import Scheme
from vggtq.records.of_model import ActivationsEntry, KeptEntry, LayerEntry, ModelEntry, SchemeEntry, SizeEntry
from vggtq.records.of_run import CamerasEntry, SceneEntry, SourceImage
from vggtq.records.schema import Record

if TYPE_CHECKING:
    from torch import nn

    from vggtq.data.scene import Scene
    from vggtq.models.loading import LoadedModel
    from vggtq.quant.walk.described import Quantization


def describe_scheme(scheme: Scheme) -> SchemeEntry:
    """For the record's `scheme`."""
    inputs = scheme.activations
    rounded, static = inputs.mode != "none", inputs.mode == "static"
    numbers: dict[str, Any] = asdict(scheme.weights)
    if scheme.mixed.mean_bits is not None:
        numbers["bits"] = None
    return SchemeEntry(
        name=scheme.name,
        label=scheme.label,
        family=scheme.family,
        **numbers,
        mean_bits=scheme.mixed.mean_bits,
        activation_bits=inputs.bits if rounded else None,
        attention=scheme.attention,
        activations=ActivationsEntry(
            mode=inputs.mode,
            granularity=inputs.scale_granularity,
            symmetric=inputs.symmetric if rounded else None,
            observer=inputs.observer if static else None,
        ),
    )


def describe_model(name: str, model: "LoadedModel") -> ModelEntry:
    """For the record's `model`."""
    weights = model.weights
    return ModelEntry(
        name=name,
        weights="random" if weights.random else weights.kind,
        source=weights.source,
        revision=weights.revision,
        commit=weights.commit,
        fingerprint=weights.fingerprint,
        licence=weights.license,
        parameters=sum(p.numel() for p in model.module.parameters()),
    )


def describe_layers_(record: Record, quantization: "Quantization") -> None:
    """Enters layers, fused, kept, compute, backends and simulated."""
    record.layers = []
    for layer in quantization.layers:
        own = {key: value for key, value in vars(layer).items() if key not in ("weights", "weight_notes")}
        exact = math.isinf(layer.weight_sqnr_db)
        record.layers.append(LayerEntry(**own, **asdict(layer.weights), exact=exact))
    record.fused = quantization.fused
    record.kept = [KeptEntry(kept.name, kept.reason) for kept in quantization.kept]
    record.compute = quantization.compute
    record.backends = dict(Counter(layer.backend for layer in quantization.layers))
    record.simulated = any(layer.simulated for layer in quantization.layers)


def describe_size(
    original: "nn.Module", twin: "nn.Module", quantization: "Quantization", rest: str
) -> SizeEntry:
    """For the record's `size`. rest: the dtype in which unquantized tensors are stored."""
    import torch

    from vggtq.quant.walk.stored import resident_bytes, stored_bytes

    parameters = sum(p.numel() for p in original.parameters())
    stored = stored_bytes(twin, getattr(torch, rest))
    return SizeEntry(
        stored_bytes=stored,
        resident_bytes=resident_bytes(twin),
        float32_bytes=4 * parameters,
        float16_bytes=2 * parameters,
        compression_vs_fp32=4 * parameters / stored,
        compression_vs_fp16=2 * parameters / stored,
        bits_per_weight=8 * stored / parameters,
        quantized_layers=len(quantization.layers),
        quantized_parameters=sum(layer.float32_bytes // 4 for layer in quantization.layers),
        parameters=parameters,
    )


def describe_scene(scene: "Scene") -> SceneEntry:
    """One entry of the record's `dataset.scenes`."""
    return SceneEntry(
        name=scene.name,
        frames=len(scene.images),
        size=list(scene.images.shape[-2:]),
        images_sha256=hashlib.sha256(scene.images.contiguous().numpy().tobytes()).hexdigest(),
        files=[SourceImage(**asdict(file)) for file in scene.files],
        cameras=CamerasEntry(**asdict(scene.cameras)) if scene.cameras else None,
        notes=list(scene.notes),
    )
