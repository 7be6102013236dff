"""Every layer rounded to every candidate width: what there is to choose from, and the bytes of each choice.

A unit is what shares its bits: the weights of one module (an attention has two), and of modules that share a parameter.
Stored bytes of a model = bytes that no choice changes + one entry of `bytes` for each unit, exactly what
`vggtq.quant.size.stored_bytes` counts after `quantize_`.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import nn

from vggtq.errors import QuantizationError
from vggtq.quant.calibration import Calibrate, InputStatistics, Observer
from vggtq.quant.input_range import InputRange
from vggtq.quant.packed import PackedWeight
from vggtq.quant.quantize import TiedWeights, as_it_is, observed_layers
from vggtq.quant.recipe import Recipe, left_to_do, norms_before
from vggtq.quant.scheme import Scheme
from vggtq.quant.select import WeightOf, select_layers
from vggtq.quant.size import rest_tensors
from vggtq.quant.values import values_before

Choices = list[list[dict[str, PackedWeight]]]
"""Unit, width: packed weights by the name of their layer."""


@dataclass(frozen=True)
class Unit:
    """Weights that get the same bits."""

    weights: tuple[WeightOf, ...]

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(weight.name for weight in self.weights)

    @property
    def numel(self) -> int:
        """Weights, shared ones counted once."""
        return sum(
            {id(w.parameter): w.parameter.numel() for w in self.weights if w.parameter is not None}.values()
        )


class Candidates:
    """The layers that `scheme` selects, and the weights that it makes of them at any width.

    calibrate: as for `quantize_`; layers are observed in the float model.
    """

    def __init__(
        self,
        model: nn.Module,
        scheme: Scheme,
        first_last: Sequence[str] | None = None,
        calibrate: Calibrate | None = None,
    ) -> None:
        modules = select_layers(model, scheme, first_last).replace
        self.units, layers = _units(modules), observed_layers(modules)
        self.scheme, self._model = scheme, model
        self._observer = None
        if scheme.needs_statistics:
            if calibrate is None:
                raise QuantizationError(
                    f"scheme {scheme.name} looks at the inputs of layers; pass calibrate="
                )
            self._observer = _Repeating(model, layers, calibrate, rotated=scheme.scales_rotated)
        # Without norms and values to move transforms into, the model stays as it is; what it computes is the same.
        recipe = Recipe(model, scheme, self._observer, {}, {}, as_it_is)
        self._weights = TiedWeights(modules, as_it_is, recipe)
        # What `quantize_` will move transforms into.
        self._norms = norms_before(model) if scheme.transforms else {}
        self._values = values_before(model, scheme, layers, self._observer)

    def packed(self, unit: Unit, bits: int) -> dict[str, PackedWeight]:
        """The weights of a unit at `bits`, by the name of their layer. Raises QuantizationError."""
        spec = replace(self.scheme.weights, bits=bits)
        return {weight.name: self._weights.packed(weight, spec) for weight in unit.weights}

    def choices(self, widths: Sequence[int]) -> Choices:
        """All units at all widths; layers are rounded in the order in which they are observed."""
        found: dict[int, list[dict[str, PackedWeight]]] = {}
        for i in sorted(range(len(self.units)), key=self._order):
            found[i] = [self.packed(self.units[i], bits) for bits in widths]
        return [found[i] for i in range(len(self.units))]

    def _order(self, unit: int) -> int:
        return self._observer.order(self.units[unit].names[0]) if self._observer else 0

    def stored_bytes(self, packed: dict[str, PackedWeight], rest: torch.dtype) -> int:
        """What a checkpoint has to keep of a unit. rest: dtype of what is not quantized, input scales among it."""
        codes = {weight.identity: weight.stored_bytes for weight in packed.values()}
        scales = [
            left_to_do(name, w.transform, self._norms, self._values).scale for name, w in packed.items()
        ]
        branches = [w.low_rank.stored_bytes for w in packed.values() if w.low_rank is not None]
        static = self.scheme.activations.mode == "static"
        ranges = InputRange.BYTES * len(packed) if static else 0  # a weight-only convolution will have none
        kept = sum(s.numel() * rest.itemsize for s in scales if s is not None)
        return sum(codes.values()) + ranges + kept + sum(branches)

    def other_bytes(self, rest: torch.dtype) -> int:
        """Bytes of the stored model that no choice changes."""
        chosen = {id(weight.parameter) for unit in self.units for weight in unit.weights}
        tensors = [t for t in rest_tensors(self._model).values() if id(t) not in chosen]
        return sum(
            t.numel() * (rest.itemsize if t.is_floating_point() else t.element_size()) for t in tensors
        )


class _Repeating(Observer):
    """Gives the statistics of the last layer again, so that all its widths are fitted to the same."""

    _last: tuple[str, InputStatistics | None] = ("", None)

    def take(self, name: str) -> InputStatistics | None:
        if name != self._last[0]:
            self._last = name, super().take(name)
        return self._last[1]


def _units(modules: list[list[WeightOf]]) -> list[Unit]:
    """Modules joined where they share a parameter, in the order of the first of each."""
    groups: list[list[WeightOf]] = []
    for own in modules:
        parameters = {id(weight.parameter) for weight in own}
        joined = [g for g in groups if parameters & {id(weight.parameter) for weight in g}]
        if not joined:
            groups.append(list(own))
            continue
        joined[0] += [weight for g in joined[1:] for weight in g] + own
        groups = [g for g in groups if not any(g is other for other in joined[1:])]
    return [Unit(tuple(group)) for group in groups]
