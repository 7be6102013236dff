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
from typing import Any

from omegaconf import DictConfig

from vggtq.config import Config, config_hash, plain, validated
from vggtq.errors import VggtqError
from vggtq.inputs import same_inputs
from vggtq.record import read_record

log = logging.getLogger(__name__)

# Versions that numbers depend on; a new pandas or Hydra measures nothing anew.
PACKAGES = ("torch", "numpy", "scikit-image", "pillow")
FILES = ("picture", "preview")  # of the record: names of files beside it
LARGE_FILES = ("artifact", "predictions")  # of the record: what is known of files beside it


@dataclass(frozen=True)
class Earlier:
    """A record that answers. differences: what has changed since, which only resume=failed overlooks."""

    record: dict[str, Any]
    differences: tuple[str, ...] = ()

    @property
    def measured(self) -> str:
        """When, for people."""
        started = datetime.fromisoformat(self.record["started"]).astimezone(UTC)
        return f"{started:%Y-%m-%d %H:%M} UTC"


def earlier(cfg: DictConfig, folder: Path) -> Earlier | None:
    """The record in `folder` that answers this configuration; None if the run has to be made.

    Why a record does not answer is logged. Configurations that cannot work are left to the run, which records why.
    """
    record = read_record(folder)
    if record is None or record["status"] != "ok" or record["config_hash"] != config_hash(plain(cfg)):
        return None
    try:
        config = validated(cfg)
        if config.resume == "never":
            return None
        found = Earlier(record, tuple(_differences(config, record, folder)))
    except (VggtqError, OSError):
        return None
    if found.differences and config.resume != "failed":
        log.info("measuring again: since %s there is %s", found.measured, ", ".join(found.differences))
        return None
    return found


def _differences(config: Config, record: dict[str, Any], folder: Path) -> list[str]:
    from vggtq import environment as env

    now = env.environment(env.resolve_device(config.device), config.seed)
    then = record["environment"] or {}
    found = []
    if (now["vggtq"], now["code"]) != (then.get("vggtq"), then.get("code")):
        found.append("other code")
    versions = then.get("versions") or {}
    found += [f"another {name}" for name in PACKAGES if now["versions"][name] != versions.get(name)]
    hardware = ("device", "gpu" if now["device"] == "cuda" else "cpu", "cpu_capability")
    if any(now[key] != then.get(key) for key in hardware):
        found.append("other hardware")
    timed = config.timing.mode != "off" or config.fresh_memory
    if timed and now["threads"] != then.get("threads"):
        found.append("another number of threads")
    if not same_inputs(config, record.get("inputs")):
        found.append("another input file")
    return found + _missing(record, folder)


def _missing(record: dict[str, Any], folder: Path) -> list[str]:
    names = [record[key] for key in FILES] + [(record[key] or {}).get("file") for key in LARGE_FILES]
    return [f"no {name}" for name in names if name and not (folder / name).is_file()]
