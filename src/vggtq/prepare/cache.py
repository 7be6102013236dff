"""Results that later runs need not compute again, in subfolders of the folder `cache`, one for each `Kind`.

The identity of an entry is everything that its numbers depend on: the weights, the settings and the code of the
network, the packages of vggtq that compute it, the machine, and the additions of each kind. Another identity is
another entry, so nothing can go stale.
"""

import hashlib
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from torch import Tensor

from vggtq.files.cache import TensorCache
from vggtq.machine.identity import code_digest, numeric_machine
from vggtq.machine.source_code import digest_of_packages
from vggtq.models.loading import LoadedModel, ModelConfig
from vggtq.quant.methods.statistics import InputStatistics, Statistics
from vggtq.quant.scheme.scheme import Scheme
from vggtq.quant.walk.observe import Group

VECTORS = ("mean_abs", "largest", "special", "ordinary")


@dataclass(frozen=True)
class Kind:
    """The content of one subfolder. packages: of vggtq, all whose code can change the numbers. limit_bytes: of
    the subfolder.
    """

    folder: str
    content: str
    packages: tuple[str, ...]
    limit_bytes: int | None = None


OUTPUTS = Kind("baseline", "FP32 outputs", ("models", "network"))
# A recipe of VGGT-1B takes 3.5 GB, one of vggt_mini 25 MB.
STATISTICS = Kind(
    "calibration", "calibration statistics", ("models", "network", "prepare", "quant"), limit_bytes=2**32
)
SENSITIVITIES = Kind("sensitivity", "sensitivities", ("metrics", "models", "network", "prepare", "quant"))
TRAININGS = Kind("finetune", "fine-tunings", ("models", "network", "prepare", "quant"))


def cache_of(kind: Kind, place: str | None, settings: ModelConfig, model: LoadedModel) -> TensorCache:
    """The cache of one model on its device. place: the folder of all kinds, None for none.

    settings: the options that made the network; they contain everything besides its weights that shapes it.
    """
    code = code_digest(model.module)
    # Without its code, a changed network cannot be distinguished from an unchanged one.
    folder = Path(place) / kind.folder if place and code else None
    identity = {
        "what": kind.folder,
        "fingerprint": model.weights.fingerprint,
        # A digest, so that paths of this machine stay out of files.
        "settings": hashlib.sha256(repr(settings).encode()).hexdigest(),
        "code": [code, digest_of_packages(*kind.packages)],
        "machine": numeric_machine(next(iter(model.module.parameters())).device),
    }
    cache = TensorCache(folder, kind.content, identity, kind.limit_bytes)
    if place and not code:
        cache.notes.append(f"the network's source code is not in files, so its {kind.content} are not cached")
    return cache


class CalibrationCache:
    """The statistics of one recipe, an entry for each group of layers.

    Once a layer before a group has been quantized, the scheme and the names of those layers belong to the identity. So the
    first group serves all schemes, every later one only its own. cached, computed: groups that came from the disk, and others.
    """

    def __init__(self, cache: TensorCache, samples_sha256: str, scheme: Scheme) -> None:
        self._cache, self._samples = cache, samples_sha256
        self.cached = self.computed = 0
        self._rotated = scheme.scales_rotated
        self._scheme = {key: value for key, value in asdict(scheme).items() if key != "name"}

    def get(self, group: Group, compute: Callable[[], Statistics], device: torch.device) -> Statistics:
        """The statistics of a group, on `device`."""
        identity = {
            "samples": self._samples,
            "layers": list(group.names),
            "before": list(group.before),
            "scheme": self._scheme if group.before else None,
            "rotated": self._rotated,
        }
        tensors, cached = self._cache.get(identity, lambda: _tensors(compute()))
        self.cached += cached
        self.computed += not cached
        return {name: _statistics(name, tensors, device) for name in group.names}


def _tensors(statistics: Statistics) -> dict[str, Tensor]:
    """Gram matrices by their upper triangles: they are symmetric, and large."""
    tensors = {}
    for name, layer in statistics.items():
        rows, columns = torch.triu_indices(*layer.gram.shape, device=layer.gram.device)
        tensors[f"{name}.gram"] = layer.gram[rows, columns]
        tensors[f"{name}.rows"] = torch.tensor([layer.rows, layer.rotation])
        tensors |= {f"{name}.{key}": getattr(layer, key) for key in VECTORS}
    return tensors


def _statistics(name: str, tensors: dict[str, Tensor], device: torch.device) -> InputStatistics:
    mean_abs, largest, special, ordinary = (tensors[f"{name}.{key}"].to(device) for key in VECTORS)
    width = len(mean_abs)
    rows, columns = torch.triu_indices(width, width, device=device)
    gram = torch.empty(width, width, device=device)
    gram[rows, columns] = gram[columns, rows] = tensors[f"{name}.gram"].to(device)
    count, rotation = tensors[f"{name}.rows"].tolist()
    return InputStatistics(gram, mean_abs, largest, count, special, ordinary, rotation)
