"""Fills a network from a checkpoint and says exactly what it now holds: origin, licence, and a hash of its bytes."""

import hashlib
import logging
from collections import Counter
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from fnmatch import fnmatchcase

import torch
from torch import Tensor, nn

from vggtq.errors import WeightsError
from vggtq.models.initialize import initialize_
from vggtq.models.vggt import VGGT
from vggtq.models.weight_files import StoredTensors, TensorReader, open_tensors
from vggtq.models.weight_source import Kind, locate

log = logging.getLogger(__name__)

LICENSES = {
    "package:vggt_mini": "Apache-2.0",
    "facebook/VGGT-1B": "CC BY-NC 4.0 (non-commercial)",
    "facebook/VGGT-1B-Commercial": "VGGT commercial licence (gated; accept it on the hub)",
}
FLOATS = ("float32", "float16", "bfloat16", "float64")
PREFIX = "module."  # left by DataParallel


@dataclass(frozen=True)
class WeightsInfo:
    """Where weights come from; `fingerprint` says what they are."""

    source: str  # repository, file or folder name, never a machine's own path
    kind: Kind
    fingerprint: str
    revision: str | None = None  # as asked for
    commit: str | None = None  # as resolved by the hub
    license: str | None = None
    random: bool = False


def load_weights_(
    model: nn.Module,
    source: str,
    revision: str | None = None,
    expected_dtype: torch.dtype = torch.float32,
    ignore: Sequence[str] = (),
) -> WeightsInfo:
    """Fills `model` from a hub repository, a file or a folder; afterwards it holds `expected_dtype`.

    A model on the meta device is allocated on the CPU. Tensors are read one at a time, so that no second copy of
    the weights is in memory. `ignore`: name patterns of stored tensors that the model may lack. Raises
    WeightsError; names and shapes are checked before the model is touched.
    """
    weights = WeightStream(model, source, revision, expected_dtype, ignore)
    model.to(expected_dtype)
    if any(p.is_meta for p in model.parameters()):
        model.to_empty(device="cpu")
    targets = model.state_dict()
    for name in weights.names:
        targets[name].copy_(weights.get(name))
    weights.close()
    return weights.info(fingerprint(model))


class WeightStream:
    """A checkpoint's tensors by the model's names, read when asked for, so that a few of them are in memory at a time.

    Raises WeightsError when it is made (names and shapes) and when a tensor that is read holds NaN or infinity.
    `names`: in the order of the file, which is the fastest to read in.
    """

    def __init__(
        self,
        model: nn.Module,
        source: str,
        revision: str | None = None,
        dtype: torch.dtype = torch.float32,
        ignore: Sequence[str] = (),
    ) -> None:
        self.license = LICENSES.get(source)
        if self.license:
            log.info("weights of %s, licence: %s", source, self.license)
        self.found = locate(source, revision)
        self.revision, self.dtype = revision, dtype
        if revision and self.found.kind != "hub":
            log.warning(
                "revision %s is ignored: %s is a local %s", revision, self.found.name, self.found.kind
            )
        stored = open_tensors(self.found.path)
        matched = _matched(model, stored, ignore, self.found.name)
        _log_conversion(stored, matched, dtype)
        self._stored_names = {new: old for old, new in matched.items()}
        self._reader = TensorReader(stored)

    @property
    def names(self) -> list[str]:
        return list(self._stored_names)

    def get(self, name: str) -> Tensor:
        """In the dtype asked for, valid until some more have been read."""
        tensor = self._reader.get(self._stored_names[name]).to(self.dtype)
        # NaN propagates through both extremes, so two numbers stand for the whole tensor.
        if not torch.stack(tensor.aminmax()).isfinite().all():
            raise WeightsError(f"{self.found.name}: {name} holds NaN or infinity; the checkpoint is damaged")
        return tensor

    def close(self) -> None:
        self._reader.close()

    def info(self, fingerprint: str) -> WeightsInfo:
        found = self.found
        return WeightsInfo(
            source=found.name,
            kind=found.kind,
            fingerprint=fingerprint,
            revision=self.revision if found.kind == "hub" else None,
            commit=found.commit,
            license=self.license if found.kind in ("hub", "package") else None,
        )


def random_weights_(model: VGGT, seed: int, lively: bool = False) -> WeightsInfo:
    """`initialize_`, described like any other weights."""
    initialize_(model, seed, lively)
    return WeightsInfo(
        f"seed {seed}{', lively' if lively else ''}", "random", fingerprint(model), random=True
    )


def fingerprint(model: nn.Module) -> str:
    """SHA-256 over the sorted state dict: name, dtype, shape and the SHA-256 of the bytes of each tensor."""
    return fingerprint_of({name: t for name, t in model.state_dict().items() if isinstance(t, Tensor)})


def fingerprint_of(tensors: Mapping[str, Tensor]) -> str:
    """The fingerprint of named tensors. Hashing each on its own lets all cores work."""
    with ThreadPoolExecutor() as pool:
        return combined_fingerprint(
            dict(zip(tensors, pool.map(tensor_digest, tensors.values()), strict=True))
        )


def combined_fingerprint(digests: Mapping[str, str]) -> str:
    """The fingerprint of tensors whose `tensor_digest` is known."""
    total = hashlib.sha256()
    for name in sorted(digests):
        total.update(f"{name} {digests[name]}\n".encode())
    return total.hexdigest()


def tensor_digest(tensor: Tensor) -> str:
    """dtype, shape and the SHA-256 of the bytes, as text."""
    # Viewed as bytes, since NumPy knows no bfloat16.
    # A single number counts as contiguous whatever its stride, which a view as bytes does not forgive.
    flat = (
        tensor.detach().cpu().contiguous().reshape(-1).as_strided((tensor.numel(),), (1,)).view(torch.uint8)
    )
    return f"{tensor.dtype} {tuple(tensor.shape)} {hashlib.sha256(flat.numpy().data).hexdigest()}"


def _matched(model: nn.Module, stored: StoredTensors, ignore: Sequence[str], where: str) -> dict[str, str]:
    """Stored name to the model's name of every tensor to load."""
    own = {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()}
    strip = all(name.startswith(PREFIX) for name in stored.layout)
    if strip:
        log.info("%s: removing the prefix %r from all names", where, PREFIX)
    renamed = {name: name.removeprefix(PREFIX) if strip else name for name in stored.layout}
    extra = [name for name in renamed.values() if name not in own]
    unexpected = [name for name in extra if not any(fnmatchcase(name, pattern) for pattern in ignore)]
    if len(extra) > len(unexpected):
        log.info("%s: ignoring %s that the model lacks", where, _tensors(len(extra) - len(unexpected)))
    missing = sorted(own.keys() - set(renamed.values()))
    if missing:
        raise WeightsError(
            f"{where}: {len(missing)} of {_tensors(len(own))} {_are(missing)} missing ({_some(missing)}); "
            "is this a checkpoint of another network or configuration?"
        )
    if unexpected:
        raise WeightsError(
            f"{where}: {_tensors(len(unexpected))} {_are(unexpected)} unknown to the model ({_some(unexpected)}); "
            "is this a checkpoint of another network, or is a head switched off?"
        )
    names = {old: new for old, new in renamed.items() if new in own}
    _check_layout(stored, names, own, where)
    return names


def _check_layout(
    stored: StoredTensors, names: Mapping[str, str], own: Mapping[str, tuple[int, ...]], where: str
) -> None:
    wrong, not_float = [], []
    for old, new in names.items():
        shape, dtype = stored.layout[old]
        if shape != own[new]:
            wrong.append(f"{new} is {shape}, the model needs {own[new]}")
        if dtype not in FLOATS:
            not_float.append(f"{new} is {dtype}")
    if wrong:
        raise WeightsError(
            f"{where}: {_tensors(len(wrong))} {'has' if len(wrong) == 1 else 'have'} another shape "
            f"({_some(wrong)}); check the model's configuration"
        )
    if not_float:
        raise WeightsError(
            f"{where}: {_tensors(len(not_float))} {_are(not_float)} not plain floats ({_some(not_float)}); "
            "give the checkpoint from before quantization"
        )


def _log_conversion(stored: StoredTensors, names: Mapping[str, str], expected: torch.dtype) -> None:
    target = str(expected).removeprefix("torch.")
    counts = Counter(stored.layout[name][1] for name in names)
    for dtype, count in counts.items():
        if dtype != target:
            log.info("converting %s from %s to %s", _tensors(count), dtype, target)


def _tensors(number: int) -> str:
    return "1 tensor" if number == 1 else f"{number} tensors"


def _are(items: Sequence[str]) -> str:
    return "is" if len(items) == 1 else "are"


def _some(items: Sequence[str]) -> str:
    more = f", … {len(items) - 5} more" if len(items) > 5 else ""
    return ", ".join(items[:5]) + more
