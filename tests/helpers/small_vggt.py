"""The small network of the parity fixture: configuration, weights and inputs from the published recipe."""

import json
import zlib
from functools import cache
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from vggtq.models.vggt.network import VGGT, build

FIXTURES = Path(__file__).parents[1] / "fixtures"
FIXTURE = json.loads((FIXTURES / "vggt_small.json").read_text())
CONFIG = FIXTURE["config"]
CASES = FIXTURE["cases"]


@cache
def weights() -> dict[str, Tensor]:
    """offset + std·z per parameter, z seeded by the parameter's name, then a few overrides."""
    state = {}
    for name, (shape, offset, std) in FIXTURE["parameters"].items():
        z = np.random.RandomState(zlib.crc32(name.encode())).standard_normal(shape).astype(np.float32)
        value = np.float32(offset) + np.float32(std) * z
        for index, replacement in FIXTURE["overrides"].get(name, {}).items():
            value.reshape(-1)[int(index)] = replacement
        state[name] = torch.from_numpy(value)
    return state


def network(config: dict | None = None) -> VGGT:
    """Built without memory and filled by assignment. `config` replaces sections; tensors are its own copies."""
    with torch.device("meta"):
        model = build(CONFIG | (config or {}))
    own = model.state_dict()
    model.load_state_dict({k: v.clone() for k, v in weights().items() if k in own}, assign=True)
    return model


def inputs(case: str) -> tuple[Tensor, Tensor]:
    """images (B, S, 3, H, W) and query points (B, 5, 2)."""
    b, s, h, w = (CASES[case][key] for key in "BSHW")
    rs = np.random.RandomState(zlib.crc32(case.encode()))
    images = rs.random_sample((b, s, 3, h, w)).astype(np.float32)
    points = (rs.random_sample((b, 5, 2)) * [w - 1, h - 1]).astype(np.float32)
    return torch.from_numpy(images), torch.from_numpy(points)
