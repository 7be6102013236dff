"""A sweep as its user sees it: failures while it goes on, one table at the end, and an exit status."""

import os
import sys
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from hydra.experimental.callback import Callback
from omegaconf import DictConfig

from vggtq.config.schema import Tracker, resume_mode
from vggtq.errors import VggtqError
from vggtq.records.files import record_in
from vggtq.records.schema import Record
from vggtq.sweep.journal import ANSWERED, Entry, Journal

LOOK_EVERY_S = 1.0


class Stopped(BaseException):
    """fail_fast=true ends a sweep whose jobs run in this process; Hydra goes on after any Exception."""


class Beginning(Callback):
    """Refuses wrong options that change no number, before a record of theirs could replace a good one."""

    def on_run_start(self, config: DictConfig, **_: Any) -> None:
        try:
            resume_mode(config.resume)
            Tracker(**config.tracker)
        except VggtqError as error:  # Hydra makes warnings of exceptions; SystemExit it lets through
            raise SystemExit(f"error: {error}") from error

    def on_multirun_start(self, config: DictConfig, **_: Any) -> None:
        self.on_run_start(config)


class SweepEnd(Callback):
    """Opens the journal and reads it in the end, whichever launcher ran the jobs."""

    def on_multirun_start(self, config: DictConfig, **_: Any) -> None:
        global _sweep
        folder = Path(config.hydra.sweep.dir)
        try:
            _sweep = Sweep(Journal.start(folder))
        except OSError as error:
            where = error.filename or folder
            raise SystemExit(
                f"error: {where}: {error.strerror}; choose a folder that can be written, hydra.sweep.dir=DIR"
            ) from error

    def on_multirun_end(self, config: DictConfig, **_: Any) -> None:
        if not summarize():
            raise SystemExit(1)


class Sweep:
    """The sweep that this process started."""

    def __init__(self, journal: Journal) -> None:
        self.journal = journal
        self._lost: list[Entry] = []  # that the journal has no room for
        self._told: set[int] = set()
        self._over = threading.Event()
        threading.Thread(target=self._watch, daemon=True).start()

    def remember(self, entry: Entry) -> None:
        self._lost.append(entry)

    def end(self) -> list[Entry]:
        """Ends the sweep, and returns the entries of all its jobs."""
        self._over.set()
        entries = [*self.journal.entries(), *self._lost]
        self.journal.end()
        return entries

    def _watch(self) -> None:
        while not self._over.wait(LOOK_EVERY_S):
            for entry in self.journal.entries("failed"):
                if entry.job not in self._told and not entry.told:
                    print(f"job {entry.job} failed: {entry.message}", flush=True)
                self._told.add(entry.job)


_sweep: Sweep | None = None


def jobs_run_here() -> bool:
    """Whether this process started the sweep whose job it runs: so does Hydra's basic launcher."""
    return _sweep is not None


def enter(entry: Entry) -> None:
    """Reports the outcome of a job to the sweep, if there is one. Raises OSError where nothing else could
    report it.
    """
    journal = Journal.current()
    if journal is None:
        return
    try:
        journal.enter(entry)
    except OSError:
        if _sweep is None:
            raise
        _sweep.remember(entry)


def summarize() -> bool:
    """Prints the sweep's table, and why runs failed. Returns whether all have a record to show; True if there is no sweep."""
    global _sweep
    if _sweep is None:
        return True
    entries = _sweep.end()
    _sweep = None
    if not entries:  # nothing began, and the code that ends the sweep gives the reason
        return False
    by_folder = {entry.folder: entry for entry in entries}  # equal configurations share a folder
    records = {folder: record_in(Path(folder)) for folder in by_folder}
    shown = [record for record in records.values() if record is not None]
    if shown:
        print_summary(shown)
    failed = {folder: entry for folder, entry in by_folder.items() if not _answered(entry, records[folder])}
    for folder, entry in failed.items():
        print(f"failed: {os.path.basename(folder)}: {entry.message or 'its record cannot be read'}")  # noqa: PTH119
    print(_counted(entries, by_folder, failed))
    return not failed


def _answered(entry: Entry, record: Record | None) -> bool:
    return entry.status in ANSWERED and record is not None and record.status == "ok"


def _counted(entries: Sequence[Entry], by_folder: dict[str, Entry], failed: dict[str, Entry]) -> str:
    earlier = sum(entry.status == "skipped" for entry in by_folder.values())
    line = f"{len(by_folder) - len(failed)} of {len(by_folder)} runs finished"
    line += f", {earlier} of them measured earlier" if earlier else ""
    line += "; vggtq report makes the report"
    if len(entries) > len(by_folder):
        line += f"\n{len(entries)} jobs had only {len(by_folder)} different configurations; equal ones share a folder"
    return line


def print_summary(records: list[Record]) -> None:
    """The table that ends a run or a sweep."""
    from rich.console import Console

    from vggtq.report import summary_of

    Console(width=None if sys.stdout.isatty() else 160).print(summary_of(records))
