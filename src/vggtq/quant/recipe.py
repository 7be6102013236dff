"""One weight through the recipe: statistics of its inputs, the basis to round in, rounding, packing."""

from collections.abc import Callable, Mapping
from dataclasses import replace

import torch
from torch import Tensor, nn

from vggtq.errors import QuantizationError
from vggtq.quant.calibration import InputStatistics, Observer, is_linear
from vggtq.quant.hadamard import rotate, rotation_of
from vggtq.quant.low_rank import low_rank
from vggtq.quant.packed import PackedWeight, check_finite, pack_weight
from vggtq.quant.scheme import Scheme, Weights
from vggtq.quant.select import layer_weights
from vggtq.quant.transform import (
    InputTransform,
    awq_scale,
    balance_scale,
    sinkhorn_scale,
    smooth_scale,
)
from vggtq.quant.values import Values


class Recipe:
    """Rounds the weights of a model, one after the other, in the order that inputs reach them.

    norms: linear layer to the norm that feeds it and nothing else; scales go into its gain and bias instead of the inputs.
    values: projection to the values that attention brings it; scales and rotations go into the layer that makes them.
    keep_exact: whether packed weights bring along what they were rounded from.
    """

    def __init__(
        self,
        model: nn.Module,
        scheme: Scheme,
        observer: Observer | None,
        norms: Mapping[str, str],
        values: Mapping[str, Values],
        fetch: Callable[[Tensor], Tensor],
        keep_exact: bool = False,
    ) -> None:
        self._model, self._scheme, self._observer, self._norms = model, scheme, observer, norms
        self._values, self._keep_exact = values, keep_exact
        # Of projections whose transform was merged before their turn.
        self._merged: dict[str, tuple[InputStatistics | None, InputTransform]] = {}
        self.special_ratios: dict[str, float | None] = {}  # of every layer that was observed
        self._fetch = fetch

    def pack(self, name: str, rows: Tensor, spec: Weights) -> PackedWeight:
        """The packed weight of the layer `name`. rows: (R, C). Raises QuantizationError."""
        scheme = self._scheme
        rows = self._with_merged_values(name, rows)
        statistics, transform = self._merged.pop(name, (None, None))
        if transform is None:
            statistics = self._observer.take(name) if self._observer else None
        if scheme.needs_statistics and statistics is None:
            note = "rounded to nearest: only linear layers are calibrated"
            return _noted(pack_weight(rows, spec), note)
        if statistics is not None:
            self.special_ratios[name] = statistics.special_ratio
        if transform is None:
            transform = self._transform(name, rows, spec, statistics)
        gram = None if statistics is None else transform.gram(statistics.gram)
        weight = transform.weight(rows)
        if scheme.compensation.rank and is_linear(self._model, name):
            packed = self._compensated(weight, spec, gram)
        else:
            packed = pack_weight(weight, spec, scheme.rounding, gram)
        exact = self._exact(weight, packed) if self._keep_exact else None
        return replace(packed, transform=self._folded(name, transform), exact=exact)

    def _exact(self, weight: Tensor, packed: PackedWeight) -> Tensor:
        """What the codes stand for: the weight without what the branch adds."""
        return weight if packed.low_rank is None else weight - packed.low_rank.weight()

    def _compensated(self, weight: Tensor, spec: Weights, gram: Tensor | None) -> PackedWeight:
        """Without its largest singular values the weight is rounded; then the branch is fitted to all that is missing."""
        check_finite(weight)
        rank, exact = self._scheme.compensation.rank, weight.float()
        packed = pack_weight(exact - low_rank(exact, rank).weight(), spec, self._scheme.rounding, gram)
        rounded = packed.dequantize()
        branch = low_rank(exact - rounded, rank, gram)
        missing = (exact - rounded - branch.weight()).double()
        signal, noise = float(exact.double().square().sum()), float(missing.square().sum())
        return replace(packed, low_rank=branch, signal=signal, noise=noise)

    def _transform(
        self, name: str, rows: Tensor, spec: Weights, statistics: InputStatistics | None
    ) -> InputTransform:
        wanted = self._scheme.transform
        if not self._scheme.transforms or not is_linear(self._model, name):
            return InputTransform()
        check_finite(rows)
        rotation = rotation_of(rows.shape[1]) if wanted.hadamard else 0
        rotation_first = rotation > 0 and self._scheme.scales_rotated
        if rotation_first:  # scales are those of rotated channels
            rows, statistics = rotate(rows, rotation), statistics and statistics.rotated()
        scale = None
        if wanted.scale == "sinkhorn":
            scale = sinkhorn_scale(rows)
        if wanted.scale == "smooth" and statistics is not None:
            scale = smooth_scale(rows, statistics, wanted.alpha)
        if wanted.scale == "balance" and statistics is not None:
            scale = balance_scale(rows, statistics)
        if self._scheme.scales_channels and statistics is not None:
            scale = smooth_scale(
                rows, statistics, alpha=1.0
            )  # inputs alone: every channel reaches as far as all others
        if wanted.scale == "awq" and statistics is not None:
            # Round to nearest, whatever the rounding: a search for scales inside of the search takes forty times as long.
            scale = awq_scale(rows, statistics, lambda some: pack_weight(some, spec).dequantize())
        return InputTransform(scale, rotation, rotation_first=rotation_first)

    def _with_merged_values(self, name: str, rows: Tensor) -> Tensor:
        """The weight (R, C) of the layer `name` after it has taken over the transforms of projections that read its outputs."""
        for projection, values in self._values.items():
            if values.layer != name:
                continue
            statistics = self._observer.take(projection) if self._observer else None
            spec = layer_weights(self._scheme, projection)
            try:
                transform = self._transform(
                    projection, self._parameter(projection, "weight"), spec, statistics
                )
            except QuantizationError as error:
                raise QuantizationError(f"{projection}, which reads its values: {error}") from None
            self._merged[projection] = statistics, transform
            rows = values.merged(rows, transform)
            layer = self._model.get_submodule(name)
            if layer.bias is not None:
                bias = self._parameter(name, "bias")
                _set_parameter_(layer, "bias", values.merged(bias, transform).to(bias.dtype))
        return rows

    def _parameter(self, module: str, key: str) -> Tensor:
        parameter = self._model.get_submodule(module).get_parameter(key)
        return (self._fetch(parameter) if parameter.is_meta else parameter).detach()

    def _folded(self, name: str, transform: InputTransform) -> InputTransform:
        """What is left to do to the inputs after the norm or the values in front of the layer have taken over their part."""
        left = left_to_do(name, transform, self._norms, self._values)
        if transform.scale is None or left.scale is not None or name in self._values:
            return left
        norm = self._model.get_submodule(self._norms[name])
        for key in ("weight", "bias"):
            exact = self._parameter(self._norms[name], key)
            _set_parameter_(norm, key, (exact / transform.scale).to(exact.dtype))
        return left


def _set_parameter_(module: nn.Module, key: str, values: Tensor) -> None:
    """A parameter of its own: another model may share the old one."""
    setattr(module, key, nn.Parameter(values, requires_grad=module.get_parameter(key).requires_grad))


def _noted(packed: PackedWeight, note: str) -> PackedWeight:
    return replace(packed, notes=(*packed.notes, note))


def left_to_do(
    name: str, transform: InputTransform, norms: Mapping[str, str], values: Mapping[str, Values]
) -> InputTransform:
    """What inputs of a layer go through once what is in front of it has taken over all that it can."""
    if name in values:
        return values[name].left_to_do(transform)
    return replace(transform, scale=None) if name in norms and not transform.rotation_first else transform


def norms_before(model: nn.Module) -> Mapping[str, str]:
    """What the model declares with `norms_before()`, nothing for other networks. Norms without a bias are left out."""
    declared = getattr(model, "norms_before", None)
    pairs: Mapping[str, str] = declared() if callable(declared) else {}
    plain = torch.nn.LayerNorm
    return {
        linear: norm
        for linear, norm in pairs.items()
        if isinstance(m := model.get_submodule(norm), plain) and m.bias is not None
    }
