"""Layers that differ in bits: by pattern, by name, or found within a budget. Values and their checks, nothing heavy."""

from dataclasses import dataclass, field

from vggtq.errors import ConfigError
from vggtq.quant.numbers import check_choice

INT_BITS = (*range(2, 9), 16)
SENSITIVITIES = ("jacobian", "exact")


def check_int_bits(key: str, bits: int) -> None:
    """Raises ConfigError unless `bits` is a width that can be packed."""
    if bits not in INT_BITS:
        raise ConfigError(f"{key}={bits}: integer weights have 2 to 8 or 16 bits; try bits=4 or bits=8")


@dataclass
class Mixed:
    """Mixed precision: by patterns, by name, or found (`vggtq.quant.allocate`).

    Layers that match a `sensitive` pattern get sensitive_bits, all others normal_bits. `bits` names layers with the bits of
    each. With `candidates` the bits are found before the model is quantized: those that cost its outputs least within
    `budget_mb`; they then stand in `bits`, with their mean over the weights in `mean_bits`.
    """

    sensitive: list[str] = field(default_factory=list)
    sensitive_bits: int = 8
    normal_bits: int | None = None  # None: the bits of scheme.weights
    candidates: list[int] = field(default_factory=list)
    budget_mb: float | None = (
        None  # MiB, the whole stored model; None: what it takes with the bits of scheme.weights
    )
    sensitivity: str = "jacobian"  # how the effect of a layer is measured (`vggtq.quant.sensitivity`)
    bits: dict[str, int] = field(default_factory=dict)
    mean_bits: float | None = None

    def __post_init__(self) -> None:
        check_int_bits("scheme.mixed.sensitive_bits", self.sensitive_bits)
        if self.normal_bits is not None:
            check_int_bits("scheme.mixed.normal_bits", self.normal_bits)
        for key, widths in (("candidates", self.candidates), ("bits", self.bits.values())):
            for bits in widths:
                check_int_bits(f"scheme.mixed.{key}", bits)
        check_choice("scheme.mixed.sensitivity", self.sensitivity, SENSITIVITIES)
        if len(set(self.candidates)) != len(self.candidates):
            raise ConfigError(f"scheme.mixed.candidates={self.candidates}: name each width once")
        if self.budget_mb is not None and not self.budget_mb > 0:
            raise ConfigError(
                f"budget_mb={self.budget_mb:g}: a model takes more than 0 MiB; try half of what it has in FP16"
            )
        if self.budget_mb is not None and not self.candidates:
            raise ConfigError(
                f"budget_mb={self.budget_mb:g} without scheme.mixed.candidates: there are no bits to choose from; "
                f"use scheme=auto_mixed"
            )
        if self.sensitive and (self.candidates or self.bits):
            raise ConfigError(
                f"scheme.mixed.sensitive={self.sensitive} beside scheme.mixed.{'candidates' if self.candidates else 'bits'}: "
                f"bits are given by patterns or found, not both; leave one out"
            )

    @property
    def given(self) -> bool:
        """Whether layers differ in bits, or will."""
        return bool(self.sensitive or self.candidates or self.bits)
