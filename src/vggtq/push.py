"""`vggtq push`: puts a quantized model on the Hugging Face hub, with a model card made from the file and its record."""

import logging
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from vggtq.command_line import execute, log_lines, one_of, parse
from vggtq.errors import ConfigError

if TYPE_CHECKING:
    from huggingface_hub import HfApi

log = logging.getLogger("vggtq.push")  # run with -m, __name__ is another

HELP = """\
Puts a quantized model on the Hugging Face hub, with a model card.

  vggtq push FILE owner/name [key=value…]

FILE      a model file that python -m vggtq.export or python -m vggtq.run save=true wrote; it is checked first.
          A result.json beside it that measured this very file is uploaded too, and its figures are in the card
private   true: a new repository is made private; default: as your account has it. An existing one stays as it is,
          and if that is public, private=true refuses to push to it
card      new (default): write README.md, but leave one alone that somebody else wrote; keep: never; replace: always
message   of the commit

Needs a token with write access: hf auth login, or HF_TOKEN. HF_ENDPOINT names another hub.

  vggtq push model.safetensors me/vggt-1b-int4 private=true
"""


@dataclass
class Options:
    """See HELP."""

    words: list[str] = field(metadata={"example": "vggtq push FILE owner/name", "positional": True})
    private: bool = False
    card: str = "new"
    message: str = ""

    def __post_init__(self) -> None:
        if len(self.words) != 2:
            raise ConfigError(
                f"{' '.join(self.words)}: give a file and a repository, vggtq push FILE owner/name"
            )
        one_of("card", self.card, ("new", "keep", "replace"))


def push(path: Path, repo: str, private: bool = False, card: str = "new", message: str = "") -> str:
    """Uploads an artifact in one commit and returns its address. Raises VggtqError."""
    from huggingface_hub import CommitOperationAdd

    from vggtq import artifact, hub
    from vggtq.model_card import FILE, RECORD, matching_record, model_card

    hub.check_repo(repo)
    header = artifact.read_header(path)
    hub.require_token()
    if header.model is not None:
        artifact.load(path)  # what cannot be loaded here helps nobody there
    record = matching_record(path, header)
    text = model_card(repo, header, path.stat().st_size, record)
    api = hub.client()
    with hub.translated(repo, "create the repository"):
        _make_repository(api, repo, private)
    with hub.translated(repo, "upload"):
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


def _make_repository(api: "HfApi", repo: str, private: bool) -> None:
    api.create_repo(repo, private=private or None, exist_ok=True)
    if private and api.repo_info(repo).private is False:
        raise ConfigError(
            f"{repo} exists and is public, and private=true does not change that; make it private in its settings"
        )


def _writes_card(api: "HfApi", repo: str, card: str) -> bool:
    """Whether README.md is to be written: nobody's own words are lost."""
    from tempfile import TemporaryDirectory

    from vggtq.model_card import MARK

    if card == "keep" or not api.file_exists(repo, "README.md"):
        return card != "keep"
    with TemporaryDirectory() as folder:
        there = Path(api.hf_hub_download(repo, "README.md", local_dir=folder)).read_text(encoding="utf-8")
    if MARK in there or card == "replace":
        return True
    log.info("README.md of %s was not written by vggtq and stays; card=replace overwrites it", repo)
    return False


def main(argv: Sequence[str] | None = None) -> int:
    """Exit status: 0 done, 1 an error, 130 or 143 interrupted."""
    return execute(sys.argv[1:] if argv is None else argv, HELP, _work)


def _work(argv: Sequence[str]) -> None:
    options = parse(argv, Options, positional="words")
    path, repo = options.words
    with log_lines():
        address = push(Path(path).expanduser(), repo, options.private, options.card, options.message)
        log.info("%s", address)


if __name__ == "__main__":
    sys.exit(main())
