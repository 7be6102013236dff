"""The header of an artifact, stored as JSON in the metadata of a safetensors file."""

import hashlib
import json
import logging
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields, is_dataclass
from os import PathLike
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from torch import Tensor

from vggtq.errors import VggtqError, WeightsError, describe
from vggtq.models.checkpoints.fingerprint import WeightsInfo, combined_fingerprint
from vggtq.plugins import missing_plugins
from vggtq.quant.kernels.modules import LOW_RANK
from vggtq.quant.numbers.basis import InputTransform, LowRank
from vggtq.quant.numbers.packed import PackedWeight
from vggtq.quant.scheme.formats import FORMATS
from vggtq.quant.scheme.methods import ROUNDINGS, SCALES
from vggtq.quant.scheme.scheme import Scheme
from vggtq.quant.scheme.weights import Weights
from vggtq.version import __version__

log = logging.getLogger(__name__)

# Options that only training reads; a stored network has been trained.
FINETUNE = ("warmup", "clip_norm", "ema_decay", "outputs", "features", "feature_weight", "save_every_s")


def without_removed_options(scheme: dict[str, Any]) -> dict[str, Any]:
    """The recipe without options that were removed since. The network computes the same as before: tensors and
    ranges are stored.
    """
    scheme = {part: dict(value) if isinstance(value, dict) else value for part, value in scheme.items()}
    activations, transform = scheme["activations"], scheme.get("transform", {})
    for key in FINETUNE:
        scheme.get("finetune", {}).pop(key, None)
    percentile = activations.pop("percentile", None)
    if activations.get("observer") == "percentile":
        log.warning(
            "observer=percentile (%g %%), which found the input ranges of this file, was removed: its label leaves it out",
            percentile,
        )
        activations["observer"] = "minmax"
    if activations.get("granularity") == "per_channel":
        # Inputs divided by their channels' largest values, as SmoothQuant does with alpha=1.
        activations["granularity"] = None
        scheme["transform"] = transform | {"scale": "smooth", "alpha": 1.0}
    return scheme


class NotRegistered(WeightsError):
    """A recipe names a number format or a method that no module has added to vggtq's tables."""


def check_registered(scheme: dict[str, Any]) -> None:
    """Raises NotRegistered for a name that the tables lack."""
    parts = (
        ("weights", "format", FORMATS),
        ("rounding", "method", ROUNDINGS),
        ("transform", "scale", SCALES),
    )
    for part, key, table in parts:
        name = scheme.get(part, {}).get(key)
        if name is not None and name not in table:
            raise NotRegistered(
                f"its recipe has the {table.what} {name}, which nothing here has registered; import the module that does "
                f"before the file is read"
            )


FORMAT_VERSION = 3
WITH_PLUGINS = 4
# Version 1 lacks static activations, 4-bit floats and branches, version 2 rotations that are
# merged or come before scales; otherwise they are the same. Version 4 is 3 with the plugins that
# were loaded when it was written.
READABLE = ("1", "2", "3", "4")
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
        down, up = (tensors.get(key) for key in LOW_RANK)
        return PackedWeight.of(
            tensors,
            self.weights,
            self.columns,
            signal=signal,
            noise=noise,
            notes=self.notes,
            transform=InputTransform(
                tensors.get("input_scale"), self.rotation, self.merged, self.rotation_first
            ),
            low_rank=None if down is None or up is None else LowRank(down, up),
        )


@dataclass(frozen=True)
class Header:
    """The header of an artifact: the model, its weights, its scheme and its layers."""

    model: dict[str, Any] | None  # ModelConfig.identity; None: the network has to be given
    weights: WeightsInfo
    scheme: Scheme
    rest: str  # dtype of what was not quantized
    layers: tuple[LayerEntry, ...]
    vggtq: str = __version__
    plugins: tuple[dict[str, str], ...] = ()  # module and sha256 of each
    text: str = field(default="", repr=False)  # the JSON that this was read from
    digest: str = ""

    @property
    def label(self) -> str:
        """The name of the scheme in tables."""
        return self.scheme.label


def given(path: object, call: str) -> Path:
    """`path` as a Path. Raises WeightsError for anything but a path, and names the call that received it."""
    if not isinstance(path, str | PathLike):
        raise WeightsError(
            f"{call}: {path!r} is no path; give that of a model file, such as 'model.safetensors', which vggtq export writes"
        )
    return Path(path).expanduser()


def checked_path(path: Path | str) -> Path:
    """Raises WeightsError for a name that no tool would take for safetensors, and for one below a file."""
    path = given(path, "save(model, path)")
    if path.suffix != SUFFIX:
        raise WeightsError(f"{path}: an artifact is a {SUFFIX} file; try {path.with_suffix(SUFFIX)}")
    if blocking := next((parent for parent in path.parents if parent.is_file()), None):
        raise WeightsError(f"{path}: {blocking} is a file, not a folder; choose another name")
    return path


def read_header(path: Path | str) -> Header:
    """The header of an artifact, without its tensors. Raises WeightsError."""
    path = given(path, "load(path)")
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
    except NotRegistered as error:
        missing = missing_plugins(json.loads(metadata[KEY]).get("plugins", []))
        named = f": plugins=[{','.join(missing)}], in Python vggtq.load_plugins({missing})" if missing else ""
        raise WeightsError(f"{path.name}: {error}{named}") from error
    except (VggtqError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise WeightsError(
            f"{path.name}: damaged or tampered: its header is not one of an artifact ({describe(error)}); export it again"
        ) from error


def file_digest(header: str, tensors: Mapping[str, str]) -> str:
    return hashlib.sha256(f"{header}\n{combined_fingerprint(tensors)}".encode()).hexdigest()


def as_json(header: Header) -> dict[str, Any]:
    """The header as JSON values, without the digest, which depends on them."""
    values = asdict(header)
    del values["digest"], values["text"]
    if not header.plugins:
        del values["plugins"]
    return json.loads(json.dumps(values))  # tuples become lists


def _parsed(text: str, digest: str) -> Header:
    values = json.loads(text)
    check_registered(values["scheme"])
    layers = tuple(
        LayerEntry(**{**entry, "weights": Weights(**entry["weights"]), "notes": tuple(entry["notes"])})
        for entry in values["layers"]
    )
    parts: dict[str, Any] = {
        f.name: f.default_factory for f in fields(Scheme) if is_dataclass(f.default_factory)
    }
    stored = without_removed_options(values["scheme"])
    recipe = {k: parts[k](**v) if k in parts else v for k, v in stored.items()}
    if values["rest"] not in ("float32", "float16", "bfloat16"):
        raise WeightsError(f"rest={values['rest']} is not a dtype for unquantized tensors")
    known = {
        "weights": WeightsInfo(**values["weights"]),
        "scheme": Scheme(**recipe),
        "layers": layers,
        "plugins": tuple(values.get("plugins", ())),
    }
    return Header(**values | known, text=text, digest=digest)


def _metadata(path: Path) -> dict[str, str]:
    if not path.is_file():
        raise WeightsError(f"{path}: no such file; make one with vggtq export out={path.name}")
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
            f"make one with vggtq export model.source={path.name} out=model.safetensors"
        )
    return metadata
