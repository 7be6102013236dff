"""Small networks of each family, and the files with outputs of the originals where they are at hand."""

import hashlib
import json
import os
from collections.abc import Mapping
from pathlib import Path

import pytest
from safetensors.torch import load_file
from torch import Tensor, nn

ROOT = Path(__file__).parents[2]
SHARED = Path(os.environ.get("VGGTQ_SHARED", ROOT.parent / "shared"))  # no part of the repository

# Networks that predict in milliseconds, with at least one block of everything.
OVERRIDES = {
    "vggt": [
        "model=vggt_small",
        "model.image_size=56",
        "model.architecture.aggregator={img_size:56,embed_dim:32,depth:2,num_heads:2}",
        "model.architecture.patch_embed={img_size:56,embed_dim:32,depth:1,num_heads:2}",
        "model.architecture.camera_head={trunk_depth:1,num_heads:2}",
        "model.architecture.dpt={features:16,out_channels:[8,8,16,16],intermediate_layer_idx:[0,0,1,1]}",
    ],
    "pi3": [
        "model=pi3",
        "model.image_size=56",
        "+model.architecture.encoder={img_size:56,embed_dim:32,depth:1,num_heads:2}",
        "+model.architecture.decoder={embed_dim:32,depth:2,num_heads:2}",
        "+model.architecture.heads={embed_dim:32,depth:1,num_heads:2,point_out:32,camera_out:32}",
    ],
    "vggt_omega": [
        "model=vggt_omega",
        "model.image_size=64",
        "+model.architecture.aggregator={embed_dim:32,depth:2,num_heads:2,num_register_tokens:4,"
        "register_attention_block_indices:[1]}",
        "+model.architecture.patch_embed={depth:1,num_heads:2}",
        "+model.architecture.camera_head={trunk_depth:1,num_heads:2}",
        "+model.architecture.dense_head={features:16,out_channels:[16,16,16,16],intermediate_layer_idx:[0,0,1,1]}",
    ],
}
OVERRIDES["pi3x"] = [
    "model=pi3x",
    *OVERRIDES["pi3"][1:],
    "+model.architecture.conv_head={widths:[32,16,16],hidden:8}",
    "+model.architecture.metric={embed_dim:32,depth:1,num_heads:2}",
]


def fixture(name: str) -> tuple[dict, dict[str, Tensor], dict[str, Tensor]]:
    """The description, weights and tensors of a small original; skips where they are not at hand."""
    file = SHARED / "parity" / f"{name}.safetensors"
    if not file.is_file():
        pytest.skip(f"needs {file.name}: set VGGTQ_SHARED to the folder that holds parity/")
    tensors = load_file(file)
    weights = {key.removeprefix("weights/"): t for key, t in tensors.items() if key.startswith("weights/")}
    described = json.loads(file.with_suffix(".json").read_text("utf-8"))
    return described, weights, {key: t for key, t in tensors.items() if not key.startswith("weights/")}


def shapes_of(network: nn.Module) -> dict[str, tuple[int, ...]]:
    """Names and shapes of a checkpoint, masks of biases among them."""
    shapes = {name: tuple(tensor.shape) for name, tensor in network.state_dict().items()}
    return shapes | {mask: shapes[bias] for bias, mask in network.bias_masks().items()}  # type: ignore[operator]


def digest(shapes: Mapping[str, tuple[int, ...]]) -> str:
    """Of names and shapes, in the order of the names."""
    lines = "".join(f"{name} {list(shapes[name])}\n" for name in sorted(shapes))
    return hashlib.sha256(lines.encode()).hexdigest()


def loaded(network: nn.Module, weights: Mapping[str, Tensor]) -> nn.Module:
    """The network in eval mode with the fixture's weights, and the masks of biases applied."""
    masks: dict[str, str] = network.bias_masks()  # type: ignore[operator, assignment]
    folded = {name: t for name, t in weights.items() if name not in masks.values()}
    folded |= {bias: weights[bias] * weights[mask] for bias, mask in masks.items()}
    network.load_state_dict(folded)
    return network.eval().requires_grad_(False)


def deviation(value: Tensor, expected: Tensor) -> float:
    """The largest difference, relative to the value where that is larger than 1."""
    assert value.shape == expected.shape
    return float(((value - expected).abs() / expected.abs().clamp(min=1)).max()) if value.numel() else 0.0
