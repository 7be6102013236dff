"""A font with Chinese characters for matplotlib, if this machine has one, and text without empty boxes."""

import functools
from collections.abc import Sequence
from contextlib import suppress

BASE = "DejaVu Sans"  # comes with matplotlib
# in order of preference
_FAMILIES = (
    "Noto Sans CJK SC",
    "Noto Sans CJK JP",
    "Noto Sans SC",
    "Source Han Sans SC",
    "Source Han Sans CN",
    "Source Han Sans",
    "Microsoft YaHei",
    "PingFang SC",
    "Hiragino Sans GB",
    "SimHei",
    "WenQuanYi Micro Hei",
    "WenQuanYi Zen Hei",
    "Noto Serif CJK SC",
    "SimSun",
    "Droid Sans Fallback",
)


@functools.cache  # looking through the system's folders for each name would take longer than drawing
def find_cjk_font() -> str | None:
    """The family of the best installed font with Chinese characters, or None."""
    from matplotlib import font_manager

    if not _installed():  # matplotlib lists fonts once and keeps the list: one installed since is not in it
        listed = {font.fname for font in font_manager.fontManager.ttflist}
        for path in set(font_manager.findSystemFonts()) - listed:
            with suppress(Exception):  # matplotlib cannot use every file that looks like a font
                font_manager.fontManager.addfont(path)
    return _installed()


def families() -> list[str]:
    """For `font.family`: matplotlib takes characters that the first font lacks from the second."""
    return [BASE, *filter(None, [find_cjk_font()])]


def legible(text: str) -> str:
    """`text` with a question mark for each character that no installed font of `families` shows."""
    if text.isascii():
        return text
    known = drawable(families())
    return "".join(c if ord(c) in known or c.isspace() else "?" for c in text)


def drawable(names: Sequence[str]) -> frozenset[int]:
    """Code points that these families have."""
    return _drawable(tuple(names))


@functools.cache
def _drawable(names: tuple[str, ...]) -> frozenset[int]:
    from matplotlib import font_manager
    from matplotlib.ft2font import FT2Font

    found: set[int] = set()
    for family in names:
        found |= set(FT2Font(font_manager.findfont(family, fallback_to_default=False)).get_charmap())
    return frozenset(found)


def _installed() -> str | None:
    from matplotlib import font_manager

    names = {font.name for font in font_manager.fontManager.ttflist}
    return next((family for family in _FAMILIES if family in names), None)
