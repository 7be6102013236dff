"""How tables call a scheme: numbers, what shares a scale, methods, e.g. `INT4 group 64 GPTQ`, `auto 3.9 bits group 64`."""

from typing import TYPE_CHECKING

from vggtq.quant.numbers import FLOAT4, FLOAT8

if TYPE_CHECKING:
    from vggtq.quant.scheme import Scheme

_FLOATS = {"float32": "FP32", "float16": "FP16", "bfloat16": "BF16"}


def label_of(scheme: "Scheme") -> str:
    """What one scheme is called."""
    return _called(scheme, _widths(scheme))


def family_of(scheme: "Scheme") -> str:
    """The label without its bits, e.g. `INTn group 64`: schemes of one family are points of one curve."""
    return _called(scheme, "n")


def _called(scheme: "Scheme", widths: str) -> str:
    attention = "" if scheme.attention == "float32" else f"attention {_FLOATS[scheme.attention]}"
    parts = (" ".join([_numbers(scheme, widths), *_recipe(scheme)]), scheme.activations.label, attention)
    return ", ".join(part for part in parts if part)


def _widths(scheme: "Scheme") -> str:
    """Bits of the weights; nothing before they are found."""
    mixed = scheme.mixed
    if mixed.candidates:
        return f"{mixed.mean_bits:.1f}" if mixed.mean_bits is not None else ""
    if mixed.bits:
        return "/".join(map(str, sorted(set(mixed.bits.values()))))
    if mixed.sensitive:
        return f"{mixed.normal_bits or scheme.weights.bits}/{mixed.sensitive_bits}"
    return str(scheme.weights.bits)


def _numbers(scheme: "Scheme", widths: str) -> str:
    """Format and bits, first of all of weights."""
    weights, mixed = scheme.weights, scheme.mixed
    if weights.format == FLOAT8:
        return "FP8"
    if weights.format in FLOAT4:
        return weights.format.upper() + (" W4A4" if scheme.activations.mode != "none" else "")
    if weights.is_float:
        return _FLOATS[weights.format]
    inputs = scheme.activations
    rounded = f"A{inputs.bits} {inputs.mode}" if inputs.mode != "none" else ""
    if mixed.candidates:
        return " ".join(part for part in ("auto", widths and f"{widths} bits", rounded) if part)
    kind = "mixed " if mixed.given else ""
    return f"{kind}W{widths}{rounded}" if rounded else f"{kind}INT{widths}"


def _recipe(scheme: "Scheme") -> list[str]:
    """What shares a scale, and the methods."""
    weights = scheme.weights
    granularity = "per-tensor" if weights.granularity == "per_tensor" else "per-channel"
    if weights.format == FLOAT8:
        return ["weights" if scheme.activations.mode == "none" else "dynamic", granularity]
    if weights.format in FLOAT4:
        return _methods(scheme)
    if weights.is_float:
        return []
    parts = []
    if weights.granularity == "group":
        parts.append("whole-row groups" if weights.group_size is None else f"group {weights.group_size}")
    else:
        parts.append(granularity)
    # Symmetric is the default of groups, asymmetric is worth saying; at 8 bits both are common, so both are said.
    if not weights.symmetric:
        parts.append("asymmetric")
    elif weights.granularity != "group":
        parts.append("symmetric")
    return [*parts, *_methods(scheme)]


def _methods(scheme: "Scheme") -> list[str]:
    names = {
        "mse": "MSE",
        "hqq": "HQQ",
        "gptq": "GPTQ",
        "smooth": "SmoothQuant",
        "balance": "balanced",
        "awq": "AWQ",
        "sinkhorn": "SINQ",
    }
    methods = (scheme.transform.scale, scheme.rounding.method)
    labels = [names[method] for method in methods if method in names]
    if scheme.transform.hadamard:
        labels.insert(0 if scheme.scales_rotated else len(labels), "Hadamard")
    labels += [f"rank {scheme.compensation.rank}"] if scheme.compensation.rank else []
    return [*labels, "QAT"] if scheme.finetune.steps else labels
