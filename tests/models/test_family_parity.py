"""Pi3 and VGGT-Ω against outputs, intermediates, names and shapes of the originals, where these files are at hand."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from fnmatch import fnmatchcase

import pytest
import torch
from torch import Tensor, nn

from helpers.family import SHARED, deviation, fixture, loaded, shapes_of
from vggtq.models.network import Network
from vggtq.models.omega.config import OmegaConfig
from vggtq.models.omega.network import Omega
from vggtq.models.pi3.config import Pi3Config, Pi3XConfig
from vggtq.models.pi3.network import Pi3
from vggtq.models.pi3.pi3x import OPTIONAL_PARTS, Pi3X
from vggtq.models.vggt.config import parse
from vggtq.network.stages import Held, run_stages
from vggtq.network.tokens import batch_of

CASES = ("square", "wide", "batch", "tall")
LIMIT = 2e-5


@contextmanager
def watched(network: nn.Module) -> Iterator[dict[str, Tensor]]:
    """What every submodule returns, by its name."""
    seen: dict[str, Tensor] = {}
    handles = [
        module.register_forward_hook(lambda _, __, out, name=name: seen.__setitem__(name, out))
        for name, module in network.named_modules()
    ]
    yield seen
    for handle in handles:
        handle.remove()


def compare(found: dict[str, Tensor], expected: dict[str, Tensor], case: str) -> None:
    wanted = {key.partition("/")[2]: t for key, t in expected.items() if key.startswith(f"{case}/")}
    del wanted["images"]
    assert wanted.keys() <= found.keys()
    off = {name: deviation(found[name], t) for name, t in wanted.items()}
    assert max(off.values()) <= LIMIT, off


@pytest.mark.parametrize("case", CASES)
def test_pi3_reproduces_the_original(case: str) -> None:
    described, weights, tensors = fixture("pi3_small")
    network = loaded(Pi3(parse(Pi3Config, described["config"])), weights)
    with watched(network) as seen:
        found = network(tensors[f"{case}/images"])
    special = 1 + described["config"]["encoder"]["num_register_tokens"]
    last = len(network.decoder) - 1
    both = seen[f"decoder.{last - 1}"], seen[f"decoder.{last}"]
    found |= {name: out for name, out in seen.items() if name.startswith("decoder.")}
    found |= {f"{head}_decoder": seen[f"{head}_decoder.linear_out"] for head in ("point", "conf", "camera")}
    found["patch_tokens"] = seen["encoder.norm"][:, special:]
    found["decoder_out"] = torch.cat([both[0], both[1].reshape(both[0].shape)], dim=-1)
    compare(found, tensors, case)


@pytest.mark.parametrize("case", CASES)
def test_omega_reproduces_the_original(case: str) -> None:
    described, weights, tensors = fixture("omega_small")
    network = loaded(Omega(parse(OmegaConfig, described["config"] | {"heads": {"text": True}})), weights)
    held: Held = {"inputs": tensors[f"{case}/images"]}
    with watched(network) as seen, torch.inference_mode():
        found = run_stages(network, network.stages(held))
    kept = network.aggregator.kept(held, batch_of(tensors[f"{case}/images"]))
    found |= {f"tokens.{i}": layer.whole() for i, layer in kept.items()}
    found["patch_tokens"] = seen["aggregator.patch_embed.norm"][:, network.aggregator.patch_embed.special :]
    compare(found, tensors, case)
    assert torch.equal(network(tensors[f"{case}/images"])["images"], tensors[f"{case}/images"])


@pytest.mark.parametrize(
    ("network", "config", "file"),
    [
        (Pi3, Pi3Config(), "pi3/state_dict.json"),
        (Pi3X, Pi3XConfig(), "pi3/pi3x_state_dict.json"),
        (Omega, OmegaConfig(), "omega_1b/state_dict.json"),
    ],
    ids=["pi3", "pi3x", "omega"],
)
def test_names_and_shapes_of_the_published_checkpoints(
    network: type[Network], config: object, file: str
) -> None:
    if not (SHARED / file).is_file():
        pytest.skip(f"needs {file}")
    tensors = json.loads((SHARED / file).read_text("utf-8"))["tensors"]
    expected = {name: tuple(shape) for name, (shape, _) in tensors.items()}
    if network is Pi3X:
        left_out = {n for n in expected if any(fnmatchcase(n, pattern) for pattern in OPTIONAL_PARTS)}
        assert len(left_out) == 343 + 1 + 2 + 90
        expected = {name: shape for name, shape in expected.items() if name not in left_out}
    with torch.device("meta"):
        full = network(config)  # type: ignore[call-arg]
    assert shapes_of(full) == expected
