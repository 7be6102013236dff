"""A network as torch.export's .pt2, with our operators: a program that loads it imports vggtq first."""

import json
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import nn

from vggtq.engines.network import traced
from vggtq.errors import ExportError, describe


def write_torch(network: nn.Module, images: torch.Tensor, path: Path, metadata: Mapping[str, str]) -> None:
    """Writes the file. Raises ExportError. Weights lie in the layout of this CPU's kernels."""
    program = traced(network, images)
    try:
        torch.export.save(program, path, extra_files={"vggtq.json": json.dumps(dict(metadata))})
    except (RuntimeError, ValueError, NotImplementedError) as error:
        raise ExportError(f"torch {torch.__version__} cannot save this graph: {describe(error)}") from error
