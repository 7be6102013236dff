"""The runs of a comparison, in one process of their own, and the report on them."""

import re
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from vggtq.compare import USUAL
from vggtq.config.compose import config_folders
from vggtq.config.compose import options as choices
from vggtq.errors import ConfigError, DataError, check_choice, did_you_mean
from vggtq.machine import children, signals
from vggtq.report.build import build_report
from vggtq.report.documents.results import Report
from vggtq.report.words.texts import LANGUAGES
from vggtq.terminal.options import option
from vggtq.terminal.progress import Steps

JOB = re.compile(r"#\d+ : (?:\+variant|scheme)=(\S+)")  # as Hydra announces one
TOLD = re.compile(r"^(job \d+ failed|failed: |error: )")


@dataclass
class Options:
    """The schemes to compare, the images to compare them on, and where the results go."""

    images: str | None = option(
        "a folder of photographs; the model's own test scenes where it is left out", None
    )
    model: str = option(
        "a model of vggtq run, or a checkpoint of VGGT-1B: a file, a folder or a repository", "vggt_mini"
    )
    max_images: int | None = option("the first so many photographs", None, least=1)
    schemes: list[str] = option("schemes or variants of vggtq run", list(USUAL))
    out: str = option("folder for runs, report and hand-in", "outputs/compare")
    lang: str = option("language of the report", "en", choices=("en", "zh"))
    overrides: list[str] = option("further options of vggtq run, e.g. timing=off scenes=8", [], rest=True)

    def __post_init__(self) -> None:
        check_choice("lang", self.lang, LANGUAGES)
        if self.max_images is not None and self.max_images < 1:
            raise ConfigError(f"max_images={self.max_images}: at least 1; leave it out for all photographs")
        if Path(self.out).is_file():
            raise ConfigError(f"out={self.out} is a file; name a folder for runs and report")
        if not self.schemes:
            raise ConfigError("schemes=[]: name at least one, e.g. schemes=[int8_dynamic,int4_group64]")
        config_folders(self.overrides)
        known = [*choices("variant"), *choices("scheme")]
        for name in self.schemes:
            if name not in known:
                raise ConfigError(
                    f"schemes: {name} is not one of {', '.join(known)}{did_you_mean(name, known)}"
                )
        if self.images is not None and not Path(self.images).is_dir():
            raise ConfigError(f"images={self.images} is not a folder; name one that holds the photographs")
        if self.max_images is not None and self.images is None:
            raise ConfigError(
                f"max_images={self.max_images} goes with images=DIR; scenes=N limits the embedded scenes"
            )

    def commands(self) -> Iterator[list[str]]:
        """One sweep over the variants, one over the schemes, as arguments of `vggtq run`."""
        variants = choices("variant")
        names = {
            "+variant": [name for name in self.schemes if name in variants],
            "scheme": [name for name in self.schemes if name not in variants],
        }
        for key, values in names.items():
            if values:
                yield ["--multirun", f"{key}={','.join(values)}", *self._shared()]

    def _shared(self) -> list[str]:
        shared = [f"model={self.model}"]
        if self.model not in choices("model"):
            shared = ["model=vggt_1b", f"model.source={_quoted(self.model)}"]
        if self.images is not None:
            shared += ["dataset=images", f"dataset.path={_quoted(self.images)}"]
            shared += [f"dataset.max_images={self.max_images}"] if self.max_images else []
        return [*shared, f"hydra.sweep.dir={_quoted(f'{self.out}/runs')}", *self.overrides]


def _quoted(path: str) -> str:
    """As one value of Hydra's grammar, whatever signs it has."""
    escaped = re.sub(r"(\\*)'", r"\1\1\\'", path)  # backslashes count as such only in front of a quote
    tail = re.search(r"\\*$", escaped)
    return f"'{escaped}{tail.group() if tail else ''}'"


def measure_all(options: Options) -> tuple[Report, bool]:
    """Makes the missing runs and writes the report. Returns the report, and whether every scheme was measured.

    Raises DataError where there are no photographs, or nothing to report.
    """
    if options.images is not None:
        from vggtq.data.images import find_images

        find_images(Path(options.images), [])
    with Steps() as steps:
        steps.step("starting", len(options.schemes))
        finished = [_run(command, steps) for command in options.commands()]
    runs, out = Path(options.out) / "runs", Path(options.out) / "report"
    if not any(runs.glob("*/result.json")):
        raise DataError(f"no scheme could be measured; the lines above say why, and {runs} has what there is")
    return build_report([runs], out, options.lang, "handin"), all(finished)


def _run(command: list[str], steps: Steps) -> bool:
    """One sweep in a process of its own; each run keeps its log. Returns whether all went well.

    An interrupted comparison ends the sweep, and waits until it has written its record.
    """
    child = subprocess.Popen(
        [sys.executable, "-m", "vggtq.run", *command],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        encoding="utf-8",
    )
    assert child.stdout
    try:
        with child:
            _follow(child.stdout, steps)
    except KeyboardInterrupt:
        signals.settled()
        children.end(child)
        raise
    steps.advance()
    return child.returncode == 0


def _follow(lines: IO[str], steps: Steps) -> None:
    running = False
    for line in lines:
        if job := JOB.search(line):
            steps.tell(job.group(1))
            if running:
                steps.advance()
            running = True
        elif TOLD.match(line):
            print(line, end="", flush=True)
