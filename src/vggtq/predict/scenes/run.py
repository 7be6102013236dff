"""`vggtq predict scenes=…`: finds the scenes, starts the processes, and reports the outcome of each scene."""

import json
import os
import uuid
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from hydra import initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from hydra.errors import HydraException
from hydra.types import RunMode
from omegaconf.errors import OmegaConfBaseException

from vggtq.config.compose import CONF, config_folders, quote_numbers, searchpath
from vggtq.config.messages import explain
from vggtq.data.select import count
from vggtq.errors import ConfigError, describe
from vggtq.files.atomic import write_text
from vggtq.machine import signals
from vggtq.machine.device import Device, resolve_device
from vggtq.predict.files.recording import rerun
from vggtq.predict.files.writer import OutputFolder
from vggtq.predict.options import Options, for_launcher
from vggtq.predict.scenes.find import INDEX, JOBS, Scene, find_scenes
from vggtq.predict.scenes.job import Job, row, write_listing
from vggtq.predict.scenes.states import Wanted, check_settings
from vggtq.predict.sources import read_sources

SCHEMA_VERSION = 1
SUBMITTED = ".submitit"  # the folder of jobs that outlive this process, by the launcher's own default
OWN = ("scenes=", "jobs=", "out=", "overwrite=")  # arguments that are no setting of a single scene


@dataclass(frozen=True)
class Outcome:
    """A line of scenes.json. status: done, skipped (predicted earlier), failed, or missing (no process came to it)."""

    name: str
    status: str
    images: int | None = None
    points: int | None = None
    seconds: float | None = None
    error: str | None = None


def predict_scenes(options: Options, argv: list[str]) -> int:
    """Exit status: 0 if every scene has its prediction, else 1. Raises VggtqError before a model is loaded."""
    folders, others = config_folders(argv)
    launcher, arguments = for_launcher(others)
    out = Path(options.out).expanduser().absolute()
    OutputFolder(Path(options.out).expanduser(), overwrite=True)
    resolve_device(Device(options.device, options.threads))
    if options.viewer != "none":
        rerun()  # a missing extra would be noticed last
    wanted = Wanted.of(options, read_sources(options), out)
    scenes = find_scenes(options.scenes, Path(options.out).expanduser())
    skipped = {} if options.overwrite else _earlier(wanted, scenes)
    todo = [scene for scene in scenes if scene.name not in skipped]
    print(f"{count(len(scenes), 'scene')}, {len(skipped)} of them predicted earlier", flush=True)
    reason, since = None, 0
    if todo:
        listing = out / JOBS / f"scenes-{uuid.uuid4().hex}.jsonl"
        overrides = quote_numbers([f"hydra.sweep.dir={listing.parent}", *launcher])
        with _launching([*overrides, *searchpath(folders)]) as launching:
            jobs = min(options.jobs or launching.at_a_time(), len(todo))
            write_listing(listing, todo)
            since = listing.stat().st_mtime_ns
            wanted = replace(wanted, since_ns=since if options.overwrite else None)
            settings = tuple(a for a in arguments if not a.startswith(OWN))
            ended = False
            try:
                reason = launching.run(
                    Job(_absolute(options), settings, options.out, wanted, listing, jobs), jobs
                )
                ended = reason is None
            except KeyboardInterrupt:
                signals.settled()
                made = sum(wanted.made(scene) is not None for scene in todo)
                print(f"interrupted with {made} of {count(len(todo), 'scene')} done, {len(skipped)} skipped")
                raise
            finally:
                _clear(listing, ended)
    outcomes = [skipped.get(scene.name) or _outcome(wanted, scene, since) for scene in scenes]
    return _tell(options, wanted, outcomes, reason)


def _earlier(wanted: Wanted, scenes: Sequence[Scene]) -> dict[str, Outcome]:
    """Scenes that are predicted already. Raises ConfigError where one is by another model or with other settings."""
    found = {}
    for scene in scenes:
        report = wanted.report(scene)
        if report is not None:
            check_settings(wanted, scene, report)
            if wanted.made(scene) is not None:
                found[scene.name] = Outcome(scene.name, "skipped", *row(report))
    return found


def _outcome(wanted: Wanted, scene: Scene, since_ns: int) -> Outcome:
    """The outcome of a scene since its listing was written: failed, missing or done."""
    if (error := wanted.failure(scene, since_ns)) is not None:
        return Outcome(scene.name, "failed", error=error)
    report = wanted.made(scene)
    return Outcome(scene.name, "missing") if report is None else Outcome(scene.name, "done", *row(report))


def _tell(options: Options, wanted: Wanted, outcomes: Sequence[Outcome], reason: str | None) -> int:
    """Writes scenes.json and prints the summary. Returns the exit status."""
    counts = Counter(outcome.status for outcome in outcomes)
    if reason is not None and counts["missing"] == len(outcomes):
        raise ConfigError(reason)  # nothing was begun
    index = {
        "schema_version": SCHEMA_VERSION,
        "model": {"file": Path(options.model).name, "digest": wanted.digests[0]},
        "counts": dict(counts),
        "scenes": [asdict(outcome) for outcome in outcomes],
    }
    write_text(wanted.out / INDEX, json.dumps(index, indent=1, ensure_ascii=False) + "\n")
    parts = [f"{counts['done']} done", f"{counts['skipped']} skipped", f"{counts['failed']} failed"]
    line = ", ".join([*parts, *([f"{counts['missing']} missing"] if counts["missing"] else [])])
    failed = [outcome for outcome in outcomes if outcome.status == "failed"]
    if failed:
        more = f" ({INDEX} has all)" if len(failed) > 1 else ""
        line += f": {failed[0].name}: {failed[0].error}{more}"
    if reason is not None:
        print(f"a process ended before its scenes were done: {reason}")
    print(line)
    return 1 if failed or counts["missing"] else 0


class _Launching:
    """Hydra's launcher, as `overrides` choose it."""

    def __init__(self, overrides: Sequence[str]) -> None:
        hydra = GlobalHydra.instance().hydra
        assert hydra is not None
        self._hydra, self._overrides = hydra, list(overrides)
        config = hydra.compose_config("scenes", self._overrides, RunMode.MULTIRUN)
        self._launcher = config.hydra.launcher

    def at_a_time(self) -> int:
        """Jobs that run beside each other: of joblib and of Slurm, whose launchers say so; else 1."""
        number = self._launcher.get("n_jobs") or self._launcher.get("array_parallelism") or 1
        return int(number) if number > 0 else os.cpu_count() or 1

    def run(self, job: Job, jobs: int) -> str | None:
        """Waits for all jobs. Returns the reason where one of them ended before its scenes were done."""
        try:
            batches = self._hydra.multirun("scenes", job, [*self._overrides, f"job=range({jobs})"])
            reasons = [ended.return_value for batch in batches for ended in batch]
        except Exception as error:  # of a launcher or of a process that was killed; what is done is done
            return f"{type(error).__name__}: {describe(error)}"
        return next(filter(None, reasons), None)


@contextmanager
def _launching(overrides: Sequence[str]) -> Iterator[_Launching]:
    """Raises ConfigError for overrides that Hydra or the launcher does not know."""
    try:
        with initialize_config_dir(str(CONF), job_name="predict", version_base="1.3"):
            yield _Launching(overrides)
    except (HydraException, OmegaConfBaseException) as error:
        raise ConfigError(explain(error)) from error


def _absolute(options: Options) -> Options:
    """With paths that other processes understand."""

    def absolute(path: str) -> str:
        return str(Path(path).expanduser().absolute())

    compare = None if options.compare is None else absolute(options.compare)
    return replace(options, model=absolute(options.model), compare=compare)


def _clear(listing: Path, ended: bool) -> None:
    """Removes the listing and Hydra's file, and keeps the launcher's files, such as the logs of Slurm's jobs.
    ended: no job needs the listing any more.
    """
    if not ended and (listing.parent / SUBMITTED).exists():
        return  # jobs may wait in the queue
    for path in (listing, listing.parent / "multirun.yaml"):
        path.unlink(missing_ok=True)
    with suppress(OSError):
        listing.parent.rmdir()
