"""Comparison groups: only runs of the same weights, on the same images, on the same device, stand side by side."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

from vggtq.records.plain import number
from vggtq.report.rows.recommend import Choice, recommend
from vggtq.report.rows.row import Row
from vggtq.report.rows.shortlist import by_importance
from vggtq.report.rows.times import enter_times
from vggtq.report.rows.titles import Settings, unique_titles
from vggtq.report.rows.verdicts import enter_verdicts

KEY = ("fingerprint", "scenes_hash", "device", "hardware")  # two CPUs are both called "cpu"
_HINTS = (*KEY, "model", "dataset")  # facts that a run that failed early may still have


@dataclass(frozen=True)
class Group:
    """Comparable rows, FP32 first and then by compression, failed ones last; `number` 1 is the main group.

    Group 0 collects failed runs that ended too early to be assigned to another group.
    """

    number: int
    rows: list[Row]

    @cached_property
    def ok(self) -> list[Row]:
        return [row for row in self.rows if row["status"] == "ok"]

    @cached_property
    def failed(self) -> list[Row]:
        return [row for row in self.rows if row["status"] != "ok"]

    def shown(self, most: int) -> list[Row]:
        """The successful rows, the `most` telling of them where there are more; in their order."""
        return self.ok if len(self.ok) <= most else [self.ok[i] for i in sorted(self._by_importance[:most])]

    def telling(self, most: int) -> list[Row]:
        """Up to `most` successful rows, the most telling first."""
        return [self.ok[i] for i in self._by_importance[:most]]

    @cached_property
    def _by_importance(self) -> list[int]:
        return by_importance(self.ok, self.choices)

    @cached_property
    def choices(self) -> list[Choice]:
        """The recommendation for each need; nothing for runs that belong to no group."""
        return recommend(self.rows) if self.number else []

    def first(self, column: str) -> str | None:
        """The first value known in the group."""
        return next((row[column] for row in self.rows if row[column] is not None), None)


def group_rows(rows: Sequence[Row], settings: Sequence[Settings] = ()) -> list[Group]:
    """Groups in order of importance: most successful runs first, then the newest. Adds `group`, `title`, verdicts
    (`vggtq.report.rows.verdicts`) and comparable times (`vggtq.report.rows.times`) to rows.

    `settings`, one for each row, distinguish rows of the same label. Rows that have titles keep them.
    """
    known = dict(zip(map(id, rows), settings, strict=False))
    members: dict[tuple[object, ...], list[Row]] = {}
    for row in rows:
        if row["status"] == "ok" or all(row[name] is not None for name in KEY):
            members.setdefault(tuple(row[name] for name in KEY), []).append(row)
    placed = {id(row) for group in members.values() for row in group}
    strays = [row for row in rows if id(row) not in placed]
    homeless = [row for row in strays if not _adopt(row, list(members.values()))]
    ordered = sorted(members.values(), key=_importance, reverse=True)
    numbered = list(enumerate(ordered, start=1)) + ([(0, homeless)] if homeless else [])
    return [_finish(index, group, known) for index, group in numbered]


def _adopt(row: Row, groups: list[list[Row]]) -> bool:
    """Put a run that failed early into the one group that nothing it knows contradicts."""
    fitting = [
        group for group in groups if all(row[hint] is None or row[hint] == group[0][hint] for hint in _HINTS)
    ]
    if len(fitting) == 1:
        fitting[0].append(row)
    return len(fitting) == 1


def _importance(group: list[Row]) -> tuple[int, str]:
    return sum(row["status"] == "ok" for row in group), max(row["started"] or "" for row in group)


def _finish(index: int, rows: list[Row], settings: Mapping[int, Settings]) -> Group:
    rows = sorted(rows, key=_order)
    titles = unique_titles(rows, [settings.get(id(row), {}) for row in rows])
    for row, title in zip(rows, titles, strict=True):
        row |= {"group": index, "title": title}
    if index:
        sound = [row for row in rows if row["status"] == "ok"]
        enter_verdicts(sound)
        enter_times(sound)
    return Group(index, rows)


def _order(row: Row) -> tuple[bool, float, str, str]:
    return (
        row["status"] != "ok",
        number(row["compression_vs_fp32"]) or 0.0,
        row["label"],
        row["config_hash"] or "",
    )
