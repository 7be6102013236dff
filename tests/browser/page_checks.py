"""What the page does in a browser. Run by `make test-browser`; the file's name keeps it out of `make test`."""

import base64
import io
import itertools
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
from PIL import Image
from selenium.common.exceptions import NoAlertPresentException
from selenium.webdriver import ActionChains, Chrome, Keys
from selenium.webdriver.support.ui import Select

from helpers.page_records import HOSTILE
from vggtq.report import Report
from vggtq.report.rows.recommend import NEEDS, choose
from vggtq.report.words.texts import TEXTS

CSS = "css selector"


def texts(page: Chrome, selector: str) -> list[str]:
    return page.execute_script(
        "return [...document.querySelectorAll(arguments[0])].map((e) => e.textContent)", selector
    )


def titles(page: Chrome) -> list[str]:
    return texts(page, "#table tbody th")


def heading(page: Chrome, key: str) -> Any:
    return page.find_element(CSS, f'#table thead th[data-key="{key}"]')


def pixels(page: Chrome, canvas: str) -> np.ndarray:
    """(H, W, 4) of a canvas as it is shown."""
    data = page.execute_script("return document.getElementById(arguments[0]).toDataURL()", canvas)
    return np.asarray(Image.open(io.BytesIO(base64.b64decode(data.partition(",")[2]))).convert("RGBA"))


def background(page: Chrome) -> str:
    return page.execute_script("return getComputedStyle(document.body).backgroundColor")


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


def test_the_language_changes_every_text_and_comes_back(page: Chrome) -> None:
    known = TEXTS
    other: set[str] = set()
    for column in (1, 0):
        page.find_element("id", "language").click()
        for element in page.find_elements(CSS, "[data-t]"):
            words = element.get_attribute("textContent")
            assert words == known[element.get_attribute("data-t")][column]
        keys = [th.get_attribute("data-key") for th in page.find_elements(CSS, "#table thead th")]
        headings = dict(zip(keys, texts(page, "#table thead th"), strict=True))
        named = {key: text for key, text in headings.items() if key in known}
        assert len(named) == 5 and named == {key: known[key][column] for key in named}
        metrics = [text for key, text in headings.items() if key not in known]
        assert len(set(metrics) - other) > 3, "headings of metrics follow the language too"
        other = set(metrics)
        assert known["p.chart_pareto"][column] in texts(page, "figcaption")
        assert page.title == known["title"][column]
    assert page.execute_script("return document.documentElement.lang") == "en"


def test_dark_and_light_follow_the_system_and_the_button(page: Chrome) -> None:
    prefer = {"features": [{"name": "prefers-color-scheme", "value": "dark"}]}
    light = background(page)
    page.find_element("id", "theme").click()
    dark = background(page)
    assert light == "rgb(255, 255, 255)" and dark != light
    page.find_element("id", "theme").click()
    assert background(page) == light
    try:
        page.execute_cdp_cmd("Emulation.setEmulatedMedia", prefer)
        page.refresh()
        assert background(page) == dark
        page.execute_cdp_cmd("Emulation.setEmulatedMedia", prefer | {"media": "print"})
        assert background(page) == light  # paper is white
    finally:
        page.execute_cdp_cmd("Emulation.setEmulatedMedia", {"media": "", "features": []})


def test_depth_maps_share_a_scale_and_differ_where_the_runs_do(page: Chrome) -> None:
    for name, value in (("side-a", "reference"), ("side-b", "0")):
        Select(page.find_element("id", name)).select_by_value(value)
    assert np.array_equal(pixels(page, "depth-a"), pixels(page, "depth-b"))  # FP32 against its own record
    assert len(np.unique(pixels(page, "difference").reshape(-1, 4), axis=0)) == 1
    Select(page.find_element("id", "side-b")).select_by_visible_text("INT4 group 64")
    a, b, change = (pixels(page, name).astype(int) for name in ("depth-a", "depth-b", "difference"))
    height, width = a.shape[0] // 2, a.shape[1] // 2
    assert (a[:height, :width] != b[:height, :width]).any() and np.array_equal(a[height:], b[height:])
    assert change[:height, :width, 0].mean() > change[:height, :width, 2].mean() + 50  # deeper is red
    assert pixels(page, "input").std() > 20


def test_the_swipe_moves_by_keyboard_and_by_pointer(page: Chrome) -> None:
    def shown() -> str:
        return page.execute_script("return document.getElementById('swipe-a').style.clipPath")

    slider = page.find_element("id", "swipe")
    assert shown() == "inset(0px 50% 0px 0px)"
    slider.send_keys(Keys.ARROW_RIGHT)
    assert shown() == "inset(0px 49% 0px 0px)"
    slider.send_keys(Keys.HOME)
    assert shown() == "inset(0px 100% 0px 0px)"
    ActionChains(page).move_to_element(page.find_element("id", "swipe-b")).perform()
    assert shown() == "inset(0px 50% 0px 0px)"


def test_the_points_are_drawn_and_both_views_turn_together(page: Chrome) -> None:
    before = [pixels(page, name) for name in ("cloud-a", "cloud-b")]
    for view in before:
        assert 0.02 < (view[..., 3] > 0).mean() < 0.98
        assert len(np.unique(view[view[..., 3] > 0][:, :3], axis=0)) > 100
    page.find_element("id", "cloud-a").send_keys(Keys.ARROW_RIGHT * 3)
    turned = [pixels(page, name) for name in ("cloud-a", "cloud-b")]
    assert all((old != new).any(-1).mean() > 0.01 for old, new in zip(before, turned, strict=True))
    page.find_element("id", "cloud-b").send_keys("0")
    assert all(
        np.array_equal(old, pixels(page, name))
        for old, name in zip(before, ("cloud-a", "cloud-b"), strict=True)
    )
    ActionChains(page).drag_and_drop_by_offset(page.find_element("id", "cloud-b"), 60, 20).perform()
    assert (before[0] != pixels(page, "cloud-a")).any(-1).mean() > 0.01


def test_frames_and_scenes_can_be_chosen(page: Chrome) -> None:
    first = pixels(page, "input")
    Select(page.find_element("id", "frame")).select_by_value("1")
    assert (first != pixels(page, "input")).any()
    Select(page.find_element("id", "scene")).select_by_visible_text("room1")
    assert texts(page, "#side-b option") == ["FP32 (reference)", "INT8 per channel"]


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


def test_marks_are_read_by_keyboard_and_by_pointer_and_lead_to_their_run(page: Chrome) -> None:
    tip = page.find_element("id", "tip")
    marks = page.find_elements(CSS, "#chart-pareto .mark")
    assert [mark.get_attribute("tabindex") for mark in marks].count("0") == 1
    page.execute_script("arguments[0].focus()", marks[0])
    first = tip.text
    page.switch_to.active_element.send_keys(Keys.ARROW_RIGHT)
    assert tip.is_displayed() and tip.text != first and "mean rel. error" in tip.text
    ActionChains(page).move_to_element(page.find_element(CSS, "#chart-speed .mark")).perform()
    assert "FP32: 1.00×" in tip.text
    page.execute_script("arguments[0].focus()", marks[-1])
    page.switch_to.active_element.send_keys(Keys.ENTER)
    assert page.find_element("id", "origin").get_attribute("open") is not None


def test_the_heat_map_reads_each_layer(page: Chrome) -> None:
    heat = page.find_element(CSS, "#chart-heat svg.chart")
    heat.send_keys(Keys.ARROW_RIGHT)
    assert page.find_element("id", "tip").text.splitlines()[1:] == ["aggregator.blocks.1.attn", "39.0 dB"]
    heat.send_keys(Keys.ARROW_LEFT, *[Keys.ARROW_RIGHT] * 20)
    assert page.find_element("id", "tip").text.splitlines()[1:] == ["exact", "exact"]


def test_curves_join_the_group_sizes_of_one_scheme(page: Chrome) -> None:
    assert len(page.find_elements(CSS, "#chart-groups path.line")) == 1
    assert len(page.find_elements(CSS, "#chart-groups .mark")) == 2


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


def sized_as(page: Chrome, width: int, media: str) -> Any:
    """What the page and its charts measure on a screen, or a sheet, of some width."""
    metrics = {"width": width, "height": 800, "deviceScaleFactor": 2, "mobile": width < 600}
    page.execute_cdp_cmd("Emulation.setEmulatedMedia", {"media": media})
    page.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", metrics)
    measure = "(svg) => svg.getBoundingClientRect().width / svg.viewBox.baseVal.width"
    return page.execute_async_script(
        f"""requestAnimationFrame(() => requestAnimationFrame(() => arguments[0]([document.documentElement.scrollWidth,
        Math.min(...[...document.querySelectorAll('svg.chart')].map({measure}))])))"""
    )


def test_the_page_fits_a_telephone_and_prints(page: Chrome) -> None:
    try:
        width, scale = sized_as(page, 390, "screen")
        assert width == 390 and scale > 0.7  # words of 12 pixels stay readable
        assert sized_as(page, 1030, "print")[0] <= 1030  # landscape, as the style asks for
    finally:
        page.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})
        page.execute_cdp_cmd("Emulation.setEmulatedMedia", {"media": ""})
    printed = base64.b64decode(page.execute_cdp_cmd("Page.printToPDF", {"preferCSSPageSize": True})["data"])
    assert 1 < printed.count(b"/Type /Page\n") <= 12


def test_the_policy_stops_what_would_leave_the_page(browser: Chrome, address: str) -> None:
    browser.get(address)
    browser.get_log("performance")
    ask = "const done = arguments[0]; fetch('http://127.0.0.1:9/').then(() => done('sent'), (e) => done(String(e)))"
    assert "TypeError" in browser.execute_async_script(ask)
    violated = browser.execute_async_script(
        "const done = arguments[0]; document.addEventListener('securitypolicyviolation', (e) => done(e.effectiveDirective));"
        "const image = new Image(); image.src = 'http://127.0.0.1:9/x.png'; document.body.append(image);"
    )
    assert violated == "img-src"
    browser.get_log("browser")
