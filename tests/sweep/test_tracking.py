"""Trackers get a copy of the record and can spoil nothing: fakes of the packages, and TensorBoard itself."""

import json
import sys
import types
from pathlib import Path
from typing import Any

import pytest

from helpers.forked import finished
from helpers.runs import TINY, recorded
from vggtq.config.compose import compose, options
from vggtq.config.names import config_hash, plain
from vggtq.config.schema import TRACKERS, Tracker
from vggtq.errors import MissingExtraError, VggtqError
from vggtq.records.reading import read_record
from vggtq.records.schema import Record
from vggtq.sweep.tracking import flat, metrics_of, track

Calls = dict[str, Any]


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> tuple[Record, Path]:
    folder = tmp_path_factory.mktemp("run")
    recorded(folder, "picture_frames=1")
    return read_record(folder / "result.json"), folder


def fake(name: str, calls: Calls) -> types.ModuleType:
    """Enough of a tracker's package to see what it is given."""
    module: Any = types.ModuleType(name)

    class Session:
        def __enter__(self) -> "Session":
            return self

        def __exit__(self, *_: object) -> None:
            calls["finished"] = True

        def log(self, values: dict[str, Any]) -> None:
            calls["metrics"] = values

        def finish(self) -> None:
            calls["finished"] = True

    def init(**settings: Any) -> Session:
        calls.update(settings, params=settings["config"])
        return Session()

    session = Session()
    module.init, module.log, module.finish = init, session.log, session.finish
    module.Settings, module.Image = (lambda **values: values), str
    module.set_tracking_uri = lambda uri: calls.update(uri=uri)
    module.get_experiment_by_name = lambda project: None
    module.create_experiment = lambda project, artifact_location: calls.update(artifacts=artifact_location)
    module.set_experiment = lambda project: calls.update(project=project)
    module.start_run = lambda run_name: (calls.update(name=run_name), session)[1]
    module.log_params = lambda values: calls.update(params=values)
    module.log_metrics = lambda values: calls.update(metrics=values)
    module.log_artifact = lambda path: calls["metrics"].update(picture=path)
    return module


@pytest.mark.parametrize("name", ["trackio", "wandb", "mlflow"])
def test_a_tracker_gets_options_numbers_and_the_picture(
    name: str, run: tuple[Record, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    record, folder = run
    calls: Calls = {}
    monkeypatch.setitem(sys.modules, name, fake(name, calls))
    monkeypatch.setenv("TRACKIO_DIR", "elsewhere")
    assert track({"name": name, "project": "p", "folder": str(tmp_path / "t")}, record, folder) is None
    assert (calls["project"], calls["name"], calls["finished"]) == ("p", record.name, True)
    assert calls["params"]["scheme.weights.bits"] == "8" and calls["params"]["status"] == "ok"
    assert calls["metrics"]["size.stored_bytes"] == record.size.stored_bytes
    assert calls["metrics"]["fidelity.depth.mae"] == record.fidelity.outputs["depth"].metrics["mae"]
    assert calls["metrics"]["picture"] == str(folder / "comparison.png")
    if name == "wandb":
        assert calls["settings"]["mode"] == "offline"
    if name == "mlflow":
        assert calls["uri"] == f"sqlite:///{tmp_path / 't' / 'mlflow.db'}"
        assert calls["artifacts"].startswith("file://")


def test_tensorboard_writes_what_it_can_read_again(run: tuple[Record, Path], tmp_path: Path) -> None:
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    record, folder = run
    assert track({"name": "tensorboard", "folder": str(tmp_path)}, record, folder) is None
    events = EventAccumulator(str(tmp_path / record.name)).Reload()
    (stored,) = events.Scalars("size/stored_bytes")
    assert stored.value == pytest.approx(record.size.stored_bytes)
    assert events.Tags()["images"] == ["picture"]


def test_numbers_are_single_and_defined(run: tuple[Record, Path]) -> None:
    metrics = metrics_of(run[0])
    assert len(metrics) > 50
    assert all(isinstance(value, int | float) and not isinstance(value, bool) for value in metrics.values())
    assert flat({"a": {"b": 1, "c": [2]}, "d": None}) == {"a.b": 1, "a.c": [2], "d": None}


def test_a_tracker_that_breaks_is_a_note(
    run: tuple[Record, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    broken = types.ModuleType("trackio")
    monkeypatch.setitem(sys.modules, "trackio", broken)
    monkeypatch.setenv("TRACKIO_DIR", "elsewhere")
    note = track({"name": "trackio", "folder": str(tmp_path)}, *run)
    assert note is not None and note.startswith("tracker=trackio did not take the run: AttributeError")
    (tmp_path / "file").touch()
    assert "FileExistsError" in str(track({"name": "trackio", "folder": str(tmp_path / "file")}, *run))


def test_a_broken_tracker_never_fails_a_run(tmp_path: Path) -> None:
    pytest.importorskip("tensorboard")
    (tmp_path / "in_the_way").touch()
    fast = [*TINY, "timing=off", "picture_frames=0", "fresh_memory=false"]
    status, output = finished(tmp_path, *fast, "tracker=tensorboard", "tracker.folder=in_the_way")
    assert status == 0, output
    (path,) = tmp_path.glob("outputs/runs/*/result.json")
    assert any("tracker=tensorboard did not take" in note for note in json.loads(path.read_text())["notes"])


def test_a_missing_package_is_refused_before_anything_runs(tmp_path: Path) -> None:
    missing = [name for name in TRACKERS if name != "none" and not _installed(name)]
    if not missing:
        pytest.skip("all trackers are installed")
    with pytest.raises(MissingExtraError, match=rf"pip install 'vggtq\[{missing[0]}\]'"):
        Tracker(missing[0])
    status, output = finished(tmp_path, *TINY, f"tracker={missing[0]}", "--multirun", "bits=4,8")
    assert (status, output.count("vggtq[")) == (1, 1)
    assert not list(tmp_path.glob("outputs/runs/*/result.json"))


def test_names_are_those_of_the_yaml() -> None:
    assert sorted(TRACKERS) == options("tracker")
    with pytest.raises(VggtqError, match="did you mean wandb"):
        Tracker("wandbb")
    assert config_hash(plain(compose(["tracker=wandb"]))) == config_hash(plain(compose()))


def _installed(name: str) -> bool:
    import importlib.util

    return importlib.util.find_spec(name) is not None
