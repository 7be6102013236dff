"""The README.md of a quantized model on the Hugging Face hub: the facts in the file, and the measurements of its record.

Nothing is in it that is in neither of the two; what is not known is left out.
"""

import json
import math
from collections import Counter
from collections.abc import Iterable
from pathlib import Path

from vggtq.artifact.header import Header
from vggtq.data.select import count
from vggtq.machine.environment import Environment
from vggtq.machine.timing import PairedLatency
from vggtq.metrics.metric import TRUTH, Metric
from vggtq.metrics.results import Fidelity, Geometry, score
from vggtq.metrics.table import HEADLINE, metrics, named
from vggtq.models.loading import model_of
from vggtq.records.files import record_in
from vggtq.records.of_run import DatasetEntry
from vggtq.records.plain import nothing
from vggtq.records.schema import FILE_NAME as RECORD
from vggtq.records.schema import Record

MARK = "<!-- Written by vggtq push, which replaces it the next time unless this line is removed. -->"
FILE = "model.safetensors"  # in the repository
# The licence texts of weights that are known, as the hub calls them; others are given by name.
HUB_LICENSES = {
    "Apache-2.0": "apache-2.0",
    "CC BY-NC 4.0 (non-commercial)": "cc-by-nc-4.0",
}


def matching_record(artifact: Path, header: Header) -> Record | None:
    """The `result.json` beside an artifact, if it is of this very artifact."""
    record = record_in(artifact.parent)
    if record is None or record.status != "ok" or record.artifact is None:
        return None
    return record if record.artifact.sha256 == header.digest else None


def model_card(repo: str, header: Header, file_bytes: int, record: Record | None) -> str:
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
        lines += [f"base_model: {header.weights.source.partition(':')[0]}", "base_model_relation: quantized"]
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
    return _table(rows.items())


def _usage(repo: str, header: Header) -> str:
    pull = f"## Use\n\n```\nvggtq pull {repo} out={FILE}\n"
    if header.model is None:
        return f"{pull}```\n\nBuild the network, then `vggtq.artifact.load_into_(module, path)`."
    return f"""\
{pull}vggtq predict model={FILE} images=photos out=reconstruction
```

```python
import vggtq

model = vggtq.load("{FILE}")
outputs = model.predict(images)  # (S, 3, H, W), RGB in [0, 1]
```"""


def _measured(record: Record) -> str:
    """The figures of the record, each only where it was measured."""
    env = record.environment or nothing(Environment)
    machine = env.gpu or f"{env.cpu} ({count(env.threads or 0, 'thread')})"
    where = f"{machine}, torch {env.versions.get('torch')}"
    data = record.dataset or nothing(DatasetEntry)
    intro = (
        f"Against the same weights in FP32, on `{data.name}` "
        f"({count(len(data.scenes), 'scene')}), {where}, {str(record.started)[:10]}:"
    )
    command = f"`{record.command}`; the whole record is `{RECORD}`."
    return "\n\n".join(["## Measured", intro, _table(_figures(record)), command])


def _figures(record: Record) -> list[tuple[str, str]]:
    """Labels and values of what was measured."""
    fidelity, geometry = record.fidelity or nothing(Fidelity), record.geometry or nothing(Geometry)
    depth, rotation = fidelity.outputs.get("depth"), named("pose.rotation_deg_mean")
    timed = record.latency.references.get("fp32") if record.latency and not record.simulated else None
    speedup = timed.speedup if isinstance(timed, PairedLatency) else None
    figures = [
        (f"{_title(HEADLINE)} of depth", depth and depth.metrics.get(HEADLINE.key), "{:.3g}"),
        (_title(rotation), (fidelity.pose or {}).get(rotation.key), f"{{:.3g}}{rotation.unit}"),
    ]
    for metric in [metric for metric in metrics(*TRUTH) if "paper" in metric.shown]:
        ours, theirs = (score(s, metric.scope, metric.key) for s in (geometry.quantized, geometry.reference))
        if theirs is not None:
            figures.append((f"{_title(metric)} against ground truth", ours, f"{{:.3f}} (FP32: {theirs:.3f})"))
    figures.append((_title(named("speedup")), speedup, "{:.2f} ×"))
    return [(label, pattern.format(value)) for label, value, pattern in figures if value is not None]


def _title(metric: Metric) -> str:
    return metric.titles[0]


def _origin(header: Header) -> str:
    weights = header.weights
    commit = f" at commit `{weights.commit}`" if weights.commit else ""
    known = f"Licence of the weights, which holds for this file too: {weights.license}."
    unknown = "The licence of the weights is not known to the file; it holds for this file too."
    return f"""\
## Where it comes from

Weights: `{weights.source}`{commit}, fingerprint `{weights.fingerprint}`.
{known if weights.license else unknown}
Digest of the file's content: `{header.digest}`."""


def _table(rows: Iterable[tuple[str, object]]) -> str:
    return "\n".join(["|  |  |", "|---|---|", *(f"| {key} | {value} |" for key, value in rows)])


def _mib(size: int) -> str:
    return f"{size / 2**20:.1f} MiB"
