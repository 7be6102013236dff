"""The contents of a report, and the same as strict JSON."""

import json
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vggtq.report.rows.collection import Unreadable
from vggtq.report.rows.columns import columns
from vggtq.report.rows.groups import Group
from vggtq.report.rows.networks import Networks, networks_json, networks_of
from vggtq.report.rows.recommend import Choice
from vggtq.report.rows.row import Row, frame_of, names_of
from vggtq.report.rows.sources import Source
from vggtq.report.words.texts import Translate
from vggtq.report.words.wording import describe_group, explain

if TYPE_CHECKING:
    import pandas as pd


@dataclass
class Report:
    """The groups, sources and notes that `build_report` found, and the files that it wrote."""

    groups: list[Group]
    unreadable: list[Unreadable]
    superseded: int
    folders: list[Path]
    generated: str
    sources: list[Source]  # one for each row
    refused: list[Source] = field(default_factory=list)  # runs that never started, in no group
    files: list[Path] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)  # facts about the making of the report, for its readers
    columns: list[str] = field(default_factory=list)  # metrics in the paper's table; empty: the usual ones
    hints: list[str] = field(default_factory=list)  # possible improvements, for the maker of the report

    @cached_property
    def rows(self) -> list[Row]:
        """One per run, group by group."""
        return [row for group in self.groups for row in group.rows]

    @cached_property
    def names(self) -> list[str]:
        """The columns of all rows together."""
        return names_of(self.rows)

    @cached_property
    def networks(self) -> list[Networks]:
        """Networks that were run on the same scenes, beside each other."""
        return networks_of(self.groups, self.sources)

    @cached_property
    def frame(self) -> "pd.DataFrame":
        """The rows, their columns as in `COLUMNS`. Made when asked for: pandas loads slowly."""
        return frame_of(self.rows)

    def counts(self) -> dict[str, int]:
        failed = sum(len(group.failed) for group in self.groups)
        runs = sum(len(group.rows) for group in self.groups)
        left_out = {"superseded": self.superseded, "unreadable": len(self.unreadable)}
        left_out["refused"] = len(self.refused)
        return {"runs": runs, "ok": runs - failed, "failed": failed, **left_out}

    def overview(self) -> dict[str, Any]:
        """The date and the sources of the report, and its counts."""
        return {"generated": self.generated, "folders": list(map(str, self.folders)), **self.counts()}


def write_results(report: Report, t: Translate, path: Path) -> None:
    """The report as strict JSON, each row on a line of its own."""
    encode = json.JSONEncoder(ensure_ascii=False, allow_nan=False).encode
    with path.open("w", encoding="utf-8") as file:
        file.write("{\n")
        for name, value in _parts(report, t).items():
            file.write(f' "{name}": {json.dumps(value, indent=1, ensure_ascii=False, allow_nan=False)},\n')
        for i, row in enumerate(report.rows):
            whole = dict(zip(report.names, map(row.get, report.names), strict=True))
            file.write((",\n  " if i else ' "rows": [\n  ') + encode(whole))
        file.write("\n ]\n}\n")


def _parts(report: Report, t: Translate) -> dict[str, Any]:
    """Everything but the rows: overview, columns, recommendations, unreadable."""
    groups = [_group_json(group, t) for group in report.groups]
    return {
        "overview": report.overview() | {"groups": groups},
        "columns": columns(),
        "recommendations": [
            _choice_json(group, choice, t) for group in report.groups for choice in group.choices
        ],
        "networks": [networks_json(table) for table in report.networks],
        "refused": [{"path": str(item.path), "reason": item.row["error"]} for item in report.refused],
        "unreadable": [{"path": str(item.path), "reason": item.reason} for item in report.unreadable],
    }


def _group_json(group: Group, t: Translate) -> dict[str, Any]:
    names = ("model", "weights", "fingerprint", "dataset", "scenes_hash", "device") if group.number else ()
    about = {"group": group.number, "description": describe_group(group, t) or t("homeless")}
    about |= {name: group.first(name) for name in names}
    return about | {"ok": len(group.ok), "failed": len(group.failed)}


def _choice_json(group: Group, choice: Choice, t: Translate) -> dict[str, Any]:
    row: Row = choice.row or {}
    return {
        "group": group.number,
        "need": choice.need,
        "label": row.get("title"),
        "config_hash": row.get("config_hash"),
        "basis": choice.basis,
        "candidates": choice.candidates,
        "excluded": choice.excluded,
        "explanation": explain(choice, t),
    }
