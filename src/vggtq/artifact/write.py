"""Writes a quantized network as one safetensors file."""

import errno
import json
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from vggtq.artifact.header import (
    FORMAT_VERSION,
    KEY,
    WITH_PLUGINS,
    Header,
    LayerEntry,
    as_json,
    checked_path,
    file_digest,
)
from vggtq.errors import DiskFull, WeightsError
from vggtq.files.tensors import write_safetensors
from vggtq.models.checkpoints.fingerprint import WeightsInfo, tensor_digest
from vggtq.plugins import plugins_described
from vggtq.quant.scheme.scheme import Scheme
from vggtq.quant.walk.described import Quantization
from vggtq.quant.walk.stored import quantized_layers, rest_tensors, stored_tensors, weight_layer


@dataclass(frozen=True)
class Saved:
    """A written artifact. stored_bytes: its tensors; file_bytes adds the header."""

    path: Path
    file_bytes: int
    stored_bytes: int
    digest: str


def save(
    module: nn.Module,
    path: Path | str,
    scheme: Scheme,
    quantization: Quantization,
    weights: WeightsInfo,
    model: dict[str, Any] | None = None,
    rest: str = "float32",
) -> Saved:
    """Writes a quantized network. `model`: its ModelConfig.identity, without which only `load_into_` reads the file.

    With rest=float16 or bfloat16 call `round_rest_` first, so that the file computes what the network computes. Raises
    WeightsError where it would not, and for a path that does not end in .safetensors.
    """
    path = checked_path(path)
    tensors = _as_stored(module, getattr(torch, rest))
    plugins = tuple(plugins_described())
    header = Header(model, weights, scheme, rest, _layer_entries(module, quantization), plugins=plugins)
    text = json.dumps(as_json(header), sort_keys=True, allow_nan=False)
    digest = file_digest(text, {name: tensor_digest(tensor) for name, tensor in tensors.items()})
    version = WITH_PLUGINS if plugins else FORMAT_VERSION
    metadata = {"format": "pt", KEY: text, "format_version": str(version), "sha256": digest}
    try:
        size = write_safetensors(path, tensors, metadata)
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT):
            raise
        needed = sum(t.nbytes for t in tensors.values()) / 2**20
        raise DiskFull(
            f"{path}: {error.strerror}, {needed:.0f} MiB are needed; free some space or choose another place"
        ) from error
    return Saved(path, size, sum(t.nbytes for t in tensors.values()), digest)


def _as_stored(module: nn.Module, rest: torch.dtype) -> dict[str, Tensor]:
    """The tensors of the file, unquantized ones in `rest`."""
    tensors = stored_tensors(module)
    for name, tensor in rest_tensors(module).items():
        if tensor.is_floating_point():
            tensors[name] = tensor.detach().to(rest)
            if not torch.equal(tensors[name].to(tensor.dtype), tensor):
                raise WeightsError(
                    f"{name}: {str(rest).removeprefix('torch.')} cannot hold its values; call round_rest_ before saving"
                )
    return tensors


def _layer_entries(module: nn.Module, quantization: Quantization) -> tuple[LayerEntry, ...]:
    owners = {layer.weight_id: name for name, layer in quantized_layers(module)}
    return tuple(
        LayerEntry(
            name=layer.name,
            codes=owners[quantized.weight_id],
            columns=quantized.in_features,
            weights=layer.weights,
            sqnr_db=None if math.isinf(layer.weight_sqnr_db) else layer.weight_sqnr_db,
            notes=layer.weight_notes,
            rotation=layer.rotation,
            merged=layer.merged,
            rotation_first=layer.rotation_first,
        )
        for layer in quantization.layers
        for quantized in [weight_layer(module, layer.name)]
    )
