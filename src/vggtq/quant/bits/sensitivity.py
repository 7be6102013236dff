"""The cost of rounding a layer to b bits, per output y of a network: e = ‖y(W + ΔW) - y(W)‖² / ‖y(W)‖².

exact: one layer at a time is replaced by its quantized counterpart, and the network runs: layers × widths passes over the
samples. Counts everything, activation rounding too.
jacobian: first order, y(W + ΔW) - y(W) ≈ J ΔW, with ‖J ΔW‖² = E[(vᵀ J ΔW)²] over random signs v (Hutchinson 1990) and
vᵀ J = the gradient of vᵀ y: one backward pass per output and probe gives all layers and all widths at once. This is the
Gauss-Newton form of the error, not the Fisher approximation of a loss. It does not see activation rounding, and where rounding
is so coarse that the network leaves its linear range it is off.

Omitted: cross terms between layers. `vggtq.quant.bits.allocate` minimizes the sum of these errors over layers;
docs/sensitivity.md measures the distance of that sum from the error of the whole.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial

import torch
from torch import Tensor, nn

from vggtq.quant.bits.candidates import Candidates, Choices, Unit
from vggtq.quant.kernels.modules import weight_rows
from vggtq.quant.numbers.packed import PackedWeight
from vggtq.quant.walk.quantize import restore_
from vggtq.quant.walk.select import WeightOf

GRADIENT_BYTES = 2**29
"""Gradients that are held at once: rounded weights are dequantized once for all outputs that fit."""

Outputs = Mapping[str, Tensor]
Progress = Callable[[int, int], None]


@dataclass
class Sensitivities:
    """layers: names in each of the U units; bits: the W widths; errors: per output (U, W) float64; bytes: (U, W) int64.

    weights: (U,) how many each unit has. other_bytes: of the stored model, those that no choice changes.
    """

    layers: list[tuple[str, ...]]
    bits: list[int]
    weights: Tensor
    bytes: Tensor
    other_bytes: int
    errors: dict[str, Tensor]

    @property
    def mean(self) -> Tensor:
        """Mean over the outputs, (U, W): an allocation minimizes the sum of these."""
        return torch.stack(list(self.errors.values())).mean(0)


def exact_errors(
    twin: Callable[[], nn.Module],
    candidates: Candidates,
    choices: Choices,
    errors: Callable[[nn.Module], dict[str, float]],
    progress: Progress,
) -> dict[str, Tensor]:
    """Errors by output, (U, W) each. twin: a copy of the network to replace a layer in. errors: of a network's outputs."""
    total, done = sum(map(len, choices)), 0
    # Errors of the weights alone: nothing else is rounded.
    scheme = replace(candidates.scheme, attention="float32", compute="float32")
    rows: list[list[dict[str, float]]] = []
    for unit, widths in zip(candidates.units, choices, strict=True):
        rows.append([])
        for packed in widths:
            network = twin()
            restore_(network, unit.names, partial(_of, packed), scheme)
            rows[-1].append(errors(network))
            done += 1
            progress(done, total)
    names = list(rows[0][0])
    return {o: torch.tensor([[e[o] for e in row] for row in rows], dtype=torch.float64) for o in names}


def jacobian_errors(
    candidates: Candidates,
    choices: Choices,
    samples: Sequence[Callable[[], Outputs]],
    progress: Progress,
    probes: int = 1,
    seed: int = 0,
) -> dict[str, Tensor]:
    """Errors by output, (U, W) each. samples: each runs the float network on a sample, returns its outputs with their graph.

    The probes of all samples are independent, so that few per sample suffice. Memory: the graph of one sample, and the
    gradients of all weights that are to be quantized, for as many outputs at once as fit into GRADIENT_BYTES.
    """
    units, shape = candidates.units, (len(choices), len(choices[0]))
    squares: dict[str, Tensor] = {}
    power: dict[str, float] = {}
    parameters = _parameters(units)
    at_once = max(1, GRADIENT_BYTES // sum(p.nbytes for p in parameters))
    generator = torch.Generator().manual_seed(seed)
    with _require_gradients(parameters):
        for done, sample in enumerate(samples, start=1):
            outputs = sample()
            for name, output in outputs.items():
                power[name] = power.get(name, 0.0) + float(output.detach().double().square().sum())
            probed = [y for y in outputs.values() for _ in range(probes)]
            parts = []
            for start in range(0, len(probed), at_once):
                gradients = [_probe(y, parameters, generator) for y in probed[start : start + at_once]]
                parts.append(_slopes(units, choices, parameters, gradients))
                del gradients  # before there are others
            slopes = torch.cat(parts, 2).unflatten(2, (len(outputs), probes))
            for i, name in enumerate(outputs):
                squares.setdefault(name, torch.zeros(shape, dtype=torch.float64)).add_(
                    slopes[:, :, i].square().sum(-1)
                )
            progress(done, len(samples))
    return {name: square / (probes * power[name]) for name, square in squares.items()}


def _probe(output: Tensor, parameters: Sequence[Tensor], generator: torch.Generator) -> list[Tensor | None]:
    """The gradient of vᵀ y with random signs v; None for parameters that this output does not depend on."""
    signs = torch.randint(0, 2, output.shape, generator=generator).to(output) * 2 - 1
    return list(torch.autograd.grad((output * signs).sum(), parameters, retain_graph=True, allow_unused=True))


def _slopes(
    units: Sequence[Unit], choices: Choices, parameters: Sequence[Tensor], probes: list[list[Tensor | None]]
) -> Tensor:
    """vᵀ J ΔW for each probe v, (U, W, probes) float64."""
    place = {id(parameter): i for i, parameter in enumerate(parameters)}
    slopes = torch.zeros(len(units), len(choices[0]), len(probes), dtype=torch.float64)
    for u, unit in enumerate(units):
        for weight in {id(w.parameter): w for w in unit.weights}.values():
            assert weight.parameter is not None
            rows = weight_rows(weight.parameter.detach(), weight.transposed, weight.groups)
            gradients = [
                None if g is None else weight_rows(g, weight.transposed, weight.groups)
                for g in (probe[place[id(weight.parameter)]] for probe in probes)
            ]
            for k, packed in enumerate(choices[u]):
                rounded = packed[weight.name]
                change = _effective(rounded) - rows
                for i, gradient in enumerate(gradients):
                    if gradient is not None:
                        slopes[u, k, i] += float((gradient * change).sum())
    return slopes


def _effective(rounded: PackedWeight) -> Tensor:
    """The weight (R, C) that inputs meet: codes and low-rank branch, brought back from the basis that both are in."""
    rows = rounded.dequantize()
    if rounded.low_rank is not None:
        rows += rounded.low_rank.weight()
    return rounded.transform.original(rows)


def _parameters(units: Sequence[Unit]) -> list[Tensor]:
    weights = [weight for unit in units for weight in unit.weights]
    return list({id(w.parameter): w.parameter for w in weights if w.parameter is not None}.values())


@contextmanager
def _require_gradients(parameters: Sequence[Tensor]) -> Iterator[None]:
    before = [parameter.requires_grad for parameter in parameters]
    try:
        for parameter in parameters:
            parameter.requires_grad_(True)
        yield
    finally:
        for parameter, was in zip(parameters, before, strict=True):
            parameter.requires_grad_(was)


def _of(packed: Mapping[str, PackedWeight], weight: WeightOf) -> PackedWeight:
    return packed[weight.name]
