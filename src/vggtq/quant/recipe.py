"""One weight through the recipe: statistics of its inputs, the basis to round in, rounding, packing."""

from collections.abc import Mapping
from dataclasses import replace

import torch
from torch import Tensor, nn

from vggtq.quant.calibration import InputStatistics, Observer, is_linear
from vggtq.quant.packed import PackedWeight, pack_weight
from vggtq.quant.scheme import Scheme, Weights
from vggtq.quant.transform import InputTransform, awq_scale, rotation_of, smooth_scale


class Recipe:
    """Rounds the weights of a model, one after the other, in the order that inputs reach them.

    norms: linear layer to the norm that feeds it and nothing else; scales go into its gain and bias instead of the inputs.
    """

    def __init__(
        self, model: nn.Module, scheme: Scheme, observer: Observer | None, norms: Mapping[str, str]
    ) -> None:
        self._model, self._scheme, self._observer, self._norms = model, scheme, observer, norms
        self.special_ratios: dict[str, float | None] = {}  # of every layer that was observed

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
        packed = pack_weight(transform.weight(rows), spec, scheme.rounding, gram)
        return replace(packed, transform=self._folded(name, transform))

    def _transform(
        self, name: str, rows: Tensor, spec: Weights, statistics: InputStatistics | None
    ) -> InputTransform:
        wanted = self._scheme.transform
        if not self._scheme.transforms or not is_linear(self._model, name):
            return InputTransform()
        rotation = rotation_of(rows.shape[1]) if wanted.hadamard else 0
        scale = None
        if wanted.scale == "smooth" and statistics is not None:
            scale = smooth_scale(rows, statistics, wanted.alpha)
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
            # A parameter of its own: another model may share the old one.
            divided = (parameter.detach() / transform.scale).to(parameter.dtype)
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
