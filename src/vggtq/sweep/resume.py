"""Whether a run has been measured already, so that its record answers in its place.

resume=true    a record with status ok answers if configuration, code, packages, hardware and inputs are the same
resume=failed  a record with status ok answers whatever else changed: only what failed or is missing runs
resume=never   everything runs

Threads are part of the hardware where a run measures seconds (timing=paired, fresh_memory=true) and not elsewhere.
"""

import logging
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from vggtq.config.schema import Config
from vggtq.config.validate import Job
from vggtq.errors import VggtqError
from vggtq.machine.environment import Environment, environment
from vggtq.records.files import record_in
from vggtq.records.inputs import same_inputs
from vggtq.records.plain import nothing
from vggtq.records.reading import hardware
from vggtq.records.schema import Record

log = logging.getLogger(__name__)

# Versions that numbers depend on; a new pandas or Hydra measures nothing anew.
PACKAGES = ("torch", "numpy", "scikit-image", "pillow")


@dataclass(frozen=True)
class Earlier:
    """A record that answers. differences: what has changed since, which only resume=failed overlooks."""

    record: Record
    differences: tuple[str, ...] = ()

    @property
    def measured(self) -> str:
        """When, for people."""
        started = datetime.fromisoformat(self.record.started).astimezone(UTC)
        return f"{started:%Y-%m-%d %H:%M} UTC"


def earlier(job: Job, folder: Path) -> Earlier | None:
    """The record in `folder` that answers this configuration; None if the run has to be made.

    Why a record does not answer is logged. Configurations that cannot work are left to the run, which records why.
    """
    record = record_in(folder)
    if record is None or record.status != "ok" or record.config_hash != job.hash:
        return None
    try:
        config = job.config
        if config.resume == "never":
            return None
        answer = Earlier(record, tuple(_differences(config, record, folder)))
    except (VggtqError, OSError):
        return None
    if answer.differences and config.resume != "failed":
        log.info("measuring again: since %s there is %s", answer.measured, ", ".join(answer.differences))
        return None
    return answer


def _differences(config: Config, record: Record, folder: Path) -> list[str]:
    from vggtq.machine.device import resolve_device

    now = environment(resolve_device(config.device), config.seed)
    then = record.environment or nothing(Environment)
    found = []
    if (now.vggtq, now.code) != (then.vggtq, then.code):
        found.append("other code")
    found += [f"another {name}" for name in PACKAGES if now.versions[name] != then.versions.get(name)]
    if _hardware(now) != _hardware(then):
        found.append("other hardware")
    timed = config.timing.mode != "off" or config.fresh_memory
    if timed and now.threads != then.threads:
        found.append("another number of threads")
    if not same_inputs(config, record.inputs):
        found.append("another input file")
    return found + _missing(record, folder)


def _hardware(environment: Environment) -> tuple[str | None, ...]:
    return environment.device, hardware(environment), environment.cpu_capability, environment.native_kernels


def _missing(record: Record, folder: Path) -> list[str]:
    large = [kept.file for kept in (record.artifact, record.predictions) if kept]
    names = [record.picture, record.preview, *large]
    return [f"no {name}" for name in names if name and not (folder / name).is_file()]
