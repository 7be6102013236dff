"""The whole comparison in one call: one run for each scheme, a report and a folder to hand in.

`vggtq compare` and `vggtq.compare` are the same thing. Runs that are there already are not measured again.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pandas import DataFrame

USUAL = (
    "fp32",
    "int8_symmetric_per_tensor",
    "int8_symmetric_per_channel",
    "int8_asymmetric_per_tensor",
    "int8_asymmetric_per_channel",
    "int4_group128",
    "int4_group64",
    "int4_group32",
    "torch_dynamic",
)


def compare(
    model: str = "vggt_mini",
    images: Path | str | None = None,
    schemes: Sequence[str] = USUAL,
    *,
    max_images: int | None = None,
    out: Path | str = "outputs/compare",
    lang: str = "en",
    overrides: Sequence[str] = (),
) -> "DataFrame":
    """Measures the schemes and returns a table with one row for each; its columns are those of the report's comparison.csv.

    model: a name such as vggt_1b, or a checkpoint of VGGT-1B. images: a folder of photographs; None: the model's default data.
    schemes: names of schemes or variants (`vggtq run --help` lists both). overrides: further `key=value` of `vggtq run`.
    Raises ConfigError for unknown names, and DataError if no scheme could be measured.
    """
    import pandas as pd

    from vggtq.compare.runs import Options, measure_all
    from vggtq.errors import ConfigError

    given = [value for value in (images, out) if value is not None and not isinstance(value, str | Path)]
    if given:
        raise ConfigError(f"compare: {given[0]!r} is no path; images and out are folders")
    options = Options(
        str(images) if images is not None else None,
        model,
        max_images,
        _listed(schemes),
        str(out),
        lang,
        _listed(overrides),
    )
    measure_all(options)
    return pd.read_csv(Path(out) / "report" / "comparison.csv")


def _listed(names: Sequence[str] | str | None) -> list[str]:
    """One name is a list of one."""
    return [names] if isinstance(names, str) else list(names or ())
