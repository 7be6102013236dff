"""How tables call a scheme: its numbers, then its methods, then what is said of inputs."""

from typing import TYPE_CHECKING

from vggtq.quant.numbers import FLOAT4, FLOAT8

if TYPE_CHECKING:
    from vggtq.quant.scheme import Scheme

_FLOATS = {"float32": "FP32", "float16": "FP16", "bfloat16": "BF16"}


def scheme_label(scheme: "Scheme") -> str:
    """E.g. `INT4 group 64` or `W8A8 static per-channel symmetric, inputs per-tensor asymmetric MSE`."""
    return _called(scheme, _widths(scheme))


def scheme_family(scheme: "Scheme") -> str:
    """The label without its bits, e.g. `INTn group 64`: schemes of one family are points of one curve."""
    return _called(scheme, "n")


def _called(scheme: "Scheme", widths: str) -> str:
    attention = "" if scheme.attention == "float32" else f"attention {_FLOATS[scheme.attention]}"
    parts = (" ".join(_label_parts(scheme, widths)), scheme.activations.label, attention)
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


def _integers(scheme: "Scheme", widths: str) -> str:
    inputs = scheme.activations
    rounded = f"A{inputs.bits} {inputs.mode}" if inputs.mode != "none" else ""
    if scheme.mixed.candidates:
        return " ".join(part for part in ("auto", widths and f"{widths} bits", rounded) if part)
    kind = "mixed " if scheme.mixed.given else ""
    return f"{kind}W{widths}{rounded}" if rounded else f"{kind}INT{widths}"


def _label_parts(scheme: "Scheme", widths: str) -> list[str]:
    weights = scheme.weights
    granularity = "per-tensor" if weights.granularity == "per_tensor" else "per-channel"
    if weights.format == FLOAT8:
        return ["FP8", "weights" if scheme.activations.mode == "none" else "dynamic", granularity]
    if weights.format in FLOAT4:
        rounded = [] if scheme.activations.mode == "none" else ["W4A4"]
        return [weights.format.upper(), *rounded, *_method_labels(scheme)]
    if weights.is_float:
        return [_FLOATS[weights.format]]
    parts = [_integers(scheme, widths)]
    if weights.granularity == "group":
        parts.append("whole-row groups" if weights.group_size is None else f"group {weights.group_size}")
    else:
        parts.append(granularity)
    # Symmetric is the default of groups, asymmetric is worth saying; at 8 bits both are common, so both are said.
    if not weights.symmetric:
        parts.append("asymmetric")
    elif weights.granularity != "group":
        parts.append("symmetric")
    return parts + _method_labels(scheme)


def _method_labels(scheme: "Scheme") -> list[str]:
    names = {"mse": "MSE", "hqq": "HQQ", "gptq": "GPTQ", "smooth": "SmoothQuant", "awq": "AWQ"}
    methods = (scheme.transform.scale, scheme.rounding.method)
    labels = [names[method] for method in methods if method in names]
    return [*labels, "Hadamard"] if scheme.transform.hadamard else labels
