"""Checkpoints in files: the same weights by every route, and one clear line for every way in which loading can fail."""

import hashlib
import json
import logging
import os
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from helpers.checkpoints import empty, fails
from helpers.small_vggt import CONFIG, weights
from vggtq.errors import WeightsError
from vggtq.models.checkpoints.fingerprint import WeightsInfo, fingerprint
from vggtq.models.checkpoints.load import load_weights_
from vggtq.models.loading import random_weights_
from vggtq.models.vggt.network import build


def loads(path: Path, **options: Any) -> WeightsInfo:
    """Loads into a fresh network and checks that every byte arrived."""
    model = empty()
    info = load_weights_(model, str(path), **options)
    arrived = model.state_dict()  # of 741 tensors, so that it is asked for once
    assert all(torch.equal(arrived[name], value) for name, value in weights().items())
    assert str(path.parent) not in info.source
    return info


@pytest.fixture
def safetensors(tmp_path: Path) -> Path:
    save_file(weights(), tmp_path / "small.safetensors")
    return tmp_path / "small.safetensors"


def test_the_same_weights_by_every_route(tmp_path: Path, safetensors: Path) -> None:
    info = loads(safetensors)
    assert (info.source, info.kind, info.license, info.random) == ("small.safetensors", "file", None, False)
    torch.save(weights(), tmp_path / "small.pt")
    torch.save(weights(), tmp_path / "old.bin", _use_new_zipfile_serialization=False)
    torch.save({"model": weights(), "epoch": 3}, tmp_path / "wrapped.pth")
    torch.save({"state_dict": {f"module.{k}": v for k, v in weights().items()}}, tmp_path / "parallel.pt")
    for name in ("small.pt", "old.bin", "wrapped.pth", "parallel.pt"):
        assert loads(tmp_path / name).fingerprint == info.fingerprint, name


def test_folders_prefer_safetensors(tmp_path: Path) -> None:
    folder = tmp_path / "weights"
    folder.mkdir()
    fails(folder, r"no weights in this folder; expected one of model\.safetensors")
    torch.save(weights(), folder / "pytorch_model.bin")
    assert loads(folder).kind == "folder"
    names = sorted(weights())
    for i, part in enumerate((names[:300], names[300:])):
        save_file({name: weights()[name] for name in part}, folder / f"part-{i}.safetensors")
    index = {"weight_map": {name: f"part-{int(i >= 300)}.safetensors" for i, name in enumerate(names)}}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    (folder / "pytorch_model.bin").write_bytes(b"never read")
    assert loads(folder).source == "weights"
    (folder / "part-1.safetensors").unlink()
    fails(folder, r"part-1\.safetensors: shard of model\.safetensors\.index\.json is missing")
    (folder / "model.safetensors.index.json").write_text("[]")
    fails(folder, "not a safetensors index")


@pytest.mark.parametrize(
    "shard", [7, None, "../good.safetensors", "/good.safetensors", "a\\good.safetensors", "C:x.safetensors"]
)
def test_shards_stay_in_their_folder(tmp_path: Path, shard: object) -> None:
    folder = tmp_path / "weights"
    folder.mkdir()
    save_file(weights(), tmp_path / "good.safetensors")
    index = {"weight_map": dict.fromkeys(weights(), shard)}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    fails(folder, r"index\.json: shard .* is not the name of a \.safetensors file beside it; download")


def test_a_network_that_is_already_allocated_is_filled_in_place(safetensors: Path) -> None:
    model = build(CONFIG)
    token = model.aggregator.camera_token
    load_weights_(model, str(safetensors))
    assert model.aggregator.camera_token is token
    assert torch.equal(token, weights()["aggregator.camera_token"])
    assert not model.aggregator.patch_embed.mask_token.requires_grad


def test_half_checkpoints_become_float32(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    half = {name: value.to(torch.bfloat16) for name, value in weights().items()}
    save_file(half, tmp_path / "half.safetensors")
    model = empty()
    load_weights_(model, str(tmp_path / "half.safetensors"))
    assert all(p.dtype == torch.float32 for p in model.parameters())
    assert torch.equal(model.aggregator.camera_token, half["aggregator.camera_token"].float())
    assert "converting 741 tensors from bfloat16 to float32" in caplog.text


def test_fingerprint_is_what_it_says() -> None:
    layer = nn.Linear(2, 1).to(torch.bfloat16)
    lines = ""
    for name in ("bias", "weight"):
        tensor = layer.state_dict()[name]
        digest = hashlib.sha256(tensor.view(torch.int16).numpy().tobytes()).hexdigest()
        lines += f"{name} torch.bfloat16 {tuple(tensor.shape)} {digest}\n"
    assert fingerprint(layer) == hashlib.sha256(lines.encode()).hexdigest()
    before = fingerprint(layer)
    layer.bias.data += 1
    assert fingerprint(layer) != before


def test_random_weights_say_so() -> None:
    first, again, other = (random_weights_(empty(), seed) for seed in (0, 0, 1))
    assert first == again and first.fingerprint != other.fingerprint
    assert first.random and (first.kind, first.source) == ("random", "seed 0")


def edited(tmp_path: Path, change: Callable[[dict[str, Tensor]], Any]) -> Path:
    state = dict(weights())
    change(state)
    save_file(state, tmp_path / "edited.safetensors")
    return tmp_path / "edited.safetensors"


def test_missing_tensors(tmp_path: Path) -> None:
    def drop(state: dict[str, Tensor]) -> None:
        for name in [n for n in state if n.startswith("camera_head.")]:
            del state[name]

    message = (
        r"edited\.safetensors: 41 of 741 tensors are missing \((camera_head\S+, ){5}… 36 more\); is this"
    )
    fails(edited(tmp_path, drop), message)


def test_unexpected_tensors_unless_ignored(safetensors: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    fails(safetensors, r"\d+ tensors are unknown to the model \(track_head.* more\)", empty(track=False))
    model = empty(track=False)
    load_weights_(model, str(safetensors), ignore=["track_head.*"])
    absent = sum(name.startswith("track_head.") for name in weights())
    assert f"ignoring {absent} tensors that the model lacks" in caplog.text
    fails(safetensors, "unknown to the model", empty(track=False, depth=False), ignore=["track_head.*"])


def test_wrong_shapes_dtypes_and_values(tmp_path: Path) -> None:
    name = "camera_head.token_norm.bias"
    shape = edited(tmp_path, lambda s: s.update({name: torch.zeros(65)}))
    fails(shape, rf"1 tensor has another shape \({name} is \(65,\), the model needs \(64,\)\)")
    codes = edited(tmp_path, lambda s: s.update({name: torch.zeros(64, dtype=torch.int8)}))
    fails(codes, "1 tensor is not plain floats.*before quantization")
    extra = edited(tmp_path, lambda s: s.update(more=torch.zeros(1)))
    fails(extra, r"1 tensor is unknown to the model \(more\)")
    for bad in (float("nan"), float("-inf")):
        value = torch.zeros(64)
        value[7] = bad
        fails(edited(tmp_path, lambda s, v=value: s.update({name: v})), f"{name} holds NaN or infinity")


def test_a_refused_checkpoint_leaves_the_network_alone(tmp_path: Path) -> None:
    path = edited(tmp_path, lambda s: s.pop("camera_head.token_norm.bias"))
    model = empty()
    fails(path, "1 of 741 tensors is missing", model)
    assert all(p.is_meta for p in model.parameters())


@pytest.mark.parametrize("suffix", ["safetensors", "pt", "pth", "bin"])
def test_damaged_files(tmp_path: Path, safetensors: Path, suffix: str) -> None:
    path = tmp_path / f"damaged.{suffix}"
    path.write_bytes(b"")
    fails(path, "is empty")
    path.write_bytes(b"version https://git-lfs.github.com/spec/v1\noid sha256:1\n")
    fails(path, "git lfs pull")
    path.write_bytes(os.urandom(5000))
    fails(path, r"damaged\.\S+: .*(truncated|damaged).* download it again")
    if suffix == "safetensors":
        path.write_bytes(safetensors.read_bytes()[:-10])
    else:
        torch.save(weights(), path)
        path.write_bytes(path.read_bytes()[:-5000])
    fails(path, r"damaged\.\S+: truncated")


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize(
    "content",
    [b"garbage", b"hello world", b"<html>404</html>", b"h\x05.", b"\xbd", b"\x80\x11x.", b"c\xff\n"],
)
def test_the_reason_why_a_file_is_not_read_can_be_read(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "a.pt").write_bytes(content)
    fails(
        tmp_path / "a.pt",
        r"a\.pt: (damaged|truncated) or not a PyTorch file( \(\w*[a-z ]+.*\))?; download it again$",
    )
    with pytest.raises(WeightsError) as error:
        load_weights_(empty(), str(tmp_path / "a.pt"))
    assert not any(word in str(error.value) for word in ("(5)", "(101)", "empty list", "codec"))


class Malicious:
    def __reduce__(self) -> tuple:
        return (os.system, ("echo never",))


@pytest.mark.filterwarnings("error")
def test_pickled_code_is_refused(tmp_path: Path) -> None:
    torch.save({"model": Malicious()}, tmp_path / "zip.pt")
    (tmp_path / "raw.pt").write_bytes(pickle.dumps(Malicious(), protocol=2))
    (tmp_path / "newer.bin").write_bytes(pickle.dumps(Malicious(), protocol=3))
    for name in ("zip.pt", "raw.pt", "newer.bin"):
        fails(tmp_path / name, "holds pickled code, which is refused")


def test_files_that_hold_no_state_dict(tmp_path: Path) -> None:
    for i, content in enumerate(([1, 2], {"epoch": 3}, {}, {"model": {"a": 1}})):
        torch.save(content, tmp_path / f"{i}.pt")
        fails(tmp_path / f"{i}.pt", "no state dict in this file")


def test_paths_that_are_not_there(tmp_path: Path) -> None:
    for source in (tmp_path / "no.safetensors", "weights/model.pt", "./nowhere", "just-a-name", "a/b/c"):
        fails(source, "no such weights file or folder")
    (tmp_path / "weights.onnx").write_bytes(b"x")
    fails(tmp_path / "weights.onnx", "unknown kind of weights file")


def test_revision_of_a_local_file_is_pointed_out(safetensors: Path, caplog: pytest.LogCaptureFixture) -> None:
    assert loads(safetensors, revision="main").revision is None
    assert "revision main is ignored" in caplog.text
