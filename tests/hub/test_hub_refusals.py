"""What `vggtq push` and `vggtq pull` refuse or what fails on the way, told in one line, and that it leaves nothing behind."""

from pathlib import Path

import pytest
from huggingface_hub import constants

from helpers.fake_hub import COMMIT, FakeHub, Repository, front_matter
from helpers.family import OVERRIDES
from vggtq import artifact, pull, push
from vggtq.config.validate import composed
from vggtq.export import export
from vggtq.terminal.progress import Steps


def failed(capsys: pytest.CaptureFixture) -> str:
    told = capsys.readouterr().err
    assert told.startswith("error: ") and told.count("\n") == 1, told
    return told.rstrip()


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
