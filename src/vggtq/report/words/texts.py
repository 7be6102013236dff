"""Sentences and labels of the report in its languages: those of `texts.toml`, and the labels of metrics."""

import tomllib
from collections.abc import Callable
from pathlib import Path
from string import Formatter
from typing import Any

from vggtq.metrics.table import metrics
from vggtq.records.reading import REASONS

LANGUAGES = ("en", "zh")
FILE = Path(__file__).with_suffix(".toml")
TEXTS: dict[str, list[str]] = tomllib.loads(FILE.read_text(encoding="utf-8"))  # key -> words in LANGUAGES
TEXTS |= {key: [english, *TEXTS[key][1:]] for key, english in REASONS.items()}

Translate = Callable[..., str]


class _Counting(Formatter):
    """`{n:run|runs}` is `1 run` or `2 runs`."""

    def format_field(self, value: Any, format_spec: str) -> str:
        one, plural, many = format_spec.partition("|")
        return (
            f"{value} {one if value == 1 else many}" if plural else super().format_field(value, format_spec)
        )


def known_texts(lang: str) -> dict[str, str]:
    """Every text in `lang`, with the labels of metrics as `metric.<name>`."""
    column = LANGUAGES.index(lang)
    labels = {
        f"metric.{metric.name}": metric.titles[column].replace("{", "{{").replace("}", "}}")
        for metric in metrics()
    }
    return {key: words[column] for key, words in TEXTS.items()} | labels


def translator(lang: str) -> Translate:
    """`t(key, **values)` in `lang`; KeyError on a key that has no text."""
    texts = known_texts(lang)

    def translate(key: str, /, **values: Any) -> str:
        return _Counting().vformat(texts[key], (), values)

    return translate
