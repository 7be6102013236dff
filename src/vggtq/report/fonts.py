"""A font with Chinese characters for the charts, if this machine has one."""

from pathlib import Path

# as families are called, and as their files begin; in order of preference
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
_FILES = (
    "notosanscjk",
    "notosanssc",
    "sourcehansans",
    "msyh",
    "pingfang",
    "simhei",
    "wqy",
    "notoserifcjk",
    "droidsansfallback",
)


def find_cjk_font() -> str | None:
    """The family of the best installed font with Chinese characters, or None."""
    from matplotlib import font_manager

    if not _installed():  # matplotlib lists fonts once and keeps the list: one installed since is not in it
        for path in font_manager.findSystemFonts():
            if Path(path).name.lower().replace("-", "").startswith(_FILES):
                font_manager.fontManager.addfont(path)
    return _installed()


def _installed() -> str | None:
    from matplotlib import font_manager

    names = {font.name for font in font_manager.fontManager.ttflist}
    return next((family for family in _FAMILIES if family in names), None)
