"""The quantized model as a file: one safetensors file that holds packed codes, scales, zero points, everything that stayed
in float, and in its metadata the recipe, the network's configuration and where the weights came from.

Reading executes no code of the file: the metadata is JSON, and the network is built from checked numbers. A digest over
tensors and metadata detects damaged and changed files; it is no signature. The same weights and scheme give the same file,
byte for byte.
"""

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from vggtq.artifact.header import Header, LayerEntry, file_digest, given, read_header
from vggtq.data.preprocess import preprocess
from vggtq.errors import DataError, QuantizationError, VggtqError, WeightsError, describe
from vggtq.machine.memory import release_between_layers
from vggtq.models.checkpoints.files import open_tensors
from vggtq.models.checkpoints.fingerprint import HashingReader
from vggtq.models.loading import LoadedModel, model_of
from vggtq.network.reduced import reduce_
from vggtq.quant.kernels.modules import LOW_RANK, weight_rows
from vggtq.quant.numbers.input_range import InputRange
from vggtq.quant.numbers.packed import PackedWeight
from vggtq.quant.walk.quantize import Quantization, fuse_, restore_
from vggtq.quant.walk.select import WeightOf, named_weights

# What a quantized layer may consist of.
PACKED = ("codes", "scale", "zero_point", "tensor_scale", "input_scale", *LOW_RANK)
RANGE = ("activation_scale", "activation_zero_point")  # its own even where layers share their weight
Layout = Mapping[str, tuple[tuple[int, ...], str]]


@dataclass(repr=False)
class QuantizedModel(LoadedModel):
    """A network from an artifact, ready to predict."""

    header: Header = field(kw_only=True)
    quantization: Quantization = field(kw_only=True)

    def predict(self, images: Any, module: nn.Module | None = None) -> dict[str, Tensor]:
        """As `LoadedModel.predict`; images may also be a path or a list of paths, prepared as VGGT prepares them.

        Raises DataError.
        """
        if not isinstance(images, Tensor):
            images = self._prepared(images)
        if images.ndim != 4 or images.shape[1] != 3 or not images.is_floating_point():
            raise DataError(
                f"predict(images): give paths, or a float tensor (frames, 3, height, width) in [0, 1]; got "
                f"{images.dtype} {tuple(images.shape)}"
            )
        return super().predict(images, module)

    def _prepared(self, images: Any) -> Tensor:
        paths = [images] if isinstance(images, str | Path) else images
        if not isinstance(paths, Sequence) or not all(isinstance(path, str | Path) for path in paths):
            raise DataError(
                f"predict(images): give a tensor, a path or a list of paths, got {type(images).__name__}"
            )
        return preprocess(paths, size=int((self.header.model or {}).get("image_size", 518)))[0]

    def __repr__(self) -> str:
        name, device = (self.header.model or {}).get("name"), next(self.module.parameters()).device
        return (
            f"QuantizedModel({name}, {self.header.label}, {len(self.quantization.layers)} layers, {device})"
        )


def load(path: Path | str, device: torch.device | str = "cpu") -> QuantizedModel:
    """The network that was saved, on `device`. Raises WeightsError for files that are foreign, truncated or were changed."""
    path, target = given(path, "load(path)"), torch.device(device)
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
    return QuantizedModel(skeleton.eval(), header.weights, header=header, quantization=quantization)


def load_into_(module: nn.Module, path: Path | str, device: torch.device | str = "cpu") -> Quantization:
    """Turns a float network of any kind into the one that was saved. Its own weights are not read, so it may lie on meta.

    Raises WeightsError as `load` does, and where layers or shapes differ.
    """
    path = given(path, "load_into_(module, path)")
    if not isinstance(module, nn.Module):
        raise WeightsError(
            f"load_into_(module, path): give a float torch module, got {type(module).__name__}"
        )
    return _fill(module.to("meta"), path, read_header(path), torch.device(device))


def _fill(skeleton: nn.Module, path: Path, header: Header, device: torch.device) -> Quantization:
    stored = open_tensors(path)
    check_layout(skeleton, stored.layout, {entry.name: entry.codes for entry in header.layers}, path.name)
    # Copies: the network must not change when the file is written to.
    tensors = HashingReader(lambda name: stored.get(name).clone())

    def get(name: str) -> Tensor:
        return tensors.get(name).to(device)

    weights = _StoredWeights(header, stored.layout, get)
    parameters = skeleton.state_dict(keep_vars=True)
    names = {id(parameter): name for name, parameter in parameters.items()}
    try:
        result = restore_(
            skeleton,
            names=[entry.name for entry in header.layers],
            packed=weights.packed,
            scheme=header.scheme,
            fetch=lambda parameter: _as_float32(get(names[id(parameter)])),
            on_layer=release_between_layers,
        )
    except (RuntimeError, ValueError, TypeError, KeyError, IndexError, AssertionError, VggtqError) as error:
        raise WeightsError(
            f"{path.name}: damaged or tampered: its tensors make no network ({describe(error)}); export it again"
        ) from error
    stored.close()
    reduced = header.scheme.global_attention
    reduce_(skeleton, reduced.frame_blocks, reduced.key_stride)
    if file_digest(header.text, tensors.digests()) != header.digest:
        raise WeightsError(
            f"{path.name}: damaged or tampered: its digest does not match; download or export it again"
        )
    return result


class _StoredWeights:
    """The packed weights of an artifact; of shared ones every layer gets the same."""

    def __init__(self, header: Header, stored: Layout, get: Callable[[str], Tensor]) -> None:
        self._entries = {entry.name: entry for entry in header.layers}
        self._stored, self._get, self._activations = stored, get, header.scheme.activations
        self._shared: dict[str, PackedWeight] = {}
        self._users = Counter(entry.codes for entry in header.layers)

    def packed(self, weight: WeightOf) -> PackedWeight:
        entry = self._entries[weight.name]
        return replace(self._weight(entry), input_range=self._range(entry.name))

    def _range(self, layer: str) -> InputRange | None:
        names = [f"{layer}.{key}" for key in RANGE]
        if not all(name in self._stored for name in names):
            return None
        scale, zero_point = (self._get(name) for name in names)
        input_range = InputRange(scale, zero_point, self._activations.bits, self._activations.symmetric)
        input_range.check()
        return input_range

    def _weight(self, entry: LayerEntry) -> PackedWeight:
        if entry.codes in self._shared:
            return self._shared[entry.codes]
        names = {key: f"{entry.codes}.{key}" for key in PACKED}
        tensors = {k: self._get(name) for k, name in names.items() if name in self._stored}
        if "input_scale" in tensors:
            tensors["input_scale"] = tensors["input_scale"].float()
        packed = entry.packed(tensors)
        if self._users[entry.codes] > 1:
            self._shared[entry.codes] = packed
        return packed


def _as_float32(tensor: Tensor) -> Tensor:
    return tensor.float() if tensor.is_floating_point() else tensor


def check_layout(skeleton: nn.Module, stored: Layout, layers: Mapping[str, str], where: str) -> None:
    """skeleton: the float network. layers: name of a quantized layer to the name that its codes are stored under.

    Raises WeightsError for layers that the network lacks, for tensors that are missing or too many, and for other shapes.
    """
    try:
        modules = named_weights(skeleton, list(layers))
    except QuantizationError as error:
        raise WeightsError(f"{where}: {error}; is this an artifact of another network?") from error
    rest = {name: tuple(tensor.shape) for name, tensor in skeleton.state_dict(keep_vars=True).items()}
    names = {id(p): name for name, p in skeleton.state_dict(keep_vars=True).items()}
    rows = {}
    for weight in (weight for weights in modules for weight in weights):
        assert weight.parameter is not None
        rest.pop(names[id(weight.parameter)], None)
        rows[layers[weight.name]] = weight_rows(weight.parameter, weight.transposed, weight.groups).shape[0]
    packed = {f"{owner}.{key}" for owner in rows for key in PACKED}
    packed |= {f"{name}.{key}" for name in layers for key in RANGE}
    missing = [name for name in (*rest, *(f"{owner}.codes" for owner in rows)) if name not in stored]
    extra = [name for name in stored if name not in rest and name not in packed]
    if missing or extra:
        what = f"{missing[0]} is missing" if missing else f"{extra[0]} is unknown to the network"
        raise WeightsError(
            f"{where}: {len(missing)} tensors missing, {len(extra)} too many ({what}); "
            "damaged, or an artifact of another network"
        )
    for name, (shape, _) in stored.items():
        owner, _, key = name.rpartition(".")
        needed = rest.get(name)
        if needed is None and key in RANGE:
            needed = (1,)
        wrong = shape != needed if needed is not None else key == "codes" and shape[:1] != (rows[owner],)
        if wrong:
            raise WeightsError(
                f"{where}: {name} has shape {shape}, the network needs {needed or f'{rows[owner]} rows'}; "
                "damaged, or an artifact of another network"
            )
