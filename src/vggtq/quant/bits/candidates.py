"""Every layer rounded to every candidate width: the candidates to choose from, and the bytes of each.

A unit shares its bits: the weights of one module (an attention has two), and of modules that share a parameter.
Stored bytes of a model = bytes that no choice changes + one entry of `bytes` for each unit, exactly what
`vggtq.quant.walk.stored.stored_bytes` counts after `quantize_`.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import nn

from vggtq.quant.numbers.input_range import InputRange
from vggtq.quant.numbers.packed import PackedWeight
from vggtq.quant.scheme.scheme import Scheme
from vggtq.quant.walk.fold import Folds, folds_of
from vggtq.quant.walk.observe import Calibrate, observer_for
from vggtq.quant.walk.recipe import Recipe
from vggtq.quant.walk.select import WeightOf, observed_layers, select_layers
from vggtq.quant.walk.stored import rest_bytes, rest_tensors

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
        """Number of weights, shared ones counted once."""
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
        self._observer = observer_for(model, scheme, layers, calibrate)
        # Nothing is folded here: the model and its outputs stay the same.
        self._recipe = Recipe(model, scheme, modules, self._observer, Folds())
        self._folds = folds_of(model, scheme, layers, self._observer)  # as `quantize_` will fold it

    def packed(self, unit: Unit, bits: int) -> dict[str, PackedWeight]:
        """The weights of a unit at `bits`, by the name of their layer. Raises QuantizationError."""
        spec = replace(self.scheme.weights, bits=bits)
        return {weight.name: self._recipe.round(weight, spec).packed for weight in unit.weights}

    def choices(self, widths: Sequence[int]) -> Choices:
        """All units at all widths; layers are rounded in the order in which they are observed."""
        choices: Choices = [[] for _ in self.units]
        for i in sorted(range(len(self.units)), key=self._order):
            choices[i] = [self.packed(self.units[i], bits) for bits in widths]
            if self._observer:
                self._observer.release(*self.units[i].names)
        return choices

    def _order(self, unit: int) -> int:
        return self._observer.order(self.units[unit].names[0]) if self._observer else 0

    def stored_bytes(self, packed: dict[str, PackedWeight], rest: torch.dtype) -> int:
        """The bytes of a unit in a checkpoint. rest: dtype of unquantized tensors, input scales included."""
        codes = {weight.identity: weight.stored_bytes for weight in packed.values()}
        scales = [self._folds.left_to_do(name, weight.transform).scale for name, weight in packed.items()]
        branches = [w.low_rank.stored_bytes for w in packed.values() if w.low_rank is not None]
        static = self.scheme.activations.mode == "static"
        ranges = InputRange.BYTES * len(packed) if static else 0  # a weight-only convolution will have none
        kept = sum(s.numel() * rest.itemsize for s in scales if s is not None)
        return sum(codes.values()) + ranges + kept + sum(branches)

    def other_bytes(self, rest: torch.dtype) -> int:
        """Bytes of the stored model that no choice changes."""
        chosen = {id(weight.parameter) for unit in self.units for weight in unit.weights}
        return rest_bytes((t for t in rest_tensors(self._model).values() if id(t) not in chosen), rest)


def _units(modules: list[list[WeightOf]]) -> list[Unit]:
    """Modules joined where they share a parameter, in the order of the first of each."""
    groups: list[list[WeightOf]] = []
    for weights in modules:
        parameters = {id(weight.parameter) for weight in weights}
        joined = [g for g in groups if parameters & {id(weight.parameter) for weight in g}]
        if not joined:
            groups.append(list(weights))
            continue
        joined[0] += [weight for g in joined[1:] for weight in g] + weights
        groups = [g for g in groups if not any(g is other for other in joined[1:])]
    return [Unit(tuple(group)) for group in groups]
