"""A request to end is not lost, wherever it arrives."""

import signal
import subprocess
import sys
import time

import pytest

DROPPED = """
import sys, time
from vggtq.machine import signals
signals.install()
class Slow:
    def __del__(self):
        print("ready", flush=True)
        time.sleep(0.7)
try:
    Slow()
    time.sleep(30)
except KeyboardInterrupt as error:
    signals.settled()
    time.sleep(1.5)
    print(type(error).__name__, error)
"""


@pytest.mark.parametrize(
    ("number", "expected"),
    [(signal.SIGTERM, "Terminated terminated by SIGTERM"), (signal.SIGINT, "KeyboardInterrupt")],
)
def test_a_signal_that_a_destructor_drops_comes_again_and_only_until_it_is_heard(
    number: int, expected: str
) -> None:
    process = subprocess.Popen(
        [sys.executable, "-c", DROPPED], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "ready\n"
    time.sleep(0.1)
    process.send_signal(number)
    out, err = process.communicate(timeout=60)
    assert (process.returncode, out.strip(), err) == (0, expected, "")
