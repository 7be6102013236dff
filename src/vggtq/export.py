"""`vggtq export`: a checkpoint to a quantized model file, tensor by tensor where its recipe needs no data; files of engines."""

import logging
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vggtq.config.compose import run_candidates
from vggtq.config.schema import Config
from vggtq.config.validate import composed
from vggtq.errors import ConfigError
from vggtq.machine.memory import release_at_once
from vggtq.terminal.command_line import entry
from vggtq.terminal.help import Command
from vggtq.terminal.logs import log_lines
from vggtq.terminal.options import option
from vggtq.terminal.progress import Steps

if TYPE_CHECKING:
    from torch import nn

    from vggtq.artifact.write import Saved
    from vggtq.engines.exporting import ExportedFile
    from vggtq.quant.scheme.scheme import Scheme

    # quantized network, what files say of it, height and width of images
    _Ready = tuple[nn.Module, Scheme, dict[str, str], list[int]]


log = logging.getLogger("vggtq.export")  # run with -m, __name__ is another


@dataclass
class Options:
    """The file to write and its format; everything else is the configuration of a run."""

    out: str = option(
        "where to write, a name that ends in .safetensors, .onnx, .xml or .pt2, as the format has it",
        missing="name the file to write, e.g. out=model.safetensors",
    )
    format: str = option(
        "safetensors, vggtq's own; or onnx, openvino, torch_export, for other engines (docs/deploy.md)",
        "safetensors",
        choices=("safetensors", "onnx", "openvino", "torch_export"),
    )
    artifact: str | None = option(
        "for other engines: a .safetensors that vggtq export wrote, whose codes are kept; null: quantize now",
        None,
    )
    image_size: list[int] | None = option(
        "for other engines: height and width that the file takes; null: the model's own, square", None
    )
    overwrite: bool = option("replace a file", False)
    overrides: list[str] = option(
        "as for vggtq run: model=, scheme=, bits=, group_size=, scheme.layers.…, rest=, device=, plugins=, --config-dir DIR, …",
        [],
        rest=True,
    )


COMMAND = Command(
    "export",
    Options,
    (
        "scheme=int4_group group_size=64 out=model.safetensors",
        "model=vggt_1b model.source=vggt.safetensors scheme=int4_group rest=float16 out=int4.safetensors",
        "artifact=model.safetensors format=openvino image_size=[84,84] out=model.xml",
    ),
    "Use it with vggtq predict model=FILE images=DIR out=DIR, or vggtq.load(FILE) in Python.",
    run_candidates,
)


def export(config: Config, out: Path, steps: Steps) -> "Saved":
    """Writes the quantized model to `out`; only recipes that look at data need all of the float model. Raises VggtqError."""
    from vggtq.artifact import checked_path
    from vggtq.prepare.quantized import prepared, quantize
    from vggtq.prepare.streamed import streamed

    out = checked_path(out)
    if config.scheme.needs_calibration:
        twin = quantize(prepared(config, steps), steps, {}, keep_float=False)
        twin.check_budget()
    else:
        twin = streamed(config, steps)
    steps.step(f"writing {out}")
    return twin.save(out)


def convert(options: Options, out: Path, steps: Steps) -> "ExportedFile":
    """Writes the file of another engine. Raises VggtqError, ExportError where the engine computes something else."""
    from vggtq.data.objects import Objects
    from vggtq.engines.exporting import check_format, export_network
    from vggtq.quant.walk.computing import leave_to_engine_

    check_format(options.format, out)
    config = composed(options.overrides)
    if options.artifact:
        module, scheme, about, size = _stored(options.artifact, options.image_size, steps)
    else:
        module, scheme, about, size = _quantized(config, options.image_size, steps)
    leave_to_engine_(module, scheme, options.format)
    steps.step(f"exporting to {options.format}, images of {size[0]}×{size[1]}")
    images = next(iter(Objects(count=1, frames=2, size=size).scenes())).images  # where parity is measured
    return export_network(module, options.format, out, images, about, keep=False)


def _stored(path: str, size: list[int] | None, steps: Steps) -> "_Ready":
    from vggtq.artifact import load, read_header
    from vggtq.engines.described import described
    from vggtq.models.loading import model_of

    header = read_header(path)
    if header.model is None:
        raise ConfigError(
            f"artifact={path}: holds layers of a network that vggtq does not know, so it cannot build it"
        )
    size = _size(size, model_of(header.model))
    steps.step(f"loading {path}")
    loaded = load(path)
    return (
        loaded.module,
        header.scheme,
        described(header.scheme, loaded.weights, header.model, header.rest),
        size,
    )


def _quantized(config: Config, size: list[int] | None, steps: Steps) -> "_Ready":
    from vggtq.engines.described import described
    from vggtq.prepare.quantized import prepared, quantize

    size = _size(size, config.model)
    twin = quantize(prepared(config, steps), steps, {}, keep_float=False)
    twin.check_budget()
    scheme = twin.config.scheme
    return twin.module, scheme, described(scheme, twin.weights, config.model.identity(), config.rest), size


def _size(size: list[int] | None, model: Any) -> list[int]:
    """Height and width that the file takes. Raises ConfigError."""
    patch = int(getattr(model, "patch_size", 1))
    size = size or [int(model.image_size)] * 2
    if len(size) != 2 or min(size) < 1 or any(side % patch for side in size):
        raise ConfigError(
            f"image_size={size}: height and width, multiples of the patch size {patch}; try [{6 * patch},{6 * patch}]"
        )
    return size


def _convert(options: Options, out: Path) -> None:
    release_at_once()  # or the temporary tensors of layer after layer add up to several times the file
    with log_lines():
        with Steps() as steps:
            written = convert(options, out, steps)
        log.info("%s  %.1f MiB, parity in %s.json", out, written.file_bytes / 2**20, out.name)


def _work(options: Options) -> None:
    out = Path(options.out)
    if options.format == "safetensors" and (options.artifact or options.image_size):
        raise ConfigError(
            "artifact= and image_size= are for other engines; add format=onnx, openvino or torch_export"
        )
    if out.exists() and not options.overwrite:
        raise ConfigError(f"{out} exists; add overwrite=true or choose another name")
    if options.format != "safetensors":
        _convert(options, out)
        return
    config = composed(options.overrides)
    with log_lines():
        _warn(config)
        with Steps() as steps:
            saved = export(config, out, steps)
        log.info("%s  %.1f MiB, %s", saved.path, saved.file_bytes / 2**20, config.scheme.label)


def _warn(config: Config) -> None:
    """Weights that know photographs, calibrated on rendered scenes."""
    from vggtq.records.domain import RENDERED, calibration_notes

    model = config.model
    knows_photographs = model.source is not None and getattr(model, "domain", None) not in RENDERED
    if config.scheme.needs_calibration and knows_photographs:
        for note in calibration_notes(config.calibration.name, "images"):
            log.warning(note.replace("dataset=images has", f"{model.name} is made for"))


main = entry(COMMAND, _work)

if __name__ == "__main__":
    sys.exit(main())
