"""The paper says what the numbers say, LaTeX prints whatever users named, and scenes are averaged by plain rules."""

import csv
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from helpers.eth3d_files import write_scene
from helpers.report_records import change, failed, fp32, record, with_scenes, write
from helpers.runs import recorded
from vggtq.errors import ConfigError
from vggtq.metrics.interval import paired_interval
from vggtq.report import build_report
from vggtq.report.__main__ import main
from vggtq.report.documents.latex import _SIGNS, escape_latex

HOSTILE = r"W8A8 \input{x} $x_1$ & 100% #~^ [a] --"


def with_change(made: dict[str, Any], mean: float, low: float | None, high: float | None) -> dict[str, Any]:
    """p: as if just within or just outside of 5 % in two rows."""
    p = None if low is None or high is None else 0.5 if low <= 0 <= high else 0.02
    interval = {"mean": mean, "low": low, "high": high, "scenes": 2 if p is None else 4, "p": p}
    made["geometry"]["change"] = {"pose": {"auc_30": interval}}
    return made


def paper(folder: Path, records: list[dict[str, Any]], lang: str = "en") -> str:
    report = build_report([write(folder / "runs", records)], folder / "out", lang, "paper")
    assert {"paper.md", "results.tex"} <= {path.name for path in report.files}
    return (folder / "out" / "paper.md").read_text(encoding="utf-8")


def mixture() -> list[dict[str, Any]]:
    return [
        fp32(),
        with_change(record("INT8", 8, 0.004, 1.3), 0.001, -0.002, 0.003),
        with_change(record("INT4", 4, 0.03, 1.25), -0.02, -0.03, -0.01),
        record("INT3", 3, 0.3, 2.0, simulated=True),
        record(HOSTILE, 8.1, 0.006, None),
        failed(),
    ]


@pytest.mark.usefixtures("undrawn")
def test_the_paper_has_its_parts_in_order(tmp_path: Path) -> None:
    text = paper(tmp_path, mixture())
    parts = re.findall(r"^## (.*)$", text, re.MULTILINE)
    names = ["Goal", "Setup", "Schemes", "Results", "Charts", "Analysis", "Conclusion"]
    assert parts == [*(f"{i}. {name}" for i, name in enumerate(names, start=1)), "Appendix: commands"]
    assert "1 run failed and took no part in the comparison: INT3 group 96." in text
    assert "python -m vggtq scheme=int8" in text and "{" not in text.replace(r"\input{x}", "").replace(
        "input{x}", ""
    )
    assert (tmp_path / "out" / "comprehensive_visualizations.png").exists()


@pytest.mark.usefixtures("undrawn")
def test_the_analysis_names_winners_noise_and_simulated_times(tmp_path: Path) -> None:
    text = paper(tmp_path, mixture())
    for words in (
        "INT3 compresses most: 36.7 MiB, 10 % of FP32",
        "INT8 stays closest to FP32, with an error of 0.006",
        "the differences of INT8 from FP32 in AUC@3, AUC@30 and AbsRel lie within the noise of these 1 scenes",
        "INT4 is measurably worse than FP32 in AUC@30 (−0.020, 95 % interval −0.030 to −0.010)",
        "These statements hold after Holm's correction",
        "The smallest differences from FP32 that 1 scene can show here: AUC@30 ±0.00625",
        "Measurably faster than FP32: INT8 1.30× (1.25–1.35) and INT4 1.25× (1.20–1.30)",
        "The quartiles of INT8 and INT4 overlap",
        "The times of INT3 are simulated",
        "We would ship INT8, the only scheme on real kernels whose loss is acceptable",
        "INT8 takes vggt_small from 381.5 to 96.3 MiB",
    ):
        assert words in text, words
    assert "2.00×" not in text.partition("## 6")[2]  # a simulated time is no argument


@pytest.mark.parametrize(
    ("records", "words"),
    [
        (
            [with_change(record(), -0.1, None, None)],
            "there are too few scenes to tell whether a change is more",
        ),
        ([record(geometry=None)], "There is no ground truth"),
        (
            [fp32(), record("INT2", 2, 0.5, None)],
            "No compressed scheme on real kernels has an acceptable loss",
        ),
        (
            [record("A", 4, 0.02), record("B", 5, 0.015)],
            "Of the 2 schemes graded at least good and not measurably beyond that loss, A makes the smallest",
        ),
        ([record(model__weights="random")], "no advice for a trained model follows"),
        ([failed()], "No run succeeded"),
        ([record("A", 8, 0.0)], "identical to those of FP32"),
    ],
)
@pytest.mark.usefixtures("undrawn")
def test_what_the_data_cannot_say_is_said(records: list[dict], words: str, tmp_path: Path) -> None:
    if records[0]["status"] == "failed":
        build_report([write(tmp_path / "runs", records)], tmp_path / "out", template="paper")
        assert words in (tmp_path / "out" / "paper.md").read_text()
    else:
        assert words in paper(tmp_path, records)


@pytest.mark.usefixtures("undrawn")
def test_the_chinese_paper_has_no_english_sentence(tmp_path: Path) -> None:
    text = paper(tmp_path, mixture(), "zh")
    assert "我们建议采用 INT8" in text and "实测快于 FP32 的有：INT8 1.30× (1.25–1.35) 和 INT4" in text
    prose = text.partition("```")[0].replace(HOSTILE, "")
    assert not re.search(r"\b(the|of|and|is|for|from|with|this)\b", prose)


@settings(max_examples=200)
@given(st.text(max_size=40))
def test_latex_has_no_command_but_ours(name: str) -> None:
    escaped = escape_latex(name)
    for ours in sorted({*_SIGNS.values(), "-{}-", ",{},"}, key=len, reverse=True):
        escaped = escaped.replace(ours, " ")
    assert not set(escaped.removeprefix("{}")) & set("\\{}$&#%_^~") and "\n" not in escaped


@pytest.mark.usefixtures("undrawn")
def test_the_table_is_booktabs_with_one_cell_for_each_heading(tmp_path: Path) -> None:
    paper(tmp_path, mixture())
    tex = (tmp_path / "out" / "results.tex").read_text()
    body = tex.partition("\\toprule\n")[2].partition("\\bottomrule")[0]
    lines = [line for line in body.splitlines() if line != r"\midrule"]
    assert len(lines) == 6 and all(line.endswith(r" \\") for line in lines)
    assert {len(re.findall(r"(?<!\\)&", line)) for line in lines} == {8}
    assert re.search(r"\\begin\{tabular\}\{l[r]{7}l\}", tex) and r"\dag{}" in tex
    assert tex.count("{") == tex.count("}")


@pytest.mark.skipif(shutil.which("pdflatex") is None, reason="needs pdflatex")
@pytest.mark.usefixtures("undrawn")
def test_the_table_compiles(tmp_path: Path) -> None:
    paper(tmp_path, [*mixture(), record('[x] ‘*’ "q" `a` <b> |c| … ° ±', 5, 0.02)][:5])
    packages = "".join(
        rf"\usepackage{name}" for name in ("{booktabs}", "{graphicx}", "{textcomp}", "[T1]{fontenc}")
    )
    document = rf"\documentclass{{article}}{packages}\begin{{document}}\input{{results.tex}}\end{{document}}"
    (tmp_path / "out" / "document.tex").write_text(document)
    command = ["pdflatex", "-interaction=nonstopmode", "-halt-on-error", "document.tex"]
    done = subprocess.run(command, cwd=tmp_path / "out", capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout[-2000:]


# several scenes


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


@pytest.mark.usefixtures("undrawn")
def test_options_go_with_and_without_their_prefix(tmp_path: Path) -> None:
    write(tmp_path / "runs", [fp32()])
    for name, prefix in (("plain", ""), ("prefixed", "report.")):
        words = [f"{prefix}template=paper", f"{prefix}lang=zh", f"{prefix}out={tmp_path / name}"]
        assert main([str(tmp_path / "runs"), *words]) == 0
        assert "FP32" in (tmp_path / name / "paper.md").read_text("utf-8")
    with pytest.raises(ConfigError, match=r"report\.template=papre .* did you mean paper\?"):
        build_report([tmp_path], tmp_path / "out", template="papre")


@pytest.mark.parametrize("lang", ["en", "zh"])
@pytest.mark.usefixtures("undrawn")
def test_the_handin_says_what_the_paper_says_in_five_documents(tmp_path: Path, lang: str) -> None:
    runs = write(tmp_path / "runs", mixture())
    texts = {}
    for template in ("paper", "handin"):
        build_report([runs], tmp_path / template, lang, template)
    folder = tmp_path / "handin" / "handin"
    names = {"1_design.md", "2_process.md", "3_results.md", "4_analysis.md", "5_conclusion.md"}
    assert {path.name for path in folder.iterdir()} == {
        *names,
        "comprehensive_visualizations.png",
        "metrics.csv",
    }
    texts = {name: (folder / name).read_text(encoding="utf-8") for name in names}
    paper_text = (tmp_path / "paper" / "paper.md").read_text(encoding="utf-8")
    for name in ("4_analysis.md", "5_conclusion.md"):
        heading, *paragraphs = texts[name].strip().split("\n\n")
        assert heading.startswith("# ")
        assert paragraphs
        assert all(paragraph in paper_text for paragraph in paragraphs)
    assert "](comprehensive_visualizations.png)" in texts["3_results.md"]
    own = f"vggtq report {runs} report.template=handin" + (" report.lang=zh" if lang == "zh" else "")
    assert own in texts["2_process.md"].splitlines(), "the command makes the report in its language"
    assert "`outputs/runs`" in texts["2_process.md"], "where the commands write"
    assert {"en": "Bits per weight: ", "zh": "每权重位数："}[lang] in texts["1_design.md"], "12 bits of INT8"
    assert "python -m vggtq scheme=int8" in texts["2_process.md"]
    assert "None" not in "".join(texts.values())


@pytest.mark.usefixtures("undrawn")
def test_the_handin_has_every_metric_of_every_output(tmp_path: Path) -> None:
    made = record("INT8", 8, 0.004, 1.3)
    build_report([write(tmp_path / "runs", [fp32(), made])], tmp_path / "out", "en", "handin")
    text = (tmp_path / "out" / "handin" / "3_results.md").read_text(encoding="utf-8")
    with (tmp_path / "out" / "handin" / "metrics.csv").open(encoding="utf-8") as file:
        rows = [row for row in csv.DictReader(file) if row["scheme"] == "INT8"]
    assert [row["output"] for row in rows] == [name for name in made["fidelity"] if name != "pose"]
    for row in rows:
        assert f"### `{row['output']}`" in text
        for name, value in row.items():
            if name not in ("scheme", "output"):
                known = made["fidelity"][row["output"]].get(name)
                assert float(value) == known if known is not None else value == ""


@pytest.mark.usefixtures("undrawn")
def test_a_handin_without_any_result_says_so(tmp_path: Path) -> None:
    build_report([write(tmp_path / "runs", [failed()])], tmp_path / "out", "en", "handin")
    (only,) = (tmp_path / "out" / "handin").iterdir()
    assert "nothing to analyse" in only.read_text(encoding="utf-8")


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


@pytest.mark.usefixtures("undrawn")
def test_the_columns_of_the_paper_can_be_chosen(tmp_path: Path) -> None:
    runs = write(tmp_path / "runs", [fp32(), record("INT8", 8, 0.004, 1.3)])
    names = ["depth.mae", "stored_bytes", "pose.auc_5"]
    build_report([runs], tmp_path / "out", template="paper", columns=names)
    text = (tmp_path / "out" / "paper.md").read_text(encoding="utf-8")
    headings = [
        line for line in text.splitlines() if line.startswith("| Scheme | depth MAE | Size (MiB) | AUC@5")
    ]
    assert len(headings) == 1 and headings[0].count("|") == 5
    assert "report.columns=[depth.mae,stored_bytes,pose.auc_5]" in text
    latex = (tmp_path / "out" / "results.tex").read_text(encoding="utf-8")
    assert r"\begin{tabular}{lrrr}" in latex
    (caption,) = [line for line in latex.splitlines() if line.startswith(r"\caption")]
    assert "against ground truth" in caption and "Speed-up" not in caption and "Error:" not in caption
    with pytest.raises(ConfigError, match=r"columns: pose.auc_4 is not one of .* did you mean pose.auc_"):
        build_report([runs], tmp_path / "out", template="paper", columns=["pose.auc_4"])
    with pytest.raises(ConfigError, match="add template=paper"):
        build_report([runs], tmp_path / "out", columns=names)
