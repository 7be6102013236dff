"""`vggtq run`: Hydra composes a configuration, `experiment.run` makes a record of it."""

import os
import re
import sys
from collections.abc import Sequence
from typing import NoReturn

import hydra
from hydra._internal.utils import get_args_parser
from hydra.errors import HydraException
from omegaconf.errors import OmegaConfBaseException

from vggtq.config.compose import ADDED, CONF, GROUPS, config_folders, options, quote_numbers, run_candidates
from vggtq.config.messages import explain, known_keys
from vggtq.config.schema import Config
from vggtq.errors import ConfigError, VggtqError
from vggtq.machine import signals
from vggtq.run.task import failures, task
from vggtq.terminal.command_line import answered, stop_printing
from vggtq.terminal.help import Command, table
from vggtq.terminal.options import unknown

EXPECTED = (VggtqError, HydraException, OmegaConfBaseException, ValueError, OSError)


def _notes(argv: Sequence[str]) -> str:
    """The choices of each group, those of the user's --config-dir among them."""
    config_folders(argv)
    rows = [
        (f"{group}=…", ", ".join(options(group.lstrip("+"))))
        for group in (*GROUPS, *map("+{}".format, ADDED))
    ]
    choices = "\n".join(table(rows))
    return f"""\
Groups, and what each may be:
{choices}

Inside a group: scheme.weights.group_size=96 is any other group size; vggtq run --cfg job prints every key with its value.
Hydra: --multirun runs every combination of key=a,b; --config-dir DIR adds configurations of your own; --hydra-help tells
more. hydra.run.dir=DIR says where the record goes; hydra.verbose=true shows full tracebacks.
"""


COMMAND = Command(
    "run",
    Config,
    (
        "scheme=int4_group group_size=64",
        "--multirun scheme=int4_group bits=4,8 group_size=32,64,128",
        "+experiment=eight_schemes",
    ),
    _notes,
    run_candidates,
)


def main() -> NoReturn:
    """Entry point; ends the process with 0, 1 after a failure, 130 or 143 after an interruption."""
    # Hydra raises instead of printing, so that one line can be made of it.
    os.environ["HYDRA_FULL_ERROR"] = "1"
    signals.install()
    _answer_at_once()
    from vggtq.sweep import sweep  # imports numpy

    try:
        # argparse takes all overrides in one piece; users write --multirun anywhere.
        arguments = sorted(sys.argv[1:], key=lambda argument: argument not in ("-m", "--multirun"))
        sys.argv[1:] = quote_numbers(arguments)
        config_folders(arguments)
        hydra.main(version_base="1.3", config_path=str(CONF), config_name="config")(task)()
    except BrokenPipeError:  # the reader of our output has closed it
        stop_printing()
        sys.exit(1)
    except sweep.Stopped:
        sweep.summarize()
        sys.exit("stopped after the first failure, as fail_fast=true asks; the jobs after it were not run")
    except KeyboardInterrupt as request:
        signals.settled()
        sweep.summarize()
        print("interrupted; the record of the run says so", file=sys.stderr)
        sys.exit(143 if isinstance(request, signals.Terminated) else 130)
    except Exception as error:
        expected = isinstance(error, EXPECTED) or sweep.jobs_run_here()
        sweep.summarize()
        if _wants_traceback() or not expected:
            raise
        sys.exit(f"error: {explain(error)}")
    sys.exit(1 if failures else 0)


def _answer_at_once() -> None:
    """Ends the process where no run is asked for, or where a flag is none of Hydra's."""
    try:
        if answered(sys.argv[1:], COMMAND):
            sys.exit(0)
        flags = [a for a in get_args_parser().parse_known_args(sys.argv[1:])[1] if a.startswith("-")]
        if flags:
            raise ConfigError(unknown(flags[0], known_keys()))
    except ConfigError as error:
        sys.exit(f"error: {error}")
    except KeyboardInterrupt:
        sys.exit(130)


def _wants_traceback() -> bool:
    return any(re.match(r"hydra\.verbose=(?!false|null)", argument, re.IGNORECASE) for argument in sys.argv)


if __name__ == "__main__":
    main()
