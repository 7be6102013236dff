"""ETH3D: a miniature scene with analytic depth seen through a distorted camera, and the downloader."""

import functools
import http.server
import io
import os
import re
import shutil
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from helpers.eth3d_files import plane_depth, rays_of_distorted_pixels, write_scene
from vggtq.data.cameras.colmap import ColmapCamera, read_cameras, read_images
from vggtq.data.eth3d.__main__ import main
from vggtq.data.eth3d.download import check_members, fetch, unpack
from vggtq.data.eth3d.scenes import ETH3D, SCENES
from vggtq.data.scene import Scene
from vggtq.errors import ConfigError, DataError, MissingExtraError


@pytest.fixture
def root(tmp_path: Path) -> Path:
    write_scene(tmp_path)
    return tmp_path


def load(root: Path, **options: object) -> Scene:
    scenes = list(ETH3D(**{"root": str(root), "image_size": 210, **options}).scenes())  # type: ignore[arg-type]
    assert len(scenes) == 1
    return scenes[0]


# several scenes


def test_several_scenes_in_one_run_come_in_the_order_of_their_names(root: Path) -> None:
    shutil.copytree(root / "courtyard", root / "electro")
    both = ETH3D(root=str(root), scene="electro+courtyard+electro", image_size=210)
    scenes = list(both.scenes())
    assert [scene.name for scene in scenes] == ["electro", "courtyard"]
    assert torch.equal(scenes[1].images, load(root).images)
    assert ETH3D(scene="all").names == list(SCENES)
    with pytest.raises(ConfigError, match="did you mean electro"):
        ETH3D(scene="courtyard+electr")
    with pytest.raises(DataError, match="vggtq download office"):
        list(ETH3D(root=str(root), scene="courtyard+office", image_size=210).scenes())


# geometry


def test_poses_and_intrinsics(root: Path) -> None:
    scene = load(root)
    truth = scene.truth
    assert scene.name == "courtyard" and truth.metric
    assert [f.path for f in scene.files] == [f"images/dslr_images_undistorted/DSC_{i}.JPG" for i in range(3)]
    assert truth.extrinsics is not None and truth.intrinsics is not None
    assert truth.extrinsics.dtype == truth.intrinsics.dtype == torch.float64
    quarter_turn = torch.tensor([[0.0, -1, 0], [1, 0, 0], [0, 0, 1]], dtype=torch.float64)
    assert torch.allclose(truth.extrinsics[1, :, :3], quarter_turn, atol=1e-6)
    assert truth.extrinsics[:, 0, 3].tolist() == [0.5, 1.5, 2.5]
    # 210x147 is kept, 147 rows become 140; only the half pixel of COLMAP comes off
    assert truth.intrinsics[0, 0].tolist() == pytest.approx([140.0, 0.0, 104.0])
    assert truth.intrinsics[0, 1, 1] == pytest.approx(141.0 * scene.images.shape[2] / 147)


def true_depth(scene: Scene) -> np.ndarray:
    K = scene.truth.intrinsics[0].numpy()  # type: ignore[index]
    v, u = np.mgrid[: scene.images.shape[2], : scene.images.shape[3]]
    return plane_depth((u - K[0, 2]) / K[0, 0], (v - K[1, 2]) / K[1, 1])


@pytest.mark.parametrize("mode", ["crop", "pad"])
def test_depth_follows_the_distortion(root: Path, mode: str) -> None:
    scene = load(root, mode=mode)
    depth = scene.truth.depth[0].numpy()  # type: ignore[index]
    error = np.abs(depth - true_depth(scene))
    known = np.isfinite(depth)
    # the nearest distorted pixel is at most half a pixel away per axis
    rendered = plane_depth(*rays_of_distorted_pixels())
    bound = 0.5 * sum(np.abs(np.diff(rendered, axis=axis)).max() for axis in (0, 1))
    assert error[known].max() < 1.05 * bound
    assert 0.85 < known[scene.images[0].mean(dim=0).numpy() < 0.9].mean() < 0.999
    # ignoring the distortion is wrong by many times that: the test can tell
    rows, columns = np.nonzero(known)
    ignored = rendered[np.minimum(rows, 139), np.minimum(columns, 199)] - true_depth(scene)[known]
    assert np.abs(ignored).max() > 4 * bound


def test_holes_and_padding_are_unknown(root: Path) -> None:
    scene = load(root, mode="pad")
    depth = scene.truth.depth[0].numpy()  # type: ignore[index]
    height = (scene.images[0] < 0.95).any(dim=0).any(dim=1).sum()
    assert scene.images.shape[-2:] == (210, 210) and height < 150
    assert np.isnan(depth[:30]).all() and np.isnan(depth[-30:]).all()
    # the hole of 20x20 distorted pixels lies at the centre, where both cameras nearly agree
    assert np.isnan(depth[100:110, 100:108]).all()


def test_masks_remove_what_is_not_for_evaluation(root: Path) -> None:
    masked = torch.isfinite(load(root).truth.depth).sum(dim=(1, 2))  # type: ignore[arg-type]
    free = torch.isfinite(load(root, use_masks=False).truth.depth).sum(dim=(1, 2))  # type: ignore[arg-type]
    assert masked[0] == free[0] == free[1]
    depth = load(root).truth.depth[1]  # type: ignore[index]
    # rows that are marked 1 (registration only) stay, rows that are marked 3 go
    assert torch.isfinite(depth[5]).any() and not torch.isfinite(depth[-15:]).any()
    assert masked[1] < free[1]


def test_projection_is_undefined_where_it_folds_back() -> None:
    camera = ColmapCamera(1, "THIN_PRISM_FISHEYE", 100, 100, (50.0, 50.0, 50.0, 50.0, -0.5, *[0.0] * 7))
    # d/dθ (θ − θ³/2) = 0 at θ = √(2/3)
    x = np.tan(np.sqrt(2 / 3) + np.array([-0.01, 0.01]))
    u, _ = camera.project(x, np.zeros(2))
    assert np.isfinite(u[0]) and np.isnan(u[1])
    centre = camera.project(np.zeros(1), np.zeros(1))
    assert [c.item() for c in centre] == [49.5, 49.5]


# layouts and what may be missing


def test_the_other_layout(tmp_path: Path) -> None:
    write_scene(tmp_path, images="dslr_images_undistorted")
    scene = load(tmp_path, start=1, stride=2)
    assert [f.path for f in scene.files] == ["dslr_images_undistorted/DSC_1.JPG"]


def test_without_the_distorted_calibration_depth_is_not_used(root: Path) -> None:
    (root / "courtyard/dslr_calibration_jpg/cameras.txt").unlink()
    scene = load(root)
    assert scene.truth.depth is None and scene.truth.extrinsics is not None
    assert any("parts=jpg" in note for note in scene.notes)
    assert load(root, use_depth=False).notes == ()


def test_frames_without_depth_are_noted(root: Path) -> None:
    (root / "courtyard/ground_truth_depth/dslr_images/DSC_0.JPG").unlink()
    images = root / "courtyard/dslr_calibration_jpg/images.txt"
    images.write_text(images.read_text().replace("2.5 -1 2 7", "9.5 -1 2 7"))
    scene = load(root)
    known = torch.isfinite(scene.truth.depth).any(dim=2).any(dim=1)  # type: ignore[arg-type]
    assert known.tolist() == [False, True, False]
    assert [note.split()[0] for note in scene.notes] == ["DSC_0.JPG", "DSC_2.JPG"]


def test_missing_scene_prints_the_command(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=f"vggtq download courtyard root={tmp_path}"):
        load(tmp_path)


@pytest.mark.parametrize(
    ("file", "message"),
    [
        ("images/dslr_images_undistorted/DSC_1.JPG", r"1 of 3 images is missing.*DSC_1\.JPG"),
        ("dslr_calibration_undistorted/images.txt", r"images\.txt"),
    ],
)
def test_missing_files(root: Path, file: str, message: str) -> None:
    (root / "courtyard" / file).unlink()
    with pytest.raises(DataError, match=message):
        load(root)


def test_damaged_files(root: Path) -> None:
    mask = root / "courtyard/masks_for_images/dslr_images/DSC_1.png"
    Image.new("L", (3, 3)).save(mask)
    with pytest.raises(DataError, match=r"DSC_1\.png has shape"):
        load(root)
    depth = root / "courtyard/ground_truth_depth/dslr_images/DSC_0.JPG"
    depth.write_bytes(depth.read_bytes()[:-4])
    with pytest.raises(DataError, match="111996 bytes, expected 112000"):
        load(root)
    Image.new("RGB", (21, 14)).save(root / "courtyard/images/dslr_images_undistorted/DSC_2.JPG")
    with pytest.raises(DataError, match=r"DSC_2\.JPG is 21x14.*210x147"):
        load(root)


def test_unknown_scene() -> None:
    with pytest.raises(ConfigError, match="did you mean courtyard") as raised:
        ETH3D(scene="courtyart")
    assert len(SCENES) == 13 and all(scene in str(raised.value) for scene in SCENES)


# COLMAP text


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("1 PINHOLE 10 10 5 5 5", "takes 4 parameters"),
        ("1 PINHOLE 10 10 5 5 5 x", "'x'"),
        ("1 PINHOLE 10 10 5 5 5 nan", "not finite"),
        ("1 PINHOLE 10", "got 3 words"),
        ("1 CUBE 10 10 5 5 5 5 5", "CUBE is not supported"),
        ("a PINHOLE 10 10 5 5 5 5", "not an integer"),
        ("1 PINHOLE 0 10 5 5 5 5", "positive"),
        ("7 PINHOLE 10 10 5 5 5 5", "defined twice"),
    ],
)
def test_malformed_cameras_name_the_line(tmp_path: Path, line: str, message: str) -> None:
    path = tmp_path / "cameras.txt"
    path.write_text(f"# comment\n7 PINHOLE 10 10 5 5 5 5\n{line}\n")
    with pytest.raises(DataError, match=re.escape(f"{path}:3: ") + f".*{message}"):
        read_cameras(path)


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("2 1 0 0 0 0 0 0 7", "got 9 words"),
        ("2 1 0 0 0 0 0 z 7 b.jpg", "'z'"),
        ("2 2 0 0 0 0 0 0 7 b.jpg", "quaternion of length 2"),
        ("2 1 0 0 0 0 0 0 8 b.jpg", "camera 8 is not in"),
        ("2 1 0 0 0 0 0 0 7 a.jpg", "listed twice"),
    ],
)
def test_malformed_images_name_the_line(tmp_path: Path, line: str, message: str) -> None:
    path = tmp_path / "images.txt"
    path.write_text(f"1 1 0 0 0 0 0 0 7 a.jpg\n\n{line}\n\n")
    with pytest.raises(DataError, match=re.escape(f"{path}:3: ") + f".*{message}"):
        read_images(path, {7: ColmapCamera(7, "PINHOLE", 1, 1, (1.0,) * 4)})


def test_stripped_point_lines_do_not_lose_images(tmp_path: Path) -> None:
    path = tmp_path / "images.txt"
    path.write_text("1 1 0 0 0 0 0 0 7 a.jpg\n2 1 0 0 0 0 0 0 7 b.jpg\n")
    with pytest.raises(DataError, match=r"images\.txt:2: expected the POINTS2D line"):
        read_images(path, {7: ColmapCamera(7, "PINHOLE", 1, 1, (1.0,) * 4)})


def test_names_with_spaces_and_no_last_line(tmp_path: Path) -> None:
    path = tmp_path / "images.txt"
    path.write_text("1 1 0 0 0 0 0 0 7 my photo 1.jpg")
    assert list(read_images(path, {7: ColmapCamera(7, "PINHOLE", 1, 1, (1.0,) * 4)})) == ["my photo 1.jpg"]
    path.write_text("# nothing\n")
    with pytest.raises(DataError, match="no image"):
        read_images(path, {})


# download


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
