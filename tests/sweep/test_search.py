"""A search over options: what it proposes, that it goes on where it was killed, and its Pareto front."""

import os
import re
import signal
import sys
import time
from importlib.util import find_spec
from pathlib import Path

import pytest
from hydra.core.override_parser.overrides_parser import OverridesParser

from helpers.forked import finished, printed, started
from helpers.runs import TINY
from vggtq.config.compose import compose, options
from vggtq.config.names import plain
from vggtq.errors import ConfigError, MissingExtraError
from vggtq.records.reading import read_record
from vggtq.report import record_row
from vggtq.sweep.search import Search, space_of

FAST = [*TINY, "timing=off", "picture_frames=0", "fresh_memory=false", "preview_scenes=0"]
SEARCH = [*FAST, "+search=group_size_and_layers", "scheme.layers.exclude=[],[*camera_head*]"]
needs_optuna = pytest.mark.skipif(find_spec("optuna") is None, reason="vggtq[search] is not installed")


def search(**values: object) -> Search:
    given = {"study": "s", "folder": "f", "trials": 1, "at_a_time": 1, "seed": 0, "params": {}}
    return Search(**(given | {"objectives": {"stored_bytes": "minimize"}} | values))  # type: ignore[arg-type]


def rows(folder: Path) -> list[dict]:
    return [record_row(read_record(path)) for path in folder.glob("outputs/runs/*/result.json")]


@needs_optuna
def test_lists_are_categories_and_intervals_are_intervals() -> None:
    from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution

    texts = [
        "a=1,2",
        "b=range(0,3)",
        "c=int(interval(1,4))",
        "d=tag(log,interval(0.1,1.0))",
        "e=x",
        "f=[1],[2,3]",
        "a=4,5",
    ]
    space, fixed = space_of(OverridesParser.create().parse_overrides(texts))
    assert fixed == ["e=x"]
    assert space == {
        "a": CategoricalDistribution(["4", "5"]),
        "b": CategoricalDistribution(["0", "1", "2"]),
        "c": IntDistribution(1, 4),
        "d": FloatDistribution(0.1, 1.0, log=True),
        "f": CategoricalDistribution(["[1]", "[2,3]"]),
    }
    with pytest.raises(ConfigError, match="nothing to search"):
        space_of(OverridesParser.create().parse_overrides(["a=1"]))


@needs_optuna
@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"objectives": {"stored_byte": "minimize"}}, "did you mean stored_bytes"),
        ({"objectives": {"stored_bytes": "least"}}, "least is not one of minimize, maximize"),
        ({"trials": 0}, "trials=0"),
    ],
)
def test_mistakes_are_found_before_anything_runs(values: dict[str, object], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        search(**values)


def test_without_optuna_one_line_says_what_to_install(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    status, output = finished(tmp_path, *SEARCH, without=("optuna",))
    assert status == 1
    assert re.fullmatch(r"error: hydra/sweeper=search needs .*pip install 'vggtq\[search\]'\n", output)
    monkeypatch.setitem(sys.modules, "optuna", None)
    with pytest.raises(MissingExtraError):
        search()


@pytest.mark.parametrize("option", options("search"))
def test_every_search_composes(option: str) -> None:
    assert "???" not in str(plain(compose([f"+search={option}", "bits=4", "scheme.layers.exclude=[]"])))


@needs_optuna
def test_a_search_goes_on_and_its_front_is_that_of_its_records(tmp_path: Path) -> None:
    status, output = finished(tmp_path, *SEARCH, "hydra.sweeper.trials=3")
    assert status == 0, output
    assert output.count("Launching 1 jobs") == 3
    status, output = finished(tmp_path, *SEARCH, "hydra.sweeper.trials=5", "hydra.sweeper.at_a_time=2")
    assert status == 0, output
    assert "goes on: 3 of 5 trials are done" in output and output.count("Launching 2 jobs") == 1
    pairs = [(row["stored_bytes"], row["mean_relative_error"]) for row in rows(tmp_path)]
    best = [p for p in pairs if not any(q != p and q[0] <= p[0] and q[1] <= p[1] for q in pairs)]
    shown = re.findall(r"^  stored_bytes (\S+)  mean_relative_error (\S+) ", output, re.MULTILINE)
    assert [(float(a), float(b)) for a, b in shown] == [
        (float(f"{a:.6g}"), float(f"{b:.6g}")) for a, b in sorted(best)
    ]
    status, output = finished(tmp_path, *SEARCH, "hydra.sweeper.trials=5")
    assert "Launching" not in output and "of 5 trials are Pareto-optimal" in output
    status, output = finished(tmp_path, *SEARCH, "~hydra.sweeper.objectives.stored_bytes")
    assert status == 1 and "choose another name for a new study" in output


@needs_optuna
def test_a_run_that_fails_is_a_failed_trial(tmp_path: Path) -> None:
    sweep = [*SEARCH, "granularity=per_tensor", "group_size=64", "hydra.sweeper.trials=2"]
    status, output = finished(tmp_path, *sweep)
    assert status == 1
    assert output.count("failed: group_size=64 with granularity=per_tensor") == 2
    assert "0 of 2 trials are Pareto-optimal" in output


@needs_optuna
def test_a_search_that_is_killed_asks_again(tmp_path: Path) -> None:
    process = started(tmp_path, *SEARCH, "hydra.sweeper.trials=4")
    deadline = time.monotonic() + 120
    while len(rows(tmp_path)) < 2 and process.is_alive() and time.monotonic() < deadline:
        time.sleep(0.02)
    if process.pid:
        os.kill(process.pid, signal.SIGKILL)
    process.join(timeout=60)
    assert "Launching" in printed(tmp_path)
    status, output = finished(tmp_path, *SEARCH, "hydra.sweeper.trials=4")
    assert status == 0, output
    assert "of 4 trials are Pareto-optimal" in output
    assert len(rows(tmp_path)) <= 4
