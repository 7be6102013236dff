"""The end of a sweep: one table over its records, and an exit status that says whether any run failed."""

import os
import sys
import uuid
from pathlib import Path
from typing import Any

from hydra.experimental.callback import Callback
from omegaconf import DictConfig

from vggtq.config import config_hash, plain
from vggtq.record import write_record

# Tells the runs of this sweep from others in the same folder; jobs in other processes inherit it.
SWEEP_VARIABLE = "VGGTQ_SWEEP"


class SweepEnd(Callback):
    """Reads the records of the sweep's runs, whichever launcher wrote them."""

    def on_multirun_start(self, config: DictConfig, **_: Any) -> None:
        os.environ[SWEEP_VARIABLE] = uuid.uuid4().hex
        global _folder
        _folder = Path(config.hydra.sweep.dir)
        self._jobs = 0  # stays 0 where a launcher runs jobs in other processes

    def on_job_start(self, config: DictConfig, **_: Any) -> None:
        self._jobs = getattr(self, "_jobs", 0) + 1

    def on_multirun_end(self, config: DictConfig, **_: Any) -> None:
        records = _summarize()
        failed = [record for record in records if record["status"] != "ok"]
        if self._jobs > len(records):
            print(
                f"{self._jobs} jobs had only {len(records)} different configurations; equal ones share a folder"
            )
        if failed or not records:
            # Hydra swallows exceptions of callbacks; SystemExit it lets through.
            raise SystemExit(1)


_folder: Path | None = None  # of the sweep that this process runs


def summarize_interrupted() -> None:
    """After an interruption: what of the sweep is there; nothing if there was no sweep."""
    if _folder is not None:
        _summarize()


def _summarize() -> list[dict[str, Any]]:
    """Prints the table of this sweep's runs, and why some failed. Returns their records."""
    from vggtq.report.records import read_record

    assert _folder is not None
    records = []
    for path in _folder.glob("*/result.json"):
        try:
            record = read_record(path)
        except (OSError, ValueError):
            continue  # the report lists what cannot be read
        if record.get("sweep") == os.environ[SWEEP_VARIABLE]:
            records.append(record)
    records.sort(key=lambda record: record["started"])
    if records:
        print_summary(records)
    failed = [record for record in records if record["status"] != "ok"]
    for record in failed:
        print(f"failed: {record['name']}: {record['error']['message'].splitlines()[0]}")
    print(
        f"{len(records) - len(failed)} of {len(records)} runs finished; python -m vggtq.report makes the report"
    )
    return records


def finished_record(folder: Path, config: dict[str, Any]) -> dict[str, Any] | None:
    """The record in `folder`, if it is one of a finished run of this very (resolved) configuration."""
    from vggtq.report.records import RECORD_NAME, read_record

    try:
        record = read_record(folder / RECORD_NAME)
    except (OSError, ValueError):
        return None
    same = record.get("config_hash") == config_hash(config)
    return record if same and record["status"] == "ok" else None


def joined(folder: Path, cfg: DictConfig) -> dict[str, Any] | None:
    """The finished record of this configuration, which now belongs to this sweep too; None if it is still to be run."""
    record = finished_record(folder, plain(cfg))
    if record is not None:
        record["sweep"] = os.environ.get(SWEEP_VARIABLE)
        write_record(record, folder)
    return record


def print_summary(records: list[dict[str, Any]]) -> None:
    """The table that ends a run or a sweep."""
    from rich.console import Console

    from vggtq.report import summary_of

    Console(width=None if sys.stdout.isatty() else 160).print(summary_of(records))
