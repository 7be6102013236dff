"""`vggtq sensitivity`: the cost to the outputs of rounding each layer to each width, as table, JSON, CSV and
picture.

The command line is that of a run (model=, scheme=, calibration=, …): the scheme defines the layers, their
groups and their rounding; bits=[2,3,4,8] are the widths to try. Errors are those of `vggtq.metrics.fidelity`,
relative: of one output ‖q - r‖ / ‖r‖, and their mean over the outputs, over the calibration samples.
"""

import csv
import json
import logging
import sys
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vggtq.config.compose import run_candidates
from vggtq.config.schema import Config
from vggtq.config.validate import composed
from vggtq.errors import ConfigError
from vggtq.files.atomic import replacing, write_text
from vggtq.quant.scheme.parts import SENSITIVITIES, Mixed
from vggtq.sensitivity.measure import measure, rows_of
from vggtq.terminal.command_line import entry
from vggtq.terminal.help import Command
from vggtq.terminal.logs import log_lines
from vggtq.terminal.options import option
from vggtq.terminal.progress import Steps

if TYPE_CHECKING:
    from rich.console import Console

    from vggtq.quant.bits.sensitivity import Sensitivities


log = logging.getLogger("vggtq.sensitivity")  # run with -m, __name__ is another

FILE_COLUMNS = 140
SHOWN = 20  # rows of the printed table; files have all


@dataclass
class Options:
    """The settings of the measurement; everything else is the configuration of a run."""

    bits: list[int] = option("widths to try", [2, 3, 4, 5, 6, 8])
    method: str = option(
        "jacobian: gradients for all layers at once; exact: one layer at a time",
        SENSITIVITIES[0],
        choices=SENSITIVITIES,
    )
    out: str = option("where to write", "outputs/sensitivity")
    check: bool = option(
        "also quantize whole models, and compare their errors with the sums over layers", False
    )
    all: bool = option(f"print every layer, not the {SHOWN} that matter most", False)
    overrides: list[str] = option(
        "as for vggtq run, --config-dir DIR too: the scheme says which layers, in which groups and how they are rounded",
        [],
        rest=True,
    )

    def __post_init__(self) -> None:
        if not self.bits:
            raise ConfigError("bits=[]: a list of widths such as bits=[2,3,4,8]")


COMMAND = Command(
    "sensitivity",
    Options,
    (
        "scheme=int4_group group_size=64",
        "scheme=gptq_w4a16 bits=[2,3,4,8] method=exact calibration.samples=4",
    ),
    "Writes sensitivity.json, sensitivity.csv and sensitivity.png.",
    run_candidates,
)


def write(found: "Sensitivities", checked: list[dict[str, Any]], config: Config, folder: Path) -> list[Path]:
    """JSON, CSV and picture."""
    from vggtq.records.describe import describe_scheme
    from vggtq.records.plain import plain
    from vggtq.sensitivity.plot import draw_sensitivities

    rows = rows_of(found)
    method = config.scheme.mixed.sensitivity
    even = replace(config.scheme, mixed=Mixed())
    about = {
        "model": config.model.name,
        "scheme": plain(replace(describe_scheme(even), bits=None)),
        "method": method,
        "calibration": {"name": config.calibration.name, "samples": config.calibration.samples},
        "rest": config.rest,
        "other_bytes": found.other_bytes,
        "additivity": checked,
        "rows": rows,
    }
    paths = [folder / f"sensitivity.{kind}" for kind in ("json", "csv", "png")]
    write_text(paths[0], json.dumps(about, indent=1, allow_nan=False) + "\n")
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
    numbers = ("even, predicted", "real", "found, predicted", "real", "squared, found / even")
    for heading in ("bits", "MiB", *numbers):
        table.add_column(heading, justify="right")
    for row in checked:
        errors = [row[f"{name}_{kind}"] for name in ("even", "found") for kind in ("predicted", "real")]
        ratio = row["found_real_squared"] / row["even_real_squared"]
        mib = row["even_stored_bytes"] / 2**20
        table.add_row(str(row["bits"]), f"{mib:.2f}", *(f"{100 * e:.3g}" for e in errors), f"{ratio:.2f}")
    _console().print(table)


def _work(options: Options) -> None:
    # Of the scheme's own bits nothing is asked; a candidate is always possible.
    widths = [f"scheme.weights.bits={options.bits[0]}", f"scheme.mixed.candidates={options.bits}"]
    config = composed([*options.overrides, *widths, f"scheme.mixed.sensitivity={options.method}"])
    with log_lines():
        with Steps() as steps:
            found, checked = measure(config, options.check, steps)
        show(found, options.all)
        if checked:
            show_checked(checked)
        for path in write(found, checked, config, Path(options.out)):
            log.info("%s", path)


main = entry(COMMAND, _work)

if __name__ == "__main__":
    sys.exit(main())
