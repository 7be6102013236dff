"""Runs what a plan lacks: one Hydra sweep per row in a process of its own, a few rows at a time."""

import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from pathlib import Path
from typing import Any

from vggtq.accuracy.plan import Job
from vggtq.config.names import config_hash
from vggtq.machine import children, signals
from vggtq.machine.source_code import run_code
from vggtq.records.files import record_in
from vggtq.records.schema import Record


def finished_record(folder: Path, config: dict[str, Any]) -> Record | None:
    """The record in `folder`, if it is one of a finished run of this very (resolved) configuration with today's code."""
    record = record_in(folder)
    if record is None or record.status != "ok" or record.config_hash != config_hash(config):
        return None
    return record if record.environment and record.environment.code == run_code() else None


def missing(jobs: Sequence[Job]) -> list[Job]:
    """Those without a finished record."""
    return [job for job in jobs if finished_record(job.folder, job.config) is None]


def run_missing(
    jobs: Mapping[str, Sequence[Job]], command: Callable[[str], list[str]], out: Path, processes: int
) -> list[str]:
    """Starts the sweep of every row that lacks a run, and says how each ended. Returns the rows that still lack one.

    command: arguments of `vggtq run` for a row. An interruption ends the sweeps that run, and starts no more.
    """
    waiting = {name: len(missing(own)) for name, own in jobs.items() if missing(own)}
    total, done, failed = sum(waiting.values()), 0, []
    print(f"{sum(map(len, jobs.values())) - total} runs are done, {total} to do", flush=True)
    running: set[subprocess.Popen[bytes]] = set()
    with ThreadPoolExecutor(processes) as pool:
        sweeps = {
            pool.submit(_sweep, command(name), out / "logs" / f"{name}.log", running): name
            for name in waiting
        }
        try:
            for sweep in as_completed(sweeps):
                name = sweeps[sweep]
                done += waiting[name]
                lost = missing(jobs[name])
                failed += [name] if lost else []
                log = out / "logs" / f"{name}.log"
                ending = f"{len(lost)} failed, see {log}" if lost else f"{sweep.result():.0f} s"
                print(f"[{done}/{total}] {name}: {waiting[name]} runs, {ending}", flush=True)
        except KeyboardInterrupt:
            signals.settled()
            pool.shutdown(wait=False, cancel_futures=True)
            for child in list(running):
                children.end(child)
            raise
    return failed


def _sweep(command: list[str], log: Path, running: "set[subprocess.Popen[bytes]]") -> float:
    """Seconds that a sweep took; finished runs are skipped by the sweep itself. running: has its process meanwhile."""
    started = time.perf_counter()
    log.parent.mkdir(parents=True, exist_ok=True)
    process = [sys.executable, "-m", "vggtq.run", *command]
    with log.open("w") as stream, subprocess.Popen(process, stdout=stream, stderr=subprocess.STDOUT) as child:
        running.add(child)
        child.wait()
        running.discard(child)
    return time.perf_counter() - started
