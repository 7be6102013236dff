"""From a model's YAML to a network with weights, and the interface to it.

Each network has an adapter, a dataclass that its YAML names: `VGGTModel`, `Pi3Model`, `Pi3XModel`,
`OmegaModel`. `CheckpointModel` is their common base; a network from outside needs a dataclass with the methods
of `ModelConfig`.
"""

import copy
import logging
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, ClassVar, Protocol

import torch
from torch import Tensor, nn

from vggtq.errors import ConfigError
from vggtq.models.checkpoints.files import files_of
from vggtq.models.checkpoints.fingerprint import WeightsInfo, fingerprint
from vggtq.models.checkpoints.licences import OMEGA_LICENCE, PI3_LICENCE
from vggtq.models.checkpoints.load import WeightStream, load_weights_
from vggtq.models.checkpoints.source import cached, is_local, locate
from vggtq.models.network import Network
from vggtq.models.omega.config import OmegaConfig
from vggtq.models.omega.network import Omega
from vggtq.models.pi3.config import Pi3Config, Pi3XConfig
from vggtq.models.pi3.network import Pi3
from vggtq.models.pi3.pi3x import OPTIONAL_PARTS, Pi3X
from vggtq.models.vggt.config import VGGTConfig, parse
from vggtq.models.vggt.initialize import initialize_
from vggtq.models.vggt.network import VGGT
from vggtq.network.declared import common_outputs
from vggtq.network.heads import heads_of, set_heads_

log = logging.getLogger(__name__)


@dataclass
class LoadedModel:
    """A network in eval mode on its device, and where its weights come from."""

    module: nn.Module
    weights: WeightsInfo

    def predict(self, images: Tensor, module: nn.Module | None = None) -> dict[str, Tensor]:
        """images: (S, 3, H, W) in [0, 1]. Returns those outputs of `network.outputs` that the network gives, without batch
        axis, float32 on the CPU. `module` stands in for the network: its quantized twin.
        """
        network = module or self.module
        device = next(iter(network.parameters())).device
        with torch.inference_mode():
            outputs = common_outputs(network, network(images.to(device)))
        return {key: value[0].to("cpu", torch.float32) for key, value in outputs.items()}

    def bfloat16_twin(self) -> nn.Module:
        """The network to time under bfloat16 autocast; its parts in float32 stay as they are."""
        return bfloat16_twin(self.module)


class ModelConfig(Protocol):
    """The interface of a model's dataclass that the runner uses."""

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
        """The description of the network in an artifact, so that it can be built again: plain values."""
        ...


class MemoryStream:
    """The float32 tensors of a network that is in memory, by name; each is released when it has been read."""

    def __init__(self, loaded: LoadedModel) -> None:
        self._tensors = loaded.module.state_dict()
        self._weights = loaded.weights

    def get(self, name: str) -> Tensor:
        return self._tensors.pop(name)

    def info(self, fingerprint: str) -> WeightsInfo:
        return replace(self._weights, fingerprint=fingerprint)

    def close(self) -> None:
        self._tensors.clear()


Stream = WeightStream | MemoryStream


@dataclass
class CheckpointModel:
    """A network of any size. source: a Hugging Face repository, a checkpoint file or folder, or null for seeded random weights.

    `architecture` has the sections of the network's configuration; keys that it leaves out are those of the
    published weights. image_size, mode and patch_size say how images are prepared for it
    (`vggtq.data.preprocess`).
    """

    name: str = ""
    source: str | None = None
    revision: str | None = None
    image_size: int = 518
    seed: int = 0  # of random weights
    domain: str | None = None  # the data set that the weights were trained on, where they know no other
    architecture: dict[str, Any] = field(default_factory=dict)
    mode: str = "crop"
    patch_size: int = 14

    family: ClassVar[str]
    network: ClassVar[type[Network]]
    sections: ClassVar[type[Any]]
    published: ClassVar[str]  # what `source` is for the published weights
    license: ClassVar[str | None] = (
        None  # of all weights of this network; None where that depends on the source
    )

    def __post_init__(self) -> None:
        p = self.patch_size
        if self.image_size < p or self.image_size % p:
            near = sorted({max(p, self.image_size // p * p), max(p, (self.image_size // p + 1) * p)})
            raise ConfigError(
                f"model.image_size={self.image_size} is not a positive multiple of the patch size {p}; "
                f"try {' or '.join(map(str, near))}"
            )
        if self.source == "":
            raise ConfigError(
                "model.source is empty: name a repository, a file or a folder, or use null for random weights"
            )

    def config(self) -> Any:
        """The network's own configuration. Raises ConfigError."""
        return parse(self.sections, self.architecture)

    def ignored(self) -> Sequence[str]:
        """Name patterns of stored tensors that the network may lack."""
        return ()

    def skeleton(self) -> Network:
        with torch.device("meta"):
            network = self.network(self.config()).eval()
        if network.patch_size != self.patch_size:
            raise ConfigError(
                f"model.patch_size={self.patch_size}: the network's is {network.patch_size}; use that for images, too"
            )
        return network

    def check(self) -> None:
        if self.source is not None and is_local(self.source):
            locate(self.source, self.revision)

    def load(self, device: torch.device) -> LoadedModel:
        model = self.skeleton()
        if self.source is None:
            weights = random_weights_(model, self.seed, lively=True)
            log.warning(
                "weights: random (seed %d): fidelity to FP32 is real, reconstruction is not%s",
                self.seed,
                "" if self.architecture else f"; the published ones: model.source={self.published}",
            )
        else:
            weights = load_weights_(
                model, self.source, self.revision, ignore=self.ignored(), license=self.license
            )
        return LoadedModel(model.eval().requires_grad_(False).to(device), weights)

    def stream(self, skeleton: nn.Module) -> Stream:
        if self.source is None:
            return MemoryStream(self.load(torch.device("cpu")))
        return WeightStream(skeleton, self.source, self.revision, ignore=self.ignored(), license=self.license)

    def inputs(self) -> list[Path]:
        return files_of(cached(self.source, self.revision).path) if self.source else []

    def identity(self) -> dict[str, Any]:
        own = {name: getattr(self, name) for name in ("name", "image_size", "domain")}
        return {"family": self.family, **own, "architecture": asdict(self.config())}


@dataclass
class VGGTModel(CheckpointModel):
    """VGGT (Wang et al. 2025): sections aggregator, patch_embed, camera_head, dpt, track_head."""

    name: str = "vggt_1b"
    track_head: bool = False

    family = "vggt"
    network = VGGT
    sections = VGGTConfig
    published = "facebook/VGGT-1B"

    def ignored(self) -> Sequence[str]:
        return () if self.track_head else ("track_head.*",)

    def config(self) -> VGGTConfig:
        heads = {"track": self.track_head} | self.architecture.get("heads", {})
        return parse(VGGTConfig, self.architecture | {"heads": heads})


@dataclass
class Pi3Model(CheckpointModel):
    """Pi3 (Wang et al. 2025, arXiv 2507.13347): sections encoder, decoder, heads."""

    name: str = "pi3"
    image_size: int = 504
    mode: str = "area"

    family = "pi3"
    network: ClassVar[type[Network]] = Pi3
    sections: ClassVar[type[Any]] = Pi3Config
    published = "yyfz233/Pi3"
    license = PI3_LICENCE


@dataclass
class Pi3XModel(Pi3Model):
    """Pi3X, by the authors of Pi3: sections encoder, decoder, heads, conv_head, metric."""

    name: str = "pi3x"

    family = "pi3x"
    network = Pi3X
    sections = Pi3XConfig
    published = "yyfz233/Pi3X"

    def ignored(self) -> Sequence[str]:
        return OPTIONAL_PARTS


@dataclass
class OmegaModel(CheckpointModel):
    """VGGT-Ω (arXiv 2605.15195): sections aggregator, patch_embed, camera_head, dense_head, text_alignment_head."""

    name: str = "vggt_omega"
    image_size: int = 512
    mode: str = "balanced"
    patch_size: int = 16

    family = "vggt_omega"
    network = Omega
    sections = OmegaConfig
    published = "facebook/VGGT-Omega:vggt_omega_1b_512.pt"
    license = OMEGA_LICENCE

    def ignored(self) -> Sequence[str]:
        return ("text_alignment_head.*",)


ADAPTERS: dict[str, type[CheckpointModel]] = {
    cls.family: cls for cls in (VGGTModel, Pi3Model, Pi3XModel, OmegaModel)
}


def model_of(identity: Mapping[str, Any]) -> CheckpointModel:
    """The configuration of the network that an `identity` describes. Raises ConfigError."""
    family = identity.get("family")
    if family not in ADAPTERS:
        raise ConfigError(f"network family {family!r} is not known here; it has {', '.join(ADAPTERS)}")
    values = {name: identity[name] for name in ("name", "image_size", "domain")}
    return ADAPTERS[family](**values, architecture=dict(identity["architecture"]))


def share_parameters(model: nn.Module) -> nn.Module:
    """A twin of `model` with modules of its own and the same tensors: quantizing it leaves the original whole."""
    tensors = [*model.parameters(), *model.buffers()]
    return copy.deepcopy(model, {id(tensor): tensor for tensor in tensors})


def bfloat16_twin(model: nn.Module, heads: bool = False) -> nn.Module:
    """A twin with the weights already converted that autocast would convert in every call, except in the parts
    that the network runs in float32.

    heads: dense heads, which networks run in float32, multiply in bfloat16 as well.

    Autocast caches converted weights only while they require gradients, so that without this a BF16 reference would pay for
    converting its weights again and again.
    """
    twin = share_parameters(model)
    if heads:
        set_heads_(twin, "bfloat16")
    exact = set(getattr(twin, "float32_parts", ())) - (set(heads_of(twin)) if heads else set())
    for path, module in twin.named_modules():
        if isinstance(module, nn.Linear | nn.Conv2d) and path.partition(".")[0] not in exact:
            for name, parameter in module.named_parameters(recurse=False):
                setattr(module, name, nn.Parameter(parameter.to(torch.bfloat16), requires_grad=False))
    return twin


def random_weights_(model: Network, seed: int, lively: bool = False) -> WeightsInfo:
    """`initialize_`, described like any other weights."""
    initialize_(model, seed, lively)
    return WeightsInfo(
        f"seed {seed}{', lively' if lively else ''}", "random", fingerprint(model), random=True
    )
