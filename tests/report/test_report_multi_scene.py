"""Scores over several scenes and categories are averaged by plain rules."""

import csv
import re
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from helpers.eth3d_files import write_scene
from helpers.report_records import change, failed, fp32, record, with_scenes, write
from helpers.runs import recorded
from vggtq.metrics.interval import paired_interval
from vggtq.report import build_report


def on_scene(label: str, scene: str, auc: tuple[float, float], error: float = 0.01) -> dict[str, Any]:
    """One run of one scene; auc: of the quantized and of the FP32 model."""
    settings = {"scene": scene, "dataset": {"name": "eth3d", "scene": scene}, "model": {"name": "vggt_small"}}
    made = record(
        label,
        4,
        error,
        config=settings | {"scheme": label},
        config_hash=f"{label}{scene}",
        dataset__name="eth3d",
    )
    content = {"name": scene, "frames": 2, "size": [56, 56], "images_sha256": scene * 8}
    sides = {
        side: {"pose": {"auc_30": value}} for side, value in zip(("quantized", "reference"), auc, strict=True)
    }
    made["geometry"] |= {"scenes": [{"scene": scene, **sides}]}
    return change(made, dataset__scenes=[content])


def multi_scene(
    folder: Path, records: list[dict[str, Any]], lang: str = "en"
) -> tuple[str, list[dict[str, str]]]:
    build_report([write(folder / "runs", records)], folder / "out", lang, "multi_scene")
    with (folder / "out" / "multi_scene.csv").open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    return (folder / "out" / "multi_scene.md").read_text(encoding="utf-8"), rows


AUC = {"courtyard": (0.80, 0.82), "electro": (0.71, 0.70), "office": (0.55, 0.60), "pipes": (0.90, 0.92)}


@pytest.mark.usefixtures("undrawn")
def test_one_run_per_scene_gives_means_with_intervals(tmp_path: Path) -> None:
    made = [on_scene("INT4", scene, auc, 0.01 * (i + 1)) for i, (scene, auc) in enumerate(AUC.items())]
    text, rows = multi_scene(tmp_path, made)
    expected = paired_interval([q - r for q, r in AUC.values()])
    (line,) = (line for line in text.splitlines() if line.startswith("| INT4 |"))
    low, high = (f"{end:+.3f}".replace("-", "−") for end in (expected.low, expected.high))
    means = [np.mean([pair[side] for pair in AUC.values()]) for side in (0, 1)]
    assert f"{means[0]:.3f} ({means[1]:.3f}) −0.020 \\[{low}, {high}\\]" in line
    errors = paired_interval([made[i]["fidelity"]["depth"]["relative_error"] for i in range(4)])
    assert len(rows) == 4 and errors.scenes == 4
    assert "Means over the 4 scenes" in text and "| courtyard | INT4 |" in text
    assert {row["scene"]: float(row["pose.auc_30"]) for row in rows} == {s: q for s, (q, _) in AUC.items()}
    assert all(float(row["mean_relative_error"]) > 0 for row in rows)


@pytest.mark.usefixtures("undrawn")
def test_means_are_over_scenes_that_all_schemes_have_and_failures_are_named(tmp_path: Path) -> None:
    made = [on_scene(label, scene, auc) for label in ("INT4", "INT8") for scene, auc in AUC.items()]
    lost = made.pop()  # INT8 on pipes
    broken = failed("INT8", "no ETH3D images in data/eth3d/pipes") | {
        key: lost[key] for key in ("config", "config_hash", "scheme")
    }
    text, rows = multi_scene(tmp_path, [*made, broken | {"model": None, "dataset": None}])
    assert "Means over the 3 scenes that every scheme was scored on" in text
    assert "Left out of the means, since not every scheme has a score there: pipes." in text
    assert "| pipes | INT8 | QuantizationError: no ETH3D images in data/eth3d/pipes |" in text
    (failure,) = [row for row in rows if row["status"] == "failed"]
    assert (failure["scene"], failure["scheme"]) == ("pipes", "INT8")


@pytest.mark.usefixtures("undrawn")
def test_one_run_over_several_scenes_is_the_same_but_for_its_errors(tmp_path: Path) -> None:
    single = [on_scene("INT4", scene, auc) for scene, auc in AUC.items()]
    joint = single[0] | {"config": {"scheme": "INT4", "scene": "all"}, "config_hash": "joint"}
    joint["dataset"] = joint["dataset"] | {"scenes": [s for one in single for s in one["dataset"]["scenes"]]}
    joint["geometry"] = joint["geometry"] | {
        "scenes": [s for one in single for s in one["geometry"]["scenes"]]
    }
    (one, rows), (many, _) = multi_scene(tmp_path / "a", [joint]), multi_scene(tmp_path / "b", single)
    cells = [
        [line.split(" | ")[2] for line in text.splitlines() if line.startswith("| INT4 |")]
        for text in (one, many)
    ]
    assert cells[0] == cells[1] and len(rows) == 4 and {row["mean_relative_error"] for row in rows} == {""}


@pytest.mark.usefixtures("undrawn")
def test_small_eth3d_folders_by_one_run_each_and_by_one_run_over_both(tmp_path: Path) -> None:
    data = tmp_path / "data"
    write_scene(data)
    shutil.copytree(data / "courtyard", data / "electro")
    texts = []
    for name, scenes in (("each", ("courtyard", "electro", "office")), ("both", ("courtyard+electro",))):
        runs = tmp_path / name
        made = [
            recorded(runs / scene, "dataset=eth3d", f"dataset.root={data}", f"scene={scene}")
            for scene in scenes
        ]
        assert [one["status"] for one in made[:2]] == ["ok"] * min(len(scenes), 2), made[0]["error"]
        build_report([runs], tmp_path / f"{name}_report", template="multi_scene")
        texts.append((tmp_path / f"{name}_report" / "multi_scene.md").read_text(encoding="utf-8"))
    assert "| office | " in texts[0] and "DataError: no ETH3D images" in texts[0]
    means = [
        [line.split(" | ")[2:] for line in text.splitlines() if line.startswith("| INT8")] for text in texts
    ]
    assert means[0] == means[1] and len(means[0]) == 1


@pytest.mark.usefixtures("undrawn")
def test_without_scenes_to_compare_the_command_is_told(tmp_path: Path) -> None:
    assert "experiment=multi_scene" in multi_scene(tmp_path / "en", [fp32()])[0]
    assert "多场景结果" in multi_scene(tmp_path / "zh", [fp32()], "zh")[0]


def test_categories_are_averaged_each_by_itself_and_with_equal_weight(tmp_path: Path) -> None:
    """As CO3D's users do: two sequences of apples do not count twice."""
    names = ["apple/1", "apple/2", "bench/1", "car/1"]
    rows = [with_scenes(fp32(), 0.0, names=names), with_scenes(record("INT8"), -0.1, names=names)]
    build_report([write(tmp_path / "runs", rows)], tmp_path / "out", template="multi_scene")
    text = (tmp_path / "out" / "multi_scene.md").read_text(encoding="utf-8")
    (line,) = re.findall(r"^\| INT8 \| apple \| 2 \|.*", text, re.MULTILINE)
    lost = [0.1 * (1 + i / 50) for i in range(4)]
    quantized = [0.5 + i / 100 - lost[i] for i in range(4)]
    assert f"{np.mean(quantized[:2]):.3f} (0.505)" in line
    (over,) = re.findall(r"^\| INT8 \| all 3 categories, with equal weight \| 4 \|.*", text, re.MULTILINE)
    mean = np.mean([np.mean(quantized[:2]), quantized[2], quantized[3]])
    assert f"{mean:.3f} ({np.mean([0.505, 0.52, 0.53]):.3f})" in over
    flat = [with_scenes(fp32(), 0.0), with_scenes(record("INT8"), -0.1)]
    build_report([write(tmp_path / "flat", flat)], tmp_path / "out", template="multi_scene")
    assert "Means by category" not in (tmp_path / "out" / "multi_scene.md").read_text(encoding="utf-8")
