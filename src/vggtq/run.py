"""`python -m vggtq.run`: Hydra composes a configuration, `experiment.run` makes a record of it.

python -m vggtq.run scheme=int4_group group_size=64
python -m vggtq.run --multirun scheme=int4_group bits=4,8 group_size=32,64
python -m vggtq.run +experiment=eight_schemes
"""

import logging
import os
import re
import shlex
import sys
from pathlib import Path
from typing import Any, NoReturn

import hydra
from hydra.core.hydra_config import HydraConfig
from hydra.errors import HydraException, OverrideParseException
from hydra.types import RunMode
from omegaconf import DictConfig
from omegaconf.errors import OmegaConfBaseException

from vggtq import interruption, sweep
from vggtq.config import CONF, compose, first_line, options, quote_numbers, register
from vggtq.errors import VggtqError, did_you_mean
from vggtq.experiment import run

log = logging.getLogger(__name__)

_failed: list[str] = []  # the reason why the single run of this process failed


def main() -> NoReturn:
    """Entry point; ends the process with 0, 1 after a failure, 130 or 143 after an interruption."""
    # Hydra raises instead of printing, so that one line can be made of it.
    os.environ["HYDRA_FULL_ERROR"] = "1"
    interruption.install()
    register()
    try:
        # argparse takes all overrides in one piece; users write --multirun anywhere.
        arguments = sorted(sys.argv[1:], key=lambda argument: argument not in ("-m", "--multirun"))
        sys.argv[1:] = quote_numbers(arguments)
        hydra.main(version_base="1.3", config_path=str(CONF), config_name="config")(task)()
    except BrokenPipeError:  # whoever read our output has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(1)
    except (VggtqError, HydraException, OmegaConfBaseException, ValueError, OSError) as error:
        if _wants_traceback():
            raise
        sys.exit(f"error: {explain(error)}")
    except KeyboardInterrupt as request:
        interruption.settled()
        sweep.summarize_interrupted()
        print("interrupted; the record of the run says so", file=sys.stderr)
        sys.exit(143 if isinstance(request, interruption.Terminated) else 130)
    sys.exit(1 if _failed else 0)


def task(cfg: DictConfig) -> None:
    """One job of Hydra's. A failure is recorded and told in one line, and never ends a sweep."""
    hydra_config = HydraConfig.get()
    folder = Path(hydra_config.runtime.output_dir)
    if cfg.resume and (finished := sweep.joined(folder, cfg)):
        log.info("done    %s, by an earlier run; resume=false runs it again", _relative(folder))
        if hydra_config.mode != RunMode.MULTIRUN:
            sweep.print_summary([finished])
        return
    record = run(cfg, folder, _command(hydra_config))
    shown = _relative(folder / "result.json")
    if record["status"] == "failed":
        error = record["error"]
        hint = (
            f" (recorded in {shown})" if error["expected"] else f"; unexpected: the traceback is in {shown}"
        )
        kind = "" if error["expected"] else f"{error['type']}: "
        log.error("error: %s%s%s", kind, error["message"].splitlines()[0], hint)
        if hydra_config.verbose:
            log.error(error["traceback"])
        _failed.append(error["message"])
        return
    if record["picture"]:
        log.info("picture %s", _relative(folder / record["picture"]))
    log.info("record  %s", shown)
    if hydra_config.mode != RunMode.MULTIRUN:
        sweep.print_summary([record])


def explain(error: BaseException) -> str:
    """Hydra's and OmegaConf's messages in one line that names value, rule and remedy."""
    text = f"{error}\n{error.__cause__ or ''}"
    if isinstance(error, VggtqError):
        return first_line(error)
    if isinstance(error, OSError) and not isinstance(error, HydraException):
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
    choices = sorted(
        options(group), key=lambda name: (not name.isdigit(), int(name) if name.isdigit() else 0, name)
    )
    if group == "bits":
        return f"bits={value}: integer weights have 2 to 8 or 16 bits; schemes of float weights set their own"
    line = f"{group}={value} is not one of {', '.join(choices)}{did_you_mean(value, choices)}"
    if group == "group_size" and value.isdigit() and int(value) > 1:
        return f"{line}; any other size: scheme.weights.group_size={value} with granularity=group, as scheme=int4_group has it"
    if group == "group_size" and value.lstrip("-").isdigit():
        return f"{line}; a group has at least 2 weights, group_size=null gives one scale per row"
    return line


def _explain_key(key: str) -> str:
    if key in ("experiment", "variant"):
        return f"{key}=… is added with a plus: +{key}={options(key)[0]}; choices: {', '.join(options(key))}"
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


def _command(hydra_config: Any) -> str:
    """The command that repeats this very job, also when it was one of a sweep."""
    overrides = [
        re.sub(r"^(\+?(?:bits|group_size)=)'([^']*)'$", r"\1\2", o) for o in hydra_config.overrides.task
    ]
    if any("experiment=" in override for override in overrides):
        overrides.append("hydra.mode=RUN")  # an experiment would start its sweep again
    return shlex.join(["python", "-m", "vggtq.run", *overrides])


def _relative(path: Path) -> Path:
    return path.relative_to(Path.cwd()) if path.is_relative_to(Path.cwd()) else path


def _wants_traceback() -> bool:
    return any(re.match(r"hydra\.verbose=(?!false|null)", argument, re.IGNORECASE) for argument in sys.argv)


if __name__ == "__main__":
    main()
