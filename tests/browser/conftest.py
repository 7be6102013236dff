"""A page of synthetic runs in headless Chromium: one browser for all tests, a fresh load for each."""

import json
import os
from collections.abc import Iterator

import pytest
from selenium import webdriver
from selenium.webdriver.chrome.service import Service

from helpers.page_records import runs
from vggtq.report import Report, build_report

FLAGS = (
    *("headless=new", "no-sandbox", "disable-gpu", "use-angle=swiftshader", "enable-unsafe-swiftshader"),
    *("disable-background-networking", "disable-component-update", "disable-sync", "no-first-run"),
    *("disable-dev-shm-usage", "disable-default-apps", "no-pings", "window-size=1400,1000"),
)
os.environ["SE_OFFLINE"] = "true"  # selenium looks for no driver but the one it is given


@pytest.fixture(scope="session")
def report(tmp_path_factory: pytest.TempPathFactory) -> Report:
    folder = tmp_path_factory.mktemp("browser")
    return build_report([runs(folder / "runs")], folder / "out")


@pytest.fixture(scope="session")
def address(report: Report) -> str:
    (path,) = [path for path in report.files if path.name == "index.html"]
    return path.resolve().as_uri()


@pytest.fixture(scope="session")
def browser() -> Iterator[webdriver.Chrome]:
    options = webdriver.ChromeOptions()
    options.binary_location = os.environ.get("CHROMIUM", "/usr/bin/chromium")
    for flag in FLAGS:
        options.add_argument(f"--{flag}")
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    driver = webdriver.Chrome(options, Service(os.environ.get("CHROMEDRIVER", "/usr/bin/chromedriver")))
    yield driver
    driver.quit()


@pytest.fixture
def page(browser: webdriver.Chrome, address: str) -> Iterator[webdriver.Chrome]:
    """The page, freshly loaded. After every test: no word on the console, and nothing but the page itself was asked for."""
    for kind in ("browser", "performance"):
        browser.get_log(kind)
    browser.get(address)
    yield browser
    # What the driver says of reading pixels is no word of the page.
    said = [
        entry["message"]
        for entry in browser.get_log("browser")
        if "GL Driver Message" not in entry["message"]
    ]
    assert not said
    assert requested(browser) == {address}


def requested(browser: webdriver.Chrome) -> set[str]:
    """Addresses that were asked for since the last look, without fragments."""
    messages = [json.loads(entry["message"])["message"] for entry in browser.get_log("performance")]
    sent = [
        own["params"]["request"]["url"] for own in messages if own["method"] == "Network.requestWillBeSent"
    ]
    return {url.partition("#")[0] for url in sent}
