"""`vggtq download courtyard`: downloads scenes of ETH3D."""

import os
import signal
import sys
import urllib.parse
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

if __name__ == "__main__":  # Ctrl-C while the libraries below are imported, which takes seconds
    signal.signal(signal.SIGINT, lambda *_: os._exit(130))

from vggtq.data.eth3d.download import fetch, unpack
from vggtq.data.eth3d.scenes import ETH3D, SCENES, check_scene
from vggtq.errors import ConfigError, DataError
from vggtq.terminal.command_line import entry
from vggtq.terminal.help import Command
from vggtq.terminal.options import option

LICENCE = "ETH3D: CC BY-NC-SA 4.0, https://www.eth3d.net (non-commercial; cite Schöps et al., CVPR 2017)"
BASE_URL = "https://www.eth3d.net/data/"
ARCHIVES = {  # part: the end of its file name
    "undistorted": "dslr_undistorted",
    "jpg": "dslr_jpg",
    "depth": "dslr_depth",
    "occlusion": "dslr_occlusion",
    "scan": "dslr_scan_eval",
}
KNOWN_BYTES = {"courtyard_dslr_undistorted.7z": 500_990_569}


@dataclass
class Options:
    """The scenes and parts to download, the address they come from, and their folder."""

    scenes: str = option(
        f"separated by commas: {', '.join(SCENES)}", words="SCENES", missing="vggtq download courtyard"
    )
    parts: list[str] = option(
        "what to take besides undistorted photographs and cameras; depth brings jpg, which describes its cameras",
        [],
        choices=tuple(ARCHIVES),
    )
    root: str = option("folder of the scenes", ETH3D.root)
    url: str = option("the address of a mirror's folder", BASE_URL)


COMMAND = Command(
    "download", Options, ("courtyard", "courtyard,electro parts=depth root=data/eth3d"), LICENCE
)


def check_url(url: str) -> str:
    """A mirror's folder with its last slash. Raises ConfigError for anything but a web address."""
    try:
        parts = urllib.parse.urlsplit(url)
        valid = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
    except ValueError:
        valid = False
    if not valid:
        raise ConfigError(f"url={url}: not a web address; give https://HOST/FOLDER/")
    return url if url.endswith("/") else f"{url}/"


def download(scene: str, root: Path, parts: Sequence[str], base_url: str) -> None:
    """Fetches and unpacks the archives of a scene below root; archives that are unpacked already are left
    alone.

    parts: keys of ARCHIVES. Raises DataError, MissingExtraError, and OSError where root cannot be written to.
    """
    for part in parts:
        archive = root / f"{scene}_{ARCHIVES[part]}.7z"
        # inside the scene, so that deleting the scene's folder asks for a new download
        done = root / scene / f".{archive.name}.unpacked"
        if done.exists():
            print(f"{archive.name}: already unpacked in {root / scene}")
            continue
        if not archive.exists():
            fetch(base_url + archive.name, archive, KNOWN_BYTES.get(archive.name))
        print(f"{archive.name}: unpacking, this takes minutes")
        members = unpack(archive, root)
        done.parent.mkdir(exist_ok=True)
        done.write_text(f"{LICENCE}\n", encoding="utf-8")
        archive.unlink()
        print(f"{archive.name}: {members} files and folders in {root / scene}")


def _work(options: Options) -> None:
    print(LICENCE)
    scenes = [scene.strip() for scene in options.scenes.split(",") if scene.strip()]
    if not scenes:
        raise ConfigError(f"no scene given; valid: {', '.join(SCENES)}")
    # depth cannot be used without the calibration that comes with the photographs as taken
    implied = ["jpg"] if "depth" in options.parts else []
    parts = list(dict.fromkeys(["undistorted", *options.parts, *implied]))
    url = check_url(options.url)
    for scene in scenes:
        check_scene(scene)
    try:
        for scene in scenes:
            download(scene, Path(options.root), parts, url)
    except OSError as error:
        raise DataError(
            f"cannot write below {options.root} ({error.strerror or error}); give another root=DIR"
        ) from error
    except KeyboardInterrupt:
        print("stopped; run the same command again to resume", file=sys.stderr)
        raise


main = entry(COMMAND, _work)

if __name__ == "__main__":
    sys.exit(main())
