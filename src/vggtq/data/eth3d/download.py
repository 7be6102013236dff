"""Fetches large archives over flaky lines and unpacks them without trusting their member names."""

import http.client
import lzma
import shutil
import urllib.error
import urllib.request
from collections.abc import Iterable
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import Any

from rich.progress import (
    BarColumn,
    DownloadColumn,
    Progress,
    TextColumn,
    TimeRemainingColumn,
    TransferSpeedColumn,
)

from vggtq.errors import DataError, MissingExtraError

CHUNK_BYTES = 1 << 20
TIMEOUT_S = 60.0  # per socket operation, not per file


def fetch(url: str, target: Path, expected_bytes: int | None = None) -> None:
    """Downloads url to target, resuming `<target>.part`, which survives every failure and Ctrl-C.

    A cut connection is resumed as long as each attempt brings something. Raises DataError when the server
    refuses, the network is away, or the size is not expected_bytes.
    """
    part = target.with_name(target.name + ".part")
    target.parent.mkdir(parents=True, exist_ok=True)
    with _progress() as progress:
        task = progress.add_task(target.name, total=expected_bytes)
        while True:
            before = _size(part)
            total, problem = _attempt(url, part, expected_bytes, progress, task)
            if total is not None and _size(part) == total:
                break
            if _size(part) <= before:
                raise DataError(
                    f"{url}: {problem or 'the connection was cut'} after {_size(part)} of "
                    f"{total or expected_bytes or 'unknown'} bytes; run the same command again to resume"
                )
    part.replace(target)


def _progress() -> Progress:
    return Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        DownloadColumn(),
        TransferSpeedColumn(),
        TimeRemainingColumn(),
    )


def _size(path: Path) -> int:
    return path.stat().st_size if path.exists() else 0


def _attempt(
    url: str, part: Path, expected: int | None, progress: Progress, task: Any
) -> tuple[int | None, str | None]:
    """One request, appended to part. Returns (total bytes if known, what went wrong if anything did)."""
    have = _size(part)
    total = None
    try:
        request = urllib.request.Request(url, headers={"Range": f"bytes={have}-"} if have else {})
        with urllib.request.urlopen(request, timeout=TIMEOUT_S) as response:
            # a server without Range support answers 200 and starts from the first byte
            have = have if response.status == 206 else 0
            total = _total_bytes(response, have)
            _check_total(url, total, expected)
            progress.update(task, total=total, completed=have)
            with part.open("ab" if have else "wb") as file:
                while chunk := response.read(CHUNK_BYTES):
                    file.write(chunk)
                    progress.advance(task, len(chunk))
        # without Content-Length the end of the stream is the only sign of completeness
        return (total if total is not None else _size(part)), None
    except urllib.error.HTTPError as error:
        if error.code == 416:
            return _range_refused(error, part, have)
        raise DataError(f"{url}: HTTP {error.code} {error.reason}") from error
    except urllib.error.URLError as error:
        return total, f"no connection ({error.reason})"
    except (OSError, http.client.HTTPException) as error:
        return total, str(error) or type(error).__name__
    except ValueError as error:
        raise DataError(f"{url}: cannot be fetched ({error}); check the address") from error


def _total_bytes(response: Any, have: int) -> int | None:
    length = response.headers.get("Content-Length")
    return have + int(length) if length is not None else None


def _check_total(url: str, total: int | None, expected: int | None) -> None:
    if expected is not None and total is not None and total != expected:
        raise DataError(
            f"{url}: the server offers {total} bytes, expected {expected}: the archive is another one; "
            "download it by hand if that is what you want"
        )


def _range_refused(error: urllib.error.HTTPError, part: Path, have: int) -> tuple[int | None, str | None]:
    """416: the part file is either complete already or longer than the archive."""
    total = (error.headers.get("Content-Range") or "").rpartition("/")[2]
    if total == str(have):
        return have, None
    raise DataError(
        f"{part} has {have} bytes, more than the server's {total or 'archive'}; delete it and run again"
    )


def unpack(archive: Path, folder: Path) -> int:
    """Unpacks a .7z archive into folder, merging with what is there; returns the number of members.

    Nothing is extracted unless every member stays inside, and files appear in folder only after the whole
    archive was unpacked beside it. Raises DataError; MissingExtraError without py7zr.
    """
    try:
        import py7zr
    except ImportError as error:
        raise MissingExtraError(
            "unpacking .7z archives needs py7zr; run: pip install 'vggtq[eth3d]'"
        ) from error
    staging = folder / f".{archive.name}.unpacking"
    shutil.rmtree(staging, ignore_errors=True)
    try:
        with py7zr.SevenZipFile(archive) as file:
            members = [(info.filename, info.is_symlink) for info in file.list()]
            check_members(members, archive)
            staging.mkdir(parents=True)
            file.extractall(staging)
        _merge(staging, folder)
    except (py7zr.exceptions.ArchiveError, lzma.LZMAError, EOFError, ValueError, OSError) as error:
        raise DataError(
            f"cannot unpack {archive}: {error or type(error).__name__}; delete it and run again"
        ) from error
    finally:
        shutil.rmtree(staging, ignore_errors=True)
    return len(members)


def check_members(members: Iterable[tuple[str, bool]], archive: Path) -> None:
    """Raises DataError for a member (name, is symbolic link) that could write outside the target folder.

    Links are refused altogether: the archives have none, and a link that points inside can be chained.
    """
    for name, is_symlink in members:
        posix, windows = PurePosixPath(name), PureWindowsPath(name)
        if posix.is_absolute() or windows.drive or windows.root or ".." in (*posix.parts, *windows.parts):
            raise DataError(
                f"{archive}: member {name!r} leaves the target folder; nothing was unpacked, delete the file"
            )
        if is_symlink:
            raise DataError(
                f"{archive}: member {name!r} is a symbolic link; nothing was unpacked, delete the file"
            )


def _merge(source: Path, target: Path) -> None:
    """Moves the tree source into target by renaming; existing folders are merged, files replaced."""
    for item in sorted(source.iterdir()):
        destination = target / item.name
        if item.is_dir() and destination.is_dir():
            _merge(item, destination)
        else:
            item.replace(destination)
