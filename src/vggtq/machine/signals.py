"""Ctrl-C, SIGTERM and SIGHUP as exceptions that get through.

Python drops what a signal handler raises while a destructor or a callback of a weak reference runs, and the program would go
on as if nothing had been asked. So the request is repeated every second until `settled` is called.
"""

import signal
import sys
from types import FrameType
from typing import NoReturn

REPEAT_S = 1.0


class Terminated(KeyboardInterrupt):
    """SIGTERM or SIGHUP: what a scheduler or a closed terminal sends. Recorded like Ctrl-C."""


_asked: list[int] = []  # the signal that waits for an answer


def install() -> dict[int, object]:
    """Takes the signals over. Returns the handlers that were there, for `restore`."""
    names = ("SIGINT", "SIGTERM", "SIGHUP", "SIGALRM")
    sys.unraisablehook = _report_dropped
    numbers = [getattr(signal, name) for name in names if hasattr(signal, name)]
    return {number: signal.signal(number, _raise) for number in numbers}


def _report_dropped(dropped: "sys.UnraisableHookArgs") -> None:
    if not issubclass(dropped.exc_type, KeyboardInterrupt):  # that one comes again
        sys.__unraisablehook__(dropped)


def restore(previous: dict[int, object]) -> None:
    """Puts the handlers back."""
    settled()
    for number, handler in previous.items():
        signal.signal(number, handler)  # type: ignore[arg-type]


def settled() -> None:
    """Ends the repetition. To be called where the exception is caught."""
    _asked.clear()
    if hasattr(signal, "setitimer"):
        signal.setitimer(signal.ITIMER_REAL, 0)


def _raise(number: int, frame: FrameType | None) -> None:
    if number == getattr(signal, "SIGALRM", None):
        if not _asked:  # settled while the alarm was on its way
            return
    else:
        _asked[:] = [number]
    if hasattr(signal, "setitimer"):
        signal.setitimer(signal.ITIMER_REAL, REPEAT_S)
    _fail(_asked[0])


def _fail(number: int) -> NoReturn:
    if number == signal.SIGINT:
        raise KeyboardInterrupt
    raise Terminated(f"terminated by {signal.Signals(number).name}")
