"""`python -m vggtq.run`: Hydra composes a configuration, `experiment.run` makes a record of it.

python -m vggtq.run scheme=int4_group group_size=64
python -m vggtq.run --multirun scheme=int4_group bits=4,8 group_size=32,64
python -m vggtq.run +experiment=eight_schemes
"""

import os
import re
import sys
from collections.abc import Sequence
from typing import NoReturn

import hydra
from hydra.errors import HydraException, OverrideParseException
from omegaconf import DictConfig
from omegaconf.errors import OmegaConfBaseException

from vggtq import interruption, sweep
from vggtq.config import CONF, Config, compose, first_line, options, quote_numbers, validated
from vggtq.errors import ConfigError, VggtqError, did_you_mean
from vggtq.exhausted import exhausted
from vggtq.job import failures, task

EXPECTED = (VggtqError, HydraException, OmegaConfBaseException, ValueError, OSError)

# Options that Hydra's plugins bring along.
EXTRAS = {
    ("hydra/launcher", "joblib"): "joblib",
    ("hydra/launcher", "submitit_local"): "slurm",
    ("hydra/launcher", "submitit_slurm"): "slurm",
    ("hydra/launcher", "ray"): "ray",
}


def main() -> NoReturn:
    """Entry point; ends the process with 0, 1 after a failure, 130 or 143 after an interruption."""
    # Hydra raises instead of printing, so that one line can be made of it.
    os.environ["HYDRA_FULL_ERROR"] = "1"
    interruption.install()
    try:
        # argparse takes all overrides in one piece; users write --multirun anywhere.
        arguments = sorted(sys.argv[1:], key=lambda argument: argument not in ("-m", "--multirun"))
        sys.argv[1:] = quote_numbers(arguments)
        hydra.main(version_base="1.3", config_path=str(CONF), config_name="config")(task)()
    except BrokenPipeError:  # whoever read our output has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(1)
    except sweep.Stopped:
        sweep.summarize()
        sys.exit("stopped after the first failure, as fail_fast=true asks; the jobs after it were not run")
    except KeyboardInterrupt as request:
        interruption.settled()
        sweep.summarize()
        print("interrupted; the record of the run says so", file=sys.stderr)
        sys.exit(143 if isinstance(request, interruption.Terminated) else 130)
    except Exception as error:
        expected = isinstance(error, EXPECTED) or sweep.jobs_run_here()
        sweep.summarize()
        if _wants_traceback() or not expected:
            raise
        sys.exit(f"error: {explain(error)}")
    sys.exit(1 if failures else 0)


def composed(overrides: Sequence[str]) -> Config:
    """The configuration of a run with these overrides, for other commands. Raises ConfigError."""
    try:
        return validated(compose(overrides))
    except (HydraException, OmegaConfBaseException) as error:
        raise ConfigError(explain(error)) from error


def explain(error: BaseException) -> str:
    """Hydra's and OmegaConf's messages in one line that names value, rule and remedy."""
    text = f"{error}\n{error.__cause__ or ''}"
    if isinstance(error, VggtqError):
        return first_line(error)
    if isinstance(error, OSError) and not isinstance(error, HydraException | ConnectionError):
        if no_room := exhausted(error, None):
            return str(no_room)
        where = error.filename or "the output folder"
        return f"{where}: {error.strerror or error}; choose a folder that can be written, hydra.run.dir=DIR"
    if isinstance(error, OverrideParseException):
        return f"{error.override} cannot be read; lists are key=[a,b], sweeps key=a,b, special signs go in quotes: \"key='…'\""
    if "Config group override must be a string" in text:
        return "a group is set to a number or to null; name one of its options, python -m vggtq.run --help lists them"
    if missing := re.search(r"Could not find '([\w/]+)/([^'/]*)'", text):
        return _explain_option(*missing.groups())
    if unknown := re.search(
        r"Could not override '([^']+)'|Key '([^']+)' is not in struct|Key '([^']+)' not in", text
    ):
        full = re.search(r"full_key: (\S+)", text)
        return _explain_key(full.group(1) if full else next(filter(None, unknown.groups())))
    noise = ("object_type", "reference_type", "full_key")
    lines = [
        line.strip() for line in text.splitlines() if line.strip() and not line.strip().startswith(noise)
    ]
    return "; ".join(dict.fromkeys(lines))


def _explain_option(group: str, value: str) -> str:
    if extra := EXTRAS.get((group, value)):
        return f"{group}={value} needs a package that is not installed: pip install 'vggtq[{extra}]'"
    choices = sorted(
        options(group), key=lambda name: (not name.isdigit(), int(name) if name.isdigit() else 0, name)
    )
    if group == "bits":
        return f"bits={value}: integer weights have 2 to 8 or 16 bits; schemes of float weights set their own"
    choices += [name for known, name in EXTRAS if known == group]
    line = f"{group}={value} is not one of {', '.join(choices)}{did_you_mean(value, choices)}"
    if group == "group_size" and value.isdigit() and int(value) > 1:
        return f"{line}; any other size: scheme.weights.group_size={value} with granularity=group, as scheme=int4_group has it"
    if group == "group_size" and value.lstrip("-").isdigit():
        return f"{line}; a group has at least 2 weights, group_size=null gives one scale per row"
    return line


def _explain_key(key: str) -> str:
    if key in ("experiment", "search", "variant"):
        return f"{key}=… is added with a plus: +{key}={options(key)[0]}; choices: {', '.join(options(key))}"
    if key.startswith("model.architecture."):
        return f"{key} is not among what this model's YAML sets, so it is added with a plus: +{key}…"
    known = _keys(compose())
    near = did_you_mean(key, known)
    return f"{key} is not an option{near or '; python -m vggtq.run --help lists them'}"


def _keys(node: DictConfig, prefix: str = "") -> list[str]:
    keys = []
    for name in map(str, node):
        keys.append(f"{prefix}{name}")
        if isinstance(child := node._get_node(name), DictConfig) and not child._is_none():
            keys += _keys(child, f"{prefix}{name}.")
    return keys


def _wants_traceback() -> bool:
    return any(re.match(r"hydra\.verbose=(?!false|null)", argument, re.IGNORECASE) for argument in sys.argv)


if __name__ == "__main__":
    main()
