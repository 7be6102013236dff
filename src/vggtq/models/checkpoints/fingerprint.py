"""Fingerprints of weights: SHA-256 over names and values."""

import hashlib
from collections.abc import Callable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass

from torch import Tensor, nn

from vggtq.files.tensors import raw_bytes
from vggtq.models.checkpoints.source import Kind


@dataclass(frozen=True)
class WeightsInfo:
    """The origin of weights; `fingerprint` identifies the weights themselves."""

    source: str  # repository, file or folder name, never a machine's own path
    kind: Kind
    fingerprint: str
    revision: str | None = None  # as asked for
    commit: str | None = None  # as resolved by the hub
    license: str | None = None
    random: bool = False


def fingerprint(model: nn.Module) -> str:
    """SHA-256 over the sorted state dict: name, dtype, shape and the SHA-256 of the bytes of each tensor."""
    tensors = {name: t for name, t in model.state_dict().items() if isinstance(t, Tensor)}
    with ThreadPoolExecutor() as pool:  # hashing each on its own lets all cores work
        digests = pool.map(tensor_digest, tensors.values())
        return combined_fingerprint(dict(zip(tensors, digests, strict=True)))


def combined_fingerprint(digests: Mapping[str, str]) -> str:
    """The fingerprint of tensors whose `tensor_digest` is known."""
    total = hashlib.sha256()
    for name in sorted(digests):
        total.update(f"{name} {digests[name]}\n".encode())
    return total.hexdigest()


def tensor_digest(tensor: Tensor) -> str:
    """dtype, shape and the SHA-256 of the bytes, as text."""
    return f"{tensor.dtype} {tuple(tensor.shape)} {hashlib.sha256(raw_bytes(tensor)).hexdigest()}"


class HashingReader:
    """Reads tensors by name and hashes them in a thread beside the reading, which keeps no more than one of them alive."""

    def __init__(self, read: Callable[[str], Tensor]) -> None:
        self._read, self._pool = read, ThreadPoolExecutor(1)
        self._digests: dict[str, Future[str]] = {}
        self._last: Future[str] | None = None

    def get(self, name: str) -> Tensor:
        tensor = self._read(name)
        if self._last:
            self._last.result()
        self._last = self._digests[name] = self._pool.submit(tensor_digest, tensor)
        return tensor

    def digests(self) -> dict[str, str]:
        """`tensor_digest` of all that were read; there is nothing to read any more."""
        self._pool.shutdown()
        return {name: future.result() for name, future in self._digests.items()}
