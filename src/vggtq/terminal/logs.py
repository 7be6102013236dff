"""Log lines for the person who waits."""

import logging
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def log_lines() -> Iterator[None]:
    """Shows what vggtq logs, and no other library, as plain lines on stdout."""
    logger, handler = logging.getLogger("vggtq"), logging.StreamHandler(sys.stdout)
    level = logger.level
    logger.addHandler(handler)
    logger.setLevel(logging.INFO)
    try:
        yield
    finally:
        logger.removeHandler(handler)
        logger.setLevel(level)


@contextmanager
def quiet(*loggers: str) -> Iterator[None]:
    """Keeps warnings and the named loggers of other libraries silent, since one line of our own follows.

    The root's level is restored too: OpenVINO's conversion raises it, after which no warning of ours would be seen.
    """
    named = [logging.getLogger(name) for name in loggers]
    levels = {logger: logger.level for logger in (logging.root, *named)}
    try:
        for logger in named:
            logger.setLevel(logging.CRITICAL + 1)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        for logger, level in levels.items():
            logger.setLevel(level)
