"""The commands of `vggtq`, each in one line, and how one is entered: `vggtq a b …` is `python -m vggtq.a.b …`."""

import runpy
import sys
from collections.abc import Sequence

COMMANDS = {
    "run": "quantize a model, compare it with the original, leave a record; with --multirun a sweep",
    "compare": "measure all usual schemes on the same images: a report and a folder to hand in",
    "report": "merge the records of many runs into tables, charts and a recommendation",
    "export": "write a quantized model as one safetensors file with the recipe, or for ONNX Runtime or OpenVINO",
    "predict": "depth, cameras and a coloured point cloud of photographs, from a model file",
    "push": "put a model file on the Hugging Face hub, with a model card",
    "pull": "fetch a model file from the Hugging Face hub, checked before it gets its name",
    "sensitivity": "measure what rounding each layer to each width costs the outputs",
    "bench": "time kernels, blocks and whole models against FP32, BF16 and other tools",
    "accuracy": "run what is missing of the plan behind docs/accuracy.md, and write its tables",
    "replicate": "measure the rows of a published table under its protocol, and print both",
    "train": "train the small VGGT on procedural captures of objects, or on rooms",
    "rescore": "score the predictions of earlier runs again, without running a model",
    "download": "download scenes of ETH3D",
    "run peak_memory": "load one model file, predict, and print the memory it took as JSON",
    "bench quantizing": "quantize one model, and print the time and memory it took as a row of a table",
    "bench cuda": "time linear layers and VGGT-1B on an NVIDIA GPU against BF16",
    "accuracy layers": "print the error of each layer by itself, row by row of the plan",
    "train evaluate": "score the small VGGT on held-out scenes, beside a constant predictor",
    "train outliers": "measure activation outliers of the small models, and their quality after rounding",
    "train curves": "draw the log of a training",
    "data objects": "draw a contact sheet of procedural captures of objects",
    "data rooms": "draw a contact sheet of procedural rooms",
}


def subcommands(name: str) -> list[str]:
    """The second words that may follow a command."""
    return [full.partition(" ")[2] for full in COMMANDS if full.startswith(f"{name} ")]


def named(argv: Sequence[str]) -> tuple[str, list[str]]:
    """The command that an argument list begins with, and the rest; an empty name where it begins with none."""
    for count in (2, 1):
        if (name := " ".join(argv[:count])) in COMMANDS:
            return name, list(argv[count:])
    return "", list(argv)


def enter(name: str, argv: Sequence[str]) -> None:
    """Hands the rest of a command line to the module of a command, which ends the process with its status."""
    sys.argv = [f"vggtq {name}", *argv]
    runpy.run_module(f"vggtq.{name.replace(' ', '.')}", run_name="__main__", alter_sys=True)
