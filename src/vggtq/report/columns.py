"""Every column of the comparison, what it means and its unit; a dotted name follows the path in the record."""

MIB = 2**20
OUTPUTS = ("pose_enc", "depth", "depth_conf", "world_points", "world_points_conf")
METRICS = {
    "mae": "mean absolute error, units of the output",
    "mse": "mean squared error",
    "rmse": "root of the mean squared error",
    "max_abs_error": "largest absolute error",
    "psnr": "peak signal-to-noise ratio, dB (empty if identical)",
    "cosine": "cosine similarity",
    "relative_error": "norm of the error over norm of the FP32 output",
    "ssim": "structural similarity, windowed",
    "cross_entropy": "cross entropy against the FP32 output, nats",
    "reference_entropy": "entropy of the FP32 output, nats",
    "kl": "Kullback-Leibler divergence from the FP32 output, nats",
}
GRADES = ("poor", "acceptable", "good", "excellent")  # worst first
POSE = (
    "rotation_deg_mean",
    "rotation_deg_max",
    "translation_deg_mean",
    "translation_deg_max",
    "fov_deg_mean",
)
GEOMETRY = (
    "pose.auc_3",
    "pose.auc_30",
    "pose.rra_5",
    "pose.rta_5",
    "depth.abs_rel",
    "depth.delta_1_25",
    "depth.rmse",
    "points.overall",
    "points.normal_consistency",
    "points.relative_error_median",
)
SIZES = {
    "stored_bytes": "bytes a checkpoint has to keep",
    "resident_bytes": "bytes as held in memory",
    "float32_bytes": "bytes of the same model in FP32",
    "float16_bytes": "bytes of the same model in FP16",
    "compression_vs_fp32": "FP32 bytes over stored bytes",
    "compression_vs_fp16": "FP16 bytes over stored bytes",
    "bits_per_weight": "stored bits over parameters",
    "quantized_layers": "layers",
    "quantized_parameters": "parameters",
    "parameters": "parameters",
}
# Of one process each, which loads a model and predicts the first scene once.
MEMORY = {
    f"memory.{side}.{name}": f"bytes, {whose} in a process of its own: {meaning}"
    for side, whose in (("quantized", "quantized model"), ("reference", "FP32 model"))
    for name, meaning in (
        ("peak_rss_bytes", "highest resident memory while loading and predicting"),
        ("rss_before_load_bytes", "resident memory of Python, torch and the images before loading"),
        ("cuda_peak_bytes", "most that torch had allocated on the GPU"),
    )
}
REFERENCES = ("fp32", "bf16")


def _columns() -> dict[str, str]:
    columns = {
        "group": "comparison group: 1 is the main one, 0 holds runs that failed before theirs was known",
        "title": "label, made unique within its group",
        "label": "name of the scheme, for tables",
        "name": "name of the run",
        "command": "repeats the run",
        "status": "ok or failed",
        "error": "type and message of a failed run",
        "started": "UTC, ISO 8601",
        "total_s": "seconds the whole run took",
        "config_hash": "first 12 hex digits of the configuration's SHA-256",
        "model": "name",
        "weights": "random, or where they came from",
        "fingerprint": "of the weights",
        "dataset": "name",
        "scenes": "number of scenes",
        "frames": "number of frames, all scenes together",
        "scenes_hash": "12 hex digits over every scene's images, frames and size",
        "device": "as the run used it",
        "hardware": "name of that GPU or CPU",
        "threads": "CPU threads",
        "scheme": "name",
        "family": "label without bits: runs that differ in bits, or in the budget for them, are one curve",
        "format": "number format of the weights",
        "bits": "per weight code; empty where they were found layer by layer",
        "mean_bits": "mean over the weights, where bits were found",
        "symmetric": "true or false",
        "granularity": "what shares one scale",
        "group_size": "weights per scale, where grouped",
        "activation_bits": "empty: float activations",
    }
    columns |= SIZES
    columns["simulated"] = "some layer ran as dequantize-then-float: its speed says nothing about the scheme"
    for reference in REFERENCES:
        name = reference.upper()
        columns[f"{reference}.speedup"] = f"median of paired ratios, {name} time over quantized time"
        columns[f"{reference}.speedup_q25"] = "lower quartile of those ratios"
        columns[f"{reference}.speedup_q75"] = "upper quartile of those ratios"
        for side in ("reference", "quantized"):
            for statistic in ("median", "q25", "q75"):
                columns[f"{reference}.{side}_ms_{statistic}"] = (
                    f"milliseconds, {side} side of the {name} pairs"
                )
    columns |= MEMORY
    columns["mean_relative_error"] = "arithmetic mean of the five relative errors"
    columns["grade"] = "worst of the five grades on relative error"
    columns["non_finite"] = "NaN or infinite values in the five outputs"
    for output in OUTPUTS:
        columns |= {f"{output}.{metric}": meaning for metric, meaning in METRICS.items()}
        columns[f"{output}.non_finite"] = "NaN or infinite values"
        columns[f"{output}.identical"] = "true if equal to the FP32 output"
        columns[f"{output}.grade"] = "grade on relative error"
    columns |= {f"pose.{name}": "degrees, against the FP32 model" for name in POSE}
    for side in ("quantized", "reference"):
        columns |= {f"geometry.{side}.{name}": "against ground truth" for name in GEOMETRY}
    for name in GEOMETRY:
        columns[f"geometry.change.{name}.mean"] = "quantized minus FP32, mean over scenes"
        columns[f"geometry.change.{name}.low"] = "lower end of its 95 % interval; empty with one scene"
        columns[f"geometry.change.{name}.high"] = "upper end of its 95 % interval"
    return columns


COLUMNS = _columns()
INTEGERS = (
    *("group", "scenes", "frames", "threads", "bits", "group_size", "activation_bits", "non_finite"),
    *("stored_bytes", "resident_bytes", "float32_bytes", "float16_bytes"),
    *("quantized_layers", "quantized_parameters", "parameters"),
    *MEMORY,
    *(f"{output}.non_finite" for output in OUTPUTS),
)
