"""Networks without weights, and checkpoints that must not fill them."""

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from helpers.small_vggt import CONFIG
from vggtq.errors import WeightsError
from vggtq.models.checkpoints.load import load_weights_
from vggtq.models.vggt.network import VGGT, build


def empty(**heads: bool) -> VGGT:
    with torch.device("meta"):
        return build(CONFIG | {"heads": heads})


def fails(source: Path | str, message: str, model: nn.Module | None = None, **options: Any) -> None:
    with pytest.raises(WeightsError, match=message) as error:
        load_weights_(model or empty(), str(source), **options)
    assert "\n" not in str(error.value)
