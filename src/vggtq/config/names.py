"""The identity of a configuration: plain values, their hash, and the name of a run's folder."""

import hashlib
import json
from dataclasses import asdict
from typing import Any

from omegaconf import DictConfig, OmegaConf

from vggtq.config.schema import PLACES, Engine
from vggtq.metrics.point_options import Points
from vggtq.network.memory import Memory
from vggtq.quant.scheme.parts import GlobalAttention

# Keys that runs of earlier versions lack, and what they have been since: what such a run did.
LATER = {
    "memory": asdict(Memory()),
    "scheme.global_attention": asdict(GlobalAttention()),
    "engine": asdict(Engine()),
    "points": asdict(Points()),
}


def plain(cfg: DictConfig) -> dict[str, Any]:
    """The resolved configuration as plain values, without Hydra's own part. Missing values become '???'."""
    own = OmegaConf.masked_copy(cfg, [str(key) for key in cfg if key != "hydra"])
    resolved = OmegaConf.to_container(own, resolve=True, throw_on_missing=False, enum_to_str=True)
    assert isinstance(resolved, dict)
    return {str(key): value for key, value in resolved.items()}


def config_hash(config: dict[str, Any]) -> str:
    """First 12 hex digits of the SHA-256 of the configuration in canonical JSON: same hash, same experiment.

    Without PLACES, and without keys of LATER that have their defaults, as in runs before there were such keys.
    """
    experiment = {key: value for key, value in config.items() if key not in PLACES}
    for path, default in LATER.items():
        *parents, last = path.split(".")
        within = experiment
        for parent in parents:
            copied = dict(within.get(parent) or {})
            within[parent] = copied
            within = copied
        if within.get(last) == default:
            within.pop(last, None)
    return hashlib.sha256(json.dumps(experiment, sort_keys=True).encode()).hexdigest()[:12]


def run_name(*, _root_: DictConfig) -> str:
    """Folder name for people, made unique by the hash: int4_group-w4-g64-motorcycle-vggt_small-1a2b3c4d."""
    config = plain(_root_)
    weights = config["scheme"]["weights"]
    short = {"per_tensor": "tensor", "per_channel": "channel"}.get(weights["granularity"])
    grouping = short or (f"g{weights['group_size']}" if weights["group_size"] else None)
    budget = config["scheme"]["mixed"]["budget_mb"]
    engine = (config.get("engine") or {}).get("name", "torch")
    parts = [
        config["scheme"]["name"],
        f"w{weights['bits']}" if budget is None else f"{budget:g}mib",
        grouping,
        _name(config, "dataset"),
        config["scene"],
        _name(config, "model"),
        None if engine == "torch" else engine,
    ]
    readable = "-".join(str(part) for part in parts if part)
    safe = "".join(c if c.isalnum() or c in "-_." else "_" for c in readable)
    return f"{safe[:100]}-{config_hash(config)[:8]}"


def _name(config: dict[str, Any], key: str) -> str:
    return str((config[key] or {}).get("name", key))
