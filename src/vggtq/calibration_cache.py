"""Calibration statistics on disk, so that the same recipe is calibrated once.

An entry holds the layers of one group. Its identity is everything that its numbers depend on: the weights, the samples in their
order, all code of this package and of the network, the machine, and, once a layer before it has been quantized, the whole
scheme and which layers those were. So the first group serves all schemes, every later one only its own; nothing can go stale.
"""

import hashlib
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from vggtq.baseline import code_digest, numeric_machine
from vggtq.models.loading import LoadedModel
from vggtq.quant.calibration import Group, InputStatistics, Statistics
from vggtq.quant.scheme import Scheme
from vggtq.source_code import package_digest
from vggtq.tensor_cache import TensorCache

VECTORS = ("mean_abs", "largest", "special", "ordinary")


class CalibrationCache:
    """The cache of one run. cached, computed: groups that came from the disk, and others."""

    def __init__(
        self, model: LoadedModel, settings: str, samples_sha256: str, scheme: Scheme, folder: Path | None
    ) -> None:
        code = code_digest(model.module)
        self._cache = TensorCache(folder if code else None, "calibration statistics")
        self.cached = self.computed = 0
        self._rotated = scheme.scales_rotated
        self._scheme = {key: value for key, value in asdict(scheme).items() if key != "name"}
        self._identity = {
            "what": "calibration",
            "fingerprint": model.weights.fingerprint,
            "settings": hashlib.sha256(settings.encode()).hexdigest(),
            "samples": samples_sha256,
            "code": [code, package_digest()],
        }

    @property
    def notes(self) -> list[str]:
        return self._cache.notes

    def get(self, group: Group, compute: Callable[[], Statistics], device: torch.device) -> Statistics:
        """The statistics of a group, on `device`."""
        identity = self._identity | {
            "layers": list(group.names),
            "before": list(group.before),
            "scheme": self._scheme if group.before else None,
            "rotated": self._rotated,
            "machine": numeric_machine(device),
        }
        tensors, cached = self._cache.get(identity, lambda: _tensors(compute()))
        self.cached += cached
        self.computed += not cached
        return {name: _statistics(name, tensors, device) for name in group.names}

    def describe(self) -> dict[str, Any]:
        """For the record's `calibration`."""
        return {"cached": self.cached, "computed": self.computed}


def _tensors(statistics: Statistics) -> dict[str, Tensor]:
    """Gram matrices by their upper triangles: they are symmetric, and large."""
    tensors = {}
    for name, found in statistics.items():
        rows, columns = torch.triu_indices(*found.gram.shape, device=found.gram.device)
        tensors[f"{name}.gram"] = found.gram[rows, columns]
        tensors[f"{name}.rows"] = torch.tensor([found.rows, found.rotation])
        tensors |= {f"{name}.{key}": getattr(found, key) for key in VECTORS}
    return tensors


def _statistics(name: str, tensors: dict[str, Tensor], device: torch.device) -> InputStatistics:
    mean_abs, largest, special, ordinary = (tensors[f"{name}.{key}"].to(device) for key in VECTORS)
    width = len(mean_abs)
    rows, columns = torch.triu_indices(width, width, device=device)
    gram = torch.empty(width, width, device=device)
    gram[rows, columns] = gram[columns, rows] = tensors[f"{name}.gram"].to(device)
    seen, rotation = tensors[f"{name}.rows"].tolist()
    return InputStatistics(gram, mean_abs, largest, seen, special, ordinary, rotation)
