"""`vggtq run …`, `vggtq report …` and so on: the same as python -m vggtq.run, python -m vggtq.report, …"""

import runpy
import sys

from vggtq import __version__
from vggtq.errors import did_you_mean

NAMES = ("run", "report", "rescore", "sensitivity", "export", "predict", "push", "pull")
COMMANDS = {name: f"vggtq.{name}" for name in NAMES}
USAGE = f"""vggtq {__version__}: which quantization of VGGT should you ship?

  vggtq run scheme=int4_group group_size=64     quantize, compare with FP32, leave a record
  vggtq run +experiment=eight_schemes           a sweep, one folder per run
  vggtq report                                  tables and charts from all records below outputs/
  vggtq rescore                                 fidelity and geometry anew, from what runs predicted
  vggtq sensitivity scheme=int4_group           what the bits of each layer cost the outputs
  vggtq export scheme=int4_group out=model.safetensors        the quantized model as one file
  vggtq predict model=model.safetensors images=DIR out=DIR    depth, cameras and a point cloud from it
  vggtq push FILE owner/name, vggtq pull owner/name           to and from the Hugging Face hub
  vggtq run --help, vggtq predict --help, …                   all options
"""


def main() -> None:
    """Hands the rest of the command line to a command's own module."""
    command, rest = (sys.argv[1], sys.argv[2:]) if len(sys.argv) > 1 else ("--help", [])
    if command in ("-h", "--help", "help"):
        print(USAGE, end="")
    elif command == "--version":
        print(__version__)
    elif command in COMMANDS:
        sys.argv = [f"vggtq {command}", *rest]
        runpy.run_module(COMMANDS[command], run_name="__main__", alter_sys=True)
    else:
        sys.exit(
            f"error: {command} is not one of {', '.join(COMMANDS)}{did_you_mean(command, COMMANDS)}; see vggtq --help"
        )


if __name__ == "__main__":
    main()
