"""Finds the files of a checkpoint: in this package, a local file or folder, or a repository of the Hugging Face hub."""

import logging
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import huggingface_hub
from huggingface_hub import errors as hub_errors

from vggtq.errors import WeightsError, describe
from vggtq.terminal.logs import quiet

log = logging.getLogger(__name__)

SUFFIXES = (".safetensors", ".pt", ".pth", ".bin")
HUB_FILES = ("model.safetensors", "model.pt")
INDEX = "model.safetensors.index.json"
FOLDER_FILES = ("model.safetensors", INDEX, "model.pt", "pytorch_model.bin")
REPO_ID = re.compile(r"[\w-][\w.-]*/[\w-][\w.-]*")
REPO_FILE = re.compile(rf"({REPO_ID.pattern}):([\w-][\w.-]*)")  # one of several checkpoints of a repository
CHATTY = ("huggingface_hub", "httpx", "httpcore")
COMMIT = re.compile(r"[0-9a-f]{40}")
Kind = Literal["package", "hub", "file", "folder", "random", "memory"]
PACKAGED = Path(__file__).parents[1] / "weights"
PACKAGE_PREFIX = "package:"


@dataclass(frozen=True)
class WeightSource:
    """One file of weights, or the index of several. `name` never holds a machine's own path."""

    path: Path
    name: str
    kind: Kind
    commit: str | None = None


def locate(source: str, revision: str | None) -> WeightSource:
    """Local paths win over hub names, as everywhere in the hub's own tools. Raises WeightsError."""
    if source.startswith(PACKAGE_PREFIX):
        return _in_package(source)
    path = Path(source).expanduser()
    if path.is_dir():
        return WeightSource(_in_folder(path), path.resolve().name, "folder")
    if path.exists():
        if path.suffix.lower() not in SUFFIXES:
            raise WeightsError(f"{path}: unknown kind of weights file; expected one of {', '.join(SUFFIXES)}")
        return WeightSource(path, path.name, "file")
    if is_local(source):
        raise WeightsError(
            f"{source}: no such weights file or folder, and not a hub repository owner/name; check the path"
        )
    downloaded = _download(source, revision)
    # The hub's cache keeps each commit's files in a folder of its name.
    commit = downloaded.parent.name
    return WeightSource(downloaded, source, "hub", commit if COMMIT.fullmatch(commit) else None)


def is_local(source: str) -> bool:
    """Whether it cannot be a repository of the hub."""
    path = Path(source).expanduser()
    if path.exists() or source.startswith(PACKAGE_PREFIX):
        return True
    if REPO_FILE.fullmatch(source):
        return False
    return path.suffix.lower() in SUFFIXES or not REPO_ID.fullmatch(source)


def repository(source: str) -> tuple[str, tuple[str, ...]]:
    """The repository of the hub that `owner/name` or `owner/name:file` means, and the files of it that may hold weights."""
    named = REPO_FILE.fullmatch(source)
    return (named[1], (named[2],)) if named else (source, HUB_FILES)


def cached(source: str, revision: str | None) -> WeightSource:
    """`locate` without the network: of a repository, what the hub's cache holds. Raises WeightsError if that is nothing."""
    if is_local(source):
        return locate(source, revision)
    repo, files = repository(source)
    for name in files:
        path = huggingface_hub.try_to_load_from_cache(repo, name, revision=revision)
        if isinstance(path, str):
            return WeightSource(Path(path), source, "hub")
    raise WeightsError(f"{source}: not in the local cache of the Hugging Face hub")


def _in_package(source: str) -> WeightSource:
    path = PACKAGED / f"{source.removeprefix(PACKAGE_PREFIX)}.safetensors"
    if not path.is_file():
        known = ", ".join(PACKAGE_PREFIX + p.stem for p in sorted(PACKAGED.glob("*.safetensors"))) or "none"
        raise WeightsError(f"{source}: no such weights in this package; it has {known}")
    return WeightSource(path, source, "package")


def _in_folder(folder: Path) -> Path:
    for name in FOLDER_FILES:
        if (folder / name).is_file():
            return folder / name
    found = sorted(path for path in folder.iterdir() if path.suffix.lower() in SUFFIXES)
    if len(found) == 1:
        return found[0]
    if found:
        names = ", ".join(path.name for path in found)
        raise WeightsError(
            f"{folder}: holds several files of weights ({names}); give the path of one of them"
        )
    raise WeightsError(f"{folder}: no weights in this folder; expected one of {', '.join(FOLDER_FILES)}")


def _download(source: str, revision: str | None) -> Path:
    """The cached file, downloaded if need be; safetensors before pickles."""
    repo, files = repository(source)
    at = f"{repo}@{revision}" if revision else repo
    absent: Exception | None = None
    _ = huggingface_hub.hf_hub_download  # imported on first use, which sets the levels of its loggers
    log.info("looking for %s on the Hugging Face hub and in its cache", at)
    for name in files:
        # Where the hub could not be reached once, its client would retry for half a minute more.
        cached = isinstance(absent, hub_errors.LocalEntryNotFoundError)
        try:
            with quiet(*CHATTY):
                return Path(_fetched(at, repo, name, revision=revision, local_files_only=cached))
        except hub_errors.EntryNotFoundError as error:
            absent = error
    if isinstance(absent, hub_errors.LocalEntryNotFoundError):
        raise WeightsError(
            f"{at}: not in the local cache and the Hugging Face hub cannot be reached (no network, or "
            "HF_HUB_OFFLINE is set); go online once, or give the path of a downloaded file"
        ) from absent
    raise WeightsError(
        f"{at}: the repository has {'neither' if len(files) > 1 else 'no'} {' nor '.join(files)}"
    ) from absent


def _fetched(at: str, repo: str, name: str, **options: Any) -> str:
    """`hf_hub_download`; every failure but an absent file becomes one line that names the remedy."""
    try:
        return huggingface_hub.hf_hub_download(repo, name, **options)
    except hub_errors.EntryNotFoundError:
        raise
    except hub_errors.GatedRepoError as error:
        raise WeightsError(_gated(at)) from error
    except hub_errors.RepositoryNotFoundError as error:
        raise WeightsError(
            f"{at}: no such repository on the Hugging Face hub, or a private one; check the name, "
            "or log in with `hf auth login`"
        ) from error
    except hub_errors.RevisionNotFoundError as error:
        raise WeightsError(
            f"{at}: the repository has no such revision; check the branch or commit"
        ) from error
    except Exception as error:
        # The hub's client raises errors of several libraries, which differ from version to version.
        status = getattr(getattr(error, "response", None), "status_code", None)
        if status in (401, 403):
            raise WeightsError(_gated(at)) from error
        raise WeightsError(
            f"{at}: download failed ({describe(error)}); check the network and disk space"
        ) from error


def _gated(at: str) -> str:
    repo = at.partition("@")[0]
    return (
        f"{at}: access is gated; accept the licence on https://huggingface.co/{repo} and log in with "
        "`hf auth login` or set HF_TOKEN"
    )
