"""`python -m vggtq.sensitivity`: what rounding each layer to each width costs the outputs, as table, JSON, CSV and picture.

The command line is that of a run (model=, scheme=, calibration=, …): the scheme says which layers, in which groups and how
they are rounded; bits=[2,3,4,8] are the widths to try. Errors are those of `vggtq.metrics.fidelity`, relative: of one output
‖q - r‖ / ‖r‖, and their mean over the outputs, over the calibration samples.
"""

import csv
import json
import logging
import sys
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vggtq.atomic import replacing
from vggtq.command_line import execute
from vggtq.config import Config
from vggtq.errors import ConfigError
from vggtq.progress import Steps
from vggtq.quant.mixed import SENSITIVITIES, Mixed
from vggtq.run import composed

if TYPE_CHECKING:
    from rich.console import Console

    from vggtq.calibration_data import Samples
    from vggtq.models.loading import LoadedModel
    from vggtq.quant.sensitivity import Sensitivities

log = logging.getLogger(__name__)

WIDTHS = "[2,3,4,5,6,8]"
FILE_COLUMNS = 140
SHOWN = 20  # rows of the printed table; files have all

HELP = f"""Measures what rounding each layer to each width costs the outputs of a model.

  python -m vggtq.sensitivity model=vggt_mini scheme=int4_group group_size=64
  python -m vggtq.sensitivity scheme=gptq_w4a16 bits=[2,3,4,8] method=exact calibration.samples=4

  bits=LIST      widths to try, {WIDTHS}
  method=…       {" or ".join(SENSITIVITIES)}: gradients for all layers at once, or one layer at a time
  out=DIR        where to write, outputs/sensitivity
  check=true     also quantize whole models, and compare their errors with the sums over layers
  all=true       print every layer, not the {SHOWN} that matter most
  model=, scheme=, calibration=, device=, …    as for python -m vggtq.run

Writes sensitivity.json, sensitivity.csv and sensitivity.png.
"""


def measure(config: Config, check: bool, steps: Steps) -> "tuple[Sensitivities, list[dict[str, Any]]]":
    """Loads the model, and measures on the calibration samples; with `check` also what `additivity` says of the result.

    Raises VggtqError.
    """
    import vggtq.environment as env
    from vggtq.allocation import measured
    from vggtq.calibration_data import Samples

    device = env.resolve_device(config.device)
    env.make_deterministic(config.seed, device)
    samples = Samples.of(config.calibration)
    steps.step(f"loading {config.model.name}")
    model = config.model.load(device)
    steps.step("measuring what the bits of each layer cost")
    found = measured(config, model, samples, steps).sensitivities
    return found, list(additivity(config, model, samples, found, steps)) if check else []


def additivity(
    config: Config, model: "LoadedModel", samples: "Samples", found: "Sensitivities", steps: Steps
) -> Iterator[dict[str, Any]]:
    """For each width what its bytes buy, spent evenly and as found: mean relative error, predicted and real.

    Both on the calibration samples, so that what they differ in is the assumption that errors of layers add.
    """
    import torch

    from vggtq.allocation import OutputErrors
    from vggtq.models.loading import share_parameters
    from vggtq.quant.allocate import allocate
    from vggtq.quant.quantize import quantize_
    from vggtq.quant.size import stored_bytes

    errors = OutputErrors(model, samples.images)
    for k, bits in enumerate(found.bits):
        steps.step(f"checking {bits} bits")
        weights = replace(config.scheme.weights, bits=bits)
        auto = allocate(replace(config.scheme, weights=weights), found)
        even = replace(config.scheme, weights=weights, mixed=Mixed())
        row: dict[str, Any] = {"bits": bits}
        predicted = {
            "even": {o: float(e[:, k].sum()) ** 0.5 for o, e in found.errors.items()},
            "found": auto.predicted,
        }
        for name, scheme in (("even", even), ("found", auto.scheme)):
            twin = share_parameters(model.module)
            quantize_(twin, scheme, calibrate=samples.inputs)
            squared = list(errors(twin).values())
            real = [error**0.5 for error in squared]
            row[f"{name}_stored_bytes"] = stored_bytes(twin, getattr(torch, config.rest))
            row[f"{name}_predicted"] = sum(predicted[name].values()) / len(real)
            row[f"{name}_real"] = sum(real) / len(real)
            row[f"{name}_real_squared"] = sum(squared) / len(real)
        yield row


def rows_of(found: "Sensitivities") -> list[dict[str, Any]]:
    """One row per layer and width, in the order of the network: names, weights, stored bytes, relative errors."""
    relative = {name: errors.sqrt() for name, errors in found.errors.items()}
    rows = []
    for u, names in enumerate(found.layers):
        for k, bits in enumerate(found.bits):
            errors = {name: float(values[u, k]) for name, values in relative.items()}
            row = {"layer": " + ".join(names), "weights": int(found.weights[u]), "bits": bits}
            row |= {
                "stored_bytes": int(found.bytes[u, k]),
                "mean_relative_error": sum(errors.values()) / len(errors),
            }
            rows.append(row | {f"{name}.relative_error": error for name, error in errors.items()})
    return rows


def write(found: "Sensitivities", checked: list[dict[str, Any]], config: Config, folder: Path) -> list[Path]:
    """JSON, CSV and picture."""
    from vggtq.describe import describe_scheme
    from vggtq.sensitivity_plot import draw_sensitivities

    rows = rows_of(found)
    method = config.scheme.mixed.sensitivity
    even = replace(config.scheme, mixed=Mixed())
    about = {
        "model": config.model.name,
        "scheme": describe_scheme(even) | {"bits": None},
        "method": method,
    }
    about["calibration"] = {"name": config.calibration.name, "samples": config.calibration.samples}
    about |= {"rest": config.rest, "other_bytes": found.other_bytes, "additivity": checked}
    about["rows"] = rows
    paths = [folder / f"sensitivity.{kind}" for kind in ("json", "csv", "png")]
    with replacing(paths[0]) as temporary:
        temporary.write_text(json.dumps(about, indent=1, allow_nan=False) + "\n", encoding="utf-8")
    with replacing(paths[1]) as temporary, temporary.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    title = f"{config.model.name}, {even.family}: relative error of the outputs when one layer is rounded ({method})"
    draw_sensitivities(found, title, paths[2])
    return paths


def _console() -> "Console":
    """As wide as the terminal; wide enough for names of layers where there is none."""
    from rich.console import Console

    console = Console()
    return console if console.is_terminal else Console(width=FILE_COLUMNS)


def show(found: "Sensitivities", everything: bool) -> None:
    """Prints the layers that matter most, by their error at the smallest width."""
    from rich.table import Table

    by_layer: dict[str, dict[int, float]] = {}
    for row in rows_of(found):
        by_layer.setdefault(row["layer"], {})[row["bits"]] = row["mean_relative_error"]
    ranked = sorted(by_layer.items(), key=lambda item: -item[1][found.bits[0]])
    weights = dict(zip((" + ".join(names) for names in found.layers), found.weights.tolist(), strict=True))
    table = Table(title="mean relative error over the outputs, in %, when only this layer is rounded")
    table.add_column("layer", no_wrap=True)
    for heading in ("weights", *(f"{bits} bits" for bits in found.bits)):
        table.add_column(heading, justify="right", no_wrap=True)
    for name, errors in ranked if everything else ranked[:SHOWN]:
        table.add_row(name, f"{weights[name]:,}", *(f"{100 * errors[bits]:.3g}" for bits in found.bits))
    _console().print(table)
    if not everything and len(ranked) > SHOWN:
        print(f"{len(ranked) - SHOWN} layers of less effect are in the files (all=true prints them)")


def show_checked(checked: list[dict[str, Any]]) -> None:
    """Prints predicted and real errors of whole models side by side."""
    from rich.table import Table

    table = Table(
        title="mean relative error of whole models, in %: predicted by the sum over layers, and real"
    )
    headings = (
        "bits",
        "MiB",
        "even, predicted",
        "real",
        "found, predicted",
        "real",
        "squared, found / even",
    )
    for heading in headings:
        table.add_column(heading, justify="right")
    for row in checked:
        errors = [row[f"{name}_{kind}"] for name in ("even", "found") for kind in ("predicted", "real")]
        ratio = row["found_real_squared"] / row["even_real_squared"]
        mib = row["even_stored_bytes"] / 2**20
        table.add_row(str(row["bits"]), f"{mib:.2f}", *(f"{100 * e:.3g}" for e in errors), f"{ratio:.2f}")
    _console().print(table)


def command(argv: Sequence[str]) -> None:
    """Reads bits=, method=, out=, check= and all=; everything else is composed as for a run. Raises VggtqError."""
    own = {
        "bits": WIDTHS,
        "method": SENSITIVITIES[0],
        "out": "outputs/sensitivity",
        "all": "false",
        "check": "false",
    }
    overrides = []
    for argument in argv:
        key, is_set, value = argument.partition("=")
        if is_set and key in own:
            own[key] = value
        else:
            overrides.append(argument)
    widths = _widths(own["bits"])
    # Of the scheme's own bits nothing is asked; a candidate is always possible.
    overrides += [f"scheme.weights.bits={widths[0]}", f"scheme.mixed.candidates={widths}"]
    config = composed([*overrides, f"scheme.mixed.sensitivity={own['method']}"])
    with Steps() as steps:
        found, checked = measure(config, own["check"].lower() == "true", steps)
    show(found, own["all"].lower() == "true")
    if checked:
        show_checked(checked)
    for path in write(found, checked, config, Path(own["out"])):
        log.info("%s", path)


def _widths(text: str) -> list[int]:
    try:
        return [int(part) for part in text.strip("[]").split(",")]
    except ValueError as error:
        raise ConfigError(f"bits={text}: a list of widths such as bits=[2,3,4,8]") from error


if __name__ == "__main__":
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    sys.exit(execute(sys.argv[1:], HELP, command))
