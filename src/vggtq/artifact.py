"""The quantized model as a file: one safetensors file that holds packed codes, scales, zero points, everything that stayed
in float, and in its metadata the recipe, the network's configuration and where the weights came from.

Nothing in it is executed: the metadata is JSON, the network is built from numbers that are checked. A digest over tensors and
metadata tells a file that was damaged or changed from one that was not; it is no signature. The same weights and recipe give
the same file, byte for byte.
"""

import hashlib
import json
import logging
from collections.abc import Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn

from vggtq import __version__
from vggtq.allocator import release_between_layers
from vggtq.artifact_layout import PACKED, RANGE, check_layout
from vggtq.errors import VggtqError, WeightsError
from vggtq.models.checkpoint import WeightsInfo, combined_fingerprint, tensor_digest
from vggtq.models.fused import fuse_
from vggtq.models.loading import LoadedModel, model_of
from vggtq.models.weight_files import StoredTensors, TensorReader, open_tensors
from vggtq.models.weight_source import describe
from vggtq.quant.finetune.settings import Finetune
from vggtq.quant.input_range import InputRange
from vggtq.quant.layers import LOW_RANK, QuantConv, TransformedLinear
from vggtq.quant.low_rank import LowRank
from vggtq.quant.packed import PackedWeight
from vggtq.quant.quantize import Quantization, restore_
from vggtq.quant.scheme import Activations, Compensation, Layers, Mixed, Rounding, Scheme, Transform, Weights
from vggtq.quant.select import WeightOf
from vggtq.quant.size import quantized_layers, rest_tensors, stored_tensors
from vggtq.quant.transform import InputTransform
from vggtq.safetensors_file import write_safetensors

log = logging.getLogger(__name__)

FORMAT_VERSION = 3
# Version 1 lacks static activations, 4-bit floats and branches, version 2 rotations that are
# merged or come before scales; otherwise they are the same.
READABLE = ("1", "2", "3")
KEY = "vggtq"  # of the metadata entry that makes a safetensors file an artifact
SUFFIX = ".safetensors"


@dataclass(frozen=True)
class LayerEntry:
    """One quantized layer. codes: the layer under whose name the tensors are stored, itself unless weights are shared."""

    name: str
    codes: str
    columns: int
    weights: Weights
    sqnr_db: float | None  # None: nothing was lost
    notes: tuple[str, ...] = ()
    rotation: int = 0
    merged: int = 0
    rotation_first: bool = False

    def packed(self, tensors: Mapping[str, Tensor]) -> PackedWeight:
        """The weight; its power and noise are known up to a factor."""
        signal, noise = (1.0, 0.0) if self.sqnr_db is None else (10 ** (self.sqnr_db / 10), 1.0)
        codes, scale, zero_point = (tensors.get(key) for key in ("codes", "scale", "zero_point"))
        assert codes is not None
        turn = (self.rotation, self.merged, self.rotation_first)
        transform = InputTransform(tensors.get("input_scale"), *turn)
        numbers = (self.weights, self.columns, signal, noise, self.notes)
        down, up = (tensors.get(key) for key in LOW_RANK)
        branch = None if down is None or up is None else LowRank(down, up)
        whole = tensors.get("tensor_scale")
        packed = PackedWeight(codes, scale, zero_point, *numbers, transform=transform, low_rank=branch)
        return replace(packed, tensor_scale=whole)


@dataclass(frozen=True)
class Header:
    """What an artifact says of itself."""

    model: dict[str, Any] | None  # ModelConfig.identity; None: the network has to be given
    weights: WeightsInfo
    scheme: Scheme
    rest: str  # dtype of what was not quantized
    layers: tuple[LayerEntry, ...]
    vggtq: str = __version__
    text: str = field(default="", repr=False)  # the JSON that this was read from
    digest: str = ""

    @property
    def label(self) -> str:
        """How tables call the scheme."""
        return self.scheme.label


@dataclass(frozen=True)
class Saved:
    """A written artifact. stored_bytes: its tensors; file_bytes adds the header."""

    path: Path
    file_bytes: int
    stored_bytes: int
    digest: str


@dataclass
class QuantizedModel(LoadedModel):
    """A network from an artifact, ready to predict."""

    header: Header = field(kw_only=True)
    quantization: Quantization = field(kw_only=True)


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
    header = Header(model, weights, scheme, rest, _layer_entries(module, quantization))
    text = json.dumps(_plain(header), sort_keys=True, allow_nan=False)
    digest = _digest(text, {name: tensor_digest(tensor) for name, tensor in tensors.items()})
    metadata = {"format": "pt", KEY: text, "format_version": str(FORMAT_VERSION), "sha256": digest}
    size = write_safetensors(path, tensors, metadata)
    return Saved(path, size, sum(t.numel() * t.element_size() for t in tensors.values()), digest)


def checked_path(path: Path | str) -> Path:
    """Raises WeightsError for a name that no tool would take for safetensors."""
    path = Path(path).expanduser()
    if path.suffix != SUFFIX:
        raise WeightsError(f"{path}: an artifact is a {SUFFIX} file; try {path.with_suffix(SUFFIX)}")
    return path


def read_header(path: Path | str) -> Header:
    """The header of an artifact, without its tensors. Raises WeightsError."""
    path = Path(path).expanduser()
    metadata = _metadata(path)
    version = metadata.get("format_version", "?")
    if version not in READABLE:
        raise WeightsError(
            f"{path.name}: artifact format {version}, this vggtq {__version__} reads {READABLE[0]} to {READABLE[-1]}; "
            f"use the version that wrote it, or export it again"
        )
    try:
        if metadata["format"] != "pt":  # what the digest does not cover
            raise ValueError(f"format {metadata['format']}")
        return _parsed(metadata[KEY], metadata["sha256"])
    except (VggtqError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise WeightsError(
            f"{path.name}: damaged or tampered: its header is not one of an artifact ({describe(error)}); export it again"
        ) from error


def load(path: Path | str, device: torch.device | str = "cpu") -> QuantizedModel:
    """The network that was saved, on `device`. Raises WeightsError for files that are foreign, truncated or were changed."""
    path, target = Path(path).expanduser(), torch.device(device)
    header = read_header(path)
    if header.model is None:
        raise WeightsError(
            f"{path.name}: holds layers of a network that vggtq does not know; build it and use load_into_(module, path)"
        )
    try:
        skeleton = model_of(header.model).skeleton()
    except (VggtqError, KeyError, TypeError) as error:
        raise WeightsError(
            f"{path.name}: describes a network that cannot be built ({describe(error)})"
        ) from error
    quantization = _fill(skeleton, path, header, target)
    fuse_(skeleton, quantization)
    return QuantizedModel(*(skeleton.eval(), header.weights), header=header, quantization=quantization)


def load_into_(module: nn.Module, path: Path | str, device: torch.device | str = "cpu") -> Quantization:
    """Turns a float network of any kind into the one that was saved. Its own weights are not read, so it may lie on meta.

    Raises WeightsError as `load` does, and where layers or shapes differ.
    """
    path = Path(path).expanduser()
    return _fill(module.to("meta"), path, read_header(path), torch.device(device))


def _fill(skeleton: nn.Module, path: Path, header: Header, device: torch.device) -> Quantization:
    stored = open_tensors(path)
    check_layout(skeleton, stored.layout, {entry.name: entry.codes for entry in header.layers}, path.name)
    tensors = _HashedTensors(stored, device)
    weights = _StoredWeights(header, tensors)
    parameters = skeleton.state_dict(keep_vars=True)
    names = {id(parameter): name for name, parameter in parameters.items()}
    try:
        result = restore_(
            skeleton,
            [entry.name for entry in header.layers],
            weights.packed,
            header.scheme.activations,
            lambda parameter: _as_float32(tensors.get(names[id(parameter)])),
            header.scheme.attention,
            release_between_layers,
        )
    except (RuntimeError, ValueError, TypeError, KeyError, IndexError, AssertionError, VggtqError) as error:
        raise WeightsError(
            f"{path.name}: damaged or tampered: its tensors make no network ({describe(error)}); export it again"
        ) from error
    if _digest(header.text, tensors.digests()) != header.digest:
        raise WeightsError(
            f"{path.name}: damaged or tampered: its digest does not match; download or export it again"
        )
    return result


class _HashedTensors:
    """Reads tensors onto a device and hashes them on the way, one at a time beside the reading."""

    def __init__(self, stored: StoredTensors, device: torch.device) -> None:
        self.names = stored.layout.keys()
        self._reader, self._device = TensorReader(stored), device
        self._pool = ThreadPoolExecutor(1)
        self._digests: dict[str, Future[str]] = {}

    def get(self, name: str) -> Tensor:
        # A copy: the network must not change when somebody writes to the file.
        tensor = self._reader.get(name).clone()
        self._digests[name] = self._pool.submit(tensor_digest, tensor)
        return tensor.to(self._device)

    def digests(self) -> dict[str, str]:
        self._reader.close()
        self._pool.shutdown()
        return {name: future.result() for name, future in self._digests.items()}


class _StoredWeights:
    """The packed weights of an artifact; of shared ones every layer gets the same."""

    def __init__(self, header: Header, tensors: _HashedTensors) -> None:
        self._entries = {entry.name: entry for entry in header.layers}
        self._tensors, self._activations = tensors, header.scheme.activations
        self._shared: dict[str, PackedWeight] = {}
        owners = [entry.codes for entry in header.layers]
        self._several = {owner for owner in owners if owners.count(owner) > 1}

    def packed(self, weight: WeightOf) -> PackedWeight:
        entry = self._entries[weight.name]
        return replace(self._weight(entry), input_range=self._range(entry.name))

    def _range(self, layer: str) -> InputRange | None:
        names = [f"{layer}.{key}" for key in RANGE]
        if not all(name in self._tensors.names for name in names):
            return None
        scale, zero_point = (self._tensors.get(name) for name in names)
        found = InputRange(scale, zero_point, self._activations.bits, self._activations.symmetric)
        found.check()
        return found

    def _weight(self, entry: LayerEntry) -> PackedWeight:
        if entry.codes in self._shared:
            return self._shared[entry.codes]
        tensors = {key: self._tensors.get(name) for key, name in self._names(entry).items()}
        if "input_scale" in tensors:
            tensors["input_scale"] = tensors["input_scale"].float()
        packed = entry.packed(tensors)
        if entry.codes in self._several:
            self._shared[entry.codes] = packed
        return packed

    def _names(self, entry: LayerEntry) -> dict[str, str]:
        names = {key: f"{entry.codes}.{key}" for key in PACKED}
        return {key: name for key, name in names.items() if name in self._tensors.names}


def _as_float32(tensor: Tensor) -> Tensor:
    return tensor.float() if tensor.is_floating_point() else tensor


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
    entries = []
    for layer in quantization.layers:
        linear = _linear(module, layer.name)
        sqnr = None if layer.weight_sqnr_db == float("inf") else layer.weight_sqnr_db
        entries.append(
            LayerEntry(
                *(layer.name, owners[linear.weight_id], linear.in_features, layer.weights, sqnr),
                tuple(layer.weight_notes),
                layer.rotation,
                layer.merged,
                layer.rotation_first,
            )
        )
    return tuple(entries)


def _linear(module: nn.Module, name: str) -> Any:
    layer = module.get_submodule(name)
    if isinstance(layer, TransformedLinear):
        return layer.linear
    return layer.rows if isinstance(layer, QuantConv) else layer


def _digest(header: str, tensors: Mapping[str, str]) -> str:
    return hashlib.sha256(f"{header}\n{combined_fingerprint(tensors)}".encode()).hexdigest()


def _plain(header: Header) -> dict[str, Any]:
    """The header as JSON values, without the digest, which depends on them."""
    values = asdict(header)
    del values["digest"], values["text"]
    plain: dict[str, Any] = json.loads(json.dumps(values))  # tuples become lists
    return plain


def _parsed(text: str, digest: str) -> Header:
    values = json.loads(text)
    layers = tuple(
        LayerEntry(**{**entry, "weights": Weights(**entry["weights"]), "notes": tuple(entry["notes"])})
        for entry in values["layers"]
    )
    parts = {"weights": Weights, "activations": Activations, "layers": Layers, "mixed": Mixed}
    parts |= {
        "rounding": Rounding,
        "transform": Transform,
        "compensation": Compensation,
        "finetune": Finetune,
    }
    recipe = {k: parts[k](**v) if k in parts else v for k, v in values["scheme"].items()}
    if values["rest"] not in ("float32", "float16", "bfloat16"):
        raise WeightsError(f"rest={values['rest']} is not a dtype for unquantized tensors")
    known = {"weights": WeightsInfo(**values["weights"]), "scheme": Scheme(**recipe), "layers": layers}
    return Header(**{**values, **known, "text": text, "digest": digest})


def _metadata(path: Path) -> dict[str, str]:
    if not path.is_file():
        raise WeightsError(f"{path}: no such file; make one with python -m vggtq.export out={path.name}")
    try:
        with safe_open(path, "pt") as stream:
            metadata: dict[str, str] = stream.metadata() or {}
    except (SafetensorError, OSError) as error:
        raise WeightsError(
            f"{path}: truncated or not a safetensors file ({describe(error)}); download or export it again"
        ) from error
    if KEY not in metadata:
        raise WeightsError(
            f"{path}: a safetensors file, but not a quantized model of vggtq; "
            f"make one with python -m vggtq.export model.source={path.name} out=model.safetensors"
        )
    return metadata
