"""`python -m vggtq.accuracy [rows=…] [jobs=…] [out=…] [key=value…]`"""

import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from vggtq.accuracy.measures import Measured
from vggtq.accuracy.plan import FILE, Job, Plan, jobs_of, read_plan
from vggtq.accuracy.results import Table, line, verdicts
from vggtq.accuracy.running import finished_record, run_missing
from vggtq.accuracy.tables import model_table, verdict_table, write_csv
from vggtq.errors import ConfigError, VggtqError, did_you_mean

HELP = f"""\
Measure every row of {FILE.name} on its models and calibration seeds, and merge the records into tables with intervals.

  python -m vggtq.accuracy [rows=…] [jobs=…] [out=…] [key=value…]

rows=a,b     these rows only
jobs=2       sweeps at a time; each uses one thread
out=DIR      default outputs/accuracy; runs that are finished there are not run again
key=value    for every run, e.g. scenes=8 for a quick look (other records: they lie beside the others)

Writes accuracy.md and accuracy.csv.
"""


def main(argv: Sequence[str]) -> int:
    """Exit status: 0 done, 1 a run failed, 2 a wrong option. A requirement that is not met is a finding, no failure."""
    if "--help" in argv or "-h" in argv:
        print(HELP, end="")
        return 0
    try:
        return _main(argv)
    except VggtqError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2


def _main(argv: Sequence[str]) -> int:
    started = time.perf_counter()
    options, extra = _parsed(argv)
    plan, out = read_plan(), Path(options["out"])
    jobs = {name: jobs_of(plan, name, extra, out / "runs") for name in _rows(plan, options["rows"])}
    failed = run_missing(plan, jobs, extra, out, int(options["jobs"]))
    table = _table(plan, jobs)
    lines = [line(plan, table, row, model) for model in plan.models for row in jobs if (row, model) in table]
    text = _markdown(plan, table, lines)
    (out / "accuracy.md").write_text(text, encoding="utf-8")
    write_csv(lines, out / "accuracy.csv")
    print(text, end="")
    print(f"{time.perf_counter() - started:.0f} s; {out / 'accuracy.md'}, {out / 'accuracy.csv'}")
    return 1 if failed else 0


def _parsed(argv: Sequence[str]) -> tuple[dict[str, str], list[str]]:
    options, extra = {"rows": "", "jobs": "2", "out": "outputs/accuracy"}, []
    for argument in argv:
        key, equals, value = argument.partition("=")
        if not equals or argument.startswith("-"):
            raise ConfigError(
                f"{argument} is not an option; write rows=…, jobs=…, out=… or key=value for runs"
            )
        if key in options:
            options[key] = value
        else:
            extra.append(argument)
    if not options["jobs"].isdigit() or int(options["jobs"]) < 1:
        raise ConfigError(f"jobs={options['jobs']}: use 1 or more sweeps at a time")
    return options, extra


def _rows(plan: Plan, chosen: str) -> list[str]:
    names = chosen.split(",") if chosen else list(plan.rows)
    for name in names:
        if name not in plan.rows:
            known = ", ".join(plan.rows)
            raise ConfigError(f"rows={name} is not one of {known}{did_you_mean(name, plan.rows)}")
    return names


def _table(plan: Plan, jobs: dict[str, list[Job]]) -> Table:
    """What is measured: rows and models all of whose seeds are finished."""
    table = {}
    for name, own in jobs.items():
        for model in plan.models:
            found = [finished_record(job.folder, job.config) for job in own if job.model == model]
            records: list[dict[str, Any]] = [record for record in found if record is not None]
            if len(records) == len(found):
                table[name, model] = Measured(records)
    return table


def _markdown(plan: Plan, table: Table, lines: list[Any]) -> str:
    records = [record for measured in table.values() for record in measured.records]
    commits = sorted({str(record["environment"]["commit"])[:7] for record in records})
    labels = {entry.row: entry.label for entry in lines}
    parts = [f"Records of {len(records)} runs, commit {', '.join(commits)}."]
    for model in plan.models:
        own = [entry for entry in lines if entry.model == model]
        if own:
            parts += [f"## {model}", f"{own[0].rooms} rooms.", model_table(own)]
    parts += ["## Requirements", verdict_table(verdicts(plan, table), labels)]
    return "\n\n".join(parts) + "\n"


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
