"""Reads checkpoints one tensor at a time: safetensors, alone or in shards, and PyTorch files without pickled code."""

import json
import logging
import pickle
import re
import reprlib
import zipfile
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from vggtq.errors import WeightsError
from vggtq.models.weight_source import describe, quiet

log = logging.getLogger(__name__)

SAFETENSORS_DTYPES = {"F64": "float64", "F32": "float32", "F16": "float16", "BF16": "bfloat16"}
TENSORS_PER_MAPPING = 64
SHARD = re.compile(r"[^/\\:\0]+\.safetensors")
WRAPPERS = ("model", "state_dict")


@dataclass(frozen=True)
class StoredTensors:
    """What a checkpoint holds: name to (shape, dtype), known before data is read, and a way to stream the data."""

    layout: Mapping[str, tuple[tuple[int, ...], str]]
    read: Callable[[], Iterator[tuple[str, Tensor]]]


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
    return StoredTensors(layout, lambda: _stream_safetensors(names))


def _stream_safetensors(names: Mapping[Path, list[str]]) -> Iterator[tuple[str, Tensor]]:
    for path, keys in names.items():
        for start in range(0, len(keys), TENSORS_PER_MAPPING):
            # Opened anew every few tensors: pages of one long mapping would count as a second copy in memory.
            with safe_open(path, "pt") as stream:
                for name in keys[start : start + TENSORS_PER_MAPPING]:
                    yield name, stream.get_tensor(name)


def _open_pickle(path: Path) -> StoredTensors:
    state = _load_pickle(path)
    while isinstance(state, Mapping) and not _is_state_dict(state):
        wrapper = next((key for key in WRAPPERS if isinstance(state.get(key), Mapping)), None)
        if wrapper is None:
            break
        log.info("%s: using the weights under its key %r", path.name, wrapper)
        state = state[wrapper]
    if not isinstance(state, Mapping) or not _is_state_dict(state):
        raise WeightsError(
            f"{path}: no state dict in this file; save model.state_dict(), alone or under the key "
            f"{' or '.join(WRAPPERS)}"
        )
    tensors: Mapping[str, Tensor] = state
    layout = {name: (tuple(t.shape), str(t.dtype).removeprefix("torch.")) for name, t in tensors.items()}
    return StoredTensors(layout, lambda: iter(tensors.items()))


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
