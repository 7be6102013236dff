"""The rows of a large group that are shown where not all can be read: in charts, terminal and text report.

FP32 and the recommended rows come first. Then, in turn, follow a row of the Pareto front (its ends, then evenly
between) and the best balanced score of a label that has been shown least. So a hundred seeds of one scheme do
not crowd out the others.
"""

from collections import defaultdict
from collections.abc import Sequence
from itertools import chain, zip_longest

from vggtq.report.rows.recommend import Choice, balanced_score, is_reference, pareto_front
from vggtq.report.rows.row import Row

READ_ROWS = 200  # of one group in texts and Markdown: more are not read, and no web site renders them
DRAWN_ROWS = 30  # lines of a chart, or of a terminal


def by_importance(rows: Sequence[Row], choices: Sequence[Choice]) -> list[int]:
    """The indices of `rows`, successful ones of one group, each once, the most telling first."""
    index = {id(row): i for i, row in enumerate(rows)}
    reference = next(filter(is_reference, rows), None)
    first = [row for row in (reference, *(choice.row for choice in choices)) if row is not None]
    pairs = zip_longest(_spread(front(rows)), _best_of_each_label(rows))
    others = (row for row in chain.from_iterable(pairs) if row is not None)
    return list(dict.fromkeys(index[id(row)] for row in chain(first, others)))


def front(rows: Sequence[Row]) -> list[Row]:
    """The rows that no other beats on both compression and error, by rising compression."""
    known = [row for row in rows if _is_placed(row)]
    points = [(row["compression_vs_fp32"], row["mean_relative_error"]) for row in known]
    return [known[i] for i in pareto_front(points)]


def _is_placed(row: Row) -> bool:
    return bool(row["compression_vs_fp32"]) and row["mean_relative_error"] is not None


def _spread(rows: Sequence[Row]) -> list[Row]:
    """First, last, then the middles of ever shorter parts: whatever is cut off, the rest lies evenly."""
    parts, found = [(0, len(rows) - 1)], [*rows[:1], *rows[1:][-1:]]
    for low, high in parts:
        if high - low > 1:
            middle = (low + high) // 2
            found.append(rows[middle])
            parts += [(low, middle), (middle, high)]
    return found


def _best_of_each_label(rows: Sequence[Row]) -> list[Row]:
    scores = [balanced_score(row) if _is_placed(row) else -1.0 for row in rows]
    seen: dict[str, int] = defaultdict(int)
    ranked = []
    for i in sorted(range(len(rows)), key=lambda i: -scores[i]):
        ranked.append((seen[rows[i]["label"]], -scores[i], i))
        seen[rows[i]["label"]] += 1
    return [rows[i] for _, _, i in sorted(ranked)]
