"""`vggtq push` and `vggtq pull` against a hub of our own: files come back, and cards say what the files say."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from helpers.fake_hub import COMMIT, FakeHub, Repository, front_matter
from vggtq import artifact, pull, push
from vggtq.hub.card import MARK, model_card


def test_what_was_pushed_comes_back_and_loads(
    tmp_path: Path, model: Path, hub: FakeHub, capsys: pytest.CaptureFixture
) -> None:
    assert push.main([str(model), "me/mini-int8"]) == 0
    assert f"{hub.url}/me/mini-int8/commit/{COMMIT}" in capsys.readouterr().out
    repository = hub.repositories["me/mini-int8"]
    assert repository.files["model.safetensors"] == model.read_bytes()
    assert set(repository.files) == {"model.safetensors", "README.md"}
    assert len(repository.commits) == 1
    assert not repository.private
    assert pull.main(["me/mini-int8"]) == 0
    assert [p.name for p in tmp_path.iterdir()] == ["mini-int8.safetensors"]
    images = torch.rand(2, 3, 28, 42, generator=torch.Generator().manual_seed(0))
    ours, theirs = (artifact.load(p).predict(images) for p in (tmp_path / "mini-int8.safetensors", model))
    for key, value in theirs.items():
        assert torch.equal(ours[key], value)


def test_the_commands_find_the_hub_of_the_environment_and_tell_what_they_did(
    tmp_path: Path, model: Path, hub: FakeHub
) -> None:
    home = {"HF_HOME": str(tmp_path / "home"), "HF_HUB_DISABLE_XET": "1"}
    env = os.environ | {"HF_ENDPOINT": hub.url, "HF_TOKEN": "hf_me"} | home
    for words, told in (
        (["push", str(model), "me/x"], f"{hub.url}/me/x/commit/{COMMIT}\n"),
        (["pull", "me/x", "out=m.safetensors"], "m.safetensors  13.2 MiB, INT8 per-channel symmetric\n"),
    ):
        command = [sys.executable, "-m", "vggtq", *words]
        done = subprocess.run(command, env=env, capture_output=True, text=True, timeout=120, check=False)
        assert done.returncode == 0, done.stderr
        assert told in done.stdout
        assert "licence of the weights" in done.stdout
        assert not done.stderr
    assert (tmp_path / "m.safetensors").read_bytes() == model.read_bytes()


def test_the_card_says_what_the_file_says(model: Path, hub: FakeHub) -> None:
    assert push.main([str(model), "me/x", "message=first"]) == 0
    card = hub.repositories["me/x"].files["README.md"]
    values = front_matter(card)
    assert values["license"] == "apache-2.0"
    assert values["library_name"] == "vggtq"
    assert {"vggtq", "vggt", "quantized"} <= set(values["tags"])
    assert "base_model" not in values, "the weights are the package's own, not the hub's"
    header, text = artifact.read_header(model), card.decode()
    for fact in (header.label, header.digest, header.weights.fingerprint, "Apache-2.0", "vggtq pull me/x"):
        assert fact in text
    assert f"{model.stat().st_size / 2**20:.1f} MiB" in text
    assert "## Measured" not in text
    assert hub.repositories["me/x"].commits[0]["summary"] == "first"


def test_weights_from_the_hub_are_the_base_model(model: Path) -> None:
    import dataclasses

    header = artifact.read_header(model)
    weights = dataclasses.replace(
        header.weights,
        source="facebook/VGGT-1B",
        kind="hub",
        license="CC BY-NC 4.0 (non-commercial)",
        commit="abc",
    )
    text = model_card("me/x", dataclasses.replace(header, weights=weights), 1, None)
    values = front_matter(text.encode())
    assert (values["base_model"], values["base_model_relation"]) == ("facebook/VGGT-1B", "quantized")
    assert values["license"] == "cc-by-nc-4.0"
    assert "Licence of the weights, which holds for this file too: CC BY-NC 4.0 (non-commercial)." in text
    other = dataclasses.replace(weights, license='of "my" own: see LICENSE', random=True)
    text = model_card("me/x", dataclasses.replace(header, weights=other), 1, None)
    assert front_matter(text.encode())["license_name"] == 'of "my" own: see LICENSE'
    assert "**random**" in text
    unknown = dataclasses.replace(header, weights=dataclasses.replace(weights, license=None), model=None)
    text = model_card("me/x", unknown, 1, None)
    assert "license" not in front_matter(text.encode())
    assert "load_into_" in text


def record_of(model: Path) -> dict:
    return {
        "schema_version": 2,
        "status": "ok",
        "artifact": {"sha256": artifact.read_header(model).digest},
        "started": "2026-11-21T00:00:00+00:00",
        "command": "python -m vggtq.run save=true",
        "simulated": True,
        "environment": {"gpu": None, "cpu": "A CPU", "threads": 2, "versions": {"torch": "2.13.0"}},
        "dataset": {"name": "rooms", "scenes": [{}, {}]},
        "fidelity": {"depth": {"relative_error": 0.00123}, "pose": {"rotation_deg_mean": 0.0456}},
        "geometry": {"quantized": {"pose": {"auc_30": 0.71}}, "reference": {"pose": {"auc_30": 0.72}}},
        "latency": {"references": {"fp32": {"speedup": 9.99}}},
    }


def test_measured_figures_come_from_the_record_of_this_very_file(
    tmp_path: Path, model: Path, hub: FakeHub
) -> None:
    (tmp_path / "run").mkdir()
    ours = tmp_path / "run/model.safetensors"
    ours.write_bytes(model.read_bytes())
    record = record_of(model)
    (tmp_path / "run/result.json").write_text(json.dumps(record))
    assert push.main([str(ours), "me/x"]) == 0
    text = hub.repositories["me/x"].files["README.md"].decode()
    for fact in (
        "0.00123",
        "0.0456°",
        "0.710 (FP32: 0.720)",
        "A CPU (2 threads)",
        "(2 scenes)",
    ):
        assert fact in text
    assert "9.99" not in text, "the speed of simulated kernels is no statement"
    assert json.loads(hub.repositories["me/x"].files["result.json"]) == record
    (tmp_path / "run/result.json").write_text(json.dumps(record | {"simulated": False}))
    assert push.main([str(ours), "me/x"]) == 0
    assert "| speed-up vs FP32 | 9.99 × |" in hub.repositories["me/x"].files["README.md"].decode()
    foreign = record | {"artifact": {"sha256": "another"}}
    (tmp_path / "run/result.json").write_text(json.dumps(foreign))
    assert push.main([str(ours), "me/y"]) == 0
    assert "## Measured" not in hub.repositories["me/y"].files["README.md"].decode()
    assert "result.json" not in hub.repositories["me/y"].files


def test_a_card_of_somebody_s_own_is_not_overwritten(
    model: Path, hub: FakeHub, capsys: pytest.CaptureFixture
) -> None:
    hub.repositories["me/x"] = Repository(False, {"README.md": b"my own words"})
    assert push.main([str(model), "me/x"]) == 0
    assert "README.md of me/x was not written by vggtq and stays" in capsys.readouterr().out
    assert hub.repositories["me/x"].files["README.md"] == b"my own words"
    assert push.main([str(model), "me/x", "card=replace"]) == 0
    written = hub.repositories["me/x"].files["README.md"]
    assert MARK.encode() in written
    hub.repositories["me/x"].files["README.md"] = b"old\n" + MARK.encode()
    assert push.main([str(model), "me/x", "card=keep"]) == 0
    assert hub.repositories["me/x"].files["README.md"].startswith(b"old")
    assert push.main([str(model), "me/x"]) == 0
    assert hub.repositories["me/x"].files["README.md"] == written


@pytest.mark.parametrize("command", [push, pull], ids=["push", "pull"])
def test_help_names_every_option(command: object, capsys: pytest.CaptureFixture) -> None:
    assert command.main(["--help"]) == 0  # type: ignore[attr-defined]
    told = capsys.readouterr().out
    for name in command.Options.__dataclass_fields__:  # type: ignore[attr-defined]
        assert f"\n  {name} " in told
