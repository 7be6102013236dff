"""Measures what rounding each layer to each width costs the outputs."""

from collections.abc import Iterator
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from vggtq.config.schema import Config
from vggtq.quant.scheme.parts import Mixed
from vggtq.terminal.progress import Steps

if TYPE_CHECKING:
    from vggtq.models.loading import LoadedModel
    from vggtq.prepare.samples import Samples
    from vggtq.quant.bits.sensitivity import Sensitivities


def measure(config: Config, check: bool, steps: Steps) -> "tuple[Sensitivities, list[dict[str, Any]]]":
    """Loads the model, and measures on the calibration samples; with `check` also what `additivity` says of the result.

    Raises VggtqError.
    """
    from vggtq.prepare.find_bits import measured
    from vggtq.prepare.quantized import prepared

    source = prepared(config, steps)
    model, samples = source.model, source.samples
    assert samples is not None  # a scheme with candidates needs them
    steps.step("measuring what the bits of each layer cost")
    sensitivities, _ = measured(config, model, samples, steps)
    return sensitivities, list(additivity(config, model, samples, sensitivities, steps)) if check else []


def additivity(
    config: Config, model: "LoadedModel", samples: "Samples", sensitivities: "Sensitivities", steps: Steps
) -> Iterator[dict[str, Any]]:
    """For each width what its bytes buy, spent evenly and as found: mean relative error, predicted and real.

    Both on the calibration samples, so that what they differ in is the assumption that errors of layers add.
    """
    import torch

    from vggtq.models.loading import share_parameters
    from vggtq.prepare.find_bits import OutputErrors
    from vggtq.quant.bits.allocate import allocate
    from vggtq.quant.walk.quantize import quantize_
    from vggtq.quant.walk.stored import stored_bytes

    errors = OutputErrors(model, samples.images)
    for k, bits in enumerate(sensitivities.bits):
        steps.step(f"checking {bits} bits")
        weights = replace(config.scheme.weights, bits=bits)
        auto = allocate(replace(config.scheme, weights=weights), sensitivities)
        even = replace(config.scheme, weights=weights, mixed=Mixed())
        row: dict[str, Any] = {"bits": bits}
        predicted = {
            "even": {o: float(e[:, k].sum()) ** 0.5 for o, e in sensitivities.errors.items()},
            "found": auto.predicted,
        }
        for name, scheme in (("even", even), ("found", auto.scheme)):
            twin = share_parameters(model.module)
            quantize_(twin, scheme, calibrate=samples.inputs)
            squared = list(errors(twin).values())
            real = [error**0.5 for error in squared]
            row[f"{name}_stored_bytes"] = stored_bytes(twin, getattr(torch, config.rest))
            row[f"{name}_predicted"] = sum(predicted[name].values()) / len(real)
            row[f"{name}_real"] = sum(real) / len(real)
            row[f"{name}_real_squared"] = sum(squared) / len(real)
        yield row


def rows_of(sensitivities: "Sensitivities") -> list[dict[str, Any]]:
    """One row per layer and width, in the order of the network: names, weights, stored bytes, relative errors."""
    relative = {name: errors.sqrt() for name, errors in sensitivities.errors.items()}
    rows = []
    for u, names in enumerate(sensitivities.layers):
        for k, bits in enumerate(sensitivities.bits):
            errors = {name: float(values[u, k]) for name, values in relative.items()}
            row = {"layer": " + ".join(names), "weights": int(sensitivities.weights[u]), "bits": bits}
            row["stored_bytes"] = int(sensitivities.bytes[u, k])
            row["mean_relative_error"] = sum(errors.values()) / len(errors)
            rows.append(row | {f"{name}.relative_error": error for name, error in errors.items()})
    return rows
