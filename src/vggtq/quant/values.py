"""Scales and rotations of what attention returns, moved into the layer that makes its values.

Attention averages values over tokens, each channel of a head with the same weights. So dividing its output by s is dividing
the values by s (SmoothQuant's migration into the previous linear layer, Xiao et al. 2023, arXiv 2211.10438), and rotating it
within a head is rotating the values (Ashkboos et al. 2024, QuaRot, arXiv 2404.00456, section 4). Both change rows of a weight
that are rounded anyway, and cost nothing when the network runs. Of blocks wider than a head, H_ab = H_a ⊗ H_b, only H_a is
left to do, across heads. Before `fc2` neither can move: GELU lies between.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from vggtq.quant.calibration import Observer, is_linear
from vggtq.quant.hadamard import block_width
from vggtq.quant.scheme import Scheme
from vggtq.quant.transform import InputTransform


@dataclass(frozen=True)
class Values:
    """What a projection behind attention reads: `width` outputs of `layer` from `first` on, in heads of `head_width`."""

    layer: str
    first: int
    head_width: int
    width: int

    def merged_width(self, transform: InputTransform) -> int:
        """Of the Hadamard blocks that fit into a head."""
        return min(transform.rotation, block_width(self.head_width))

    def left_to_do(self, transform: InputTransform) -> InputTransform:
        """What the projection's inputs still have to go through."""
        scale = None if self._merges_scale(transform) else transform.scale
        return replace(transform, scale=scale, merged=self.merged_width(transform))

    def _merges_scale(self, transform: InputTransform) -> bool:
        """Scales of rotated channels only where heads are rotated as a whole."""
        return not transform.rotation_first or self.merged_width(transform) == transform.rotation

    def merged(self, outputs: Tensor, transform: InputTransform) -> Tensor:
        """The weight (R, C) or bias (R,) of `layer` with values that are scaled and rotated already; float32 or more."""
        own = slice(self.first, self.first + self.width)
        merged = outputs.to(torch.promote_types(outputs.dtype, torch.float32), copy=True)
        values = merged[own].reshape(self.width, -1).T.contiguous()
        scale = transform.scale if self._merges_scale(transform) else None
        within_heads = replace(transform, scale=scale, rotation=self.merged_width(transform))
        merged[own] = within_heads.inputs(values).T.reshape(merged[own].shape)
        return merged


def values_before(
    model: nn.Module, scheme: Scheme, layers: Sequence[str], observer: Observer | None
) -> dict[str, Values]:
    """Projection to its values, where the model declares them with `values_before()` and the transform can be merged.

    layers: in the order in which they are rounded. What the projection asks for has to be known when the values are rounded, so
    both are observed together; and rows that are divided by scales need scales of their own, so not with one for the tensor.
    """
    declared = getattr(model, "values_before", None)
    if not callable(declared) or not scheme.transforms:
        return {}
    scales = scheme.transform.scale != "none" or scheme.scales_channels
    if scales and scheme.weights.granularity == "per_tensor":
        return {}
    place = {name: i for i, name in enumerate(layers)}
    found = {}
    for projection, (layer, first, head_width) in declared().items():
        if not (is_linear(model, layer) and is_linear(model, projection)):
            continue
        in_order = place.get(layer, len(place)) < place.get(projection, -1)
        if in_order and (observer is None or observer.order(layer) == observer.order(projection)):
            linear: Any = model.get_submodule(projection)
            found[projection] = Values(layer, first, head_width, linear.in_features)
    return found
