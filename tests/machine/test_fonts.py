"""A Chinese name is drawn in a font that has it, or told honestly; it never prints empty boxes."""

import warnings
from pathlib import Path

import pytest
import torch

from helpers.runs import recorded
from vggtq.machine import fonts
from vggtq.records.picture import draw_comparison


def test_what_no_font_shows_is_a_question_mark(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fonts, "find_cjk_font", lambda: None)
    assert fonts.legible("中文 room é") == "?? room é" and fonts.legible("plain") == "plain"
    assert fonts.families() == ["DejaVu Sans"]


def test_a_font_with_the_characters_is_taken_where_there_is_one() -> None:
    if fonts.find_cjk_font() is None:
        pytest.skip("no font with Chinese characters is installed")
    assert fonts.legible("中文") == "中文" and len(fonts.families()) == 2


def test_the_picture_of_a_chinese_folder_has_no_boxes(tmp_path: Path) -> None:
    images, depth = torch.rand(1, 3, 8, 8), torch.rand(1, 8, 8) + 1
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # matplotlib warns of glyphs that are missing
        draw_comparison(tmp_path / "a.png", images, depth, depth, "INT4 四位", "照片 $x_1$, INT4")
    assert (tmp_path / "a.png").stat().st_size > 1000


def test_a_run_takes_photographs_from_a_folder_with_spaces_and_chinese_signs(tmp_path: Path) -> None:
    import numpy as np
    from PIL import Image

    folder = tmp_path / "我的 照片 (1)"
    folder.mkdir()
    for i in range(2):
        pixels = np.random.default_rng(i).integers(0, 255, (60, 80, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / f"图 {i}.png")
    more = ["dataset=images", f"dataset.path='{folder}'", "picture_frames=1", "scheme=int8_symmetric"]
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        made = recorded(tmp_path / "runs 一", *more)
    assert made["status"] == "ok", made["error"]
    assert made["dataset"]["scenes"][0]["name"] == "我的 照片 (1)"
    assert (tmp_path / "runs 一" / "comparison.png").exists()
