"""One weight through the recipe: statistics of its inputs, the basis to round in, rounding, packing."""

from collections.abc import Callable, Mapping
from dataclasses import replace

import torch
from torch import Tensor, nn

from vggtq.quant.calibration import InputStatistics, Observer, is_linear
from vggtq.quant.low_rank import low_rank
from vggtq.quant.packed import PackedWeight, check_finite, pack_weight
from vggtq.quant.scheme import Scheme, Weights
from vggtq.quant.transform import (
    InputTransform,
    awq_scale,
    balance_scale,
    rotation_of,
    sinkhorn_scale,
    smooth_scale,
)


class Recipe:
    """Rounds the weights of a model, one after the other, in the order that inputs reach them.

    norms: linear layer to the norm that feeds it and nothing else; scales go into its gain and bias instead of the inputs.
    keep_exact: whether packed weights bring along what they were rounded from.
    """

    def __init__(
        self,
        model: nn.Module,
        scheme: Scheme,
        observer: Observer | None,
        norms: Mapping[str, str],
        fetch: Callable[[Tensor], Tensor],
        keep_exact: bool = False,
    ) -> None:
        self._model, self._scheme, self._observer, self._norms = model, scheme, observer, norms
        self._keep_exact = keep_exact
        self.special_ratios: dict[str, float | None] = {}  # of every layer that was observed
        self._fetch = fetch

    def pack(self, name: str, rows: Tensor, spec: Weights) -> PackedWeight:
        """The packed weight of the layer `name`. rows: (R, C). Raises QuantizationError."""
        scheme = self._scheme
        statistics = self._observer.take(name) if self._observer else None
        if scheme.needs_statistics and statistics is None:
            note = "rounded to nearest: only linear layers are calibrated"
            return _noted(pack_weight(rows, spec), note)
        if statistics is not None:
            self.special_ratios[name] = statistics.special_ratio
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
        return InputTransform(scale, rotation)

    def _folded(self, name: str, transform: InputTransform) -> InputTransform:
        """What is left to do to the inputs after the norm in front of the layer has taken over the scale."""
        if transform.scale is None or name not in self._norms:
            return transform
        norm = self._model.get_submodule(self._norms[name])
        for key in ("weight", "bias"):
            parameter = norm.get_parameter(key)
            exact = self._fetch(parameter) if parameter.is_meta else parameter
            # A parameter of its own: another model may share the old one.
            divided = (exact.detach() / transform.scale).to(exact.dtype)
            setattr(norm, key, nn.Parameter(divided, requires_grad=parameter.requires_grad))
        return InputTransform(None, transform.rotation)


def _noted(packed: PackedWeight, note: str) -> PackedWeight:
    return replace(packed, notes=(*packed.notes, note))


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
