"""The model files of a prediction: one, or two that are compared; their headers are checked before any is
loaded.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vggtq.artifact.header import Header, read_header
from vggtq.config.compose import options as config_names
from vggtq.errors import ConfigError
from vggtq.models.checkpoints.source import REPO_ID
from vggtq.models.loading import CheckpointModel, VGGTModel, model_of
from vggtq.predict.options import Options


@dataclass(frozen=True)
class Source:
    """A model file, and the option that names it: model or compare."""

    key: str
    file: str
    header: Header

    @property
    def title(self) -> str:
        """Name of the network and label of the scheme."""
        return f"{(self.header.model or {}).get('name', 'model')}, {self.header.label}"

    def model(self) -> CheckpointModel:
        """The configuration of its network."""
        return model_of(self.header.model) if self.header.model else VGGTModel()

    def described(self) -> dict[str, Any]:
        """The description of the model file in the index."""
        path, header = Path(self.file), self.header
        return {
            "file": path.name,
            "bytes": path.expanduser().stat().st_size,
            "digest": header.digest,
            "name": (header.model or {}).get("name"),
            "scheme": header.label,
            "rest": header.rest,
            "weights": header.weights.source,
            "fingerprint": header.weights.fingerprint,
            "license": header.weights.license,
        }


def read_sources(options: Options) -> list[Source]:
    """The model, and the one that it is compared with. Raises ConfigError or WeightsError."""
    given = {"model": options.model, "compare": options.compare}
    sources = [Source(key, file, _header(key, file)) for key, file in given.items() if file is not None]
    for other in sources[1:]:
        _check_alike(sources[0], other, options.image_size)
    return sources


def _header(key: str, file: str) -> Header:
    """The header of a model file. For other names the error gives the command that makes a file."""
    if not Path(file).expanduser().exists():
        if file in config_names("model"):
            raise ConfigError(
                f"{key}={file} is a configuration, not a model file; make one with "
                f"vggtq export model={file} scheme=int8_symmetric out={file}.safetensors"
            )
        if REPO_ID.fullmatch(file) and not file.endswith(".safetensors"):
            raise ConfigError(f"{key}={file}: no such file; to fetch it from the hub: vggtq pull {file}")
    return read_header(file)


def _check_alike(first: Source, other: Source, image_size: int | None) -> None:
    """Raises ConfigError unless both networks are the same and see the same images. image_size: given for both."""
    ours, theirs = first.header.model or {}, other.header.model or {}
    if any(ours.get(key) != theirs.get(key) for key in ("family", "architecture")):
        raise ConfigError(
            f"compare={other.file} has another network ({other.model().name}) than model={first.file} "
            f"({first.model().name}); compare two schemes of one network"
        )
    sizes = first.model().image_size, other.model().image_size
    if image_size is None and sizes[0] != sizes[1]:
        raise ConfigError(
            f"compare={other.file} is made for images of {sizes[1]} pixels, model={first.file} for {sizes[0]}; "
            "give one size for both: image_size=…"
        )
