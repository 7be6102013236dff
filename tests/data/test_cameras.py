"""Files in which people have cameras: each gives back the poses that it was written from, or says what is wrong with it."""

import json
import re
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from helpers.posed_photographs import (
    Posed,
    as_stored,
    grey,
    write_cameras_json,
    write_colmap_binary,
    write_colmap_text,
    write_mvsnet,
    write_pose_files,
    write_strecha,
    write_transforms,
    write_tum,
)
from vggtq.data.cameras.camera import CONVENTIONS, world_to_camera
from vggtq.data.cameras.colmap import PARAMETERS, ColmapCamera, read_model
from vggtq.data.cameras.lens import Lens
from vggtq.data.cameras.read import read_cameras
from vggtq.data.images import ImageFolder
from vggtq.data.scene import Scene
from vggtq.errors import ConfigError, DataError


def load(folder: Path, **options: object) -> Scene:
    return next(iter(ImageFolder(path=str(folder), image_size=56, **options).scenes()))  # type: ignore[arg-type]


WRITERS: dict[str, Callable[[Posed], Path]] = {
    "cameras.json": write_cameras_json,
    "transforms.json": write_transforms,
    "sparse/0, text": lambda posed: write_colmap_text(posed, posed.folder / "sparse/0"),
    "sparse/0, binary": lambda posed: write_colmap_binary(posed, posed.folder / "sparse/0"),
    "sparse": lambda posed: write_colmap_binary(posed, posed.folder / "sparse"),
    "beside the images": lambda posed: write_strecha(posed),
    "cams": lambda posed: write_mvsnet(posed, posed.folder / "cams"),
}


def matches(scene: Scene, posed: Posed, has_intrinsics: bool = True) -> None:
    truth = scene.truth
    assert truth.extrinsics is not None
    assert np.allclose(truth.extrinsics.numpy(), posed.poses[:, :3], atol=1e-9)
    assert [Path(file.path).name for file in scene.files] == [Path(name).name for name in posed.names]
    if has_intrinsics:
        assert truth.intrinsics is not None
        # 56 × 42 pixels stay as they are
        assert np.allclose(truth.intrinsics.numpy(), posed.K, atol=1e-9)


@pytest.mark.parametrize("form", WRITERS)
def test_every_form_is_found_and_gives_the_same_cameras(tmp_path: Path, form: str) -> None:
    posed = grey(tmp_path, names="images/{}.png" if form == "cams" else "{}.png")
    WRITERS[form](posed)
    matches(load(tmp_path), posed)


@pytest.mark.parametrize("form", WRITERS)
def test_every_form_can_be_named_where_it_lies_elsewhere(tmp_path: Path, form: str) -> None:
    posed = grey(tmp_path / "here", names="images/{}.png" if form == "cams" else "{}.png")
    found = WRITERS[form](posed)
    matches(load(tmp_path / "here", cameras=str(found)), posed)
    scene = load(tmp_path / "here", cameras=None)
    assert scene.truth.extrinsics is None and len(scene.files) == 3


def test_pose_files_and_trajectories_need_intrinsics_from_elsewhere(tmp_path: Path) -> None:
    kitchen = grey(tmp_path / "kitchen", names="frame-00000{}.color.png")
    Image.fromarray(np.full((42, 56), 1500, np.uint16)).save(tmp_path / "kitchen/frame-000000.depth.png")
    write_pose_files(kitchen)
    desk = grey(tmp_path / "desk", names="rgb/{}.png")
    write_tum(desk)
    for posed in (kitchen, desk):
        scene = load(posed.folder)
        matches(scene, posed, has_intrinsics=False)
        assert scene.truth.intrinsics is None and scene.truth.metric
        assert any("dataset.intrinsics=[fx,fy,cx,cy]" in note for note in scene.notes)
        K = posed.K
        matches(load(posed.folder, intrinsics=[K[0, 0], K[1, 1], K[0, 2], K[1, 2]]), posed)


@pytest.mark.parametrize("convention", CONVENTIONS)
def test_the_configuration_says_which_convention_a_file_keeps_to(tmp_path: Path, convention: str) -> None:
    posed = grey(tmp_path)
    write_cameras_json(posed, convention)
    matches(load(tmp_path, convention=convention), posed)
    assert np.allclose(world_to_camera(as_stored(posed.poses, convention), convention), posed.poses)


def test_wrong_options_are_found_before_a_file_is_read() -> None:
    with pytest.raises(ConfigError, match=r"convention=opencv_wc2.*opengl_c2w; did you mean opencv_w2c"):
        ImageFolder(path="x", convention="opencv_wc2")
    with pytest.raises(ConfigError, match=r"intrinsics=\[500.0\].*\[fx,fy,cx,cy\]"):
        ImageFolder(path="x", intrinsics=[500.0])


def test_photographs_without_a_camera_are_left_out_and_counted(tmp_path: Path) -> None:
    posed = grey(tmp_path, names="images/{}.png")
    write_colmap_text(posed, tmp_path / "sparse/0")
    Image.new("RGB", (9, 9)).save(tmp_path / "images/unregistered.png")
    scene = load(tmp_path)
    matches(scene, posed)
    assert "1 of 4 photographs have no camera and were left out" in scene.notes
    assert "cameras read from sparse/0" in scene.notes
    (tmp_path / "images/1.png").unlink()
    with pytest.raises(DataError, match=r"images\.txt: 1 of 3 listed images is not there, first .*1\.png"):
        load(tmp_path)


def test_old_transforms_name_images_without_their_suffix_and_give_a_field_of_view(tmp_path: Path) -> None:
    posed = grey(tmp_path)
    path = write_transforms(posed)
    data = json.loads(path.read_text())
    frames = [{**f, "file_path": f["file_path"].removesuffix(".png")} for f in data["frames"]]
    path.write_text(json.dumps({"camera_angle_x": 2 * np.arctan(28 / 50), "frames": frames}))
    K = load(tmp_path).truth.intrinsics
    assert K is not None
    assert K[0].numpy() == pytest.approx(np.array([[50.0, 0, 27.5], [0, 50.0, 20.5], [0, 0, 1]]))


# distortion


MODELS = {
    "SIMPLE_RADIAL": (50.0, 28.0, 21.0, -0.1),
    "RADIAL": (50.0, 28.0, 21.0, -0.1, 0.05),
    "OPENCV": (50.0, 51.0, 28.5, 20.0, 0.08, -0.05, 0.003, -0.004),
    "FULL_OPENCV": (50.0, 51.0, 28.5, 20.0, 0.08, -0.05, 0.003, -0.004, 0.01, 0.02, -0.01, 0.005),
    "SIMPLE_PINHOLE": (50.0, 28.0, 21.0),
    "PINHOLE": (50.0, 51.0, 28.0, 21.0),
}


@pytest.mark.parametrize("model", MODELS)
def test_lenses_agree_with_colmap(model: str) -> None:
    pycolmap = pytest.importorskip("pycolmap")
    theirs = pycolmap.Camera(model=model, width=56, height=42, params=list(MODELS[model]))
    lens = ColmapCamera(1, model, 56, 42, MODELS[model]).lens()
    rays = np.random.default_rng(0).uniform(-0.5, 0.5, (50, 2))
    x, y = lens.distorted(rays[:, 0], rays[:, 1])
    ours = np.stack([x * lens.fx + lens.cx, y * lens.fy + lens.cy], axis=1)
    expected = theirs.img_from_cam(np.concatenate([rays, np.ones((50, 1))], axis=1))
    assert np.allclose(ours + 0.5, expected, atol=1e-9)


def test_the_numbers_of_camera_models_are_those_of_colmap(tmp_path: Path) -> None:
    pycolmap = pytest.importorskip("pycolmap")
    for number, model in enumerate(PARAMETERS):
        assert int(getattr(pycolmap.CameraModelId, model)) == number
    reconstruction = pycolmap.Reconstruction()
    camera = pycolmap.Camera(model="OPENCV", width=56, height=42, params=list(MODELS["OPENCV"]), camera_id=4)
    reconstruction.add_camera_with_trivial_rig(camera)
    pose = pycolmap.Rigid3d(pycolmap.Rotation3d(np.array([0.1, 0.7, 0.1, 0.7])), np.array([1.0, 2, 3]))
    image = pycolmap.Image(name="a b.png", camera_id=4, image_id=9)
    reconstruction.add_image_with_trivial_frame(image, pose)
    reconstruction.write_binary(str(tmp_path))
    (read,) = read_model(tmp_path).cameras
    assert read.image == Path("a b.png") and read.size == (56, 42)
    assert read.lens == ColmapCamera(4, "OPENCV", 56, 42, MODELS["OPENCV"]).lens()
    assert np.allclose(read.pose[:3], pose.matrix())


@pytest.mark.parametrize("k1", [-0.2, 0.2])
def test_undistorted_photographs_show_what_their_cameras_say(tmp_path: Path, k1: float) -> None:
    """Grey levels are a function of the ray, so that each pixel tells which ray it shows."""
    posed = grey(tmp_path, size=(112, 84))
    lens = Lens(90.0, 91.0, 55.0, 41.0, (k1, 0.05, 0.004, -0.003))
    v, u = np.mgrid[:84, :112].astype(float)
    x, y = (u - 55) / 90, (v - 41) / 91
    for _ in range(100):  # the inverse of the distortion, by iteration
        dx, dy = lens.distorted(x, y)
        x, y = x + (u - 55) / 90 - dx, y + (v - 41) / 91 - dy
    level = np.rint(128 + 150 * x + 40 * y).clip(0, 255).astype(np.uint8)
    for name in posed.names:
        Image.fromarray(np.stack([level] * 3, axis=-1)).save(tmp_path / name)
    keys = {
        "fl_x": 90.0,
        "fl_y": 91.0,
        "cx": 55.5,
        "cy": 41.5,
        "k1": k1,
        "k2": 0.05,
        "p1": 0.004,
        "p2": -0.003,
    }
    write_transforms(posed, **keys)
    scene = next(iter(ImageFolder(path=str(tmp_path), image_size=112).scenes()))
    assert any("3 photographs undistorted" in note for note in scene.notes)
    K = scene.truth.intrinsics
    assert K is not None
    seen = scene.images[0, 0].numpy() * 255
    rows, columns = np.mgrid[: seen.shape[0], : seen.shape[1]]
    x, y = (columns - K[0, 0, 2].item()) / K[0, 0, 0].item(), (rows - K[0, 1, 2].item()) / K[0, 1, 1].item()
    assert np.abs(seen - (128 + 150 * x + 40 * y)).max() < 2
    # zoomed as little as it takes, and the centre stays
    assert 1 <= K[0, 0, 0] / 90 < 1.25 and K[0, 0, 2] == pytest.approx(55.0)


def test_what_no_perspective_image_can_show_is_refused(tmp_path: Path) -> None:
    posed = grey(tmp_path)
    write_colmap_text(posed, tmp_path / "sparse/0", "OPENCV_FISHEYE 56 42 50 50 28 21 0.1 0 0 0")
    with pytest.raises(DataError, match=r"OPENCV_FISHEYE.*image_undistorter"):
        load(tmp_path)
    write_transforms(posed, camera_model="OPENCV_FISHEYE")
    with pytest.raises(DataError, match=r"fisheye.*undistort"):
        load(tmp_path)
    write_transforms(posed, k1=-5.0)
    with pytest.raises(DataError, match=r"distortion.*does not hold over an image of 56x42"):
        load(tmp_path)


# what is wrong with a file


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("transforms.json", '{"frames": [{"file_path": "0.png"}]}', r"frames\[0\]: lacks transform_matrix"),
        ("transforms.json", '{"frames": [7]}', r"frames\[0\]: expected an object"),
        ("transforms.json", '{"frames": [{"file_path": "0.png", "transform_matrix": [1]}]}', r"must be finite and 4x4"),
        ("0.png.camera", "1 2 3\n", r"0\.png\.camera: expected lines of K"),
        ("0.png.camera", "1 2 x\n", r"0\.png\.camera:1: could not convert"),
        ("0_cam.txt", "extrinsic 1 2", r"0_cam\.txt: expected extrinsic, 4x4"),
        ("0.pose.txt", "1 0 0 0\n0 1 0 0\n0 0 1 0\n0 0 0", r"0\.pose\.txt is not a matrix of numbers"),
        ("groundtruth.txt", "1 0 0 0 0 0 0 1\n", r"the list of images, .*rgb\.txt, is missing"),
    ],
)  # fmt: skip
def test_a_damaged_file_is_named_with_what_it_lacks(
    tmp_path: Path, name: str, content: str, message: str
) -> None:
    grey(tmp_path)
    (tmp_path / name).write_text(content)
    with pytest.raises(DataError, match=message):
        load(tmp_path)


def test_binary_models_end_where_they_should(tmp_path: Path) -> None:
    posed = grey(tmp_path)
    folder = write_colmap_binary(posed, tmp_path / "sparse/0")
    images = (folder / "images.bin").read_bytes()
    (folder / "images.bin").write_bytes(images[: len(images) // 2])
    with pytest.raises(DataError, match=r"images\.bin is damaged"):
        load(tmp_path)
    (folder / "images.bin").write_bytes(images)
    (folder / "cameras.bin").write_bytes(b"\1" + b"\0" * 7 + b"\3\0\0\0\x63\0\0\0" + b"\0" * 16)
    with pytest.raises(DataError, match=r"camera model 99 is not supported"):
        load(tmp_path)


def test_a_trajectory_of_another_recording(tmp_path: Path) -> None:
    posed = grey(tmp_path)
    write_tum(posed)
    (tmp_path / "groundtruth.txt").write_text("7.0 0 0 0 0 0 0 1\n")
    with pytest.raises(DataError, match=r"no pose within 0\.02 s"):
        load(tmp_path)


def test_names_that_are_no_cameras_say_what_is_read(tmp_path: Path) -> None:
    grey(tmp_path)
    (tmp_path / "notes.txt").write_text("hello")
    for name, what in (
        ("gone", "no such file"),
        ("notes.txt", "not a file of cameras"),
        (".", "no cameras in this folder"),
    ):
        with pytest.raises(DataError, match=f"{what}.*" + re.escape("transforms.json, COLMAP models")):
            read_cameras(tmp_path / name)
    (tmp_path / "other.json").write_text("[1]")
    with pytest.raises(DataError, match=r"cameras=.*other\.json has no list of images"):
        load(tmp_path, cameras=str(tmp_path / "other.json"))


def test_images_are_read_in_their_natural_order(tmp_path: Path) -> None:
    posed = grey(tmp_path, frames=11)
    write_transforms(posed)
    assert torch.equal(load(tmp_path).images, load(tmp_path, cameras=None).images)


DOCS = Path(__file__).parents[2] / "docs"
SAMPLE = re.compile(r"```\w+ title=\"([^\"]+)\"\n(.*?)```", re.DOTALL)


def test_the_samples_of_the_documentation_are_read(tmp_path: Path) -> None:
    samples = dict(SAMPLE.findall((DOCS / "data.md").read_text("utf-8")))
    assert samples == dict(SAMPLE.findall((DOCS / "zh/data.md").read_text("utf-8")))
    for number, (title, text) in enumerate(samples.items()):
        name = title.split(" (")[0]
        folder = tmp_path / str(number)
        if name.startswith("sparse/0/"):
            camera, images = text.split("\n", 1)
            files = {"sparse/0/cameras.txt": camera, "sparse/0/images.txt": images}
        else:
            files = {name: text}
        if name == "groundtruth.txt":
            files["rgb.txt"] = f"{text.split()[0]} rgb/1.png"
        for file, content in files.items():
            (folder / file).parent.mkdir(parents=True, exist_ok=True)
            (folder / file).write_text(content)
        listed = read_cameras(folder)
        assert listed is not None and len(listed.cameras) == 1, title
    assert len(samples) == 7
