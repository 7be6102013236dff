"""The words and marks of a report in English and in Chinese."""

import re
from pathlib import Path

import pytest

from helpers.report_records import fp32, record, write
from vggtq.report import COLUMNS, build_report
from vggtq.report.documents.text import wrap
from vggtq.report.words.texts import TEXTS


@pytest.mark.parametrize("template", ["standard", "paper"])
def test_a_recipe_calibrated_on_rendered_scenes_is_marked_where_the_data_are_photographs(
    tmp_path: Path, template: str
) -> None:
    def on(dataset: str, calibration: str, label: str) -> dict:
        entry = dict.fromkeys(
            ("selection", "candidates", "outliers", "scenes", "frames", "samples", "sha256")
        )
        entry |= dict.fromkeys(("passes", "groups", "seconds"), 0)
        return record(label, dataset__name=dataset) | {"calibration": entry | {"name": calibration}}

    rows = [
        on("images", "objects", "GPTQ"),
        on("images", "images", "AWQ"),
        on("rooms", "objects", "SmoothQuant"),
    ]
    report = build_report([write(tmp_path / "runs", rows)], tmp_path / "out", template=template)
    assert {row["label"]: row["calibrated_elsewhere"] for row in report.rows} == {
        "GPTQ": True,
        "AWQ": False,
        "SmoothQuant": False,
    }
    markdown = (tmp_path / "out" / "comparison.md").read_text(encoding="utf-8")
    assert (
        "| GPTQ ‡ |" in markdown and "| AWQ |" in markdown and "‡ calibrated on rendered scenes" in markdown
    )
    if template == "paper":
        assert r"GPTQ \ddag{}" in (tmp_path / "out" / "results.tex").read_text(encoding="utf-8")


def test_chinese_report_has_chinese_headings_and_latin_metrics(tmp_path: Path) -> None:
    build_report([write(tmp_path / "runs", [fp32(), record()])], tmp_path / "out", "zh")
    markdown = (tmp_path / "out" / "comparison.md").read_text(encoding="utf-8")
    report = (tmp_path / "out" / "comprehensive_report.txt").read_text(encoding="utf-8")
    assert "生产部署" in markdown and "PSNR" in markdown and "INT8 per channel" in markdown
    assert "全部指标" in report and "Recommend" not in report


@pytest.mark.usefixtures("undrawn")
def test_chinese_report_leaves_only_names_and_metrics_untranslated(tmp_path: Path) -> None:
    runs = [fp32(model__weights="random"), record("INT8", model__weights="random", simulated=True)]
    folder = write(tmp_path / "runs", [*runs, record("INT8", model__weights="random", config={"seed": 1})])
    (folder / "broken").mkdir()
    (folder / "broken" / "result.json").write_text("{")
    build_report([folder], tmp_path / "out", "zh")
    columns = " ".join(COLUMNS)  # their names are those of the metrics
    metrics = (
        "VGGT FP32 FP16 BF16 INT8 MiB dB ms UTC AUC inlier Holm AbsRel NaN Inf PSNR MAE RSS CUDA JSON cosine"
    )
    names = "vggt_small rooms cpu Test CPU seed runs/broken/result.json comprehensive_visualizations.png accuracy_over_time.png"
    for file in ("comparison.md", "comprehensive_report.txt"):
        words = (tmp_path / "out" / file).read_text(encoding="utf-8").replace(str(tmp_path), "")
        found = set(re.findall(r"(?<![\w.-])[A-Za-z]{2}[\w.]*", words, flags=re.ASCII))
        hashes = {word for word in found if re.fullmatch("[0-9a-f]{12}", word)}
        assert {word for word in found - hashes if word not in f"{columns} {metrics} {names}"} == set()
        assert "随机权重" in words and "压缩率" not in words


def test_every_text_takes_the_same_values_in_both_languages() -> None:
    free = {"paper.model"}  # counts in millions and in 万
    for key, (english, chinese) in TEXTS.items():
        fields = [set(re.findall(r"{(\w+)", text)) for text in (english, chinese)]
        assert fields[0] == fields[1] or key in free, key


def test_long_lines_are_wrapped_without_losing_a_character() -> None:
    text = "平均相对误差：五个输出的算术平均，" * 8 + " and some words" * 12
    assert "".join("".join(wrap(text)).split()) == "".join(text.split())
    assert max(map(len, wrap(text))) <= 100


@pytest.mark.parametrize(
    ("records", "words"),
    [
        (
            [fp32()],
            "1 run: 1 succeeded, 0 failed. 0 older runs of the same experiment left out; 0 files unrea",
        ),
        ([fp32(), record(), record(name="x")], "2 runs: 2 succeeded, 0 failed. 1 older run of the same"),
    ],
)
@pytest.mark.usefixtures("undrawn")
def test_counts_agree_with_their_nouns(records: list[dict], words: str, tmp_path: Path) -> None:
    build_report([write(tmp_path / "runs", records)], tmp_path / "out")
    markdown = (tmp_path / "out" / "comparison.md").read_text(encoding="utf-8")
    assert words in markdown and "1 scene, 2 frames" in markdown


@pytest.mark.usefixtures("undrawn")
def test_equal_outputs_are_called_identical_in_every_file(tmp_path: Path) -> None:
    for lang, word in (("en", "identical"), ("zh", "完全一致")):
        build_report([write(tmp_path / f"{lang}_runs", [fp32()])], tmp_path / lang, lang)
        report = (tmp_path / lang / "comprehensive_report.txt").read_text(encoding="utf-8")
        (line,) = re.findall(r"^  world_points .*", report, flags=re.MULTILINE)
        assert line.split()[5] == word
        assert f"| {word} |" in (tmp_path / lang / "comparison.md").read_text(encoding="utf-8")
