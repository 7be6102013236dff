"""`index.html`: one file that opens from disk. Everything is inlined; a content security policy forbids any request.

Data are JSON in a script element that is never executed, with every `<` escaped, and reach the page as text nodes alone.
"""

import base64
import hashlib
import json
from pathlib import Path

from vggtq.report.documents.results import Report
from vggtq.report.page.data import page_data
from vggtq.report.words.texts import translator

FOLDER = Path(__file__).parent / "assets"
# In the order in which they need each other.
SCRIPTS = (
    *("core", "wording", "provenance", "table", "svg", "charts", "strips", "heatmap", "sensitivity"),
    *("depth", "cloud", "geometry", "budget", "answer", "main"),
)


def page(report: Report, lang: str) -> str:
    """The whole page; `lang` is what it opens in."""
    style = (FOLDER / "page.css").read_text(encoding="utf-8")
    scripts = "".join((FOLDER / f"{name}.js").read_text(encoding="utf-8") for name in SCRIPTS)
    script = f'"use strict";\n(() => {{\n{scripts}}})();\n'
    parts = {
        "{{lang}}": "zh-CN" if lang == "zh" else "en",
        "{{title}}": translator(lang)("title"),
        "{{policy}}": policy(style, script),
        "{{style}}": style,
        "{{script}}": script,
        "{{data}}": embedded(page_data(report, lang)),
    }
    html = (FOLDER / "page.html").read_text(encoding="utf-8")
    for mark in parts:
        before, found, after = html.partition(mark)
        assert found, mark
        html = f"{before}{parts[mark]}{after}"
    return html


def policy(style: str, script: str) -> str:
    """Nothing may be loaded; only this very style and script count."""
    return (
        f"default-src 'none'; style-src '{_digest(style)}'; script-src '{_digest(script)}'; "
        "base-uri 'none'; form-action 'none'"
    )


def _digest(content: str) -> str:
    return f"sha256-{base64.b64encode(hashlib.sha256(content.encode()).digest()).decode()}"


def embedded(data: object) -> str:
    """Strict JSON that cannot end the script element it stands in."""
    text = json.dumps(data, allow_nan=False, separators=(",", ":"))
    return text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")
