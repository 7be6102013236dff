"""The cache of FP32 outputs: what it saves, when it must not be used, and that concurrent runs neither repeat nor tear."""

import json
import multiprocessing
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn

from helpers.runs import TINY
from vggtq.config.compose import compose, options
from vggtq.config.names import config_hash, plain
from vggtq.config.validate import Job, composed
from vggtq.errors import ConfigError
from vggtq.files.cache import TensorCache
from vggtq.machine.identity import code_digest, numeric_machine
from vggtq.machine.source_code import digest_of
from vggtq.models.checkpoints.fingerprint import WeightsInfo
from vggtq.models.loading import LoadedModel
from vggtq.prepare.cache import OUTPUTS, cache_of
from vggtq.run.comparison import Baseline
from vggtq.run.experiment import run

VARIANTS = options("variant")


def recorded(folder: Path, cache: Path | None, *overrides: str) -> dict[str, Any]:
    place = "null" if cache is None else cache
    fixed = ["timing=off", "picture_frames=0", "fresh_memory=false", f"cache={place}"]
    run(Job(compose([*TINY, *fixed, *overrides])), folder, "")
    record: dict[str, Any] = json.loads((folder / "result.json").read_text())
    assert record["status"] == "ok", record["error"]
    return record


@pytest.fixture
def predictions(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What was predicted, in order: reference or quantized."""
    counted: list[str] = []
    original = LoadedModel.predict

    def predict(self: LoadedModel, images: torch.Tensor, module: nn.Module | None = None) -> Any:
        counted.append("reference" if module is None else "quantized")
        return original(self, images, module)

    monkeypatch.setattr(LoadedModel, "predict", predict)
    return counted


def test_a_scheme_more_takes_one_prediction_more(tmp_path: Path, predictions: list[str]) -> None:
    for variant in VARIANTS:
        record = recorded(tmp_path / variant, tmp_path / "cache", f"+variant={variant}")
        if variant == "fp32":
            assert all(
                record["fidelity"][name]["identical"] for name in ("depth", "pose_enc", "world_points")
            )
    assert predictions.count("reference") == 1
    assert predictions.count("quantized") == len(VARIANTS)


def test_a_run_on_cached_outputs_measures_the_same(tmp_path: Path, predictions: list[str]) -> None:
    without = recorded(tmp_path / "a", None)
    first = recorded(tmp_path / "b", tmp_path / "cache")
    second = recorded(tmp_path / "c", tmp_path / "cache")
    assert predictions.count("reference") == 2
    for key in ("fidelity", "geometry", "config_hash", "model", "dataset", "layers"):
        assert without[key] == first[key] == second[key], key
    assert [record["baseline"]["cached"] for record in (without, first, second)] == [0, 0, 1]
    assert first["seconds"]["predict_reference"] > 0
    assert first["baseline"]["untimed"] is None
    assert second["seconds"]["predict_reference"] is None
    assert "cache" in second["baseline"]["untimed"]


def test_other_weights_images_or_threads_are_other_outputs(tmp_path: Path, predictions: list[str]) -> None:
    cache = tmp_path / "cache"
    threads = torch.get_num_threads()
    changes: list[list[str]] = [
        [],
        ["model.seed=7"],
        ["model.image_size=42"],
        [f"device.threads={threads + 1}"],
        ["model.architecture.aggregator.num_heads=4"],
    ]
    for i, overrides in enumerate(changes):
        recorded(tmp_path / str(i), cache, *overrides)
    assert predictions.count("reference") == len(changes)


def damage(path: Path, how: str) -> None:
    if how == "truncated":
        path.write_bytes(path.read_bytes()[:-100])
    elif how == "one bit":
        content = bytearray(path.read_bytes())
        content[-1] ^= 1
        path.write_bytes(bytes(content))
    elif how == "empty":
        path.write_bytes(b"")
    elif how == "foreign tensors":
        save_file({"depth": torch.zeros(1)}, path)
    else:  # a whole entry of something else, under this name
        other = TensorCache(path.parent)
        other.get({"other": 1}, lambda: {"depth": torch.zeros(2)})
        (stranger,) = (p for p in path.parent.glob("*.safetensors") if p != path)
        stranger.replace(path)


@pytest.mark.parametrize("how", ["truncated", "one bit", "empty", "foreign tensors", "another entry"])
def test_a_damaged_or_foreign_entry_is_computed_anew(
    how: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    cache, identity = TensorCache(tmp_path), {"weights": "abc"}
    wanted = {"depth": torch.arange(6.0).reshape(2, 3), "flags": torch.tensor([1, 2], dtype=torch.uint8)}
    cache.get(identity, lambda: wanted)
    (path,) = tmp_path.glob("*.safetensors")
    damage(path, how)
    found, cached = cache.get(identity, lambda: wanted)
    assert not cached
    assert "computing it anew" in caplog.text
    found, cached = cache.get(identity, lambda: pytest.fail("the entry was mended"))
    assert cached
    assert all(torch.equal(found[name], wanted[name]) for name in wanted)
    assert found["depth"].dtype == torch.float32 and found["flags"].dtype == torch.uint8
    assert not list(tmp_path.glob("*.tmp"))


def test_a_failure_leaves_nothing_behind(tmp_path: Path) -> None:
    cache = TensorCache(tmp_path)

    def fail() -> dict[str, torch.Tensor]:
        raise RuntimeError("out of memory")

    with pytest.raises(RuntimeError, match="out of memory"):
        cache.get({"a": 1}, fail)
    assert not list(tmp_path.glob("*.safetensors")) and not list(tmp_path.glob("*.tmp"))
    assert not cache.get({"a": 1}, lambda: {"x": torch.ones(1)})[1]


def test_a_folder_that_cannot_be_used_is_noted_and_does_not_stop_the_run(
    tmp_path: Path, predictions: list[str]
) -> None:
    (tmp_path / "cache").write_text("in the way")
    record = recorded(tmp_path / "a", tmp_path / "cache")
    assert record["baseline"]["computed"] == 1
    assert any("cache" in note and "null" in note for note in record["notes"])
    assert str(tmp_path) not in json.dumps(record["notes"])


def _compute_slowly(folder: str, order: Any, answers: Any) -> None:
    def compute() -> dict[str, torch.Tensor]:
        order.put("computed")
        time.sleep(1.5)  # long enough for the other process to come to the lock
        return {"x": torch.full((1000, 100), 7.0)}

    found, cached = TensorCache(Path(folder)).get({"shared": True}, compute)
    answers.put((float(found["x"].sum()), cached))


def test_two_processes_compute_an_entry_once(tmp_path: Path) -> None:
    context = multiprocessing.get_context("spawn")
    order, answers = context.Queue(), context.Queue()
    processes = [
        context.Process(target=_compute_slowly, args=(str(tmp_path), order, answers)) for _ in range(2)
    ]
    for process in processes:
        process.start()
    found = sorted(answers.get(timeout=120) for _ in processes)
    for process in processes:
        process.join(timeout=60)
        assert process.exitcode == 0
    assert found == [(700_000.0, False), (700_000.0, True)]
    assert order.get(timeout=1) == "computed" and order.empty()
    (path,) = tmp_path.glob("*.safetensors")
    assert load_file(path)["x"].sum() == 700_000


def test_numbers_keep_integers_and_what_is_unknown(tmp_path: Path) -> None:
    model = LoadedModel(nn.Linear(2, 2), WeightsInfo("x", "file", "f" * 64))
    baseline = Baseline(cache_of(OUTPUTS, str(tmp_path), "settings", model))
    images, measured = torch.zeros(1, 3, 2, 2), {"peak_rss_bytes": 2**40 + 1, "seconds": 0.25, "cuda": None}
    assert baseline.numbers("memory", images, "hash", lambda: measured) == (measured, False)
    found, cached = baseline.numbers("memory", images, "hash", lambda: pytest.fail("known"))
    assert (found, cached) == (measured, True)


def test_changed_code_is_another_network(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(tmp_path)
    digests = []
    for factor in (1, 2):
        name = f"network{factor}"
        (tmp_path / f"{name}.py").write_text("from torch import nn\nclass Net(nn.Module): pass\n")
        (tmp_path / "helper.py").write_text(f"FACTOR = {factor}\n")
        module = __import__(name)
        digest_of.cache_clear()
        digests.append(code_digest(module.Net()))
    assert None not in digests and digests[0] != digests[1]


def test_switches_for_instructions_are_part_of_the_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    plain_machine = numeric_machine(torch.device("cpu"))
    monkeypatch.setenv("ONEDNN_MAX_CPU_ISA", "AVX2")
    assert numeric_machine(torch.device("cpu")) != plain_machine


def test_the_place_of_the_cache_is_no_part_of_the_experiment() -> None:
    here, there = (plain(compose([f"cache={place}"])) for place in ("outputs/a", "null"))
    assert here["cache"] != there["cache"]
    earlier_version = {key: value for key, value in here.items() if key != "cache"}
    earlier_version |= {"baseline_cache": "outputs/cache/baseline", "finetune_cache": None}
    assert config_hash(here) == config_hash(there) == config_hash(earlier_version)


@pytest.mark.parametrize(
    "key", ["baseline_cache", "calibration_cache", "finetune_cache", "sensitivity_cache"]
)
@pytest.mark.parametrize("plus", ["", "+"])
def test_keys_of_earlier_versions_name_the_one_that_took_their_place(key: str, plus: str) -> None:
    with pytest.raises(ConfigError, match=rf"^{key} is no option any more: cache=FOLDER .* cache=null"):
        composed([f"{plus}{key}=outputs/elsewhere"])


def test_a_single_number_of_any_stride_is_stored(tmp_path: Path) -> None:
    odd = torch.empty_strided((1, 1), (2, 2)).fill_(3.5)  # what slicing leaves of a per-tensor scale
    cache = TensorCache(tmp_path)
    cache.get({"a": 1}, lambda: {"x": odd})
    found, cached = cache.get({"a": 1}, lambda: pytest.fail("stored"))
    assert cached and found["x"].tolist() == [[3.5]]
