"""`vggtq pull`: fetches a quantized model from the Hugging Face hub; what arrives is whole and can be loaded, or nothing."""

import logging
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from vggtq.command_line import execute, log_lines, parse
from vggtq.errors import ConfigError

log = logging.getLogger("vggtq.pull")  # run with -m, __name__ is another

HELP = """\
Fetches a quantized model that vggtq push put on the Hugging Face hub.

  vggtq pull owner/name [key=value…]

out        the file to write; default: NAME.safetensors here
revision   a branch, a tag or a commit; default: main
overwrite  true: replace a file

The file is checked before it gets its name. Private repositories need hf auth login, or HF_TOKEN.

  vggtq pull me/vggt-1b-int4 out=model.safetensors
  python -m vggtq.predict model=model.safetensors images=photos out=reconstruction
"""


@dataclass
class Options:
    """See HELP."""

    words: list[str] = field(metadata={"example": "vggtq pull owner/name", "positional": True})
    out: str = ""
    revision: str | None = None
    overwrite: bool = False

    def __post_init__(self) -> None:
        if len(self.words) != 1:
            raise ConfigError(f"{' '.join(self.words)}: give one repository, vggtq pull owner/name out=FILE")


def pull(repo: str, out: Path | None = None, revision: str | None = None, overwrite: bool = False) -> Path:
    """Downloads the artifact of a repository to `out`, checks it, and returns its path. Raises VggtqError."""
    from vggtq import artifact, hub
    from vggtq.model_card import FILE

    hub.check_repo(repo)
    out = artifact.checked_path(out or f"{repo.partition('/')[2]}{artifact.SUFFIX}")
    if out.is_dir() or (out.exists() and not overwrite):
        raise ConfigError(f"{out} exists; choose another out=, or add overwrite=true")
    out.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=out.parent, prefix=".vggtq-") as folder:
        with hub.translated(repo, "download"):
            api = hub.client()
            api.model_info(repo, revision=revision)  # fails at once where a download would go on trying
            found = api.hf_hub_download(repo, FILE, revision=revision, local_dir=folder)
        header = artifact.read_header(found)
        if header.model is not None:
            artifact.load(found)  # every byte counts for the digest
        Path(found).replace(out)
    log.info("%s  %.1f MiB, %s", out, out.stat().st_size / 2**20, header.label)
    if header.weights.license:
        log.info("licence of the weights: %s", header.weights.license)
    return out


def main(argv: Sequence[str] | None = None) -> int:
    """Exit status: 0 done, 1 an error, 130 or 143 interrupted."""
    return execute(sys.argv[1:] if argv is None else argv, HELP, _work)


def _work(argv: Sequence[str]) -> None:
    options = parse(argv, Options, positional="words")
    with log_lines():
        out = Path(options.out) if options.out else None
        pull(options.words[0], out, options.revision, options.overwrite)


if __name__ == "__main__":
    sys.exit(main())
