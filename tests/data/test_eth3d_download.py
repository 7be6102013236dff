"""The downloader of ETH3D: connections that are cut, archives that are damaged or malicious, and errors in one line."""

import functools
import http.server
import io
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from vggtq.data.eth3d.__main__ import main
from vggtq.data.eth3d.download import check_members, fetch, unpack
from vggtq.errors import DataError, MissingExtraError


class Server(http.server.BaseHTTPRequestHandler):
    """Serves `files` with Range support, cutting the first `cuts` answers after half of their bytes."""

    def __init__(self, shared: "Shared", *arguments: object) -> None:
        self.shared = shared
        super().__init__(*arguments)  # type: ignore[arg-type]

    def do_GET(self) -> None:
        name = self.path.rpartition("/")[2]
        wanted = self.headers.get("Range")
        self.shared.requests.append((name, wanted))
        data = self.shared.files.get(name)
        if data is None:
            self.send_error(404)
            return
        start = int(wanted.removeprefix("bytes=").rstrip("-")) if wanted and self.shared.ranges else 0
        if start >= len(data):
            self.send_response(416)
            self.send_header("Content-Range", f"bytes */{len(data)}")
            self.end_headers()
            return
        self.send_response(206 if start else 200)
        self.send_header("Content-Length", str(len(data) - start))
        self.end_headers()
        body = data[start:]
        if self.shared.cuts:
            self.shared.cuts -= 1
            body = body[: len(body) // 2] if self.shared.cut_sends else b""
        self.wfile.write(body)

    def log_message(self, *arguments: object) -> None:
        pass


class Shared:
    def __init__(self) -> None:
        self.files: dict[str, bytes] = {}
        self.requests: list[tuple[str, str | None]] = []
        self.cuts = 0
        self.cut_sends = True
        self.ranges = True
        self.url = ""


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[Shared]:
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    shared = Shared()
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Server, shared)) as running:
        shared.url = f"http://127.0.0.1:{running.server_address[1]}/data/"
        thread = threading.Thread(target=running.serve_forever, args=(0.01,), daemon=True)
        thread.start()
        yield shared
        running.shutdown()
        thread.join()


def archive(files: dict[str, bytes]) -> bytes:
    py7zr = pytest.importorskip("py7zr")
    buffer = io.BytesIO()
    with py7zr.SevenZipFile(buffer, "w") as file:
        for name, data in files.items():
            file.writestr(data, name)
    return buffer.getvalue()


def test_download_unpack_and_again(
    server: Shared, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    server.files["electro_dslr_undistorted.7z"] = archive({"electro/images/a.JPG": b"a"})
    server.files["electro_dslr_depth.7z"] = archive({"electro/depth/a": b"d"})
    server.files["electro_dslr_jpg.7z"] = archive({"electro/images/b.JPG": b"b"})
    arguments = ["electro", f"root={tmp_path}", "parts=depth", f"url={server.url}"]
    assert main(arguments) == 0
    assert "CC BY-NC-SA 4.0" in capsys.readouterr().out
    assert (tmp_path / "electro/images/a.JPG").read_bytes() == b"a"
    # two archives share a folder, and depth brought the calibration of the photographs with it
    assert (tmp_path / "electro/images/b.JPG").read_bytes() == b"b"
    assert (tmp_path / "electro/depth/a").read_bytes() == b"d"
    assert [p.name for p in tmp_path.iterdir()] == ["electro"]
    assert len(server.requests) == 3
    assert main(arguments) == 0
    assert len(server.requests) == 3


def test_a_cut_connection_is_resumed(server: Shared, tmp_path: Path) -> None:
    data = bytes(range(256)) * 40
    server.files["x"] = data
    server.cuts = 2
    fetch(server.url + "x", tmp_path / "x")
    assert (tmp_path / "x").read_bytes() == data
    assert server.requests == [("x", None), ("x", "bytes=5120-"), ("x", "bytes=7680-")]
    assert [p.name for p in tmp_path.iterdir()] == ["x"]


def test_the_part_file_survives_and_is_used(server: Shared, tmp_path: Path) -> None:
    data = bytes(range(256)) * 40
    server.files["x"] = data
    part = tmp_path / "x.part"
    part.write_bytes(data[:300])
    server.cuts, server.cut_sends = 1, False
    with pytest.raises(DataError, match="cut after 300 of 10240 bytes; run the same command again"):
        fetch(server.url + "x", tmp_path / "x")
    assert part.read_bytes() == data[:300]
    fetch(server.url + "x", tmp_path / "x")
    assert (tmp_path / "x").read_bytes() == data
    assert server.requests[-1] == ("x", "bytes=300-")


def test_a_server_without_ranges_starts_over(server: Shared, tmp_path: Path) -> None:
    server.files["x"] = b"0123456789"
    server.ranges = False
    (tmp_path / "x.part").write_bytes(b"wrong")
    fetch(server.url + "x", tmp_path / "x")
    assert (tmp_path / "x").read_bytes() == b"0123456789"


def test_a_complete_or_too_long_part_file(server: Shared, tmp_path: Path) -> None:
    server.files["x"] = b"0123456789"
    (tmp_path / "x.part").write_bytes(b"0123456789")
    fetch(server.url + "x", tmp_path / "x")
    assert (tmp_path / "x").read_bytes() == b"0123456789"
    (tmp_path / "y.part").write_bytes(b"0" * 11)
    with pytest.raises(DataError, match="11 bytes, more than the server's 10"):
        fetch(server.url + "x", tmp_path / "y")


def test_the_wrong_size_is_refused(server: Shared, tmp_path: Path) -> None:
    server.files["courtyard_dslr_undistorted.7z"] = b"x" * 10
    with pytest.raises(DataError, match="offers 10 bytes, expected 500990569"):
        fetch(server.url + "courtyard_dslr_undistorted.7z", tmp_path / "c.7z", 500_990_569)


def test_one_line_errors(server: Shared, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = [f"root={tmp_path}", f"url={server.url}"]
    assert main(["courtyard", *arguments]) == 1
    assert main(["courtyart", *arguments]) == 1
    assert main(["courtyard", *arguments, "parts=depths"]) == 1
    # port 9 of the loopback is closed: no network
    assert main(["courtyard", f"root={tmp_path}", "url=http://127.0.0.1:9/"]) == 1
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 4
    for line, words in zip(
        lines, ("HTTP 404", "did you mean courtyard", "did you mean depth", "no connection"), strict=True
    ):
        assert line.startswith("error: ") and words in line


@pytest.mark.parametrize("url", ["foo", "http://", "http://[::1", "http://a:b/", "mailto:a@b.org", ""])
def test_addresses_that_are_none(url: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["courtyard", f"root={tmp_path}", f"url={url}"]) == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(f"error: url={url}: not a web address; give https://")
    with pytest.raises(DataError, match="cannot be fetched"):
        fetch("foo/x", tmp_path / "x")


def test_folders_that_cannot_be_written(
    server: Shared, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "file").write_bytes(b"")
    for root in ("/proc/x", str(tmp_path / "file"), str(tmp_path / "file/below")):
        assert main(["courtyard", f"root={root}", f"url={server.url}"]) == 1
        (line,) = capsys.readouterr().err.splitlines()
        assert line.startswith(f"error: cannot write below {root}") and "give another root=DIR" in line


def test_lists_may_hold_spaces_and_urls_lack_the_last_slash(server: Shared, tmp_path: Path) -> None:
    for scene in ("electro", "kicker"):
        for part in ("undistorted", "jpg", "depth"):
            server.files[f"{scene}_dslr_{part}.7z"] = archive({f"{scene}/{part}": b"x"})
    arguments = [f"root={tmp_path}", f"url={server.url.rstrip('/')}"]
    assert main(["electro, kicker,", *arguments, "parts=depth , jpg"]) == 0
    assert len(server.requests) == 6


def test_no_scene_is_an_error(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([" ,", f"root={tmp_path}"]) == 1
    assert "error: no scene given; valid: courtyard, " in capsys.readouterr().err


@pytest.mark.skipif(sys.platform == "win32", reason="signals")
def test_an_interrupt_while_libraries_are_imported_has_no_traceback(tmp_path: Path) -> None:
    (tmp_path / "torch.py").write_text("import os, signal\nos.kill(os.getpid(), signal.SIGINT)\n")
    command = [sys.executable, "-m", "vggtq.download", "courtyard"]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(tmp_path), *sys.path])}
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (130, "")


def test_interrupt_asks_to_resume(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def interrupted(*arguments: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("vggtq.data.eth3d.__main__.fetch", interrupted)
    assert main(["courtyard", f"root={tmp_path}"]) == 130
    assert "again to resume" in capsys.readouterr().err


@pytest.mark.parametrize("name", ["../evil", "/evil", "a/../../evil"])
def test_malicious_archives_unpack_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    py7zr = pytest.importorskip("py7zr")
    # py7zr refuses to write such names, attackers do not
    monkeypatch.setattr(py7zr.py7zr, "check_archive_path", lambda name: True)
    path = tmp_path / "bad.7z"
    path.write_bytes(archive({"courtyard/good": b"1", name: b"2"}))
    with pytest.raises(DataError, match="leaves the target folder"):
        unpack(path, tmp_path / "data")
    assert [p.name for p in tmp_path.iterdir()] == ["bad.7z"]


def test_archives_with_links_unpack_nothing(tmp_path: Path) -> None:
    py7zr = pytest.importorskip("py7zr")
    (tmp_path / "link").symlink_to("/etc")
    with py7zr.SevenZipFile(tmp_path / "bad.7z", "w") as file:
        file.write(tmp_path / "link", "courtyard/link")
    with pytest.raises(DataError, match="symbolic link"):
        unpack(tmp_path / "bad.7z", tmp_path / "data")
    assert not (tmp_path / "data").exists()


@pytest.mark.parametrize("name", ["C:/evil", "C:evil", "\\\\host\\share\\evil", "a\\..\\..\\evil"])
def test_windows_names_are_refused_everywhere(name: str) -> None:
    with pytest.raises(DataError, match="leaves the target folder"):
        check_members([("courtyard/a", False), (name, False)], Path("x.7z"))


def test_a_damaged_archive_leaves_nothing_behind(tmp_path: Path) -> None:
    data = bytearray(archive({"courtyard/a": bytes(range(256)) * 20}))
    data[40] ^= 0xFF
    (tmp_path / "bad.7z").write_bytes(data)
    with pytest.raises(DataError, match=r"cannot unpack.*delete it"):
        unpack(tmp_path / "bad.7z", tmp_path / "data")
    assert not list((tmp_path / "data").glob("**/*"))


def test_without_py7zr_the_extra_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "py7zr", None)
    with pytest.raises(MissingExtraError, match=r"pip install 'vggtq\[eth3d\]'"):
        unpack(tmp_path / "a.7z", tmp_path)
