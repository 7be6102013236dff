"""A training on disk: safetensors under the hash of everything that its result depends on, whole or not at all.

The header holds the identity, what happened so far, and a digest of the tensors; a file that does not match is not used. A lock
per file makes a second process wait for the first and then take its result.
"""

import hashlib
import json
import logging
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from torch import Tensor

from vggtq.quant.finetune.trainer import Progress, Trainer
from vggtq.safetensors_file import write_safetensors
from vggtq.tensor_cache import locked, tensors_digest

log = logging.getLogger(__name__)

FORMAT = "vggtq fine-tuning 1"


class Checkpoint:
    """folder: None keeps nothing. notes: why nothing could be kept, for the record; that never stops a training."""

    def __init__(self, folder: Path | None, identity: Mapping[str, Any]) -> None:
        self._identity = json.dumps(identity, sort_keys=True)
        name = hashlib.sha256(self._identity.encode()).hexdigest()
        self.path = folder / f"{name}.safetensors" if folder else None
        self.notes: list[str] = []

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Waits until no other process trains the same."""
        if self.path is None:
            yield
            return
        with locked(self.path, "another run is fine-tuning the same; waiting for it") as error:
            if error:
                self._give_up(error)
            yield

    def load_into_(self, trainer: Trainer) -> bool:
        """Takes a training up where the file left it; False where there is none that fits."""
        if self.path is None or not self.path.exists():
            return False
        try:
            progress, tensors = self._read(self.path)
        except (OSError, ValueError, KeyError, TypeError, SafetensorError) as error:
            log.warning("checkpoint %s… is not used (%s); starting anew", self.path.stem[:12], error)
            return False
        trainer.load_state(progress, tensors)
        return True

    def save(self, trainer: Trainer) -> None:
        """Writes the training; of one that has ended only the result."""
        if self.path is None:
            return
        tensors = trainer.state()
        header = {
            "format": FORMAT,
            "identity": self._identity,
            "progress": json.dumps(asdict(trainer.progress)),
            "digest": tensors_digest(tensors),
        }
        try:
            write_safetensors(self.path, tensors, header)
        except OSError as error:
            self._give_up(error)

    def _read(self, path: Path) -> tuple[Progress, dict[str, Tensor]]:
        with safe_open(str(path), framework="pt") as file:
            header = file.metadata() or {}
            if header.get("format") != FORMAT or header.get("identity") != self._identity:
                raise ValueError("it belongs to something else")
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118  # no mapping
        if header.get("digest") != tensors_digest(tensors):
            raise ValueError("its content does not match its digest")
        return Progress(**json.loads(header["progress"])), tensors

    def _give_up(self, error: Exception) -> None:
        reason = getattr(error, "strerror", None) or str(error)
        note = (
            f"checkpoints of the fine-tuning cannot be kept ({reason}); finetune_cache=null switches them off"
        )
        log.warning(note)
        self.notes.append(note)
        self.path = None
