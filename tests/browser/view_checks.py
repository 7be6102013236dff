"""What the charts and views of the report page do in a browser (`make test-browser`; the name keeps it out of `make test`)."""

import base64
import io
from typing import Any

import numpy as np
from PIL import Image
from selenium.webdriver import ActionChains, Chrome, Keys
from selenium.webdriver.support.ui import Select

from helpers.page_elements import CSS, texts
from vggtq.report.words.texts import TEXTS


def pixels(page: Chrome, canvas: str) -> np.ndarray:
    """(H, W, 4) of a canvas as it is shown."""
    data = page.execute_script("return document.getElementById(arguments[0]).toDataURL()", canvas)
    return np.asarray(Image.open(io.BytesIO(base64.b64decode(data.partition(",")[2]))).convert("RGBA"))


def background(page: Chrome) -> str:
    return page.execute_script("return getComputedStyle(document.body).backgroundColor")


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
