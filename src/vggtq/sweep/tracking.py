"""A run's options and numbers for an experiment tracker, kept on this machine: no network, no account, no prompt.

The record is the measurement and a tracker a copy of it: whatever a tracker raises becomes a note, never a failed run. Runs
that are skipped were tracked when they were measured. Left out: curves over time (a run has none) and uploads, which each
tracker has a command of its own for.
"""

import logging
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vggtq.config.schema import Tracker
from vggtq.records.plain import plain
from vggtq.records.schema import Record

log = logging.getLogger(__name__)

METRICS = ("size", "fidelity", "geometry", "latency", "memory", "seconds")  # of the record


@dataclass(frozen=True)
class Tracked:
    """The data that every tracker receives."""

    project: str
    name: str
    folder: Path
    params: dict[str, str]
    metrics: dict[str, float]
    picture: Path | None


def track(options: Mapping[str, Any], record: Record, run_folder: Path) -> str | None:
    """Hands a finished run to the tracker that `options` (of Tracker) choose. Returns None, or why it was not taken."""
    if options["name"] == "none":
        return None
    try:
        settings = Tracker(**options)
        folder = Path(settings.folder)
        folder.mkdir(parents=True, exist_ok=True)
        picture = run_folder / record.picture if record.picture else None
        params = {key: str(value) for key, value in flat(record.config or {}).items()}
        params |= {"status": record.status, "config_hash": str(record.config_hash)}
        run = Tracked(settings.project, record.name, folder, params, metrics_of(record), picture)
        TRACKERS[settings.name](run)
    except Exception as error:
        first = (str(error).splitlines() or [""])[0]
        note = f"tracker={options['name']} did not take the run: {type(error).__name__}: {first}"
        log.warning(note)
        return note
    return None


def metrics_of(record: Record) -> dict[str, float]:
    """The record's single numbers by dotted name; undefined ones and raw samples are left out."""
    chosen = {key: value for key in METRICS if (value := plain(getattr(record, key)))}
    return {
        key: value
        for key, value in flat(chosen).items()
        if isinstance(value, int | float) and not isinstance(value, bool)
    }


def flat(node: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """Dotted keys; lists stay values."""
    found: dict[str, Any] = {}
    for key, value in node.items():
        found |= flat(value, f"{prefix}{key}.") if isinstance(value, dict) else {f"{prefix}{key}": value}
    return found


def _trackio(run: Tracked) -> None:
    os.environ["TRACKIO_DIR"] = str(run.folder.absolute())  # read when it is imported
    import trackio

    trackio.init(project=run.project, name=run.name, config=run.params, embed=False)
    picture = {"picture": trackio.Image(str(run.picture))} if run.picture else {}
    trackio.log(run.metrics | picture)
    trackio.finish()


def _wandb(run: Tracked) -> None:
    import wandb

    settings = wandb.Settings(mode="offline", silent=True, console="off")
    places: dict[str, Any] = {"dir": str(run.folder), "settings": settings, "reinit": "finish_previous"}
    session = wandb.init(project=run.project, name=run.name, config=run.params, **places)
    picture = {"picture": wandb.Image(str(run.picture))} if run.picture else {}
    session.log(run.metrics | picture)
    session.finish()


def _mlflow(run: Tracked) -> None:
    import mlflow

    folder = run.folder.absolute()
    mlflow.set_tracking_uri(f"sqlite:///{folder / 'mlflow.db'}")
    if mlflow.get_experiment_by_name(run.project) is None:
        mlflow.create_experiment(run.project, artifact_location=(folder / "artifacts").as_uri())
    mlflow.set_experiment(run.project)
    with mlflow.start_run(run_name=run.name):
        mlflow.log_params(run.params)
        mlflow.log_metrics(run.metrics)
        if run.picture:
            mlflow.log_artifact(str(run.picture))


def _tensorboard(run: Tracked) -> None:
    import numpy as np
    from PIL import Image
    from torch.utils.tensorboard import SummaryWriter

    with SummaryWriter(str(run.folder / run.name)) as writer:
        rows = "\n".join(f"| {key} | {value} |" for key, value in run.params.items())
        writer.add_text("options", f"| option | value |\n|---|---|\n{rows}")
        for key, value in run.metrics.items():
            writer.add_scalar(key.replace(".", "/"), value)
        if run.picture:
            with Image.open(run.picture) as picture:
                writer.add_image("picture", np.asarray(picture.convert("RGB")), dataformats="HWC")


TRACKERS: dict[str, Callable[[Tracked], None]] = {
    "trackio": _trackio,
    "wandb": _wandb,
    "mlflow": _mlflow,
    "tensorboard": _tensorboard,
}
