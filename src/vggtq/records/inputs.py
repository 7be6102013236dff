"""The files that a run reads: the record's `inputs`, and whether they are still the same.

Sizes and times of change are compared first, which costs nothing; only where they differ, as after copying or unpacking again,
are contents read. A file that changed with its size and its time of change the same goes unnoticed.
"""

import functools
import hashlib
from pathlib import Path

from vggtq.config.schema import Config
from vggtq.records.of_run import InputsEntry


def describe_inputs(config: Config) -> InputsEntry | None:
    """Numbers of files and bytes, a digest of sizes and times of change, and one of contents; names are not kept.

    None where the model or a data set does not tell what it reads.
    """
    files = input_files(config)
    if files is None:
        return None
    stamps = [_stamp(file) for file in files]
    total = hashlib.sha256(
        "\n".join(_content(str(f), s) for f, s in zip(files, stamps, strict=True)).encode()
    )
    bytes_ = sum(size for size, _ in stamps)
    return InputsEntry(len(files), bytes_, _stat(files), total.hexdigest())


def same_inputs(config: Config, recorded: InputsEntry | None) -> bool:
    """Whether a run of this configuration would read what `recorded` describes. Raises OSError and VggtqError."""
    files = input_files(config)
    if files is None or not recorded or len(files) != recorded.files:
        return False
    if _stat(files) == recorded.stat:
        return True
    same_size = sum(_stamp(file)[0] for file in files) == recorded.bytes
    described = describe_inputs(config) if same_size else None
    return described is not None and described.sha256 == recorded.sha256


def input_files(config: Config) -> list[Path] | None:
    """Weights, images, ground truth and calibration images, in this order; None where something does not tell."""
    readers = [config.model, config.dataset]
    if config.scheme.needs_calibration:
        readers.append(config.calibration.dataset)
    if not all(hasattr(reader, "inputs") for reader in readers):
        return None
    return [file for reader in readers for file in reader.inputs()]


def _stat(files: list[Path]) -> str:
    lines = [
        f"{file.name} {size} {changed}"
        for file, (size, changed) in zip(files, map(_stamp, files), strict=True)
    ]
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()


def _stamp(file: Path) -> tuple[int, int]:
    """Size and time of the last change, ns."""
    stat = file.stat()
    return stat.st_size, stat.st_mtime_ns


@functools.cache
def _content(file: str, stamp: tuple[int, int]) -> str:
    """SHA-256, once for all runs of a process that read the same file."""
    with Path(file).open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()
