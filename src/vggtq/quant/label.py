"""How tables call a scheme: its numbers, then its methods, then what is said of inputs."""

from typing import TYPE_CHECKING

from vggtq.quant.numbers import FLOAT4, FLOAT8

if TYPE_CHECKING:
    from vggtq.quant.scheme import Scheme


def scheme_label(scheme: "Scheme") -> str:
    """E.g. `INT4 group 64` or `W8A8 static per-channel symmetric, inputs per-tensor asymmetric MSE`."""
    inputs = scheme.activations.label
    return " ".join(_label_parts(scheme)) + (f", {inputs}" if inputs else "")


def _label_parts(scheme: "Scheme") -> list[str]:
    weights = scheme.weights
    granularity = "per-tensor" if weights.granularity == "per_tensor" else "per-channel"
    if weights.format == FLOAT8:
        return ["FP8", "weights" if scheme.activations.mode == "none" else "dynamic", granularity]
    if weights.format in FLOAT4:
        rounded = [] if scheme.activations.mode == "none" else ["W4A4"]
        return [weights.format.upper(), *rounded, *_method_labels(scheme)]
    if weights.is_float:
        return [{"float32": "FP32", "float16": "FP16", "bfloat16": "BF16"}[weights.format]]
    bits, mixed = str(weights.bits), ""
    if scheme.mixed.sensitive:
        bits, mixed = f"{scheme.mixed.normal_bits or weights.bits}/{scheme.mixed.sensitive_bits}", "mixed "
    parts = [f"{mixed}INT{bits}"]
    if scheme.activations.mode != "none":
        parts = [f"{mixed}W{bits}A{scheme.activations.bits} {scheme.activations.mode}"]
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
