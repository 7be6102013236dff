"""Methods by which a network declares properties to the quantizer; networks without them declare nothing."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Protocol

from torch import Tensor, nn

from vggtq.network.outputs import NAMES


def common_outputs(model: nn.Module, outputs: Mapping[str, Any]) -> dict[str, Tensor]:
    """The outputs of a network by the names of `network.outputs`. A network may translate its own names."""
    declared = getattr(model, "common_outputs", None)
    named = declared(outputs) if callable(declared) else outputs
    return {name: named[name] for name in NAMES if name in named}


def norms_before(model: nn.Module) -> dict[str, str]:
    """Linear layer to the LayerNorm whose output it alone reads. Norms without a bias are left out."""
    pairs: Mapping[str, str] = _declared(model, "norms_before") or {}
    norms = {linear: (name, model.get_submodule(name)) for linear, name in pairs.items()}
    return {
        linear: name
        for linear, (name, norm) in norms.items()
        if isinstance(norm, nn.LayerNorm) and norm.bias is not None
    }


def values_before(model: nn.Module) -> Mapping[str, tuple[str, int, int]]:
    """Linear layer to the one whose outputs attention averages for it: its name, their first row, the width of a head."""
    return _declared(model, "values_before") or {}


def special_tokens(model: nn.Module, images: Tensor) -> Mapping[str, tuple[int, int]]:
    """Prefix of layer names to (tokens of a frame, how many of them, from the first, are no patches) in their inputs."""
    return _declared(model, "special_tokens", images) or {}


def first_last_layers(model: nn.Module) -> Sequence[str] | None:
    """Names of the layers at both ends; None where the model does not declare them."""
    return _declared(model, "first_last_layers")


def stage_names(model: nn.Module) -> Sequence[str]:
    """The submodules that the model's `stages` calls (`vggtq.network.stages`), in that order."""
    return (_declared(model, "stage_names") or ()) if hasattr(model, "stages") else ()


def _declared(model: nn.Module, name: str, *arguments: Tensor) -> Any:
    method = getattr(model, name, None)
    return method(*arguments) if callable(method) else None


class FusedForward(Protocol):
    """Computes a block x (B, N, C) in fewer and larger kernels than its modules."""

    def __call__(self, block: Any, x: Tensor, rope: tuple[Tensor, Tensor] | None) -> Tensor | None:
        """The output of the block, or None where its own `forward` has to compute it."""

    def takes(self, block: Any, x: Tensor) -> bool:
        """Whether it can compute this."""

    def project(
        self, block: Any, x: Tensor, rope: tuple[Tensor, Tensor] | None
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Up to the scaled dot products: queries, keys and values, (B, H, N, d) each."""

    def finish(self, block: Any, x: Tensor, seen: Tensor) -> Tensor:
        """The rest of the block, after the scaled dot products. seen: their result, (B, H, N, d)."""


def set_fused_forward_(model: nn.Module, forward: FusedForward | None) -> list[str]:
    """Sets `fused_forward` on the blocks that have such an attribute, and returns their names.

    Such a block is one of `prenorm_blocks` that returns x + ls1(attn(norm1(x), rope)), then x + ls2(mlp(norm2(x))), with
    factors ls1.gamma and ls2.gamma (or identities), attn.{heads, q_norm, k_norm, proj, attention_dtype, rope_groups}, and
    rope as `vggtq.models.vggt.positions.rope_table` makes it. Its forward calls `fused_forward(self, x, rope)` first.
    """
    names = [name for name, block in prenorm_blocks(model) if hasattr(block, "fused_forward")]
    for name in names:
        model.get_submodule(name).fused_forward = forward  # type: ignore[assignment]
    return names


def prenorm_blocks(model: nn.Module) -> Iterator[tuple[str, nn.Module]]:
    """Transformer blocks whose class sets `prenorm = True`, with their dotted names.

    Such a block computes attn(norm1(x)) and mlp(norm2(x)) with the layers attn.qkv, mlp.fc1, an exact GELU and mlp.fc2.
    """
    for name, module in list(model.named_modules()):
        if getattr(module, "prenorm", False):
            yield name, module


def residual_units(model: nn.Module) -> Iterator[tuple[str, nn.Module]]:
    """Modules whose class sets `residual_unit = True`, with their dotted names.

    Such a unit computes u + conv2(ReLU(conv1(u))) with u = ReLU(x), or with x in front where its `plain_skip`
    is true. Its forward calls `fused_forward(self, x)` first, if that is set, and returns its result unless
    that is None.
    """
    for name, module in list(model.named_modules()):
        if getattr(module, "residual_unit", False):
            yield name, module
