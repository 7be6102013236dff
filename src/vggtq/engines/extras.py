"""Packages of engines, imported where they are used."""

import importlib
from typing import Any

from vggtq.errors import MissingExtraError


def required(module: str, extra: str) -> Any:
    """The module. Raises MissingExtraError, which names the extra that brings it."""
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise MissingExtraError(
            f"{module} is not installed, or not whole ({error}): pip install 'vggtq[{extra}]'"
        ) from error
