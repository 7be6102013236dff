"""Reads checkpoints one tensor at a time: safetensors, alone or in shards, and PyTorch files without pickled code."""

import json
import logging
import pickle
import re
import reprlib
import zipfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, ExitStack, contextmanager
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from vggtq.errors import WeightsError, describe
from vggtq.terminal.logs import quiet

log = logging.getLogger(__name__)

SAFETENSORS_DTYPES = {"F64": "float64", "F32": "float32", "F16": "float16", "BF16": "bfloat16"}
BYTES_PER_MAPPING = 2**26
SHARD = re.compile(r"[^/\\:\0]+\.safetensors")
WRAPPERS = ("model", "state_dict")


Getter = Callable[[str], Tensor]


class StoredTensors:
    """The tensors that a checkpoint holds. layout: name to (shape, dtype), known before data is read."""

    def __init__(
        self,
        layout: Mapping[str, tuple[tuple[int, ...], str]],
        mapped: Callable[[], AbstractContextManager[Getter]],
    ) -> None:
        """mapped: maps the file into memory for the length of a `with` block, in which tensors are read by name."""
        self.layout, self._mapped = layout, mapped
        self._open, self._bytes = ExitStack(), 0
        self._get: Getter | None = None

    def get(self, name: str) -> Tensor:
        """One tensor, in any order. One that is kept keeps its part of the file in memory; a clone does not."""
        # Mapped anew every few tensors: pages of one long mapping would count as a second copy in memory.
        if self._get is None or self._bytes > BYTES_PER_MAPPING:
            self.close()
            self._get, self._bytes = self._open.enter_context(self._mapped()), 0
        tensor = self._get(name)
        self._bytes += tensor.nbytes
        return tensor

    def close(self) -> None:
        self._get = None
        self._open.close()


def files_of(path: Path) -> list[Path]:
    """A checkpoint's files: itself, or an index and its shards. Raises WeightsError."""
    return [path, *_shards(path)] if path.name.endswith(".index.json") else [path]


def open_tensors(path: Path) -> StoredTensors:
    """Checks that the file is whole and lists its tensors. Raises WeightsError."""
    _refuse_placeholder(path)
    if path.name.endswith(".index.json"):
        return _open_safetensors(_shards(path))
    if path.suffix.lower() == ".safetensors":
        return _open_safetensors([path])
    return _open_pickle(path)


def _refuse_placeholder(path: Path) -> None:
    with path.open("rb") as stream:
        head = stream.read(24)
    if not head:
        raise WeightsError(f"{path}: the file is empty; download it again")
    if head.startswith(b"version https://git-lfs"):
        raise WeightsError(f"{path}: a git-lfs pointer, not the weights; run `git lfs pull`")


def _shards(index: Path) -> list[Path]:
    try:
        names = set(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values())
    except (ValueError, KeyError, AttributeError, TypeError, RecursionError) as error:
        raise WeightsError(f"{index}: not a safetensors index; download it again") from error
    for name in names:
        if not isinstance(name, str) or not SHARD.fullmatch(name):
            raise WeightsError(
                f"{index}: shard {reprlib.repr(name)} is not the name of a .safetensors file beside it; "
                "download the index again"
            )
    paths = [index.parent / name for name in sorted(names)]
    for path in paths:
        if not path.is_file():
            remedy = f"download all {len(paths)} shards" if len(paths) > 1 else "download it"
            raise WeightsError(f"{path}: shard of {index.name} is missing; {remedy}")
        _refuse_placeholder(path)
    return paths


def _open_safetensors(paths: list[Path]) -> StoredTensors:
    layout: dict[str, tuple[tuple[int, ...], str]] = {}
    names: dict[Path, list[str]] = {}
    for path in paths:
        try:
            with safe_open(path, "pt") as stream:
                names[path] = list(stream.keys())
                for name in names[path]:
                    entry = stream.get_slice(name)
                    dtype = entry.get_dtype()
                    layout[name] = (tuple(entry.get_shape()), SAFETENSORS_DTYPES.get(dtype, dtype))
        except (SafetensorError, OSError) as error:
            raise WeightsError(
                f"{path}: truncated or not a safetensors file ({describe(error)}); download it again"
            ) from error
    where = {name: path for path, keys in names.items() for name in keys}
    return StoredTensors(layout, lambda: _map_safetensors(where))


@contextmanager
def _map_safetensors(where: Mapping[str, Path]) -> Iterator[Getter]:
    """where: tensor name to the file that holds it."""
    with ExitStack() as stack:
        files: dict[Path, Any] = {}

        def get(name: str) -> Tensor:
            path = where[name]
            if path not in files:
                files[path] = stack.enter_context(safe_open(path, "pt"))
            return files[path].get_tensor(name)

        yield get


def _open_pickle(path: Path) -> StoredTensors:
    tensors = _state_dict(path)
    layout = {name: (tuple(t.shape), str(t.dtype).removeprefix("torch.")) for name, t in tensors.items()}
    return StoredTensors(layout, lambda: _map_pickle(path))


@contextmanager
def _map_pickle(path: Path) -> Iterator[Getter]:
    tensors = _state_dict(path)
    yield tensors.__getitem__
    del tensors


def _state_dict(path: Path) -> Mapping[str, Tensor]:
    state = _load_pickle(path)
    while isinstance(state, Mapping) and not _is_state_dict(state):
        wrapper = next((key for key in WRAPPERS if isinstance(state.get(key), Mapping)), None)
        if wrapper is None:
            break
        log.debug("%s: using the weights under its key %r", path.name, wrapper)
        state = state[wrapper]
    if not isinstance(state, Mapping) or not _is_state_dict(state):
        raise WeightsError(
            f"{path}: no state dict in this file; save model.state_dict(), alone or under the key "
            f"{' or '.join(WRAPPERS)}"
        )
    return state


def _is_state_dict(state: Mapping[Any, Any]) -> bool:
    return bool(state) and all(isinstance(k, str) and isinstance(v, Tensor) for k, v in state.items())


def _load_pickle(path: Path) -> Any:
    mapped = zipfile.is_zipfile(path)  # PyTorch's format before 1.6 cannot be memory-mapped
    try:
        with quiet():
            return torch.load(path, map_location="cpu", weights_only=True, mmap=mapped)
    except pickle.UnpicklingError as error:
        if "GLOBAL" in str(error):
            raise WeightsError(
                f"{path}: holds pickled code, which is refused because it could do anything; "
                "save model.state_dict() as safetensors"
            ) from error
        raise WeightsError(f"{path}: damaged or not a PyTorch file; download it again") from error
    except (RuntimeError, EOFError, OSError) as error:
        raise WeightsError(
            f"{path}: truncated or not a PyTorch file ({describe(error)}); download it again"
        ) from error
    except Exception as error:  # bytes that are no pickle make the unpickler fail in its own inner workings
        raise WeightsError(
            f"{path}: damaged or not a PyTorch file (neither a zip archive nor a pickle); download it again"
        ) from error
