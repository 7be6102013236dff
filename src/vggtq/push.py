"""`vggtq push`: puts a quantized model on the Hugging Face hub, with a model card made from the file and its record."""

import logging
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from vggtq.errors import ConfigError
from vggtq.models.checkpoints.licences import OMEGA_LICENCE
from vggtq.terminal.command_line import entry
from vggtq.terminal.help import Command
from vggtq.terminal.logs import log_lines
from vggtq.terminal.options import option

if TYPE_CHECKING:
    from huggingface_hub import HfApi

    from vggtq.artifact.header import Header

log = logging.getLogger("vggtq.push")  # run with -m, __name__ is another


@dataclass
class Options:
    """The model file to upload, and the repository for it."""

    file: str = option(
        "a model file that vggtq export or vggtq run save=true wrote; it is checked first. A result.json beside it that "
        "measured this very file is uploaded too, and its figures are in the card",
        words="FILE",
        missing="vggtq push FILE owner/name",
    )
    repository: str = option(
        "owner/name; made where there is none", words="OWNER/NAME", missing="vggtq push FILE owner/name"
    )
    private: bool = option(
        "a new repository is made private; false: as your account has it. An existing one stays as it is, and if that is "
        "public, private=true refuses to push to it",
        False,
    )
    card: str = option(
        "new: write README.md, but leave one alone that somebody else wrote; keep: never; replace: always",
        "new",
        choices=("new", "keep", "replace"),
    )
    message: str = option("of the commit; without one, what the model is", "")
    i_accept_the_licence: bool = option(
        "for weights whose licence has to be accepted before they are passed on: VGGT-Ω's", False
    )


COMMAND = Command(
    "push",
    Options,
    ("model.safetensors me/vggt-1b-int4", "model.safetensors me/vggt-1b-int4 private=true card=keep"),
    "Needs a token with write access: hf auth login, or HF_TOKEN. HF_ENDPOINT names another hub.",
)


def push(
    path: Path,
    repo: str,
    private: bool = False,
    card: str = "new",
    message: str = "",
    i_accept_the_licence: bool = False,
) -> str:
    """Uploads an artifact in one commit and returns its address. Raises VggtqError."""
    from huggingface_hub import CommitOperationAdd

    from vggtq import artifact
    from vggtq.hub import client
    from vggtq.hub.card import FILE, RECORD, matching_record, model_card

    client.check_repo(repo)
    header = artifact.read_header(path)
    if not i_accept_the_licence:
        _check_licence(path, header)
    client.require_token()
    if header.model is not None:
        artifact.load(path)  # a file that does not load here does not load elsewhere
    record = matching_record(path, header)
    text = model_card(repo, header, path.stat().st_size, record)
    api = client.client()
    with client.translated(repo, "create the repository"):
        _make_repository(api, repo, private)
    with client.translated(repo, "upload"):
        operations = [CommitOperationAdd(FILE, path)]
        if _writes_card(api, repo, card):
            operations.append(CommitOperationAdd("README.md", text.encode()))
        if record is not None:
            operations.append(CommitOperationAdd(RECORD, path.parent / RECORD))
        log.info("uploading %s to %s", ", ".join(o.path_in_repo for o in operations), repo)
        message = message or f"{header.label}, vggtq {header.vggtq}"
        commit = api.create_commit(repo, operations, commit_message=message)
    if header.weights.license:
        log.info("licence of the weights, which holds for this file too: %s", header.weights.license)
    return str(commit.commit_url)


def _check_licence(path: Path, header: "Header") -> None:
    """Raises ConfigError for networks whose licence goes with everything that is made of them."""
    if (header.model or {}).get("family") == "vggt_omega":
        raise ConfigError(
            f"{path.name} is a VGGT-Ω: the {OMEGA_LICENCE} allows noncommercial research alone, and passing on under the same "
            "agreement with a copy of it; if you have read it and that is what you do, add i_accept_the_licence=true"
        )


def _make_repository(api: "HfApi", repo: str, private: bool) -> None:
    api.create_repo(repo, private=private or None, exist_ok=True)
    if private and api.repo_info(repo).private is False:
        raise ConfigError(
            f"{repo} exists and is public, and private=true does not change that; make it private in its settings"
        )


def _writes_card(api: "HfApi", repo: str, card: str) -> bool:
    """Whether to write README.md. One without vggtq's mark is left alone, unless card=replace."""
    from tempfile import TemporaryDirectory

    from vggtq.hub.card import MARK

    if card == "keep" or not api.file_exists(repo, "README.md"):
        return card != "keep"
    with TemporaryDirectory() as folder:
        there = Path(api.hf_hub_download(repo, "README.md", local_dir=folder)).read_text(encoding="utf-8")
    if MARK in there or card == "replace":
        return True
    log.info("README.md of %s was not written by vggtq and stays; card=replace overwrites it", repo)
    return False


def _work(options: Options) -> None:
    path = Path(options.file).expanduser()
    choices = (
        options.repository,
        options.private,
        options.card,
        options.message,
        options.i_accept_the_licence,
    )
    with log_lines():
        log.info("%s", push(path, *choices))


main = entry(COMMAND, _work)

if __name__ == "__main__":
    sys.exit(main())
