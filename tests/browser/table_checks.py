"""What the tables of the report page do in a browser (`make test-browser`; the name keeps it out of `make test`)."""

import itertools
from collections.abc import Sequence
from typing import Any

import pytest
from selenium.common.exceptions import NoAlertPresentException
from selenium.webdriver import Chrome, Keys
from selenium.webdriver.support.ui import Select

from helpers.page_elements import CSS, texts, titles
from helpers.page_records import HOSTILE
from vggtq.report import Report
from vggtq.report.rows.recommend import NEEDS, choose


def heading(page: Chrome, key: str) -> Any:
    return page.find_element(CSS, f'#table thead th[data-key="{key}"]')


def sized(page: Chrome) -> list[float]:
    cells = page.execute_script(
        "return [...document.querySelectorAll('#table tbody tr')].map((row) => row.cells[5]?.textContent ?? null)"
    )
    return [float(cell.replace(",", "")) for cell in cells if cell is not None]


def test_a_heading_sorts_and_says_so(page: Chrome) -> None:
    before = sized(page)
    heading(page, "stored_bytes").find_element(CSS, "button").click()
    assert heading(page, "stored_bytes").get_attribute("aria-sort") == "ascending"
    assert sized(page) == sorted(before) != before
    heading(page, "stored_bytes").find_element(CSS, "button").send_keys(Keys.ENTER)
    assert heading(page, "stored_bytes").get_attribute("aria-sort") == "descending"
    assert sized(page) == sorted(before, reverse=True)
    heading(page, "fp32.speedup").find_element(CSS, "button").click()
    sorts = [th.get_attribute("aria-sort") for th in page.find_elements(CSS, "#table thead th")]
    assert [sort for sort in sorts if sort != "none"] == ["ascending"]
    assert titles(page)[-1] in {"INT4 group 16", "INT3 group 96"}  # of unknown speed


def test_filters_and_search_leave_runs_out_of_table_and_charts(page: Chrome) -> None:
    assert len(titles(page)) == 6
    Select(page.find_element("id", "filter-group_size")).select_by_value("64")
    assert titles(page) == ["INT4 group 64"]
    assert "1 of 6" in page.find_element("id", "shown").text
    assert len(page.find_elements(CSS, "#chart-pareto .mark")) == 1
    page.find_element("id", "reset").click()
    page.find_element("id", "search").send_keys("INT4")
    assert titles(page) == ["INT4 group 16", "INT4 group 64"]
    assert len(page.find_elements(CSS, "#chart-outputs .mark")) == 10
    page.find_element("id", "search").clear()
    page.find_element("id", "search").send_keys("no such run")
    assert titles(page) == []


def test_failed_runs_are_listed_with_their_reason_and_simulated_ones_marked(page: Chrome) -> None:
    rows = dict(zip(titles(page), texts(page, "#table tbody tr"), strict=True))
    assert "failed" in rows["INT3 group 96"] and f"bad {HOSTILE}" in rows["INT3 group 96"]
    assert "0.80×†(0.75–0.85)" in rows["INT4 group 64"].replace(" ", "")
    assert "†" not in rows["INT8 per channel"]


def test_names_show_as_text_and_run_nothing(page: Chrome) -> None:
    assert HOSTILE in titles(page)
    assert len(page.find_elements(CSS, "script")) == 2
    Select(page.find_element("id", "scene")).select_by_visible_text(HOSTILE)
    selects = ("filter-scheme", "filter-scene", "scene", "side-a", "side-b")
    assert all(HOSTILE in texts(page, f"#{name} option") for name in selects)
    for button in page.find_elements(CSS, "#table tbody button"):
        button.click()
        page.find_element(CSS, "#origin button").click()
    with pytest.raises(NoAlertPresentException):
        _ = page.switch_to.alert


def budgets(rows: Sequence[dict[str, Any]]) -> list[tuple[float | None, float | None, float | None]]:
    sizes = sorted({row["stored_bytes"] for row in rows})
    errors = sorted({row["mean_relative_error"] for row in rows})
    times = sorted(
        row["fp32.comparable_ms_median"] for row in rows if row["simulated"] is False and row["fp32.speedup"]
    )
    return list(itertools.product((None, sizes[1], sizes[-2]), (None, errors[1]), (None, times[0])))


def within(row: dict[str, Any], size: float | None, error: float | None, time: float | None) -> bool:
    own = row["fp32.comparable_ms_median"] if row["simulated"] is False else None
    pairs = ((row["stored_bytes"], size), (row["mean_relative_error"], error), (own, time))
    return all(most is None or (value is not None and value <= most) for value, most in pairs)


@pytest.mark.parametrize("need", NEEDS)
def test_the_sliders_choose_what_the_recommendation_would(page: Chrome, report: Report, need: str) -> None:
    rows = report.groups[0].ok
    Select(page.find_element("id", "need")).select_by_value(need)
    steps = {
        "bytes": sorted({row["stored_bytes"] for row in rows}),
        "error": sorted({row["mean_relative_error"] for row in rows}),
        "latency": sorted(
            {row["fp32.comparable_ms_median"] for row in rows if row["simulated"] is False} - {None}
        ),
    }
    for limits in budgets(rows):
        for (name, values), limit in zip(steps.items(), limits, strict=True):
            page.execute_script(
                "const box = document.getElementById(arguments[0]); box.value = arguments[1];"
                "box.dispatchEvent(new Event('input'));",
                f"limit-{name}",
                len(values) if limit is None else values.index(limit),
            )
        chosen = choose(need, [row for row in rows if within(row, *limits)]).row
        assert texts(page, "#choice .name") == ([chosen["title"]] if chosen else []), limits


def test_a_slider_moves_by_keyboard_and_says_its_value(page: Chrome) -> None:
    slider = page.find_element("id", "limit-bytes")
    assert slider.get_attribute("aria-valuetext") == "no limit"
    slider.send_keys(Keys.ARROW_LEFT)
    assert slider.get_attribute("aria-valuetext") == "381.5 MiB"
    slider.send_keys(Keys.HOME)
    assert "1 of 5 runs are within" in page.find_element("id", "choice").text


def test_the_choice_prints_the_commands_that_reproduce_and_export_it(page: Chrome) -> None:
    Select(page.find_element("id", "need")).select_by_value("smallest")
    assert texts(page, "#choice .name") == ["INT4 group 64"]
    assert texts(page, "#choice pre") == [
        "python -m vggtq.run +experiment=eight_schemes scheme=int4_group group_size=64 hydra.mode=RUN",
        "python -m vggtq.export scheme=int4_group group_size=64 out=model.safetensors",
    ]


def test_one_click_leads_to_the_run_and_escape_back(page: Chrome) -> None:
    button = page.find_element(CSS, '#table tr[data-row="1"] button')
    button.click()
    origin = page.find_element("id", "origin")
    words = origin.get_attribute("textContent")
    assert origin.get_attribute("open") is not None
    for expected in (
        "python -m vggtq scheme=int8_per_channel",
        "Test CPU",
        "result.json",
        HOSTILE,
        "config.seed",
    ):
        assert expected.removeprefix("config.") in words
    page.switch_to.active_element.send_keys(Keys.ESCAPE)
    assert origin.get_attribute("open") is None
    assert page.switch_to.active_element == button


def test_another_group_shows_its_own_runs(page: Chrome) -> None:
    Select(page.find_element("id", "group-choice")).select_by_value("2")
    assert [
        mark.get_attribute("aria-label").split(",")[0]
        for mark in page.find_elements(CSS, "#chart-pareto .mark")
    ] == ["INT8 GPU"]
    assert not page.find_element("id", "geometry-view").is_displayed()
    assert "preview_scenes" in page.find_element("id", "geometry-notes").text

    assert titles(page) == ["INT8 GPU"]
    assert "INT8 GPU" in page.find_element("id", "answer-words").text


def test_the_page_opens_with_the_answer_and_the_row_behind_it(page: Chrome, report: Report) -> None:
    chosen = choose("production", report.groups[0].rows).row
    assert chosen and chosen["title"] in page.find_element("id", "answer-words").text
    assert texts(page, "#answer-row tbody th") == [chosen["title"]]
    tops = [
        page.find_element("id", name).rect["y"] for name in ("answer-words", "answer-row", "runs", "choose")
    ]
    assert tops == sorted(tops)
    page.find_element("id", "language").click()
    assert "生产部署推荐" in page.find_element("id", "answer-words").text


def test_no_table_or_chart_mixes_groups(page: Chrome, report: Report) -> None:
    for group in report.groups:
        if group.number:
            Select(page.find_element("id", "group-choice")).select_by_value(str(group.number))
            own = [row["title"] for row in group.rows]
            assert sorted(titles(page)) == sorted(own)
            labels = [m.get_attribute("aria-label") for m in page.find_elements(CSS, "#chart-pareto .mark")]
            assert {label.split(",")[0] for label in labels} <= {title.split(",")[0] for title in own}


def test_refused_runs_are_folded_and_networks_stand_side_by_side(page: Chrome) -> None:
    refused = page.find_element("id", "refused")
    assert "Refused before the start" in refused.text
    assert not refused.find_element(CSS, "ul").is_displayed()
    refused.find_element(CSS, "summary").click()
    assert "group_size 96" in refused.text
    lines = page.find_elements(CSS, "#networks-tables tbody tr")
    assert {line.find_element(CSS, "td").text for line in lines} == {"vggt_small", "pi3"}
    lines[-1].find_element(CSS, "button").click()
    assert page.find_element("id", "origin").get_attribute("open") is not None


def test_any_number_of_a_row_leads_to_its_run(page: Chrome) -> None:
    page.find_element(CSS, '#table tr[data-row="1"] td.value').click()
    origin = page.find_element("id", "origin")
    assert origin.get_attribute("open") is not None
    assert "scheme=int8_per_channel" in origin.get_attribute("textContent")


def test_small_changes_are_not_rounded_away(page: Chrome) -> None:
    words = "return [0.0004, -0.0002, 0.0012].map((value, _, all) => signed(value, digitsOf(all)))"
    source = page.execute_script("return document.scripts[document.scripts.length - 1].textContent")
    start, end = source.index("function signed"), source.index("const dagger")
    assert page.execute_script(source[start:end] + words) == ["+0.0004", "−0.0002", "+0.0012"]
