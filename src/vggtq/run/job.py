"""One job of Hydra's: measured unless its record is there already, and told in a few lines."""

import logging
import re
import shlex
from pathlib import Path
from typing import Any

from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode
from omegaconf import DictConfig

from vggtq.config.validate import Job
from vggtq.files.atomic import remove_leftovers
from vggtq.files.cache import waiting_lock
from vggtq.machine.exhausted import release_memory
from vggtq.records.of_run import ErrorEntry
from vggtq.records.schema import Record
from vggtq.run.experiment import keep, run
from vggtq.run.task import failures
from vggtq.sweep import sweep
from vggtq.sweep.journal import Entry, Journal
from vggtq.sweep.resume import Earlier, earlier
from vggtq.sweep.tracking import track

log = logging.getLogger(__name__)


def measured(cfg: DictConfig) -> None:
    """A failure is recorded and told in one line, and never ends a sweep unless fail_fast=true asks for it."""
    hydra_config = HydraConfig.get()
    folder = Path(hydra_config.runtime.output_dir)
    number = hydra_config.job.num if hydra_config.mode == RunMode.MULTIRUN else None
    if number is not None and _stopped(cfg):
        log.info("not run: another job failed, and fail_fast=true")
        sweep.enter(Entry(number, "stopped", str(folder), "not run: another job failed, and fail_fast=true"))
        return
    try:
        record, known = _measured(cfg, folder, _command(hydra_config))
    except BaseException:  # only interruptions come through
        if number is not None:
            sweep.enter(Entry(number, "failed", str(folder), "interrupted"))
        raise
    release_memory()
    failed = record.error is not None
    message = record.error.message.splitlines()[0] if record.error else ""
    if number is not None:
        sweep.enter(Entry(number, "failed" if failed else "skipped" if known else "ok", str(folder), message))
    _tell(record, known, folder, number)
    if number is None and not failed:
        sweep.print_summary([record])
    if failed and number is not None and cfg.fail_fast and sweep.jobs_run_here():
        raise sweep.Stopped


def _stopped(cfg: DictConfig) -> bool:
    journal = Journal.current()
    return bool(cfg.fail_fast and journal and journal.entries("failed"))


def _measured(cfg: DictConfig, folder: Path, command: str) -> tuple[Record, Earlier | None]:
    """The record, and how it is known if an earlier run's answers."""
    job = Job(cfg)
    # Two sweeps in one folder share the work instead of doing it twice.
    waiting = f"another process is measuring {folder.name}; waiting for it"
    with waiting_lock(folder / ".lock", waiting) as error:
        note = _unlocked(error) if error else None
        remove_leftovers(folder)  # of a process that was killed while it held the lock
        if known := earlier(job, folder):
            return known.record, known
        record = run(job, folder, command)
        notes = [note, track(cfg.tracker, record, folder)]
        if any(notes):
            record.notes += filter(None, notes)
            keep(record, folder)
        return record, None


def _unlocked(error: Exception) -> str:
    reason = getattr(error, "strerror", None) or str(error)
    note = f"the run folder cannot be locked ({reason}): another process may have measured the same at the same time"
    log.warning(note)
    return note


def _tell(record: Record, known: Earlier | None, folder: Path, number: int | None) -> None:
    shown = _relative(folder / "result.json")
    if record.error is not None:
        _tell_failure(record.error, shown, number)
        return
    if known:
        _tell_known(known, folder, number)
    if known and number is not None:
        return
    if record.picture:
        log.info("picture %s", _relative(folder / record.picture))
    log.info("record  %s", shown)


def _tell_known(known: Earlier, folder: Path, number: int | None) -> None:
    same = "the same code, hardware and inputs"
    if known.differences:
        same = f"resume=failed, which overlooks that there is {', '.join(known.differences)} since"
    what = f"skipped: {folder.name}" if number is not None else "not measured again: this run was"
    log.info("%s already measured on %s with %s; resume=never runs it again", what, known.measured, same)


def _tell_failure(error: ErrorEntry, shown: Path, number: int | None) -> None:
    recorded = f" (recorded in {shown})" if shown.exists() else ""
    hint = recorded if error.expected else f"; unexpected: the traceback is in {shown}"
    kind = "" if error.expected else f"{error.type}: "
    head = "error" if number is None else f"job {number} failed"
    log.error("%s: %s%s%s", head, kind, error.message.splitlines()[0], hint)
    if HydraConfig.get().verbose:
        log.error(error.traceback)
    failures.append(error.message)


def _command(hydra_config: Any) -> str:
    """The command that repeats this very job, also when it was one of a sweep."""
    overrides = [
        re.sub(r"^(\+?(?:bits|group_size)=)'([^']*)'$", r"\1\2", o) for o in hydra_config.overrides.task
    ]
    if any(re.match(r"\+(experiment|search)=", override) for override in overrides):
        overrides.append("hydra.mode=RUN")  # it would start its sweep again
    own = [source.path for source in hydra_config.runtime.config_sources if source.provider == "command-line"]
    folders = [word for path in own for word in ("--config-dir", str(_relative(Path(path))))]
    return shlex.join(["python", "-m", "vggtq.run", *folders, *overrides])


def _relative(path: Path) -> Path:
    return path.relative_to(Path.cwd()) if path.is_relative_to(Path.cwd()) else path
