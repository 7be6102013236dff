"""Runs with hostile names, failures, two groups and kept geometry, as folders: what the tests of the page look at."""

import json
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from helpers.report_records import change, failed, fp32, record, refused, with_scenes
from vggtq.data.scene import Scene
from vggtq.geometry import encode_pose
from vggtq.records.preview import Preview

HOSTILE = "<script>alert(1)</script>"
SIZE = (28, 42)
FRAMES = 3


def scene(name: str = "room") -> Scene:
    return Scene(name, torch.rand(FRAMES, 3, *SIZE, generator=torch.Generator().manual_seed(0)))


def outputs(error: float) -> dict[str, Tensor]:
    """A tilted wall, seen by three cameras side by side; `error` moves a corner of it."""
    height, width = SIZE
    rows = torch.linspace(2, 3, height)[:, None].expand(height, width)
    depth = rows[None].repeat(FRAMES, 1, 1)
    depth[:, : height // 2, : width // 2] += error
    extrinsics = torch.eye(4)[:3].repeat(FRAMES, 1, 1)
    extrinsics[:, 0, 3] = torch.arange(FRAMES) * -0.2 * (1 + error)
    intrinsics = torch.tensor([[40.0, 0, width / 2], [0, 40.0, height / 2], [0, 0, 1]]).repeat(FRAMES, 1, 1)
    made = {"depth": depth[..., None], "pose_enc": encode_pose(extrinsics, intrinsics, SIZE)}
    confidence = torch.rand(FRAMES, *SIZE, generator=torch.Generator().manual_seed(1))
    return made | {"world_points_conf": confidence, "depth_conf": confidence}


def preview(folder: Path, error: float, name: str = "room", count: int = 1) -> str:
    kept = Preview()
    for i in range(count):
        kept.add(scene(f"{name}{i or ''}"), outputs(0.0), outputs(error))
    written = kept.write(folder / "preview.safetensors")
    assert written
    return written


def layers(ratio: float) -> list[dict[str, Any]]:
    names = [f"aggregator.blocks.{i}.attn" for i in range(12)] + ["camera_head.proj"]
    return [
        {"name": name, "weight_sqnr_db": ratio - i, "exact": False}
        for i, name in enumerate(names)
    ] + [{"name": "exact", "weight_sqnr_db": None, "exact": True}]  # fmt: skip


def grouped(size: int, error: float, speedup: float | None = None, **changes: Any) -> dict[str, Any]:
    made = record(f"INT4 group {size}", 4 + 16 / size, error, speedup, layers=layers(20.0), **changes)
    overrides = (
        f"python -m vggtq.run +experiment=eight_schemes scheme=int4_group group_size={size} hydra.mode=RUN"
    )
    return change(
        made,
        scheme__name="int4_group",
        scheme__group_size=size,
        scheme__granularity="group",
        scheme__bits=4,
        command=overrides,
    )


def records() -> list[dict[str, Any]]:
    """FP32, per-channel and grouped schemes, one of them simulated, one hostile, one failed; one on another device, one of
    another network, and one that was refused.
    """
    named = change(record(HOSTILE, 6, 0.2, layers=layers(15.0)), scheme__name=HOSTILE)
    named["name"] = "hostile"
    named["dataset"]["scenes"][0]["name"] = HOSTILE
    named["command"] = f"python -m vggtq.run scene='{HOSTILE}'"
    return [
        with_scenes(fp32(), 0.0, 1),
        record(layers=layers(40.0), config={"seed": 7, "note": HOSTILE}),
        named,
        grouped(16, 0.02),
        grouped(64, 0.05, 0.8, simulated=True),
        failed(message=f"bad {HOSTILE}"),
        record("INT8 GPU", environment__device="cuda", environment__gpu="H200", layers=[]),
        with_scenes(record("INT8 of Pi3", layers=[], model__name="pi3", model__fingerprint="9" * 16), 0.1, 1),
        refused(),
    ]


def runs(folder: Path) -> Path:
    """Each record in a run folder, those of the first group with their geometry."""
    for i, made in enumerate(records()):
        run = folder / (f"run_{i}" if i != 2 else HOSTILE.replace("/", "_"))
        run.mkdir(parents=True)
        if (
            made["status"] == "ok"
            and made["environment"]["device"] == "cpu"
            and made["model"]["name"] != "pi3"
        ):
            made["preview"] = preview(run, 0.1 * i, HOSTILE if i == 2 else "room", 2 if i == 1 else 1)
        (run / "result.json").write_text(json.dumps(made), encoding="utf-8")
    return folder
