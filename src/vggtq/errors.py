"""The errors that a user can cause: each message names the value, the rule and the remedy in one line."""

import difflib
from collections.abc import Iterable


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


class MissingExtraError(VggtqError, ImportError):
    """An optional package is not installed; the message names the extra."""


def did_you_mean(value: str, options: Iterable[str]) -> str:
    """`'; did you mean int4_group?'` for the closest option, or an empty string."""
    by_lower = {option.lower(): option for option in options}
    lower = value.lower()
    close = [name for name in by_lower if lower and name.startswith(lower)][:1]
    close = close or difflib.get_close_matches(lower, list(by_lower), n=1)
    return f"; did you mean {by_lower[close[0]]}?" if close else ""
