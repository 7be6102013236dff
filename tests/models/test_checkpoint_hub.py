"""Checkpoints on the Hugging Face hub: its errors, its cache, and an absent network."""

import logging
import os
import subprocess
import sys
import warnings
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import huggingface_hub
import pytest
import torch
from huggingface_hub import errors as hub

from helpers.checkpoints import empty, fails
from helpers.small_vggt import weights
from vggtq.models.checkpoints.fingerprint import fingerprint
from vggtq.models.checkpoints.load import load_weights_

COMMIT = "0123456789abcdef0123456789abcdef01234567"


def answer(kind: type[Exception], status: int | None = None) -> Exception:
    """An exception of the hub's own class, without the network request that its constructor wants."""
    error = kind.__new__(kind)
    Exception.__init__(error, f"{kind.__name__}\nwith a second line")
    if status:
        error.response = SimpleNamespace(status_code=status)  # type: ignore[attr-defined]
    return error


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (
            answer(hub.GatedRepoError, 403),
            r"gated; accept the licence on https://huggingface\.co/owner/name .*HF_TOKEN",
        ),
        (answer(hub.HfHubHTTPError, 401), "gated; accept the licence.*HF_TOKEN"),
        (answer(hub.HfHubHTTPError, 403), "gated; accept the licence.*HF_TOKEN"),
        (answer(hub.HfHubHTTPError, 500), "download failed"),
        (answer(hub.RepositoryNotFoundError, 404), "no such repository.*or a private one"),
        (answer(hub.RepositoryNotFoundError, 401), "no such repository.*or a private one"),
        (answer(hub.RevisionNotFoundError, 404), "no such revision"),
        (answer(hub.RemoteEntryNotFoundError, 404), r"neither model\.safetensors nor model\.pt"),
        (answer(hub.LocalEntryNotFoundError), "not in the local cache and .* cannot be reached"),
        (hub.OfflineModeIsEnabled("offline"), "download failed"),
        (hub.HFValidationError("bad name"), "download failed"),
        (OSError(28, "No space left on device"), "No space left on device.*disk space"),
        (TimeoutError(), "TimeoutError"),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, Exception) else "",
)
def test_hub_errors(monkeypatch: pytest.MonkeyPatch, error: Exception, message: str) -> None:
    def download(*args: Any, **kwargs: Any) -> str:
        raise error

    monkeypatch.setattr(huggingface_hub, "hf_hub_download", download)
    fails("owner/name", f"^owner/name@dev: .*{message}", revision="dev")


def test_the_hub_client_is_silent_and_an_absent_network_is_tried_once(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    calls = []

    def download(repo: str, name: str, **options: Any) -> str:
        calls.append((name, options["local_files_only"]))
        for logger in ("huggingface_hub.utils._http", "httpx", "httpcore"):
            logging.getLogger(logger).error("Retrying in 1s")
        warnings.warn("unauthenticated", stacklevel=1)
        raise answer(hub.LocalEntryNotFoundError)

    monkeypatch.setattr(huggingface_hub, "hf_hub_download", download)
    levels = [logging.getLogger(name).level for name in ("huggingface_hub", "httpx", "httpcore")]
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        fails("owner/name", "cannot be reached")
    assert calls == [("model.safetensors", False), ("model.pt", True)]
    assert not caught and "Retrying" not in caplog.text
    assert [logging.getLogger(name).level for name in ("huggingface_hub", "httpx", "httpcore")] == levels


def test_an_unreachable_hub_prints_nothing(tmp_path: Path) -> None:
    """In a process of its own: the hub's client sets up its loggers only when it is first used."""
    code = (
        "import logging, time; logging.basicConfig(level=logging.WARNING); time.sleep = lambda s: None\n"
        "from vggtq.errors import WeightsError\nfrom vggtq.models.checkpoints.source import locate\n"
        "try: locate('owner/name', None)\nexcept WeightsError as error: print(error)"
    )
    # port 9 of the loopback is closed
    away = {"HF_HOME": str(tmp_path), "HF_ENDPOINT": "http://127.0.0.1:9", "HF_HUB_OFFLINE": "0"}
    environment = {**os.environ, **away, "no_proxy": "127.0.0.1"}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True)
    assert done.stderr == ""
    assert done.stdout.startswith("owner/name: not in the local cache and the Hugging Face hub cannot")


def test_offline_without_cache_for_real(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path))
    fails("facebook/VGGT-1B", "^facebook/VGGT-1B: not in the local cache")


def test_hub_offline_cache(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """A cache that holds only model.pt, as the hub's client lays it out; nothing is fetched."""
    caplog.set_level(logging.INFO)
    root = tmp_path / "models--facebook--VGGT-1B"
    (root / "refs").mkdir(parents=True)
    (root / "refs" / "main").write_text(COMMIT)
    (root / "snapshots" / COMMIT).mkdir(parents=True)
    torch.save(weights(), root / "snapshots" / COMMIT / "model.pt")
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    original = huggingface_hub.hf_hub_download
    monkeypatch.setattr(
        huggingface_hub,
        "hf_hub_download",
        lambda *args, **options: original(*args, **options, cache_dir=tmp_path),
    )
    model = empty()
    info = load_weights_(model, "facebook/VGGT-1B")
    assert (info.source, info.kind, info.commit) == ("facebook/VGGT-1B", "hub", COMMIT)
    assert info.license == "CC BY-NC 4.0 (non-commercial)"
    assert "licence: CC BY-NC 4.0 (non-commercial)" in caplog.text
    assert info.fingerprint == fingerprint(model)
