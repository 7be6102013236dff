"""A published table as data: conf/replicate/*.yaml, with its source, its protocol, and the points that the
protocol leaves open.
"""

import shlex
from collections.abc import Sequence
from dataclasses import dataclass, field

from vggtq.config.compose import CONF
from vggtq.config.messages import read_table
from vggtq.errors import check_choice
from vggtq.metrics.metric import TRUTH
from vggtq.metrics.table import metrics

FOLDER = CONF / "replicate"
EXPERIMENT = "+experiment=replicate"
AVERAGES = ("scenes", "categories")
# Keys for places of files and for the computation, which do not change the measured quantity.
PLACES = (
    "dataset.root",
    "calibration.dataset.root",
    "model.source",
    "model.revision",
    "model.files",
    "device",
    "cache",
    "resume",
    "fail_fast",
)


@dataclass
class PublishedRow:
    """One row. run: overrides of `vggtq run`; null for a method that does not exist here, which is printed and not measured.

    values: metric by name (`pose.auc_30`) in the record's units. kept: the share of the float row's value that
    the source states instead, at least. A row with neither is ours: it is measured by the metrics of its float
    row, and has no published value. baseline: the float row of this row, where it is not that of the table.
    assumed: the points that this row's description leaves open.
    """

    label: str
    run: str | None = None
    values: dict[str, float] = field(default_factory=dict)
    kept: dict[str, float] = field(default_factory=dict)
    baseline: str | None = None
    assumed: list[str] = field(default_factory=list)


@dataclass
class Paper:
    """One table. run: overrides of all rows; data: those that choose the data, left out where the user gives
    `dataset=`; needs: overrides that only the user can give, with a description of each.

    average: whether the source averages over scenes, or over categories and within each over its scenes. baseline: the row of
    the float model.
    """

    title: str
    source: str
    protocol: str
    data: str
    run: str
    baseline: str
    rows: dict[str, PublishedRow]
    needs: dict[str, str] = field(default_factory=dict)
    average: str = "scenes"
    assumed: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        check_choice("average", self.average, AVERAGES)
        check_choice("baseline", self.baseline, self.rows)
        known = [metric.name for metric in metrics(*TRUTH)]
        for name, row in self.rows.items():
            check_choice(f"rows.{name}.baseline", self.float_row(name), self.rows)
            for metric in (*row.values, *row.kept):
                check_choice(f"rows.{name}", metric, known)

    def float_row(self, name: str) -> str:
        """The name of the float row that a row is compared with; its own where it is one."""
        return self.rows[name].baseline or self.baseline

    def values(self, name: str) -> dict[str, float | None]:
        """The metrics to measure for a row, with the published values; None where the row is ours."""
        row, base = self.rows[name], self.float_row(name)
        if row.values or row.kept or name == base:
            return dict(row.values)
        return dict.fromkeys(self.rows[base].values)


def papers() -> list[str]:
    return sorted(path.stem for path in FOLDER.glob("*.yaml"))


def read_paper(name: str) -> Paper:
    """Raises ConfigError for an unknown name and for a file that is no such table."""
    check_choice("paper", name, papers())
    return read_table(FOLDER / f"{name}.yaml", Paper)


def overrides(paper: Paper, row: PublishedRow, extra: Sequence[str]) -> list[str]:
    """The command line of a row that can be measured. Of two overrides of one key the later one counts, and keys of a data set
    or a model that the user replaces do not.
    """
    replaced = {_key(override) for override in extra} & {"dataset", "model"}
    stated = [
        *([] if "dataset" in replaced else shlex.split(paper.data)),
        *shlex.split(paper.run),
        *shlex.split(row.run or ""),
    ]
    kept = [
        override for override in stated if not _key(override).startswith(tuple(f"{k}." for k in replaced))
    ]
    last = {_key(override): override for override in [*kept, *extra]}
    return [EXPERIMENT, *last.values()]


def deviations(paper: Paper, extra: Sequence[str]) -> list[str]:
    """Those of the user's overrides that change the measured quantity."""
    return [
        o for o in extra if not any(_key(o) == place or _key(o).startswith(f"{place}.") for place in PLACES)
    ]


def missing(paper: Paper, extra: Sequence[str]) -> dict[str, str]:
    """The paper's needs that the overrides do not meet; nothing of a data set or model that they replace."""
    given = {_key(override) for override in extra}
    groups = {key for key in given if "." not in key}
    return {
        key: what for key, what in paper.needs.items() if key not in given and key.split(".")[0] not in groups
    }


def _key(override: str) -> str:
    return override.partition("=")[0].lstrip("+~")
