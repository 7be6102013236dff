"""Less attention between frames: against attention with a mask, and frames by themselves."""

from pathlib import Path

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

import vggtq
from helpers.family import OVERRIDES
from vggtq import artifact
from vggtq.config.compose import compose
from vggtq.config.names import config_hash, plain
from vggtq.config.validate import validated
from vggtq.errors import ConfigError
from vggtq.models.vggt.positions import rope_table, seen_tokens
from vggtq.models.vggt.vit import Block
from vggtq.network.declared import common_outputs
from vggtq.network.memory import KEY_BLOCK
from vggtq.network.reduced import check_reduced, reduce_
from vggtq.quant.scheme.parts import GlobalAttention
from vggtq.quant.scheme.scheme import Scheme

CPU = torch.device("cpu")


def draw(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def test_keys_are_special_tokens_and_patches_of_some_rows_and_columns() -> None:
    seen = seen_tokens((2, 3), 1, 2, 2, CPU)
    assert seen is not None
    assert seen.tolist() == [0, 1, 3, 7, 8, 10]
    assert seen_tokens((2, 3), 1, 2, 1, CPU) is None
    three = seen_tokens((5, 1), 0, 1, 3, CPU)
    assert three is not None and three.tolist() == [1, 4]


@pytest.mark.parametrize("chunk", [None, KEY_BLOCK])
def test_a_block_sees_the_chosen_tokens_alone(chunk: int | None) -> None:
    block = Block(32, 2, 4.0, 0.5, qk_norm=True).requires_grad_(False)
    tokens = KEY_BLOCK + 21
    x, rope = draw(1, tokens, 32), rope_table((1, tokens - 1), 1, 16, 100.0, CPU)
    seen = torch.arange(3, tokens, 7)
    mask = torch.full((tokens,), float("-inf"))
    mask[seen] = 0
    with torch.inference_mode():
        q, k, v = block.attn.project(block.norm1(x), rope)
        after = x + block.ls1(block.attn.merge(F.scaled_dot_product_attention(q, k, v, mask[None])))
        wanted = after + block.ls2(block.mlp(block.norm2(after)))
        block.chunk_tokens = chunk
        torch.testing.assert_close(block(x, rope, seen), wanted, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("family", OVERRIDES)
def test_all_blocks_local_leave_frames_to_themselves(family: str) -> None:
    network = validated(compose(OVERRIDES[family])).model.load(CPU).module
    side = 4 * network.patch_size
    images = torch.rand(1, 3, 3, side, side, generator=torch.Generator().manual_seed(1))
    changed = images.clone()
    changed[:, 2] = images[:, 1]
    blocks = len(network.global_blocks())

    def depth_of_second(of: Tensor) -> Tensor:
        with torch.inference_mode():
            return common_outputs(network, network(of))["depth"][:, 1]

    wanted = depth_of_second(images)
    assert not torch.equal(wanted, depth_of_second(changed))
    reduce_(network, blocks, 1)
    alone = depth_of_second(images)
    if family not in ("pi3x", "vggt_omega"):  # whose scale and registers go on looking at all frames
        torch.testing.assert_close(alone, depth_of_second(changed), rtol=1e-5, atol=1e-6)
    reduce_(network, 0, 2)
    assert not torch.equal(depth_of_second(images), wanted)
    reduce_(network, 0, 1)
    torch.testing.assert_close(depth_of_second(images), wanted, rtol=0, atol=0)
    with pytest.raises(ConfigError, match=f"there are {blocks} global blocks"):
        check_reduced(network, blocks + 1, 1)


def test_schemes_artifacts_and_hashes_know_it(tmp_path: Path) -> None:
    usual, reduced = (
        compose([*OVERRIDES["vggt"], "scheme=int8_symmetric", *more])
        for more in ([], ["scheme.global_attention.frame_blocks=1", "scheme.global_attention.key_stride=2"])
    )
    known = plain(usual)
    assert config_hash(known) != config_hash(plain(reduced))
    del known["scheme"]["global_attention"], known["memory"]
    assert config_hash(known) == config_hash(plain(usual)), "runs of before keep their names"
    config = validated(reduced)
    assert config.scheme.label.endswith("1 global blocks local, keys 1/4")
    model = config.model.load(CPU)
    quantization = vggtq.quantize_(model.module, config.scheme)
    path = tmp_path / "m.safetensors"
    artifact.save(model.module, path, config.scheme, quantization, model.weights, config.model.identity())
    images = torch.rand(3, 3, 56, 56, generator=torch.Generator().manual_seed(1))
    found = artifact.load(path)
    assert (found.module.aggregator.local_blocks, found.module.aggregator.key_stride) == (1, 2)
    assert torch.equal(found.predict(images)["depth"], model.predict(images)["depth"])


@pytest.mark.parametrize("values", [{"frame_blocks": -1}, {"key_stride": 0}])
def test_mistakes_are_told(values: dict[str, int]) -> None:
    with pytest.raises(ConfigError, match=r"scheme\.global_attention"):
        Scheme(global_attention=GlobalAttention(**values))
