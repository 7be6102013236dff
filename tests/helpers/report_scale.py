"""Thousands of records of the size that vggt_mini's runs leave, to measure the report by hand:

PYTHONPATH=tests python -m helpers.report_scale FOLDER 10000 && python -m vggtq.report FOLDER report.out=REPORT
"""

import json
import random
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from helpers.report_records import change, failed, fp32, record

SCENES = 4
LAYERS = 55  # as many as int4_group quantizes in vggt_mini
GROUP_SIZES = (16, 32, 64, 128, 256)


def records(count: int, seed: int = 0) -> Iterator[dict[str, Any]]:
    """FP32 and `count - 1` others on two devices: bits, group sizes and seeds in turn, every hundredth failed."""
    draw = random.Random(seed)
    yield fp32()
    for i in range(1, count):
        bits, size, own_seed = 2 + i % 7, GROUP_SIZES[i // 7 % 5], i // 35
        label = f"INT{bits} group {size}"
        changes = {"config_hash": f"{i:012x}", "name": f"int{bits}-g{size}-{i:08x}"}
        changes |= {"config": config(bits, size, own_seed), "command": f"python -m vggtq.run seed={own_seed}"}
        if i % 100 == 0:
            yield failed(label) | changes
            continue
        error = 0.4 * 2.0**-bits * (size / 64) ** 0.3 * draw.lognormvariate(0, 0.2)
        speed = None if i % 5 == 4 else draw.uniform(0.6, 1.8)
        made = record(label, bits + 16 / size, error, speed, simulated=i % 4 == 2, **changes)
        made = change(made, scheme__bits=bits, scheme__group_size=size, scheme__granularity="group")
        made["layers"] = [layer(j, bits, size, draw) for j in range(LAYERS)]
        made["geometry"] |= {"scenes": [scene(j, error, draw) for j in range(SCENES)]}
        if i % 3 == 0:
            made["environment"] |= {"device": "cuda", "gpu": "Test GPU"}
        yield made


def config(bits: int, size: int, seed: int) -> dict[str, Any]:
    weights = {"format": "int", "bits": bits, "symmetric": True, "granularity": "group", "group_size": size}
    unused = {f"option_{i}": {f"value_{j}": i * j for j in range(6)} for i in range(12)}
    return {"scheme": {"name": "int4_group", "weights": weights}, "seed": seed, "scenes": SCENES} | unused


def layer(index: int, bits: int, size: int, draw: random.Random) -> dict[str, Any]:
    sizes = {"stored_bytes": 64512, "resident_bytes": 71424, "float32_bytes": 444672}
    numerics = {"format": "int", "bits": bits, "symmetric": True, "granularity": "group", "group_size": size}
    measured = {
        "backend": "blocked",
        "simulated": False,
        "weight_sqnr_db": 6 * bits + draw.random(),
        "notes": [],
    }
    name = f"aggregator.frame_blocks.{index // 4}.attn.part_{index % 4}"
    whole = {"name": name, "type": "Linear", "shape": [576, 192], "activation_bits": None, "rotation": 0}
    return whole | sizes | numerics | measured | {"scale_dtype": "float16", "exact": False}


def scene(index: int, error: float, draw: random.Random) -> dict[str, Any]:
    """Per-scene values of both models, with as many metrics as a run has."""

    def side(loss: float) -> dict[str, Any]:
        pose = {f"rra_{k}": draw.random() for k in (5, 15, 30)} | {
            f"auc_{k}": 0.9 - loss for k in (3, 10, 30)
        }
        depth = {"abs_rel": 0.1 + loss, "delta_1_25": 0.9, "rmse": 0.3, "valid_pixels": 28224}
        points = {
            "accuracy": 0.15,
            "completeness": 0.09,
            "overall": 0.12 + loss,
            "points": 22580,
            "icp": False,
        }
        return {"pose": pose, "depth": depth, "points": points}

    return {"scene": f"room-{index}", "quantized": side(error * draw.random()), "reference": side(0.0)}


def main() -> None:
    folder, count = Path(sys.argv[1]), int(sys.argv[2])
    for i, made in enumerate(records(count)):
        run = folder / f"run_{i:05d}"
        run.mkdir(parents=True)
        (run / "result.json").write_text(json.dumps(made, indent=1), encoding="utf-8")


if __name__ == "__main__":
    main()
