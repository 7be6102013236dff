"""`vggtq pull`: fetches a quantized model from the Hugging Face hub; the file is complete and can be loaded, or
there is none.
"""

import logging
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

from vggtq.errors import ConfigError
from vggtq.terminal.command_line import entry
from vggtq.terminal.help import Command
from vggtq.terminal.logs import log_lines
from vggtq.terminal.options import option

log = logging.getLogger("vggtq.pull")  # run with -m, __name__ is another


@dataclass
class Options:
    """The repository to fetch from, and the file to write."""

    repository: str = option("owner/name", words="OWNER/NAME", missing="vggtq pull owner/name")
    out: str = option("the file to write; without one, NAME.safetensors here", "")
    revision: str | None = option("a branch, a tag or a commit; null: main", None)
    overwrite: bool = option("replace a file", False)


COMMAND = Command(
    "pull",
    Options,
    ("me/vggt-1b-int4", "me/vggt-1b-int4 out=model.safetensors revision=main"),
    "Private repositories need hf auth login, or HF_TOKEN. What the file is for:\n"
    "vggtq predict model=model.safetensors images=photos out=reconstruction",
)


def pull(repo: str, out: Path | None = None, revision: str | None = None, overwrite: bool = False) -> Path:
    """Downloads the artifact of a repository to `out`, checks it, and returns its path. Raises VggtqError."""
    from vggtq import artifact
    from vggtq.hub import client
    from vggtq.hub.card import FILE

    client.check_repo(repo)
    out = artifact.checked_path(out or f"{repo.partition('/')[2]}{artifact.SUFFIX}")
    if out.is_dir() or (out.exists() and not overwrite):
        raise ConfigError(f"{out} exists; choose another out=, or add overwrite=true")
    out.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=out.parent, prefix=".vggtq-") as folder:
        with client.translated(repo, "download"):
            api = client.client()
            api.model_info(repo, revision=revision)  # fails at once where a download would go on trying
            file = api.hf_hub_download(repo, FILE, revision=revision, local_dir=folder)
        header = artifact.read_header(file)
        if header.model is not None:
            artifact.load(file)  # every byte counts for the digest
        Path(file).replace(out)
    log.info("%s  %.1f MiB, %s", out, out.stat().st_size / 2**20, header.label)
    if header.weights.license:
        log.info("licence of the weights: %s", header.weights.license)
    return out


def _work(options: Options) -> None:
    with log_lines():
        out = Path(options.out) if options.out else None
        pull(options.repository, out, options.revision, options.overwrite)


main = entry(COMMAND, _work)

if __name__ == "__main__":
    sys.exit(main())
