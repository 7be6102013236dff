"""vggtq push and pull against a hub of our own on this machine."""

import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
import yaml
from huggingface_hub import constants

from helpers.fake_hub import COMMIT, FakeHub, Repository
from helpers.family import OVERRIDES
from helpers.prediction_cases import write_model
from vggtq import artifact, pull, push
from vggtq.config.validate import composed
from vggtq.export import export
from vggtq.hub.card import MARK, model_card
from vggtq.terminal.progress import Steps


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_model(tmp_path_factory.mktemp("model"))


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeHub]:
    with FakeHub() as server:
        monkeypatch.setattr(constants, "ENDPOINT", server.url)
        template = server.url + "/{repo_id}/resolve/{revision}/{filename}"
        monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)
        monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True)
        monkeypatch.setattr(constants, "HF_TOKEN_PATH", str(tmp_path / "no token"))
        monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
        monkeypatch.setenv("HF_TOKEN", "hf_me")
        monkeypatch.chdir(tmp_path)
        yield server


def front_matter(card: bytes) -> dict:
    match = re.match(rb"---\n(.*?)\n---\n", card, re.DOTALL)
    assert match
    return yaml.safe_load(match.group(1))


def failed(capsys: pytest.CaptureFixture) -> str:
    told = capsys.readouterr().err
    assert told.startswith("error: ") and told.count("\n") == 1, told
    return told.rstrip()


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


def test_private_means_private(
    tmp_path: Path,
    model: Path,
    hub: FakeHub,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture,
) -> None:
    assert push.main([str(model), "me/secret", "private=true"]) == 0
    assert hub.repositories["me/secret"].private
    assert push.main([str(model), "me/secret", "private=true"]) == 0
    hub.repositories["me/open"] = Repository(False)
    capsys.readouterr()
    assert push.main([str(model), "me/open", "private=true"]) == 1
    assert "exists and is public" in failed(capsys)
    assert not hub.repositories["me/open"].files
    monkeypatch.delenv("HF_TOKEN")
    assert pull.main(["me/secret"]) == 1
    assert "no such repository" in (line := failed(capsys)) and "log in with `hf auth login`" in line
    assert not list(tmp_path.iterdir())


def test_pull_replaces_only_when_asked_and_only_with_what_loads(
    tmp_path: Path, model: Path, hub: FakeHub, capsys: pytest.CaptureFixture
) -> None:
    whole = model.read_bytes()
    hub.repositories["me/x"] = Repository(False, {"model.safetensors": whole})
    out = tmp_path / "deep/m.safetensors"
    assert pull.main(["me/x", f"out={out}"]) == 0
    assert out.read_bytes() == whole
    out.write_bytes(b"mine")
    assert pull.main(["me/x", f"out={out}"]) == 1
    assert failed(capsys).endswith("exists; choose another out=, or add overwrite=true")
    damaged = bytearray(whole)
    damaged[-5] ^= 1
    for content, reason in (
        (bytes(damaged), "digest"),
        (whole[:-100], "truncated"),
        (b"<html>", "safetensors"),
    ):
        hub.repositories["me/x"].files["model.safetensors"] = content
        assert pull.main(["me/x", f"out={out}", "overwrite=true"]) == 1
        assert reason in failed(capsys)
        assert out.read_bytes() == b"mine"
    assert [p.name for p in out.parent.iterdir()] == ["m.safetensors"]
    hub.repositories["me/x"].files["model.safetensors"] = whole
    assert pull.main(["me/x", f"out={out}", "overwrite=true", f"revision={COMMIT}"]) == 0
    assert out.read_bytes() == whole


@pytest.mark.parametrize(
    ("fail", "message"),
    [
        ({"repos/create": 401}, "the hub does not accept your token"),
        ({"repos/create": 403}, "your token may not create the repository; use one with write access to me"),
        ({"preupload": 403}, "your token may not upload"),
        ({"commit/main": 409}, "somebody else changed the repository at the same time; try again"),
        ({"commit/main": 412}, "somebody else changed the repository at the same time; try again"),
        ({"commit/main": 429}, "too many requests"),
        ({"commit/main": 500}, "cannot upload, the hub says 500 (made to fail); try again later"),
        ({"PUT /objects": 403}, "your token may not upload"),
    ],
    ids=str,
)
def test_refusals_of_a_push_are_one_line(
    model: Path, hub: FakeHub, capsys: pytest.CaptureFixture, fail: dict[str, int], message: str
) -> None:
    hub.fail = fail
    assert push.main([str(model), "me/x"]) == 1
    assert message in failed(capsys)
    assert not hub.repositories.get("me/x", Repository(False)).files


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["me/none"], "me/none: no such repository on http://127.0.0.1"),
        (["me/x", "revision=v9"], "me/x: no such revision"),
        (["me/empty"], "me/empty: the repository has no model.safetensors"),
        (["x"], "x is not a repository of the hub; write owner/name"),
        (["me/x", "out=model.bin"], "model.bin: an artifact is a .safetensors file"),
        (["me/x", "ou=model.bin"], "ou is not an option; did you mean out?"),
        (["me/x", "me/y"], "me/y: one argument too many"),
    ],
    ids=str,
)
def test_mistakes_of_a_pull_are_one_line_and_leave_nothing(
    tmp_path: Path, hub: FakeHub, capsys: pytest.CaptureFixture, arguments: list[str], message: str
) -> None:
    hub.repositories |= {"me/x": Repository(False, {"model.safetensors": b""}), "me/empty": Repository(False)}
    assert pull.main(arguments) == 1
    assert message in failed(capsys)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["MODEL"], "repository is missing; vggtq push FILE owner/name"),
        (["private=true"], "file is missing; vggtq push FILE owner/name"),
        (["MODEL", "mine"], "mine is not a repository of the hub; write owner/name"),
        (["gone.safetensors", "me/x"], "gone.safetensors: no such file"),
        (["MODEL", "me/x", "card=no"], "card=no is not one of new, keep, replace"),
        (["MODEL", "you/x"], "your token may not create the repository; use one with write access to you"),
    ],
    ids=str,
)
def test_mistakes_of_a_push_are_one_line_and_create_nothing(
    model: Path, hub: FakeHub, capsys: pytest.CaptureFixture, arguments: list[str], message: str
) -> None:
    assert push.main([a.replace("MODEL", str(model)) for a in arguments]) == 1
    assert message in failed(capsys)
    assert not hub.repositories


def test_a_vggt_omega_is_pushed_only_by_who_accepts_its_licence(
    tmp_path: Path, hub: FakeHub, capsys: pytest.CaptureFixture
) -> None:
    config = composed([*OVERRIDES["vggt_omega"], "scheme=int8_symmetric"])
    with Steps() as steps:
        path = export(config, tmp_path / "omega.safetensors", steps).path
    assert push.main([str(path), "me/omega"]) == 1
    told = failed(capsys)
    assert "FAIR Noncommercial Research License" in told and "i_accept_the_licence=true" in told
    assert not hub.repositories
    assert push.main([str(path), "me/omega", "i_accept_the_licence=true"]) == 0
    assert "vggt_omega" in front_matter(hub.repositories["me/omega"].files["README.md"])["tags"]


def test_without_a_login_nothing_is_sent(
    model: Path, hub: FakeHub, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    monkeypatch.delenv("HF_TOKEN")
    assert push.main([str(model), "me/x"]) == 1
    assert "you are not logged in to the Hugging Face hub; log in with `hf auth login`" in failed(capsys)
    assert not hub.requests


def test_no_network_is_one_line(
    model: Path, hub: FakeHub, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:9")  # discard: nobody listens there
    for command, arguments in ((push, [str(model), "me/x"]), (pull, ["me/x"])):
        assert command.main(arguments) == 1
        line = failed(capsys)
        assert "cannot reach the Hugging Face hub at http://127.0.0.1:9" in line
        assert "check the network and HF_ENDPOINT" in line


def test_a_download_that_breaks_off_leaves_nothing(
    tmp_path: Path, model: Path, hub: FakeHub, capsys: pytest.CaptureFixture
) -> None:
    hub.repositories["me/x"] = Repository(False, {"model.safetensors": model.read_bytes()})
    hub.truncate = True
    assert pull.main(["me/x"]) == 1
    assert "me/x: cannot download (Consistency check failed" in failed(capsys)
    assert not list(tmp_path.iterdir())


def test_an_interruption_leaves_nothing(
    tmp_path: Path, model: Path, hub: FakeHub, monkeypatch: pytest.MonkeyPatch
) -> None:
    hub.repositories["me/x"] = Repository(False, {"model.safetensors": model.read_bytes()})

    def interrupted(path: Path) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(artifact, "load", interrupted)
    assert pull.main(["me/x"]) == 130
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("command", [push, pull], ids=["push", "pull"])
def test_help_names_every_option(command: object, capsys: pytest.CaptureFixture) -> None:
    assert command.main(["--help"]) == 0  # type: ignore[attr-defined]
    told = capsys.readouterr().out
    for name in command.Options.__dataclass_fields__:  # type: ignore[attr-defined]
        assert f"\n  {name} " in told
