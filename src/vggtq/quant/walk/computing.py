"""The dtypes of what a scheme does not quantize: scaled dot products, dense heads, and products with float inputs. Norms
stay in float32.
"""

import logging
from dataclasses import replace

import torch
from torch import nn

from vggtq.machine.device import has_bf16
from vggtq.network.attention import set_attention_
from vggtq.network.heads import set_heads_
from vggtq.network.native_attention import has_bfloat16_attention, int8_problem
from vggtq.quant.kernels.cpu.native_linear import NativeLinear
from vggtq.quant.scheme.scheme import Scheme

log = logging.getLogger(__name__)


def resolved_compute(scheme: Scheme, device: torch.device) -> str:
    """`scheme.compute`; auto is bfloat16 on CPUs that multiply it in hardware, for schemes that round inputs, else float32.

    Schemes with float inputs are compared with FP32 for their weights alone, and GPUs have dtypes of their own.
    """
    if scheme.compute != "auto":
        return scheme.compute
    rounded = scheme.activations.mode != "none"
    return "bfloat16" if rounded and device.type == "cpu" and has_bf16(device) else "float32"


def choose_computing_(
    model: nn.Module, scheme: Scheme, device: torch.device, loaded: bool = False
) -> list[str]:
    """Sets these dtypes; returns what to tell the user of them.

    loaded: from a file, which int8 attention of another machine must not keep from loading.
    """
    compute, attention = resolved_compute(scheme, device), scheme.attention
    problem = int8_problem(device) if loaded and attention == "int8" else None
    if compute != "float32" and (problem or attention == "float32"):
        attention = compute
    elif problem:
        attention = "float32"
    modules, heads, layers = (
        set_attention_(model, attention),
        set_heads_(model, compute),
        _set_products(model, compute),
    )
    notes = []
    if problem:
        log.warning("the scaled dot products run in %s instead of int8: %s", attention, problem)
        notes += [
            f"scaled dot products of {modules} attention modules run in {attention} instead of int8: {problem}"
        ]
    elif attention != "float32" and modules:
        native = attention == "bfloat16" and device.type == "cpu" and has_bfloat16_attention()
        kernels = " on native kernels" if native else ""
        notes += [f"scaled dot products of {modules} attention modules run in {attention}{kernels}"]
    if layers:
        notes += [f"{layers} layers with float inputs multiply in {compute}"]
    return notes + ([f"{heads} dense heads multiply in {compute}"] if compute != "float32" and heads else [])


def leave_to_engine_(model: nn.Module, scheme: Scheme, format_: str) -> None:
    """Undoes what `scheme.compute` has chosen for torch on this CPU, before a file of another engine is made: that engine
    chooses a dtype when it loads the file. torch itself runs format=torch_export.
    """
    if format_ != "torch_export":
        choose_computing_(model, replace(scheme, compute="float32"), torch.device("cpu"))


def _set_products(model: nn.Module, compute: str) -> int:
    """Tells layers on native kernels; returns how many with float inputs multiply in bfloat16 now."""
    layers = [module for module in model.modules() if isinstance(module, NativeLinear)]
    for layer in layers:
        layer.multiply_in(compute)
    return sum(layer.in_bfloat16 for layer in layers)
