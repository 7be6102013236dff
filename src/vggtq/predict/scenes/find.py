"""The folders that `scenes=` names, and the name of each scene."""

import glob
import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from vggtq.data.images import PLACES, find_images
from vggtq.data.select import count, natural_key
from vggtq.errors import ConfigError, DataError

INDEX = "scenes.json"  # in out, beside the folders of the scenes
JOBS = ".jobs"  # in out: files that the processes of one command share, and the files of a launcher
NAMED = 3  # scenes that a message names


@dataclass(frozen=True)
class Scene:
    """A folder of photographs.

    name: of the folder of its results, below out. folder: as the user named it. images: a digest of the images' names.
    """

    name: str
    folder: str
    images: str


def find_scenes(patterns: Sequence[str], out: Path) -> list[Scene]:
    """The folders that the patterns match, each once, by name in natural order. A folder in `out` is no scene.

    Raises DataError where nothing matches or a folder has no image, and ConfigError where two scenes would share their results.
    """
    given = f"scenes={','.join(patterns)}"
    folders: dict[Path, Path] = {}
    for pattern in patterns:
        for folder in _expand(pattern):
            if not folder.resolve().is_relative_to(out.resolve()):
                folders.setdefault(folder.resolve(), folder)
    if not folders:
        raise DataError(f"{given}: nothing but what lies in out={out}; name the folders of your photographs")
    for real, folder in folders.items():
        if out.resolve().is_relative_to(real):
            raise ConfigError(
                f"out={out} lies in the scene {folder}, whose images it would add to; name a folder elsewhere"
            )
    named = {folder: folder.name or real.name for real, folder in folders.items()}
    _check_names(named)
    images = _images(given, named)
    return sorted(
        (Scene(named[folder], str(folder), images_digest(names)) for folder, names in images.items()),
        key=lambda scene: natural_key(scene.name),
    )


def images_digest(names: Iterable[str]) -> str:
    """Changes with the names of a scene's images and with their order."""
    return hashlib.sha256("\n".join(names).encode(errors="surrogateescape")).hexdigest()[:16]


def _expand(pattern: str) -> list[Path]:
    path = Path(pattern).expanduser()
    if path.is_dir():
        _check_own_images(path)
        return [path]
    if path.exists():
        raise DataError(f"scenes={pattern} is a file; name folders, or use images= for one scene")
    if not glob.has_magic(pattern):
        raise DataError(f"scenes={pattern}: no such folder; check the path")
    matches = [Path(name) for name in glob.glob(str(path), recursive=True)]  # noqa: PTH207  # absolute patterns
    folders = [match for match in matches if match.is_dir()]
    if not matches:
        raise DataError(f"scenes={pattern}: nothing matches this pattern; check it")
    if not folders:
        raise DataError(
            f"scenes={pattern}: none of {count(len(matches), 'matching file')} is a folder; each scene is a folder of its own"
        )
    return folders


def _check_own_images(folder: Path) -> None:
    """A folder that is named must be a scene, and no folder of scenes. Raises DataError."""
    places = {(folder / place).resolve() for place in PLACES}
    try:
        parents = {image.parent.resolve() for image in find_images(folder, [])}
    except DataError:
        return  # told with all other scenes that have none
    if not parents & places:
        raise DataError(
            f"scenes={folder}: its images lie in {count(len(parents), 'subfolder')}; scenes='{folder}/*' takes each as a "
            f"scene, images={folder} takes all as one"
        )


def _check_names(named: dict[Path, str]) -> None:
    first: dict[str, Path] = {}
    for folder, name in named.items():
        if name in (INDEX, JOBS):
            raise ConfigError(
                f"scenes: {folder}: {name} is a name that out= needs for itself; rename the folder"
            )
        other = first.setdefault(name.casefold(), folder)  # some file systems take A and a for one folder
        if other != folder:
            raise ConfigError(
                f"scenes: {other} and {folder} have the same name, so that both results would go to one folder; rename one, "
                "or give two commands with an out= each"
            )


def _images(given: str, named: dict[Path, str]) -> dict[Path, list[str]]:
    """The names of each scene's images. Raises DataError, which names the scenes that have none."""
    found: dict[Path, list[str]] = {}
    empty: dict[Path, DataError] = {}
    for folder in named:
        try:
            found[folder] = [path.name for path in find_images(folder, [])]
        except DataError as error:
            empty[folder] = error
    if empty:
        others = [str(folder) for folder in empty][1:NAMED]
        more = f" (also {', '.join(others)}{', …' if len(empty) > NAMED else ''})" if others else ""
        raise DataError(
            f"{given}: {count(len(empty), 'scene')} of {len(named)} cannot be read: {next(iter(empty.values()))}{more}; "
            "move such folders elsewhere, or name the others"
        )
    return found
