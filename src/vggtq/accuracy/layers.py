"""`vggtq accuracy layers`: the error of each layer by itself, as a table.

The errors of many layers add up to the error of a network's output in a few directions only, so the error of one network
shows only large differences between two roundings. Here every linear layer of a row is quantized alone. It is calibrated on
its inputs in the float model on one set of rooms, and compared with the float layer on the inputs of another set:
‖x Wᵀ - y‖² / ‖x Wᵀ‖². Rows are compared by the ratio to round-to-nearest, as geometric mean over layers. Effects of earlier
layers on later ones are left out, and so are rows whose bits depend on all layers together.
"""

import sys
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from vggtq.accuracy.plan import Plan, chosen_rows, overrides, read_plan
from vggtq.config.compose import compose
from vggtq.config.compose import options as model_names
from vggtq.config.validate import validated
from vggtq.quant.scheme.scheme import Scheme
from vggtq.quant.walk.quantize import quantize_
from vggtq.quant.walk.select import select_layers
from vggtq.report.documents.tables import markdown_table
from vggtq.terminal.command_line import entry
from vggtq.terminal.help import Command
from vggtq.terminal.options import option

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


@dataclass
class Options:
    """The rows of the plan, and the model."""

    rows: list[str] = option("these rows only; without any, all of them", [])
    model: str = option("a model of conf/model", "vggt_mini", choices=tuple(model_names("model")))


COMMAND = Command(
    "accuracy layers", Options, ("rows=w4_mse,w4_gptq", "rows=w4_awq model=vggt_mini_outliers"), wrong_usage=2
)


def _work(options: Options) -> None:
    plan = read_plan()
    print(table(plan, options.model, chosen_rows(plan, options.rows)))


main = entry(COMMAND, _work)

if __name__ == "__main__":
    sys.exit(main())
