"""The errors that a user can cause: each message names the value, the rule and the remedy in one line."""

import difflib
from collections.abc import Iterable

LIKE = 0.7  # likeness below which a hint would mislead
SHORTENED = 0.97  # of two options with the same last name, the one that is named in full is nearer


class VggtqError(Exception):
    """Base of every error that is reported as one line without a traceback."""


class ConfigError(VggtqError, ValueError):
    """A configuration that cannot work, found before a model or an image is read."""


class DataError(VggtqError):
    """Images or ground truth that are missing, damaged or inconsistent."""


class WeightsError(VggtqError):
    """A checkpoint that is missing, gated, damaged or of another network."""


class QuantizationError(VggtqError):
    """A layer whose weights cannot be quantized as asked."""


class ExportError(VggtqError):
    """A model that the format or the engine of an export cannot hold, or that computes something else there."""


class MissingExtraError(VggtqError, ImportError):
    """An optional package is not installed; the message names the extra."""


def did_you_mean(value: str, options: Iterable[str]) -> str:
    """`'; did you mean int4_group?'` for the option that is spelled most alike, or an empty string."""
    close = max(options, key=lambda option: _likeness(value, option), default="")
    return f"; did you mean {close}?" if close and _likeness(value, close) >= LIKE else ""


def check_choice(key: str, value: str, options: Iterable[str], remedy: str = "") -> None:
    """Raises ConfigError, with the options, unless `value` is one of them."""
    names = list(options)
    if value not in names:
        hint = did_you_mean(str(value), names)
        raise ConfigError(f"{key}={value} is not one of {', '.join(names)}{hint}{remedy}")


def _likeness(value: str, option: str) -> float:
    """0 to 1. Case and separators do not count, and the groups of scheme.weights.bits may be left out."""
    wanted, names = _letters(value), option.split(".")
    if not wanted:
        return 0.0
    if len(wanted) > 1 and _letters(option).startswith(wanted):
        return 0.9 + 0.1 * len(wanted) / len(_letters(option))
    parts = [_letters(".".join(names[i:])) for i in range(len(names))]
    alike = [difflib.SequenceMatcher(None, wanted, part).ratio() for part in parts]
    return max([alike[0], *(SHORTENED * ratio for ratio in alike[1:])])


def _letters(name: str) -> str:
    return "".join(filter(str.isalnum, name.lower()))


class OutOfMemory(VggtqError):
    """An allocation that failed."""


class DiskFull(VggtqError):
    """A file that could not be written for lack of space."""


def describe(error: BaseException) -> str:
    """The first line of an error's message, or its type."""
    lines = str(error).strip().splitlines()
    return lines[0] if lines else type(error).__name__
