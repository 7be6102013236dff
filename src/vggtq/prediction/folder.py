"""The folder that a prediction is written to: never mixed with another one, and marked whole by its prediction.json."""

import json
import os
from pathlib import Path
from typing import Any

from vggtq.atomic import replacing
from vggtq.errors import ConfigError
from vggtq.record import jsonable

INDEX = "prediction.json"


class OutputFolder:
    """Refuses what is not empty, unless it may overwrite; then an earlier prediction's own files are removed, no others.

    Raises ConfigError.
    """

    def __init__(self, path: Path, overwrite: bool) -> None:
        self.path, self._written = path, list[str]()
        if path.exists() and not path.is_dir():
            raise ConfigError(f"out={path} is a file; name a folder")
        if path.is_dir() and any(path.iterdir()) and not overwrite:
            raise ConfigError(f"out={path} is not empty; name another folder, or overwrite=true")
        there = next(folder for folder in (path, *path.absolute().parents) if folder.is_dir())
        if not os.access(there, os.W_OK | os.X_OK):
            raise ConfigError(f"out={path}: {there} cannot be written to; name another folder")

    def begin(self) -> None:
        """Makes room: without its index, what is there is no longer a prediction."""
        self.path.mkdir(parents=True, exist_ok=True)
        index = self.path / INDEX
        old = _listed(index)
        index.unlink(missing_ok=True)
        for name in old:
            (self.path / name).unlink(missing_ok=True)

    def file(self, name: str) -> Path:
        """The path of a file to write, which the index will list."""
        self._written.append(name)
        return self.path / name

    def finish(self, report: dict[str, Any]) -> None:
        """Writes the index, with the size in bytes of each file."""
        files = {name: (self.path / name).stat().st_size for name in self._written}
        text = json.dumps(jsonable(report | {"files": files}), indent=1, allow_nan=False, ensure_ascii=False)
        with replacing(self.path / INDEX) as temporary:
            temporary.write_text(text + "\n", encoding="utf-8")


def _listed(index: Path) -> list[str]:
    """The files of an earlier prediction, as far as they lie in its folder."""
    try:
        names = list(json.loads(index.read_text(encoding="utf-8"))["files"])
    except (OSError, ValueError, KeyError, TypeError):
        return []
    inside = [name for name in names if isinstance(name, str) and not Path(name).is_absolute()]
    return [name for name in inside if ".." not in Path(name).parts and (index.parent / name).is_file()]
