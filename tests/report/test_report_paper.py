"""The paper and the documents to hand in say what the numbers say, and LaTeX prints whatever users named."""

import csv
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from helpers.report_records import failed, fp32, record, write
from vggtq.errors import ConfigError
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
