"""The end of a sweep: one table over its records, and an exit status that says whether any run failed."""

import logging
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from hydra.experimental.callback import Callback
from omegaconf import DictConfig

log = logging.getLogger(__name__)


class SweepEnd(Callback):
    """Reads the records that appeared in the sweep's folder since its start, whichever launcher wrote them."""

    def on_multirun_start(self, config: DictConfig, **_: Any) -> None:
        self._started = datetime.now(UTC).isoformat(timespec="milliseconds")
        self._jobs = 0  # stays 0 where a launcher runs jobs in other processes

    def on_job_start(self, config: DictConfig, **_: Any) -> None:
        self._jobs = getattr(self, "_jobs", 0) + 1

    def on_multirun_end(self, config: DictConfig, **_: Any) -> None:
        from vggtq.report.records import collect
        from vggtq.run import print_summary

        found = collect([Path(config.hydra.sweep.dir)])
        records = [record for _, record in found.records if record["started"] >= self._started]
        records.sort(key=lambda record: record["started"])
        if not records:
            raise SystemExit(1)
        print_summary(records)
        failed = [record for record in records if record["status"] != "ok"]
        for record in failed:
            print(f"failed: {record['name']}: {record['error']['message'].splitlines()[0]}")
        print(
            f"{len(records) - len(failed)} of {len(records)} runs finished; python -m vggtq.report makes the report"
        )
        if self._jobs > len(records):
            print(
                f"{self._jobs} jobs had only {len(records)} different configurations; equal ones share a folder"
            )
        if failed:
            # Hydra swallows exceptions of callbacks; SystemExit it lets through.
            raise SystemExit(1)
