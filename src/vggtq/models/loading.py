"""From a model's YAML to a network with weights, and what can be asked of it.

`VGGTModel` is the adapter of VGGT; another network needs a dataclass with the methods of
`ModelConfig` and a YAML that names it.
"""

import copy
import logging
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from vggtq.errors import ConfigError
from vggtq.models.checkpoint import WeightsInfo, WeightStream, load_weights_, random_weights_
from vggtq.models.vggt import build
from vggtq.models.weight_files import files_of
from vggtq.models.weight_source import cached, is_local, locate

log = logging.getLogger(__name__)

OUTPUTS = ("pose_enc", "depth", "depth_conf", "world_points", "world_points_conf")


@dataclass
class LoadedModel:
    """A network in eval mode on its device, and where its weights come from."""

    module: nn.Module
    weights: WeightsInfo
    autocast_part: str = "aggregator"  # the submodule that runs under autocast; VGGT's heads do not

    def predict(self, images: Tensor, module: nn.Module | None = None) -> dict[str, Tensor]:
        """images: (S, 3, H, W) in [0, 1]. Returns the outputs of OUTPUTS without batch axis, float32 on the CPU.

        `module` stands in for the network: its quantized twin.
        """
        network = module or self.module
        device = next(iter(network.parameters())).device
        with torch.inference_mode():
            outputs = network(images.to(device))
        return {key: outputs[key][0].to("cpu", torch.float32) for key in OUTPUTS if key in outputs}

    def bfloat16_twin(self) -> nn.Module:
        """The network to time under bfloat16 autocast: what autocast would convert in every call is converted once.

        Autocast caches converted weights only while they require gradients, so that without this a BF16 reference would pay
        for converting its weights again and again. Modules in `autocast_part` only; the heads run in float32.
        """
        twin = share_parameters(self.module)
        part = twin.get_submodule(self.autocast_part)
        for module in part.modules():
            if isinstance(module, nn.Linear | nn.Conv2d):
                for name, parameter in module.named_parameters(recurse=False):
                    setattr(module, name, nn.Parameter(parameter.to(torch.bfloat16), requires_grad=False))
        return twin


class ModelConfig(Protocol):
    """What the runner asks of a model's dataclass."""

    name: str

    def skeleton(self) -> nn.Module:
        """The network on the meta device: names and shapes, no memory. Raises ConfigError."""
        ...

    def check(self) -> None:
        """Raises WeightsError where weights cannot be found, as far as that is known in no time and without the network."""
        ...

    def load(self, device: torch.device) -> LoadedModel:
        """The network with its weights. Raises WeightsError."""
        ...

    def stream(self, skeleton: nn.Module) -> "Stream":
        """The same weights, one tensor at a time. Raises WeightsError."""
        ...

    def inputs(self) -> list[Path]:
        """The files that weights are read from; none where the options say it all. Asks no network. Raises WeightsError."""
        ...

    def identity(self) -> dict[str, Any]:
        """What an artifact says of the network, so that it can be built again: plain values."""
        ...


class Stream(Protocol):
    """The float32 tensors of a network by name."""

    def get(self, name: str) -> Tensor:
        """One tensor; asked for once."""
        ...

    def info(self, fingerprint: str) -> WeightsInfo:
        """Where they come from."""
        ...

    def close(self) -> None:
        """Lets go of the file."""
        ...


class MemoryStream:
    """The tensors of a network that is in memory; each is released when it has been read."""

    def __init__(self, loaded: LoadedModel) -> None:
        self._tensors = loaded.module.state_dict()
        self._weights = loaded.weights

    def get(self, name: str) -> Tensor:
        tensor: Tensor = self._tensors.pop(name)
        return tensor

    def info(self, fingerprint: str) -> WeightsInfo:
        return replace(self._weights, fingerprint=fingerprint)

    def close(self) -> None:
        self._tensors.clear()


@dataclass
class VGGTModel:
    """VGGT of any size. source: a Hugging Face repository, a checkpoint file or folder, or null for seeded random weights.

    `architecture` has the sections aggregator, patch_embed, camera_head, dpt, track_head; what it leaves out is VGGT-1B's.
    """

    name: str = "vggt_1b"
    source: str | None = None
    revision: str | None = None
    image_size: int = 518
    seed: int = 0  # of random weights
    track_head: bool = False
    domain: str | None = None  # the data set that the weights were trained on, where they know no other
    architecture: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.image_size < 14 or self.image_size % 14:
            near = sorted({max(14, self.image_size // 14 * 14), max(14, (self.image_size // 14 + 1) * 14)})
            raise ConfigError(
                f"model.image_size={self.image_size} is not a positive multiple of the patch size 14; "
                f"try {' or '.join(map(str, near))}"
            )
        if self.source == "":
            raise ConfigError(
                "model.source is empty: name a repository, a file or a folder, or use null for random weights"
            )

    def skeleton(self) -> nn.Module:
        with torch.device("meta"):
            heads = {"track": self.track_head} | self.architecture.get("heads", {})
            return build(self.architecture | {"heads": heads})

    def check(self) -> None:
        if self.source is not None and is_local(self.source):
            locate(self.source, self.revision)

    def load(self, device: torch.device) -> LoadedModel:
        model: Any = self.skeleton()
        if self.source is None:
            weights = random_weights_(model, self.seed, lively=True)
            log.warning(
                "weights: random (seed %d): fidelity to FP32 is real, reconstruction is not", self.seed
            )
        else:
            weights = load_weights_(model, self.source, self.revision, ignore=self._ignored())
        return LoadedModel(model.eval().requires_grad_(False).to(device), weights)

    def stream(self, skeleton: nn.Module) -> Stream:
        if self.source is None:
            return MemoryStream(self.load(torch.device("cpu")))
        return WeightStream(skeleton, self.source, self.revision, ignore=self._ignored())

    def inputs(self) -> list[Path]:
        return files_of(cached(self.source, self.revision).path) if self.source else []

    def identity(self) -> dict[str, Any]:
        network: Any = self.skeleton()
        return {
            "family": "vggt",
            "name": self.name,
            "image_size": self.image_size,
            "domain": self.domain,
            "architecture": asdict(network.config),
        }

    def _ignored(self) -> list[str]:
        return [] if self.track_head else ["track_head.*"]


def model_of(identity: Mapping[str, Any]) -> VGGTModel:
    """The configuration of the network that an `identity` describes. Raises ConfigError."""
    if identity.get("family") != "vggt":
        raise ConfigError(f"network family {identity.get('family')!r} is not known here; it has vggt")
    architecture = dict(identity["architecture"])
    track = bool(architecture["heads"]["track"])
    names = ("name", "image_size", "domain")
    return VGGTModel(**{key: identity[key] for key in names}, track_head=track, architecture=architecture)


def share_parameters(model: nn.Module) -> nn.Module:
    """A twin of `model` with modules of its own and the same tensors: quantizing it leaves the original whole."""
    tensors = [*model.parameters(), *model.buffers()]
    return copy.deepcopy(model, {id(tensor): tensor for tensor in tensors})
