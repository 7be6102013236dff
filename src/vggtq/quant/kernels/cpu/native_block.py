"""A transformer block on the native kernels: LayerNorm within the rounding of what it feeds, GELU, LayerScale and the residual
behind the product, and the norms and angles of queries and keys in one pass in place.

The numbers are those of the modules up to the last bits of LayerNorm and GELU, which move a code by one now and then.
"""

import ctypes
import functools
import logging
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from vggtq.machine.native import Library, library
from vggtq.models.vggt.positions import RopeTable, apply_rope
from vggtq.network.attention import attend
from vggtq.network.declared import residual_units, set_fused_forward_
from vggtq.quant.kernels.cpu.native_conv import INPUTS, OUTPUTS, RESIDUAL, NativeConv
from vggtq.quant.kernels.cpu.native_linear import NativeLinear, small_product
from vggtq.quant.kernels.modules import QuantConv
from vggtq.quant.kernels.native.layout import BLOCK
from vggtq.quant.kernels.native.operator import Around, surrounded
from vggtq.quant.scheme.weights import Weights

log = logging.getLogger(__name__)


class Rotation(ctypes.Structure):
    """VggtqRotation of interface.h."""

    _fields_ = (
        ("numbers", ctypes.c_void_p),
        ("query_norm", ctypes.c_void_p),
        ("key_norm", ctypes.c_void_p),
        ("query_epsilon", ctypes.c_float),
        ("key_epsilon", ctypes.c_float),
        ("cosines", ctypes.c_void_p),
        ("sines", ctypes.c_void_p),
        ("batch", ctypes.c_int64),
        ("tokens", ctypes.c_int64),
        ("heads", ctypes.c_int64),
        ("width", ctypes.c_int64),
        ("groups", ctypes.c_int64),
        ("threads", ctypes.c_int32),
    )


class NativeBlock:
    """`vggtq.network.declared.FusedForward`: x (B, N, C) float32 on the CPU, outside of training, compilation and export."""

    def __call__(self, block: Any, x: Tensor, rope: RopeTable | None) -> Tensor | None:
        if not self.takes(block, x):
            return None
        q, k, v = self.project(block, x, rope)
        return self.finish(block, x, attend(q, k, v, block.attn.attention_dtype))

    def takes(self, block: Any, x: Tensor) -> bool:
        if type(x) is not Tensor or x.dtype != torch.float32 or x.device.type != "cpu":
            return False
        if torch.compiler.is_compiling() or (torch.is_grad_enabled() and _learns(block, x)):
            return False
        return not _hooked(block.attn, block.mlp, block.ls1, block.ls2)

    def project(self, block: Any, x: Tensor, rope: RopeTable | None) -> tuple[Tensor, Tensor, Tensor]:
        attn, (batch, tokens, _) = block.attn, x.shape
        qkv = _linear(attn.qkv, x.reshape(batch * tokens, -1), norm=block.norm1)
        return _turned(qkv.view(batch, tokens, 3, attn.heads, -1), attn, rope)

    def finish(self, block: Any, x: Tensor, seen: Tensor) -> Tensor:
        mlp, count = block.mlp, x.shape[0] * x.shape[1]
        seen = seen.transpose(1, 2).reshape(count, -1)
        rows = _linear(block.attn.proj, seen, gamma=_gamma(block.ls1), residual=x.reshape(count, -1))
        hidden = _linear(mlp.fc1, rows, norm=block.norm2, gelu=True)
        return _linear(mlp.fc2, hidden, gamma=_gamma(block.ls2), residual=rows).view(x.shape)


native_block = NativeBlock()


def _learns(block: nn.Module, x: Tensor) -> bool:
    return x.requires_grad or any(parameter.requires_grad for parameter in block.parameters())


def _gamma(scale: Any) -> Tensor | None:
    """The factors of a LayerScale; None for a block without, where an identity stands."""
    return None if type(scale) is nn.Identity else scale.gamma


def _linear(
    layer: nn.Module,
    rows: Tensor,
    norm: nn.LayerNorm | None = None,
    gelu: bool = False,
    gamma: Tensor | None = None,
    residual: Tensor | None = None,
) -> Tensor:
    """residual + gamma · GELU(layer(norm(rows))), whatever of it there is. rows: (T, in)."""
    known = norm is None or _known(norm)
    if type(layer) is not NativeLinear or layer.in_features % BLOCK or not known or _hooked(layer, norm):
        out = layer(rows if norm is None else norm(rows))
        out = F.gelu(out) if gelu else out
        out = out if gamma is None else out * gamma
        return out if residual is None else residual + out
    named = {"gamma": gamma, "residual": residual}
    if norm is not None:
        named |= {"norm_weight": norm.weight, "norm_bias": norm.bias}
    kept = {name: _float32(tensor) for name, tensor in named.items() if tensor is not None}
    around = Around(gelu=gelu, epsilon=0.0 if norm is None else norm.eps)
    for name, tensor in kept.items():
        setattr(around, name, tensor.data_ptr())
    return surrounded(around, rows.contiguous(), *layer.arguments())


def _known(norm: nn.Module) -> bool:
    """Whether it is a LayerNorm over the last axis with a weight and a bias."""
    plain = type(norm) is nn.LayerNorm and len(norm.normalized_shape) == 1
    return plain and norm.weight is not None and norm.bias is not None


def _float32(tensor: Tensor) -> Tensor:
    return tensor.to(torch.float32).contiguous()


def _hooked(*modules: nn.Module | None) -> bool:
    """Whether a module has hooks, and has to be called for them."""
    return any(module and (module._forward_hooks or module._forward_pre_hooks) for module in modules)


def _turned(qkv: Tensor, attn: Any, rope: RopeTable | None) -> tuple[Tensor, Tensor, Tensor]:
    """Queries, keys and values, (B, H, N, d) each, the first two behind norm and angles. qkv: (B, N, 3, H, d), overwritten."""
    native, norms, groups = library(), (attn.q_norm, attn.k_norm), attn.rope_groups
    q, k, v = qkv.permute(2, 0, 3, 1, 4)
    plain = all(isinstance(norm, nn.Identity) for norm in norms)
    if rope is None and plain:
        return q, k, v
    known = all(_known(norm) and not _hooked(norm) for norm in norms)
    if native is None or qkv.shape[-1] % (2 * groups * native.lanes) or not (plain or known):
        q, k = norms[0](q), norms[1](k)
        return (q, k, v) if rope is None else (apply_rope(q, rope, groups), apply_rope(k, rope, groups), v)
    learned = [None if plain else _float32(torch.cat([norm.weight, norm.bias])) for norm in norms]
    _rotate(native, qkv, learned, [0.0 if plain else norm.eps for norm in norms], rope, groups)
    return q, k, v


def _rotate(
    native: Library,
    qkv: Tensor,
    learned: list[Tensor | None],
    epsilons: list[float],
    rope: RopeTable | None,
    groups: int,
) -> None:
    """vggtq_rotate of interface.h, in place. learned: weight and bias, (2 · d,), of the norms of queries and of keys."""
    angles = [None, None] if rope is None else [_float32(part) for part in rope]
    pointers = [None if t is None else t.data_ptr() for t in (*learned, *angles)]
    (batch, tokens, _, heads, width), threads = qkv.shape, torch.get_num_threads()
    sizes = (batch, tokens, heads, width, groups, threads)
    native.rotate(Rotation(qkv.data_ptr(), *pointers[:2], *epsilons, *pointers[2:], *sizes))


def native_unit(unit: Any, x: Tensor) -> Tensor | None:
    """u + conv2(ReLU(conv1(u))) with u = ReLU(x), or x in front. ReLU and the sum are part of the two convolutions.

    x: (M, C, H, W) float32. None without native convolutions or with hooks, where the unit's own forward has to compute.
    """
    convs = (unit.conv1, unit.conv2)
    if type(x) is not Tensor or x.dtype != torch.float32 or torch.compiler.is_compiling() or _hooked(*convs):
        return None
    if (torch.is_grad_enabled() and x.requires_grad) or not _convolves_natively(unit):
        return None
    hidden = unit.conv1.rows.convolve(x, INPUTS | OUTPUTS)
    out: Tensor = unit.conv2.rows.convolve(hidden, 0 if unit.plain_skip else RESIDUAL, x)
    return out


def _convolves_natively(unit: Any) -> bool:
    convs = (unit.conv1, unit.conv2)
    return all(isinstance(conv, QuantConv) and isinstance(conv.rows, NativeConv) for conv in convs)


def use_native_blocks_(model: nn.Module) -> list[str]:
    """Lets blocks and units that declare it compute themselves so, where their layers are native; returns their names."""
    native = any(type(module) is NativeLinear for module in model.modules()) and is_right()
    blocks = set_fused_forward_(model, native_block if native else None)
    names = blocks if native else []
    for name, unit in residual_units(model):
        fused = _convolves_natively(unit)
        unit.fused_forward = native_unit if fused else None  # type: ignore[assignment]
        names += [name] if fused else []
    return names


@functools.cache
def is_right() -> bool:
    """Whether what surrounds products gives what torch gives on a small case; a line in the log says if not."""
    with torch.device("cpu"), torch.no_grad():
        right = _surroundings_are_right() and _rotation_is_right()
    if not right:
        log.warning("blocks run on their modules: what surrounds native products gave a wrong result here")
    return right


def _surroundings_are_right() -> bool:
    _, layer, x = small_product(Weights(), rounded=True, columns=2 * BLOCK)
    norm, generator = nn.LayerNorm(2 * BLOCK, eps=1e-3), torch.Generator().manual_seed(0)
    for parameter in norm.parameters():  # so small that outputs lie where GELU bends
        parameter.normal_(0, 1e-3, generator=generator)
    gamma, residual = (torch.randn(*shape, generator=generator) for shape in ((35,), (len(x), 35)))
    found = _linear(layer, x, norm, True, gamma, residual)
    wanted = residual + F.gelu(layer(norm(x))) * gamma
    # A code differs by one now and then, where LayerNorm differs in its last bits.
    return bool((found - wanted).norm() < 0.01 * wanted.norm())


def _rotation_is_right() -> bool:
    native, generator, width = library(), torch.Generator().manual_seed(0), 64
    if native is None:
        return False
    qkv = torch.randn(2, 5, 3, 2, width, generator=generator)
    norms = [torch.randn(2 * width, generator=generator) for _ in range(2)]
    angles = torch.randn(5, width, generator=generator)
    rope = angles.cos(), angles.sin()
    q, k, v = qkv.clone().permute(2, 0, 3, 1, 4)
    wanted = [
        apply_rope(F.layer_norm(x, (width,), norm[:width], norm[width:], 1e-5), rope, 2)
        for x, norm in zip((q, k), norms, strict=True)
    ]
    _rotate(native, qkv, [*norms], [1e-5, 1e-5], rope, 2)
    found = qkv.permute(2, 0, 3, 1, 4)
    near = (torch.allclose(*pair, rtol=1e-4, atol=1e-4) for pair in zip(found, (*wanted, v), strict=True))
    return all(near)
