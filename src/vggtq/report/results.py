"""What a report consists of, and the same as strict JSON."""

import json
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vggtq.report.columns import COLUMNS
from vggtq.report.frame import Row, frame_of, names_of
from vggtq.report.groups import Group
from vggtq.report.i18n import Translate
from vggtq.report.recommend import Choice
from vggtq.report.records import Unreadable
from vggtq.report.sources import Source
from vggtq.report.wording import describe_group, explain

if TYPE_CHECKING:
    import pandas as pd


@dataclass
class Report:
    """What `build_report` found and wrote."""

    groups: list[Group]
    choices: dict[int, list[Choice]]
    unreadable: list[Unreadable]
    superseded: int
    folders: list[Path]
    generated: str
    sources: list[Source]  # one for each row
    files: list[Path] = field(default_factory=list)
    notes: list[str] = field(
        default_factory=list
    )  # what readers of the report have to know of how it was made
    hints: list[str] = field(default_factory=list)  # what whoever made it could do better

    @cached_property
    def rows(self) -> list[Row]:
        """One per run, group by group."""
        return [row for group in self.groups for row in group.rows]

    @cached_property
    def names(self) -> list[str]:
        """The columns of all rows together."""
        return names_of(self.rows)

    @cached_property
    def frame(self) -> "pd.DataFrame":
        """The rows, their columns as in `COLUMNS`. Made when asked for: pandas loads slowly."""
        return frame_of(self.rows)

    def counts(self) -> dict[str, int]:
        failed = sum(len(group.failed) for group in self.groups)
        runs = sum(len(group.rows) for group in self.groups)
        left_out = {"superseded": self.superseded, "unreadable": len(self.unreadable)}
        return {"runs": runs, "ok": runs - failed, "failed": failed, **left_out}


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
        "overview": {
            "generated": report.generated,
            "folders": list(map(str, report.folders)),
            **report.counts(),
        }
        | {"groups": groups},
        "columns": COLUMNS,
        "recommendations": [
            _choice_json(number, choice, t)
            for number, choices in report.choices.items()
            for choice in choices
        ],
        "unreadable": [{"path": str(item.path), "reason": item.reason} for item in report.unreadable],
    }


def _group_json(group: Group, t: Translate) -> dict[str, Any]:
    shared = {
        name: group.first(name)
        for name in ("model", "weights", "fingerprint", "dataset", "scenes_hash", "device")
    }
    counts = {"ok": len(group.ok), "failed": len(group.failed)}
    return {
        "group": group.number,
        "description": describe_group(group, t) if group.number else t("homeless"),
    } | ({**shared, **counts} if group.number else dict(counts))


def _choice_json(number: int, choice: Choice, t: Translate) -> dict[str, Any]:
    row: Row = choice.row or {}
    return {
        "group": number,
        "need": choice.need,
        "label": row.get("title"),
        "config_hash": row.get("config_hash"),
        "basis": choice.basis,
        "candidates": choice.candidates,
        "excluded": choice.excluded,
        "explanation": explain(choice, t),
    }
