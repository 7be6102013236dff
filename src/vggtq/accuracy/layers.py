"""The error of each layer by itself: python -m vggtq.accuracy.layers [rows=…] [model=vggt_mini] prints a table.

Errors of many layers add up to the error of a network's output in a few directions only, so that one network tells two ways of
rounding apart only when they are far apart. Here every linear layer that a row quantizes is quantized alone, calibrated on the
inputs that it has in the float model on one set of rooms, and compared with the float layer on those of another set:
‖x Wᵀ - y‖² / ‖x Wᵀ‖². Rows are compared by the ratio to their nearest, geometric mean over layers. Left out: what errors of
earlier layers do to later ones, and rows whose bits depend on all layers together.
"""

import sys
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor, nn

from vggtq.accuracy.plan import Plan, overrides, read_plan
from vggtq.config import compose, validated
from vggtq.errors import ConfigError, VggtqError
from vggtq.quant.quantize import quantize_
from vggtq.quant.scheme import Scheme
from vggtq.quant.select import select_layers
from vggtq.report.tables import markdown_table

ROWS_OF_INPUTS = 4096  # of a layer, evenly over all rooms
SEEDS = (0, 1)  # of the rooms that are fitted to, and of those that are measured on

Inputs = dict[str, Tensor]


def inputs_of(model: nn.Module, names: Sequence[str], samples: Sequence[Tensor]) -> Inputs:
    """At most ROWS_OF_INPUTS inputs (N, C) of each named linear layer while the model sees the samples."""
    seen: dict[str, list[Tensor]] = {name: [] for name in names}
    handles = [
        model.get_submodule(name).register_forward_pre_hook(
            lambda _m, inputs, name=name: seen[name].append(inputs[0].detach().flatten(0, -2))
        )
        for name in names
    ]
    try:
        with torch.inference_mode():
            for sample in samples:
                model(sample)
    finally:
        for handle in handles:
            handle.remove()
    whole = {name: torch.cat(parts) for name, parts in seen.items()}
    return {name: x[:: -(-len(x) // ROWS_OF_INPUTS)].clone() for name, x in whole.items()}


def layer_error(linear: nn.Linear, scheme: Scheme, fitted: Tensor, measured: Tensor) -> float:
    """Relative squared error of the layer's output on `measured`, after quantizing it by its inputs `fitted`."""
    alone = nn.Sequential(nn.Linear(linear.in_features, linear.out_features, bias=linear.bias is not None))
    alone[0].load_state_dict(linear.state_dict())
    quantize_(alone, scheme, first_last=(), calibrate=[fitted])
    with torch.inference_mode():
        exact = linear(measured)
        offset = 0 if linear.bias is None else linear.bias  # is kept, and would make errors look small
        return float((alone(measured) - exact).square().sum() / (exact - offset).square().sum())


def errors_of_rows(plan: Plan, model_name: str, rows: Sequence[str]) -> dict[str, np.ndarray]:
    """Row to one error per layer, the same layers for every row."""
    schemes = {
        row: validated(compose([*overrides(plan, row, []), f"model={model_name}"])).scheme for row in rows
    }
    schemes = {row: scheme for row, scheme in schemes.items() if not scheme.allocates}
    config = validated(compose(["scheme=gptq_w4a16", f"model={model_name}"]))
    model = config.model.load(torch.device("cpu")).module
    chosen = [weight.name for own in select_layers(model, config.scheme).replace for weight in own]
    names = [name for name in chosen if type(model.get_submodule(name)) is nn.Linear]
    fitted, measured = (inputs_of(model, names, _samples(model_name, seed)) for seed in SEEDS)
    return {
        row: np.array([layer_error(model.get_submodule(n), scheme, fitted[n], measured[n]) for n in names])
        for row, scheme in schemes.items()
    }


def _samples(model_name: str, seed: int) -> list[Tensor]:
    settings = ["scheme=gptq_w4a16", f"model={model_name}", f"calibration.seed={seed}"]
    return [scene.images[None] for scene in validated(compose(settings)).calibration.dataset.scenes()]


def table(plan: Plan, model_name: str, rows: Sequence[str]) -> str:
    """Per row the geometric mean of the error and its ratio to nearest, with the quartiles over layers."""
    nearest = {row: against for row in rows if (against := plan.rows[row].nearest)}
    errors = errors_of_rows(plan, model_name, list(dict.fromkeys([*nearest.values(), *rows])))
    lines = []
    for row, found in errors.items():
        cells = [row, f"{np.exp(np.log(found).mean()):.2e}", "–", "–"]
        if nearest.get(row) in errors:
            ratios = found / errors[nearest[row]]
            low, high = np.percentile(ratios, (25, 75))
            cells[2:] = [f"{np.exp(np.log(ratios).mean()):.2f}", f"{low:.2f} … {high:.2f}"]
        lines.append(cells)
    headings = ["row", "relative squared error of a layer's output", "× nearest", "quartiles over layers"]
    return markdown_table(headings, lines)


def main(argv: Sequence[str]) -> int:
    """Exit status: 0 done, 2 a wrong option."""
    plan = read_plan()
    options = {"rows": ",".join(plan.rows), "model": "vggt_mini"}
    try:
        for argument in argv:
            key, _, value = argument.partition("=")
            if key not in options or not value:
                raise ConfigError(f"{argument} is not an option; write rows=a,b or model=NAME")
            options[key] = value
        rows = options["rows"].split(",")
        for row in rows:
            if row not in plan.rows:
                raise ConfigError(f"rows={row} is not one of {', '.join(plan.rows)}")
        print(table(plan, options["model"], rows))
    except VggtqError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
