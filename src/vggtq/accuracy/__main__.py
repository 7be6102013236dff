"""`vggtq accuracy`: the plan behind docs/accuracy.md, its missing runs and its tables."""

import sys
import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from vggtq.accuracy.measures import Measured
from vggtq.accuracy.plan import FILE, Job, Plan, chosen_rows, jobs_of, read_plan, sweep_of
from vggtq.accuracy.plot import draw_lines
from vggtq.accuracy.results import Table, line, told_apart, verdicts
from vggtq.accuracy.running import finished_record, run_missing
from vggtq.accuracy.tables import model_table, told_table, verdict_table, write_csv
from vggtq.config.compose import run_candidates
from vggtq.errors import ConfigError, check_choice
from vggtq.files.atomic import replacing
from vggtq.terminal.command_line import entry
from vggtq.terminal.help import Command
from vggtq.terminal.options import option


@dataclass
class Options:
    """The rows of the plan to run, and where the results are written."""

    rows: list[str] = option("these rows only; without any, all of them", [])
    models: list[str] = option("these models only; without any, all of the plan", [])
    seeds: list[int] = option("calibration seeds instead of the plan's", [])
    jobs: int = option("sweeps at a time; each uses one thread", 2, least=1)
    out: str = option("where to write; runs that are finished there are not run again", "outputs/accuracy")
    overrides: list[str] = option(
        "for every run, e.g. scenes=8 for a quick look (other records: they lie beside the others)",
        [],
        rest=True,
    )

    def __post_init__(self) -> None:
        if wrong := [o for o in self.overrides if "=" not in o or o.startswith("-")]:
            raise ConfigError(
                f"{wrong[0]} is not an option; write rows=…, jobs=…, out=… or key=value for runs"
            )


COMMAND = Command(
    "accuracy",
    Options,
    ("", "rows=w4_nearest,w4_gptq scenes=8"),
    f"""\
Measures every row of conf/{FILE.name} on its models and calibration seeds, and merges the records into tables with intervals:
accuracy.md, accuracy.csv and accuracy.png. A requirement that is not met is a finding, no failure.
""",
    run_candidates,
    wrong_usage=2,
)


def _work(options: Options) -> int:
    started = time.perf_counter()
    plan, out, extra = _chosen(read_plan(), options), Path(options.out), options.overrides
    jobs = {name: jobs_of(plan, name, extra, out / "runs") for name in chosen_rows(plan, options.rows)}

    def sweep(name: str) -> list[str]:
        return [*sweep_of(plan, name, extra, jobs[name]), f"hydra.sweep.dir={out / 'runs'}"]

    failed = run_missing(jobs, sweep, out, options.jobs)
    table = _table(plan, jobs)
    lines = [line(plan, table, row, model) for model in plan.models for row in jobs if (row, model) in table]
    text = _markdown(plan, table, lines)
    (out / "accuracy.md").write_text(text, encoding="utf-8")
    write_csv(lines, out / "accuracy.csv")
    with replacing(out / "accuracy.png") as temporary:
        draw_lines(lines, temporary)
    print(text, end="")
    print(f"{time.perf_counter() - started:.0f} s; {out / 'accuracy.md'}, {out / 'accuracy.csv'}")
    return 1 if failed else 0


def _chosen(plan: Plan, options: Options) -> Plan:
    """The plan, cut to the models and seeds that were asked for."""
    for name in options.models:
        check_choice("models", name, plan.models)
    if options.seeds:
        rows = {name: replace(row, seeds=[]) for name, row in plan.rows.items()}
        plan = replace(plan, seeds=options.seeds, rows=rows)
    return replace(plan, models=options.models or plan.models)


def _table(plan: Plan, jobs: dict[str, list[Job]]) -> Table:
    """The measurements of each row and model whose seeds are all finished."""
    table = {}
    for name, own in jobs.items():
        for model in plan.models:
            found = [finished_record(job.folder, job.config) for job in own if job.model == model]
            records = [record for record in found if record is not None]
            if len(records) == len(found):
                table[name, model] = Measured(records)
    return table


def _markdown(plan: Plan, table: Table, lines: list[Any]) -> str:
    records = [record for measured in table.values() for record in measured.records]
    commits = sorted({str(record.environment and record.environment.commit)[:7] for record in records})
    labels = {entry.row: entry.label for entry in lines}
    parts = [f"Records of {len(records)} runs, commit {', '.join(commits)}."]
    for model in plan.models:
        own = [entry for entry in lines if entry.model == model]
        if own:
            parts += [f"## {model}", f"{own[0].scenes} scenes.", model_table(own)]
            told = told_apart(plan, table, model)
            parts += ["What these scenes tell apart:", told_table(told, labels)] if told else []
    parts += ["## Requirements", verdict_table(verdicts(plan, table), labels)]
    return "\n\n".join(parts) + "\n"


main = entry(COMMAND, _work)

if __name__ == "__main__":
    sys.exit(main())
