"""The levers that bound memory: what they change in results, and that they hold what they say they hold."""

import errno

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from helpers.family import OVERRIDES
from vggtq import Scheme, Weights, quantize_
from vggtq.config.compose import compose
from vggtq.config.validate import validated
from vggtq.errors import ConfigError, DiskFull
from vggtq.files import spill
from vggtq.machine.native import library
from vggtq.models.network import Network
from vggtq.models.vggt.positions import rope_table
from vggtq.models.vggt.vit import Block
from vggtq.network.bounded import bound_
from vggtq.network.coded_keys import CodedKeys
from vggtq.network.declared import common_outputs
from vggtq.network.memory import KEY_BLOCK, Memory
from vggtq.quant.scheme.activations import Activations


def draw(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def loaded(family: str) -> Network:
    module = validated(compose(OVERRIDES[family])).model.load(torch.device("cpu")).module
    assert isinstance(module, Network)
    return module


def outputs(network: Network, images: Tensor, memory: Memory) -> dict[str, Tensor]:
    bound_(network, memory)
    with torch.inference_mode():
        return common_outputs(network, network(images))


def off(found: dict[str, Tensor], wanted: dict[str, Tensor]) -> dict[str, float]:
    assert found.keys() == wanted.keys()
    return {k: float((found[k] - wanted[k]).norm() / wanted[k].norm()) for k in wanted}


def images_for(network: Network, frames: int, patches: int) -> Tensor:
    side = network.patch_size * patches
    return torch.rand(1, frames, 3, side, side, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("family", OVERRIDES)
@pytest.mark.parametrize(
    ("frames", "patches"), [(8, 6), (2, 17)], ids=["frames within a chunk", "frames beyond"]
)
def test_chunks_change_nothing_but_rounding(family: str, frames: int, patches: int) -> None:
    network = loaded(family)
    images = images_for(network, frames, patches)
    wanted = outputs(network, images, Memory())
    for memory in (
        Memory(chunk_tokens=KEY_BLOCK),
        Memory(head_frames=1),
        Memory(3, chunk_tokens=2 * KEY_BLOCK),
    ):
        found = off(outputs(network, images, memory), wanted)
        assert max(found.values()) < 1e-5, (memory, found)
    again = outputs(network, images, Memory())
    assert all(torch.equal(again[name], wanted[name]) for name in wanted), "the levers stayed on"


@pytest.mark.parametrize("family", ["vggt", "vggt_omega"])
def test_tokens_on_disk_are_the_same_and_in_half_precision_nearly(family: str) -> None:
    network = loaded(family)
    images = images_for(network, 5, 4)
    wanted = outputs(network, images, Memory())
    disk = outputs(network, images, Memory(tokens="disk"))
    assert all(torch.equal(disk[name], wanted[name]) for name in wanted)
    half = off(outputs(network, images, Memory(tokens="bfloat16")), wanted)
    assert 0 < max(half.values()) < 2e-2, half


def test_tokens_on_a_full_disk_name_the_remedy(monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "full")

    network = loaded("vggt")
    monkeypatch.setattr(spill.Overflow, "_write", full)
    with pytest.raises(DiskFull, match=r"fewer images, or memory\.tokens=bfloat16"):
        outputs(network, images_for(network, 2, 4), Memory(tokens="disk"))


@pytest.mark.parametrize("tokens", [KEY_BLOCK, KEY_BLOCK + 1, 5 * KEY_BLOCK - 7, 40 * KEY_BLOCK + 3])
def test_coded_keys_are_attended_to_as_the_numbers_that_they_stand_for(tokens: int) -> None:
    q, k, v = draw(1, 3, 20, 16), draw(1, 3, tokens, 16, seed=1) + 5, draw(1, 3, tokens, 16, seed=2)
    k[..., 0] *= 10
    seen = CodedKeys(k, tokens)
    step = 2 * KEY_BLOCK
    for start in range(0, tokens, step):
        seen.put(start, k[:, :, start : start + step], v[:, :, start : start + step])
    decoded = seen._keys.get(0, tokens), seen._values.get(0, tokens)
    torch.testing.assert_close(
        seen.attend(q), F.scaled_dot_product_attention(q, *decoded), rtol=1e-5, atol=1e-5
    )
    for exact, found in zip((k, v), decoded, strict=True):
        for block, coded in zip(exact.split(KEY_BLOCK, 2), found.split(KEY_BLOCK, 2), strict=True):
            spread = (block - block.mean(2, keepdim=True)).abs().amax((2, 3), keepdim=True)
            assert ((coded - block).abs() <= spread / 254 * 1.001 + 1e-5).all(), "half a step at most"


@pytest.mark.parametrize("family", OVERRIDES)
def test_coded_keys_cost_little_on_random_weights(family: str) -> None:
    network = loaded(family)
    images = images_for(network, 2, 12)
    wanted = outputs(network, images, Memory())
    found = off(outputs(network, images, Memory(keys="int8")), wanted)
    assert 0 < max(found.values()) < 2e-2, found


def test_native_blocks_in_chunks() -> None:
    if library() is None:
        pytest.skip("no native kernels here")
    torch.manual_seed(0)
    block = torch.nn.ModuleDict({"block": Block(128, 2, 4.0, 0.5, qk_norm=True)}).requires_grad_(False)
    quantize_(block, Scheme("w8a8", Weights(), Activations("dynamic")), first_last=[])
    inner = block["block"]
    assert inner.fused_forward is not None
    x, rope = (
        draw(1, 3 * KEY_BLOCK - 5, 128),
        rope_table((1, 3 * KEY_BLOCK - 6), 1, 64, 100.0, torch.device("cpu")),
    )
    with torch.inference_mode():
        wanted = inner(x, rope)
        inner.chunk_tokens = KEY_BLOCK
        found = inner(x, rope)
    torch.testing.assert_close(found, wanted, rtol=1e-5, atol=1e-5)


def test_attention_types_are_those_of_the_whole_block() -> None:
    block = Block(64, 2, 4.0, 0.5).requires_grad_(False)
    x = draw(1, 2 * KEY_BLOCK + 9, 64)
    for dtype in (torch.bfloat16, torch.int8) if library() else (torch.bfloat16,):
        block.chunk_tokens, block.attn.attention_dtype = None, dtype
        with torch.inference_mode():
            wanted = block(x)
            block.chunk_tokens = KEY_BLOCK
            assert (block(x) - wanted).norm() / wanted.norm() < 1e-3
            block.attn.attention_dtype = None
            assert not torch.equal(block(x), wanted)


@pytest.mark.parametrize(
    ("family", "memory", "message"),
    [
        ("pi3", Memory(tokens="disk"), r"memory\.tokens=disk: no layers of Pi3 wait"),
        ("vggt", Memory(keys="int8"), "keys and values have one type"),
    ],
)
def test_what_a_network_cannot_do_is_refused(family: str, memory: Memory, message: str) -> None:
    network = loaded(family)
    for module in network.modules():
        if hasattr(module, "attention_dtype"):
            module.attention_dtype = torch.bfloat16
    with pytest.raises(ConfigError, match=message):
        bound_(network, memory)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"head_frames": 0}, r"memory\.head_frames=0"),
        ({"tokens": "float16"}, "did you mean"),
        ({"chunk_tokens": 1000}, "multiple of 256"),
        ({"keys": "int4"}, r"memory\.keys"),
    ],
)
def test_mistakes_are_told(values: dict, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        Memory(**values)


def test_labels_name_what_is_set() -> None:
    assert (Memory().label, Memory().bounds) == ("", False)
    memory = Memory(2, "bfloat16", 512, "int8")
    assert (
        memory.label == "memory.head_frames=2 memory.tokens=bfloat16 memory.chunk_tokens=512 memory.keys=int8"
    )
    assert memory.lossy == ("memory.tokens=bfloat16", "memory.keys=int8")
