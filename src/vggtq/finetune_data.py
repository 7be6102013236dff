"""Views of the calibration scenes to fine-tune on: frames in another order each time; a part is kept for validation."""

from collections.abc import Sequence

import torch
from torch import Tensor

from vggtq.errors import DataError


class Views:
    """scenes: (S, 3, H, W) each. The last `validation` of them, or of the frames of a single one, are not trained on.

    validation: (1, S, 3, H, W) each.
    """

    def __init__(self, scenes: Sequence[Tensor], validation: float, seed: int) -> None:
        own = list(scenes) if len(scenes) > 1 else [frame[None] for frame in scenes[0]]
        if len(own) < 2:
            raise DataError(
                "fine-tuning needs images to train on and others to validate with, and there is one; "
                "use more, e.g. calibration.samples=64"
            )
        kept = min(len(own) - 1, max(1, round(validation * len(own))))
        training, rest = own[:-kept], own[-kept:]
        if len(scenes) == 1:
            training, rest = [torch.cat(training)], [torch.cat(rest)]
        self.training, self._seed = training, seed
        self.validation: list[Tensor] = [scene[None] for scene in rest]

    def batch(self, step: int, size: int) -> list[Tensor]:
        """`size` scenes, or all where there are fewer; each once before any comes again. Stacked where shapes agree."""
        size = min(size, len(self.training))
        epoch, place = divmod(step, len(self.training) // size)
        order = torch.randperm(len(self.training), generator=self._generator(2 * epoch))
        generator = self._generator(2 * step + 1)
        shapes: dict[torch.Size, list[Tensor]] = {}
        for index in order[place * size : (place + 1) * size].tolist():
            images = self.training[index]
            # Another first frame is another world frame: new targets from the same images.
            images = images[torch.randperm(len(images), generator=generator)]
            shapes.setdefault(images.shape, []).append(images)
        return [torch.stack(group) for group in shapes.values()]

    def _generator(self, number: int) -> torch.Generator:
        return torch.Generator().manual_seed(self._seed * 2**31 + number)
