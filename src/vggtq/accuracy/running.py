"""Runs what a plan lacks: one Hydra sweep per row in a process of its own, a few rows at a time."""

import subprocess
import sys
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from pathlib import Path
from typing import Any

from vggtq.accuracy.plan import Job, Plan, overrides
from vggtq.config import config_hash
from vggtq.record import read_record
from vggtq.source_code import run_code


def finished_record(folder: Path, config: dict[str, Any]) -> dict[str, Any] | None:
    """The record in `folder`, if it is one of a finished run of this very (resolved) configuration with today's code."""
    record = read_record(folder)
    if record is None or record["status"] != "ok" or record["config_hash"] != config_hash(config):
        return None
    return record if record["environment"].get("code") == run_code() else None


def missing(jobs: Sequence[Job]) -> list[Job]:
    """Those without a finished record."""
    return [job for job in jobs if finished_record(job.folder, job.config) is None]


def run_missing(
    plan: Plan, jobs: dict[str, list[Job]], extra: list[str], out: Path, processes: int
) -> list[str]:
    """Starts the sweep of every row that lacks a run, and says how each ended. Returns the rows that still lack one."""
    waiting = {name: len(missing(own)) for name, own in jobs.items() if missing(own)}
    total, done, failed = sum(waiting.values()), 0, []
    print(f"{sum(map(len, jobs.values())) - total} runs are done, {total} to do", flush=True)
    with ThreadPoolExecutor(processes) as pool:
        sweeps = {pool.submit(_sweep, plan, name, jobs[name], extra, out): name for name in waiting}
        for sweep in as_completed(sweeps):
            name = sweeps[sweep]
            done += waiting[name]
            lost = missing(jobs[name])
            failed += [name] if lost else []
            ending = (
                f"{len(lost)} failed, see {out / 'logs' / name}.log" if lost else f"{sweep.result():.0f} s"
            )
            print(f"[{done}/{total}] {name}: {waiting[name]} runs, {ending}", flush=True)
    return failed


def _sweep(plan: Plan, name: str, jobs: Sequence[Job], extra: list[str], out: Path) -> float:
    """Seconds that the sweep of one row took; finished runs are skipped by the sweep itself."""
    started = time.perf_counter()
    (out / "logs").mkdir(parents=True, exist_ok=True)
    seeds = ",".join(str(seed) for seed in sorted({job.seed for job in jobs}))
    command = [sys.executable, "-m", "vggtq.run", *overrides(plan, name, extra)]
    command += [
        f"model={','.join(plan.models)}",
        f"calibration.seed={seeds}",
        f"hydra.sweep.dir={out / 'runs'}",
    ]
    with (out / "logs" / f"{name}.log").open("w") as log:
        subprocess.run(command, stdout=log, stderr=subprocess.STDOUT, check=False)
    return time.perf_counter() - started
