"""All facts about a metric in one entry: its computation, the better direction, how and where it is shown.

Imports no torch, because the report reads entries, too.
"""

import math
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any

from vggtq.errors import ConfigError, check_choice
from vggtq.network.outputs import OUTPUTS

TABLED = ("depth", "world_points")  # of a metric of every output, tables show these two
REFERENCES = ("fp32", "bf16")  # that speed is measured against
GRADES = ("excellent", "good", "acceptable", "poor")
HIGHER, LOWER, NEITHER = 1, -1, 0  # which way is better
ALIGNMENTS = ("median", "lstsq", "none")  # of predicted depth with the true one
# Where a metric may be shown; the text report and the files for computing have all.
PLACES = ("terminal", "table", "page", "paper")

# The inputs of a metric (its function's arguments), and the place of its value in the record; in the order of
# tables.
SCOPES = {
    "size": "no function: bytes and counts of the record's size.<key>",
    "latency": "no function: latency.references.<reference>.<key>",
    "run": "no function: made of other numbers by the report's rows",
    "output": "sums over all frames of one output (fidelity.OutputSums) → fidelity.<output>.<key>",
    "frame": "one frame of one output, quantized and FP32; the mean over frames → fidelity.<output>.<key>",
    "cameras": "angles between the cameras of both models (fidelity.CameraSums) → fidelity.pose.<key>",
    "pose": "rotation and translation errors of all pairs of a scene, degrees → geometry.<model>.pose.<key>",
    "depth": "aligned and true depth of a scene's valid pixels → geometry.<model>.depth.<key>",
    "points": "distances between aligned and true points (points.Distances) → geometry.<model>.points.<key>",
    "scene": "all outputs of a scene and its ground truth → geometry.<model>.scene.<key>",
}
FIDELITY, TRUTH = ("output", "frame"), ("pose", "depth", "points", "scene")
NOT_MEASURED = ("size", "latency", "run")  # by `vggtq.metrics`


@dataclass(frozen=True)
class Metric:
    """One number that runs are compared by.

    key: its name in the record, an identifier. meaning: one line, for readers of the CSV. label: English and Chinese, as within
    a sentence. best: the value of identical outputs, where that is known. unit MiB: values are
    bytes. decimals: None for three significant digits. limits:
    of the first three grades, inclusive. outputs: those that it is measured of, or from; empty for all. truth: the fields of
    `vggtq.data.scene.GroundTruth` that scope `scene` needs. shown: PLACES. headline: tables show its mean over the
    five outputs, and grades are taken of it. Raises ConfigError.
    """

    key: str
    scope: str
    function: Callable[..., Any] | None = None
    meaning: str = ""
    direction: int = LOWER
    label: tuple[str, str] = ("", "")
    unit: str = ""
    decimals: int | None = None
    best: float | None = None
    limits: tuple[float, float, float] | None = None
    outputs: tuple[str, ...] = ()
    truth: tuple[str, ...] = ()
    shown: tuple[str, ...] = ()
    headline: bool = False

    def __post_init__(self) -> None:
        if not self.key.isidentifier():
            raise ConfigError(f"metric {self.key!r}: its key is a name of letters, digits and underscores")
        for name, values, known in (
            ("scope", (self.scope,), SCOPES),
            ("shown", self.shown, PLACES),
            ("outputs", self.outputs, OUTPUTS),
        ):
            for value in values:
                check_choice(f"metric {self.key}: {name}", value, known)
        if self.direction not in (HIGHER, LOWER, NEITHER):
            raise ConfigError(
                f"metric {self.key}: direction={self.direction} is not HIGHER, LOWER or NEITHER"
            )

    @property
    def name(self) -> str:
        """The name, e.g. mae or pose.auc_30; for a metric against ground truth also the path in the record."""
        if self.scope == "cameras":
            return f"pose.{self.key}"
        return f"{self.scope}.{self.key}" if self.scope in TRUTH else self.key

    @property
    def columns(self) -> tuple[str, ...]:
        """Its columns in the comparison, those of the quantized model where there is one for each model."""
        if self.scope in FIDELITY:
            return tuple(f"{output}.{self.key}" for output in self.outputs or OUTPUTS)
        if self.scope == "latency":
            return tuple(f"{reference}.{self.key}" for reference in REFERENCES)
        return (f"geometry.quantized.{self.name}",) if self.scope in TRUTH else (self.name,)

    def measures(self, output: str) -> bool:
        """Whether an output has this score."""
        return not self.outputs or output in self.outputs

    @property
    def titles(self) -> tuple[str, str]:
        """The label in English and Chinese; its key where it has none."""
        return (self.label[0] or self.key, self.label[1] or self.label[0] or self.key)

    @property
    def worst(self) -> float:
        """The score of a prediction that failed, so that it cannot drop out of a mean over scenes."""
        return 0.0 if self.direction == HIGHER else math.inf

    def grade(self, value: float | None) -> str | None:
        """The grade of one value; None for metrics without limits and for None. NaN is poor."""
        if self.limits is None or value is None:
            return None
        for name, limit in zip(GRADES, self.limits, strict=False):
            if value >= limit if self.direction == HIGHER else value <= limit:
                return name
        return GRADES[-1]

    def described(self) -> dict[str, Any]:
        """The record of a metric from outside of this package: all but the function, as plain values."""
        values = asdict(self)
        del values["function"]
        return {key: list(value) if isinstance(value, tuple) else value for key, value in values.items()}


def from_description(values: Mapping[str, Any]) -> Metric:
    """The entry that `described` made these values of, without its function. ConfigError or TypeError where it is none."""
    names = {field.name for field in fields(Metric)}
    known: dict[str, Any] = {
        key: tuple(v) if isinstance(v, list) else v for key, v in values.items() if key in names
    }
    return Metric(**known)
