"""The images that a recipe is calibrated on: which they are, and that none of them is evaluated."""

import hashlib
import logging
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from vggtq.config.schema import Calibration, Config
from vggtq.data.scene import Scene
from vggtq.errors import ConfigError, DataError
from vggtq.files.spill import Kept, Overflow
from vggtq.models.loading import LoadedModel
from vggtq.prepare.cache import STATISTICS, CalibrationCache, cache_of
from vggtq.prepare.diverse import diverse
from vggtq.quant.walk.quantize import Quantization
from vggtq.records.of_model import CalibrationEntry

log = logging.getLogger(__name__)

IMAGE_BYTES = 2**28  # of calibration images that stay in memory


@dataclass(frozen=True)
class Sample:
    """One calibration scene. digests: the SHA-256 of every image."""

    name: str
    kept: Kept
    digests: tuple[str, ...]


class Images(Sequence[Tensor]):
    """The images (S, 3, H, W) of samples, read where they are kept each time; batched: (1, S, 3, H, W)."""

    def __init__(self, samples: Sequence[Sample], overflow: Overflow, batched: bool = False) -> None:
        self._samples, self._overflow, self._batched = samples, overflow, batched

    def __len__(self) -> int:
        return len(self._samples)

    def __getitem__(self, index: Any) -> Any:
        if isinstance(index, slice):
            return Images(self._samples[index], self._overflow, self._batched)
        images = self._overflow.get(self._samples[index].kept)
        return images[None] if self._batched else images


@dataclass
class Samples:
    """The calibration scenes. digests: the SHA-256 of every image and file of all candidates."""

    calibration: Calibration
    scenes: list[Sample] = field(default_factory=list)
    digests: set[str] = field(default_factory=set)
    candidates: int = 0
    outliers: list[str] = field(default_factory=list)  # names of candidates that diverse left out first
    cache: CalibrationCache | None = None
    _overflow: Overflow = field(default_factory=lambda: Overflow(IMAGE_BYTES))
    _selected: bool = False
    notes: list[str] = field(default_factory=list)  # decisions, and problems with caches

    @classmethod
    def of(cls, calibration: Calibration) -> "Samples":
        """Reads or renders the candidates. Raises DataError."""
        samples = cls(calibration)
        for scene in calibration.dataset.scenes():
            sample = Sample(
                scene.name, samples._overflow.keep(scene.images), tuple(map(_digest, scene.images))
            )
            samples.scenes.append(sample)
            samples.digests |= {*sample.digests, *(file.sha256 for file in scene.files)}
        samples.candidates = len(samples.scenes)
        if not samples.scenes:
            raise DataError(f"calibration {calibration.name} has no scenes; check calibration.dataset")
        if samples.candidates < calibration.samples:
            asked = f"of the {calibration.samples} samples asked for"
            samples.notes.append(f"calibration={calibration.name} has {samples.candidates} {asked}")
            log.warning(samples.notes[-1])
        return samples

    def select_(self, model: nn.Module) -> None:
        """Keeps calibration.samples of the candidates. model: in float; it is asked only for selection=diverse, and once."""
        calibration = self.calibration
        if self._selected:
            return
        self._selected = True
        if calibration.selection == "random":
            self.scenes = self.scenes[: calibration.samples]
            return
        features = getattr(model, "features", None)
        if features is None:
            raise ConfigError(
                f"calibration.selection=diverse: {type(model).__name__} has no features(images); use selection=random"
            )
        device = next(iter(model.parameters())).device
        with torch.inference_mode():
            rows = [features(images.to(device)).float().cpu() for images in self.images]
        selection = diverse(torch.stack(rows).numpy(), calibration.samples, calibration.seed)
        self.outliers = [self.scenes[i].name for i in selection.outliers]
        self.scenes = [self.scenes[i] for i in selection.chosen]

    @property
    def images(self) -> Images:
        """Of every sample that is used, (S, 3, H, W)."""
        return Images(self.scenes, self._overflow)

    def prepare(self, config: Config, model: LoadedModel) -> tuple[Images, CalibrationCache]:
        """Arguments of `quantize_`: the inputs, (1, S, 3, H, W) each, and the cache of layer statistics."""
        self.select_(model.module)
        statistics = cache_of(STATISTICS, config.cache, config.model, model)
        self.notes += statistics.notes
        statistics.notes = self.notes  # further ones as well
        self.cache = CalibrationCache(statistics, self.sha256, config.scheme)
        return self.inputs, self.cache

    @property
    def inputs(self) -> Images:
        """The same as the network is called with, (1, S, 3, H, W)."""
        return Images(self.scenes, self._overflow, batched=True)

    @property
    def sha256(self) -> str:
        """Of all images, in order."""
        digests = [digest for scene in self.scenes for digest in (*scene.digests, END)]
        return hashlib.sha256("".join(digests).encode()).hexdigest()

    def check_disjoint(self, scene: Scene) -> None:
        """Raises DataError if an image of an evaluated scene was calibrated on, or could have been."""
        files = [file.sha256 for file in scene.files] or [""] * len(scene.images)
        for index, (image, file) in enumerate(zip(scene.images, files, strict=True)):
            # The same photograph may have been cropped or padded in another way.
            if file in self.digests or _digest(image) in self.digests:
                raise DataError(
                    f"image {index} of scene {scene.name} is among the calibration samples: what a recipe was fitted on says "
                    f"nothing about it; use calibration=objects or other images"
                )

    def describe(self, quantization: Quantization) -> CalibrationEntry:
        """The record's `calibration`."""
        return CalibrationEntry(
            name=self.calibration.name,
            selection=self.calibration.selection,
            candidates=self.candidates,
            outliers=self.outliers,
            scenes=len(self.scenes),
            frames=sum(len(scene.digests) for scene in self.scenes),
            samples=[scene.name for scene in self.scenes],
            sha256=self.sha256,
            passes=quantization.calibration_passes,
            groups=quantization.calibration_groups,
            seconds=quantization.calibration_seconds,
            cached=self.cache.cached if self.cache else None,
            computed=self.cache.computed if self.cache else None,
        )


def _digest(image: Tensor) -> str:
    return hashlib.sha256(image.contiguous().to(torch.float32).numpy().tobytes()).hexdigest()


END = _digest(torch.zeros(0))  # of a scene
