"""Transforms of inputs, merged into the operations in front of a layer, so that they take no time when the network runs.

Scales go into the gain and bias of a norm that feeds the layer and nothing else (SmoothQuant, Xiao et al. 2023, arXiv
2211.10438, section 4). Before a projection behind attention they go into the values: attention averages values over tokens,
each channel of a head with the same weights. So dividing its output by s is dividing the values by s, and rotating it within
a head is rotating the values (QuaRot, Ashkboos et al. 2024, arXiv 2404.00456, section 4). Both change rows of a weight that
are rounded anyway. Of blocks wider than a head, H_ab = H_a ⊗ H_b, only H_a is left to do, across heads. Before `fc2` neither
can move: GELU lies between.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor, nn

from vggtq.network.declared import norms_before, values_before
from vggtq.quant.numbers.basis import InputTransform
from vggtq.quant.numbers.hadamard import block_width
from vggtq.quant.scheme.scheme import Scheme
from vggtq.quant.walk.observe import Observer
from vggtq.quant.walk.select import is_linear


@dataclass(frozen=True)
class Values:
    """The values that a projection behind attention reads: `width` outputs of `layer` from `first` on, in heads
    of `head_width`.
    """

    layer: str
    first: int
    head_width: int
    width: int

    def merged_width(self, transform: InputTransform) -> int:
        """Width of the Hadamard blocks that fit into a head."""
        return min(transform.rotation, block_width(self.head_width))

    def left_to_do(self, transform: InputTransform) -> InputTransform:
        """The transform that the projection's inputs still have to go through."""
        scale = None if self._merges_scale(transform) else transform.scale
        return replace(transform, scale=scale, merged=self.merged_width(transform))

    def _merges_scale(self, transform: InputTransform) -> bool:
        """Whether the values take over the scales; those of rotated channels only where heads are rotated as a whole."""
        return not transform.rotation_first or self.merged_width(transform) == transform.rotation

    def merged(self, outputs: Tensor, transform: InputTransform) -> Tensor:
        """The weight (R, C) or bias (R,) of `layer` with values that are scaled and rotated already; float32 or more."""
        value_rows = slice(self.first, self.first + self.width)
        merged = outputs.to(torch.promote_types(outputs.dtype, torch.float32), copy=True)
        values = merged[value_rows].reshape(self.width, -1).T.contiguous()
        scale = transform.scale if self._merges_scale(transform) else None
        within_heads = replace(transform, scale=scale, rotation=self.merged_width(transform))
        merged[value_rows] = within_heads.inputs(values).T.reshape(merged[value_rows].shape)
        return merged


@dataclass(frozen=True)
class Folds:
    """The modules that can take over transforms, by the linear layer whose inputs are transformed.

    norms: the norm that feeds the layer and nothing else. values: the values that attention passes to it.
    """

    norms: Mapping[str, str] = field(default_factory=dict)
    values: Mapping[str, Values] = field(default_factory=dict)

    def norm_for(self, name: str, transform: InputTransform) -> str | None:
        """The norm that takes over the scales of `transform`, if one does."""
        if transform.scale is None or transform.rotation_first or name in self.values:
            return None
        return self.norms.get(name)

    def left_to_do(self, name: str, transform: InputTransform) -> InputTransform:
        """The transform that inputs of layer `name` go through once all that can be folded is."""
        if name in self.values:
            return self.values[name].left_to_do(transform)
        return replace(transform, scale=None) if self.norm_for(name, transform) else transform


def folds_of(model: nn.Module, scheme: Scheme, layers: Sequence[str], observer: Observer | None) -> Folds:
    """The modules that take over the transforms of `scheme`. layers: those that are observed, in the order in
    which they are rounded.
    """
    if not scheme.transforms:
        return Folds()
    return Folds(norms_before(model), _values(model, scheme, layers, observer))


def _values(
    model: nn.Module, scheme: Scheme, layers: Sequence[str], observer: Observer | None
) -> dict[str, Values]:
    """Projection to its values, where the model declares them and the transform can be merged.

    The transform of the projection has to be known when the values are rounded, so both are observed together;
    and rows that are divided by scales need scales of their own, so not with one for the tensor.
    """
    if scheme.transform.scale != "none" and scheme.weights.granularity == "per_tensor":
        return {}
    place = {name: i for i, name in enumerate(layers)}
    values = {}
    for projection, (layer, first, head_width) in values_before(model).items():
        if not (is_linear(model, layer) and is_linear(model, projection)):
            continue
        in_order = place.get(layer, len(place)) < place.get(projection, -1)
        if in_order and (observer is None or observer.order(layer) == observer.order(projection)):
            width = model.get_parameter(f"{projection}.weight").shape[1]
            values[projection] = Values(layer, first, head_width, width)
    return values
