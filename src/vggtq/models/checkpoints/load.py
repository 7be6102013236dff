"""Fills a network from a checkpoint and says exactly what it now holds: origin, licence, and a hash of its bytes."""

import logging
from collections import Counter
from collections.abc import Mapping, Sequence
from fnmatch import fnmatchcase

import torch
from torch import Tensor, nn

from vggtq.errors import WeightsError
from vggtq.models.checkpoints.files import StoredTensors, open_tensors
from vggtq.models.checkpoints.fingerprint import WeightsInfo, fingerprint
from vggtq.models.checkpoints.licences import LICENSES
from vggtq.models.checkpoints.source import locate
from vggtq.models.network import allocate_

log = logging.getLogger(__name__)

FLOATS = ("float32", "float16", "bfloat16", "float64")
PREFIX = "module."  # left by DataParallel


def load_weights_(
    model: nn.Module,
    source: str,
    revision: str | None = None,
    ignore: Sequence[str] = (),
    license: str | None = None,
) -> WeightsInfo:
    """Fills `model` from a hub repository, a file or a folder; afterwards it holds float32.

    A model on the meta device is allocated on the CPU. Tensors are read one at a time, so that no second copy of
    the weights is in memory. `ignore`: name patterns of stored tensors that the model may lack. `license`: of all published
    weights of this network. Raises WeightsError; names and shapes are checked before the model is touched.
    """
    weights = WeightStream(model, source, revision, ignore, license)
    model.float()
    allocate_(model)
    targets = model.state_dict()
    for name in weights.names:
        targets[name].copy_(weights.get(name))
    weights.close()
    return weights.info(fingerprint(model))


class WeightStream:
    """A checkpoint's tensors by the model's names, read when asked for, so that a few of them are in memory at a time.

    A bias that the model says is masked (`Network.bias_masks`) comes multiplied by its mask.
    Raises WeightsError when it is made (names and shapes) and when a tensor that is read holds NaN or infinity.
    `names`: in the order of the file, which is the fastest to read in.
    """

    def __init__(
        self,
        model: nn.Module,
        source: str,
        revision: str | None = None,
        ignore: Sequence[str] = (),
        license: str | None = None,
    ) -> None:
        self.license = license or LICENSES.get(source)
        self._always = license is not None  # this licence holds wherever the file lies
        if self.license:
            log.info("weights of %s, licence: %s", source, self.license)
        self.source = locate(source, revision)
        self.revision = revision
        if revision and self.source.kind != "hub":
            log.warning(
                "revision %s is ignored: %s is a local %s", revision, self.source.name, self.source.kind
            )
        self._masks: dict[str, str] = getattr(model, "bias_masks", dict)()
        self._stored = open_tensors(self.source.path)
        matched = _matched(model, self._stored, ignore, self.source.name, self._masks)
        _log_conversion(self._stored, matched)
        self._stored_names = {new: old for old, new in matched.items()}

    @property
    def names(self) -> list[str]:
        return [name for name in self._stored_names if name not in self._masks.values()]

    def get(self, name: str) -> Tensor:
        """The tensor in float32; one that is kept keeps its part of the file in memory."""
        tensor = self._read(name)
        return tensor * self._read(self._masks[name]) if name in self._masks else tensor

    def _read(self, name: str) -> Tensor:
        tensor = self._stored.get(self._stored_names[name]).float()
        # NaN propagates through both extremes, so two numbers stand for the whole tensor.
        if not torch.stack(tensor.aminmax()).isfinite().all():
            raise WeightsError(f"{self.source.name}: {name} holds NaN or infinity; the checkpoint is damaged")
        return tensor

    def close(self) -> None:
        self._stored.close()

    def info(self, fingerprint: str) -> WeightsInfo:
        return WeightsInfo(
            source=self.source.name,
            kind=self.source.kind,
            fingerprint=fingerprint,
            revision=self.revision if self.source.kind == "hub" else None,
            commit=self.source.commit,
            license=self.license if self._always or self.source.kind in ("hub", "package") else None,
        )


def _matched(
    model: nn.Module, stored: StoredTensors, ignore: Sequence[str], where: str, masks: Mapping[str, str]
) -> dict[str, str]:
    """Stored name to the model's name of every tensor to load. masks: those that it has no tensors for."""
    shapes = {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()}
    shapes |= {mask: shapes[name] for name, mask in masks.items()}
    strip = all(name.startswith(PREFIX) for name in stored.layout)
    if strip:
        log.info("%s: removing the prefix %r from all names", where, PREFIX)
    renamed = {name: name.removeprefix(PREFIX) if strip else name for name in stored.layout}
    extra = [name for name in renamed.values() if name not in shapes]
    unexpected = [name for name in extra if not any(fnmatchcase(name, pattern) for pattern in ignore)]
    if len(extra) > len(unexpected):
        log.info("%s: ignoring %s that the model lacks", where, _tensors(len(extra) - len(unexpected)))
    missing = sorted(shapes.keys() - set(renamed.values()))
    if missing:
        raise WeightsError(
            f"{where}: {len(missing)} of {_tensors(len(shapes))} {_are(missing)} missing ({_some(missing)}); "
            "is this a checkpoint of another network or configuration?"
        )
    if unexpected:
        raise WeightsError(
            f"{where}: {_tensors(len(unexpected))} {_are(unexpected)} unknown to the model ({_some(unexpected)}); "
            "is this a checkpoint of another network, or is a head switched off?"
        )
    names = {old: new for old, new in renamed.items() if new in shapes}
    _check_layout(stored, names, shapes, where)
    return names


def _check_layout(
    stored: StoredTensors, names: Mapping[str, str], shapes: Mapping[str, tuple[int, ...]], where: str
) -> None:
    wrong, not_float = [], []
    for old, new in names.items():
        shape, dtype = stored.layout[old]
        if shape != shapes[new]:
            wrong.append(f"{new} is {shape}, the model needs {shapes[new]}")
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


def _log_conversion(stored: StoredTensors, names: Mapping[str, str]) -> None:
    for dtype, number in Counter(stored.layout[name][1] for name in names).items():
        if dtype != "float32":
            log.info("converting %s from %s to float32", _tensors(number), dtype)


def _tensors(number: int) -> str:
    return "1 tensor" if number == 1 else f"{number} tensors"


def _are(items: Sequence[str]) -> str:
    return "is" if len(items) == 1 else "are"


def _some(items: Sequence[str]) -> str:
    more = f", … {len(items) - 5} more" if len(items) > 5 else ""
    return ", ".join(items[:5]) + more
