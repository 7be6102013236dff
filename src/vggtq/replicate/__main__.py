"""`vggtq replicate paper=…`: measures the rows of a published table, and prints published beside measured."""

import sys
from dataclasses import dataclass
from pathlib import Path

from vggtq.accuracy.plan import Job
from vggtq.accuracy.running import finished_record, run_missing
from vggtq.config.compose import compose, run_candidates
from vggtq.config.names import plain, run_name
from vggtq.config.validate import validated
from vggtq.errors import ConfigError, check_choice
from vggtq.files.atomic import write_text
from vggtq.replicate.paper import Paper, deviations, missing, overrides, papers, read_paper
from vggtq.replicate.results import Compared, as_csv, compared, table
from vggtq.terminal.command_line import entry
from vggtq.terminal.help import Command
from vggtq.terminal.options import option


@dataclass
class Options:
    """The table, those of its rows to measure, and the output folder."""

    paper: str = option("the table", choices=papers())
    rows: list[str] = option("these rows and the float row; without any, all that can be measured", [])
    jobs: int = option("runs at a time", 1, least=1)
    out: str = option("where to write; runs that are finished there are not run again", "outputs/replicate")
    overrides: list[str] = option(
        "for every run: where data and weights are, e.g. dataset.root=DIR model.source=FILE; what else is changed stands "
        "above the table",
        [],
        rest=True,
    )

    def __post_init__(self) -> None:
        if wrong := [o for o in self.overrides if "=" not in o or o.startswith("-")]:
            raise ConfigError(
                f"{wrong[0]} is not an option; write rows=…, jobs=…, out=… or key=value for runs"
            )
        paper = read_paper(self.paper)
        measurable = [name for name, row in paper.rows.items() if row.run is not None]
        for name in self.rows:
            check_choice("rows", name, paper.rows)
            if name not in measurable:
                raise ConfigError(
                    f"rows={name}: this method does not exist here; can be measured: {', '.join(measurable)}"
                )
        if lacking := missing(paper, self.overrides):
            needs = "; ".join(f"{key}= ({what})" for key, what in lacking.items())
            raise ConfigError(
                f"paper={self.paper} needs {needs}; to try the command without them: dataset=objects model=vggt_mini"
            )


COMMAND = Command(
    "replicate",
    Options,
    (
        "paper=quantvggt rows=w8a8_nearest dataset.root=DIR model.source=FILE",
        "paper=quantvggt rows=w4a4_nearest dataset=objects scenes=8 frames=4 model=vggt_mini",
    ),
    """\
Runs the rows under the paper's protocol on weights and data that you have, and prints published beside measured, with 95 %
intervals over scenes; writes replicate.md and replicate.csv. Where a protocol is not fully stated, the table says what was
assumed. Predictions are kept: vggtq rescore scores them again. The same command continues after an interruption.
""",
    run_candidates,
    wrong_usage=2,
)


def _work(options: Options) -> int:
    paper, out = read_paper(options.paper), Path(options.out) / options.paper
    names = [name for name in options.rows or paper.rows if paper.rows[name].run is not None]
    commands = {
        name: overrides(paper, paper.rows[name], options.overrides)
        for name in {*names, *map(paper.float_row, names)}
    }
    jobs = {name: [_job(name, commands[name], out / "runs")] for name in paper.rows if name in commands}

    def sweep(name: str) -> list[str]:
        return ["--multirun", *commands[name], f"hydra.sweep.dir='{out / 'runs'}'"]

    failed = run_missing(jobs, sweep, out, options.jobs)
    found = {name: finished_record(job.folder, job.config) for name, (job,) in jobs.items()}
    lines = compared(paper, {name: record for name, record in found.items() if record is not None})
    wanted = [line for line in lines if not options.rows or line.row in commands]
    text = _text(paper, wanted, options.overrides)
    write_text(out / "replicate.md", text)
    write_text(out / "replicate.csv", as_csv(wanted, not deviations(paper, options.overrides)))
    print(text)
    print(f"{out / 'replicate.md'}, {out / 'replicate.csv'}; runs with their predictions: {out / 'runs'}")
    return 1 if failed else 0


def _job(name: str, command: list[str], runs: Path) -> Job:
    cfg = compose(command)
    validated(cfg)
    return Job(name, str(cfg.model.name), int(cfg.seed), plain(cfg), runs / run_name(_root_=cfg))


def _text(paper: Paper, lines: list[Compared], extra: list[str]) -> str:
    rows = [paper.rows[name] for name in dict.fromkeys(line.row for line in lines)]
    assumed = [*paper.assumed, *(f"{row.label}: {text}" for row in rows for text in row.assumed)]
    changed = deviations(paper, extra)
    parts = [f"# {paper.title}", f"Published: {paper.source}", f"Protocol: {paper.protocol}"]
    if changed:
        parts.append(
            f"**Not the paper's protocol: {' '.join(changed)}.** Only the command is tried so, not the paper."
        )
    parts.append(table(lines, judged=not changed))
    if assumed:
        parts.append(
            "Assumed where the source leaves it open:\n\n" + "\n".join(f"- {text}" for text in assumed)
        )
    return "\n\n".join(parts) + "\n"


main = entry(COMMAND, _work)

if __name__ == "__main__":
    sys.exit(main())
