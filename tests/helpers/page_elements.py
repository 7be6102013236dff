"""What a browser shows of the report page."""

from selenium.webdriver import Chrome

CSS = "css selector"


def texts(page: Chrome, selector: str) -> list[str]:
    return page.execute_script(
        "return [...document.querySelectorAll(arguments[0])].map((e) => e.textContent)", selector
    )


def titles(page: Chrome) -> list[str]:
    return texts(page, "#table tbody th")
