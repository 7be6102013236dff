"""The README.md of a quantized model on the Hugging Face hub: what the file says of itself, what its record measured.

Nothing is in it that is in neither of the two; what is not known is left out.
"""

import json
import math
from collections import Counter
from pathlib import Path
from typing import Any

from vggtq.artifact import Header
from vggtq.data.select import count
from vggtq.models.loading import model_of

MARK = "<!-- Written by vggtq push, which replaces it the next time unless this line is removed. -->"
FILE = "model.safetensors"  # in the repository
RECORD = "result.json"
# The licence texts of weights that are known, as the hub calls them; others are given by name.
HUB_LICENSES = {
    "Apache-2.0": "apache-2.0",
    "CC BY-NC 4.0 (non-commercial)": "cc-by-nc-4.0",
}


def matching_record(artifact: Path, header: Header) -> dict[str, Any] | None:
    """The `result.json` beside an artifact, if it is of this very artifact."""
    try:
        record = json.loads((artifact.parent / RECORD).read_text(encoding="utf-8"))
        same = record["status"] == "ok" and record["artifact"]["sha256"] == header.digest
    except (OSError, ValueError, KeyError, TypeError):
        return None
    return dict(record) if same else None


def model_card(repo: str, header: Header, file_bytes: int, record: dict[str, Any] | None) -> str:
    """Markdown with YAML front matter."""
    name = (header.model or {}).get("name", "a network of your own")
    sections = [
        f"# {repo.partition('/')[2]}",
        f"{name}, quantized to **{header.label}** with vggtq {header.vggtq}. One file, `{FILE}`: packed codes, scales and "
        "zero points, everything that stayed in float, and the recipe; JSON and tensors, no pickle.",
        _facts(header, file_bytes),
        _usage(repo, header),
        *([_measured(record)] if record else []),
        _origin(header),
    ]
    return "\n\n".join([_front_matter(header), MARK, *sections]) + "\n"


def _front_matter(header: Header) -> str:
    lines = ["---"]
    license_text = header.weights.license
    if license_text in HUB_LICENSES:
        lines.append(f"license: {HUB_LICENSES[license_text]}")
    elif license_text:
        lines += ["license: other", f"license_name: {json.dumps(license_text)}"]
    if header.weights.kind == "hub":
        lines += [f"base_model: {header.weights.source}", "base_model_relation: quantized"]
    family = str((header.model or {}).get("family", "")) or None
    tags = ["vggtq", family, "quantized", "3d-reconstruction"]
    lines += ["library_name: vggtq", "tags:", *(f"- {tag}" for tag in tags if tag)]
    return "\n".join([*lines, "---"])


def _facts(header: Header, file_bytes: int) -> str:
    kinds = Counter(f"{e.weights.format}, {e.weights.bits} bits" for e in header.layers)
    layers = "; ".join(f"{number} ({kind})" for kind, number in kinds.most_common())
    rows = {
        "scheme": header.label,
        "quantized layers": layers,
        "everything else": header.rest,
        "file": _mib(file_bytes),
    }
    if header.model is not None:
        skeleton = model_of(header.model).skeleton()
        float32 = 4 * sum(math.prod(tensor.shape) for tensor in skeleton.state_dict().values())
        rows["parameters in float32"] = f"{_mib(float32)} ({float32 / file_bytes:.2f} × the file)"
        rows["image size"] = f"{header.model['image_size']} pixels"
        if header.model.get("domain"):
            rows["trained on"] = f"`{header.model['domain']}` only: other images are outside of what it knows"
    if header.weights.random:
        rows["weights"] = "**random**: this model reconstructs nothing"
    return _table([(key, str(value)) for key, value in rows.items()])


def _usage(repo: str, header: Header) -> str:
    lines = ["## Use", "", "```", f"vggtq pull {repo} out={FILE}"]
    if header.model is None:
        return "\n".join(
            [*lines, "```", "", "Build the network, then `vggtq.artifact.load_into_(module, path)`."]
        )
    lines += [f"python -m vggtq.predict model={FILE} images=photos out=reconstruction", "```", ""]
    code = ["```python", "import vggtq", "", f'model = vggtq.load("{FILE}")']
    code += ["outputs = model.predict(images)  # (S, 3, H, W), RGB in [0, 1]", "```"]
    return "\n".join(lines + code)


def _measured(record: dict[str, Any]) -> str:
    """The figures of the record, each only where it was measured."""
    rows = [
        ("mean relative error of depth", _get(record, "fidelity", "depth", "relative_error"), "{:.3g}"),
        ("mean rotation error", _get(record, "fidelity", "pose", "rotation_deg_mean"), "{:.3g}°"),
    ]
    for group, metric, label in (("pose", "auc_30", "AUC@30"), ("depth", "abs_rel", "depth AbsRel")):
        ours = _get(record, "geometry", "quantized", group, metric)
        theirs = _get(record, "geometry", "reference", group, metric)
        if ours is not None and theirs is not None:
            rows.append((f"{label} against ground truth", ours, f"{{:.3f}} (FP32: {theirs:.3f})"))
    speedup = None if record.get("simulated") else _get(record, "latency", "references", "fp32", "speedup")
    rows.append(("speed", speedup, "{:.2f} × FP32"))
    known = [(label, pattern.format(value)) for label, value, pattern in rows if value is not None]
    env = record["environment"]
    machine = env.get("gpu") or f"{env.get('cpu')} ({count(env.get('threads') or 0, 'thread')})"
    where = f"{machine}, torch {env['versions']['torch']}"
    scenes = _get(record, "dataset", "scenes") or []
    intro = (
        f"Against the same weights in FP32, on `{_get(record, 'dataset', 'name')}` "
        f"({count(len(scenes), 'scene')}), {where}, {str(record['started'])[:10]}:"
    )
    command = f"`{record['command']}`; the whole record is `{RECORD}`."
    return "\n\n".join(["## Measured", intro, _table(known), command])


def _origin(header: Header) -> str:
    weights = header.weights
    commit = f" at commit `{weights.commit}`" if weights.commit else ""
    lines = [
        "## Where it comes from",
        "",
        f"Weights: `{weights.source}`{commit}, fingerprint `{weights.fingerprint}`.",
    ]
    if weights.license:
        lines.append(f"Licence of the weights, which holds for this file too: {weights.license}.")
    else:
        lines.append("The licence of the weights is not known to the file; it holds for this file too.")
    return "\n".join([*lines, f"Digest of the file's content: `{header.digest}`."])


def _get(record: dict[str, Any], *keys: str) -> Any:
    """A value deep inside the record, None where any part of the way is missing."""
    value: Any = record
    for key in keys:
        value = value.get(key) if isinstance(value, dict) else None
    return value


def _table(rows: list[tuple[str, str]]) -> str:
    return "\n".join(["|  |  |", "|---|---|", *(f"| {key} | {value} |" for key, value in rows)])


def _mib(size: int) -> str:
    return f"{size / 2**20:.1f} MiB"
