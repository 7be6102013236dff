"""The files of a prediction, read by other programs' code or checked against exactly known geometry."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from helpers.frames import transform_of
from helpers.prediction_cases import SIZE, exact_outputs, exact_prediction, photographs, room
from vggtq.data.cameras.colmap import read_cameras, read_images
from vggtq.data.images import ImageFolder
from vggtq.errors import DataError
from vggtq.geometry import decode_pose
from vggtq.predict.files import maps
from vggtq.predict.files.cameras_json import write_cameras_json
from vggtq.predict.files.cloud import Cloud, write_ply
from vggtq.predict.files.colmap_text import name_notes, write_colmap
from vggtq.predict.files.sheet import shorten, write_sheet
from vggtq.predict.inputs import read_inputs
from vggtq.predict.result import Prediction, PredictionError, as_prediction, defects

pycolmap = pytest.importorskip("pycolmap")  # which has no wheel for Linux on ARM


def of_resized(folder: Path, out: Path, mode: str = "crop") -> Prediction:
    """The room's cameras and depth for photographs that preprocessing enlarges, crops and pads."""
    images = three_shapes(folder)
    inputs = read_inputs([str(images)], out, mode, 84)
    height, width = inputs.size_hw
    count = len(inputs.names)
    depth = torch.rand(count, height, width, 1, generator=torch.Generator().manual_seed(0)) + 0.5
    encodings = exact_outputs()["pose_enc"][:count]
    outputs = {"pose_enc": encodings, "depth": depth, "depth_conf": depth[..., 0] + 1}
    return as_prediction(inputs, outputs, with_points=False)


def three_shapes(folder: Path) -> Path:
    folder.mkdir(exist_ok=True)
    for i, size in enumerate([(300, 100), (123, 77), (90, 260)]):
        Image.new("RGB", size, (10 * i, 20, 30)).save(folder / f"{i}.png")
    return folder


@pytest.mark.parametrize("mode", ["crop", "pad"])
def test_pycolmap_sees_every_point_where_it_came_from(tmp_path: Path, mode: str) -> None:
    prediction = of_resized(tmp_path / "photos", tmp_path / "out", mode)
    cloud = Cloud(prediction, 20.0, head=False)
    written = write_colmap(tmp_path / "colmap", prediction, cloud, 500)
    model = pycolmap.Reconstruction(str(tmp_path / "colmap"))
    assert written == model.num_points3D() == 500
    for i, name in enumerate(prediction.inputs.names):
        image = model.images[i + 1]
        assert image.name == name
        np.testing.assert_allclose(
            image.cam_from_world().matrix(), prediction.extrinsics[i], atol=1e-12, rtol=0
        )
        with Image.open(tmp_path / "photos" / name) as file:
            assert (image.camera.width, image.camera.height) == file.size
        seen = [p for p in image.points2D if p.has_point3D()]
        assert len(seen) > 50
        for point in seen:
            xyz = model.points3D[point.point3D_id].xyz
            np.testing.assert_allclose(image.project_point(xyz), point.xy, atol=1e-6, rtol=0)
            # back into the network's frame: the centre of a pixel, and as deep as the map says there
            t = prediction.inputs.transforms[i]
            u = (point.xy[0] - 0) * t.scale_x + t.offset_x - 0.5
            v = (point.xy[1] - 0) * t.scale_y + t.offset_y - 0.5
            assert abs(u - round(u)) < 1e-9 and abs(v - round(v)) < 1e-9
            z = (image.cam_from_world() * xyz)[2]
            assert z == pytest.approx(prediction.depth[i, round(v), round(u)], abs=1e-9)


def test_colmap_s_points_are_the_room_s(tmp_path: Path) -> None:
    _, prediction = exact_prediction(tmp_path / "photos")
    write_colmap(tmp_path / "colmap", prediction, Cloud(prediction, 0, head=False), 10**9)
    model = pycolmap.Reconstruction(str(tmp_path / "colmap"))
    assert model.num_points3D() == 3 * SIZE[0] * SIZE[1]
    points = np.stack([model.points3D[i + 1].xyz for i in range(model.num_points3D())])
    np.testing.assert_allclose(points, room().points[0].reshape(-1, 3), atol=2e-6 * np.abs(points).max())
    colours = np.stack([model.points3D[i + 1].color for i in range(model.num_points3D())])
    files = [np.asarray(Image.open(tmp_path / "photos" / name)) for name in ("a.png", "b.png", "c.png")]
    np.testing.assert_array_equal(colours, np.stack(files).reshape(-1, 3))


def test_the_project_reads_its_own_colmap_model(tmp_path: Path) -> None:
    prediction = of_resized(tmp_path / "photos", tmp_path / "out")
    write_colmap(tmp_path, prediction, Cloud(prediction, 0, head=False), 0)
    cameras = read_cameras(tmp_path / "cameras.txt")
    images = read_images(tmp_path / "images.txt", cameras)
    assert list(images) == ["0.png", "1.png", "2.png"]
    for i, image in enumerate(images.values()):
        K = cameras[image.camera_id].pinhole()
        np.testing.assert_allclose(K, prediction.source_intrinsics(i), rtol=1e-13)
        np.testing.assert_allclose(image.extrinsics, prediction.extrinsics[i], atol=1e-13)


def test_cameras_json_comes_back_as_ground_truth(tmp_path: Path) -> None:
    out = tmp_path / "deep" / "out"
    prediction = of_resized(tmp_path / "photos", out)
    out.mkdir(parents=True)
    write_cameras_json(out / "cameras.json", prediction)
    (scene,) = ImageFolder(path=str(out), image_size=84).scenes()
    assert scene.images.shape == prediction.inputs.images.shape
    assert torch.equal(scene.images, prediction.inputs.images)
    assert scene.truth.extrinsics is not None and scene.truth.intrinsics is not None
    np.testing.assert_allclose(scene.truth.extrinsics, prediction.extrinsics, atol=1e-14)
    np.testing.assert_allclose(scene.truth.intrinsics, prediction.intrinsics, atol=1e-10)
    assert not scene.truth.metric
    listed = json.loads((out / "cameras.json").read_text())["images"]
    assert listed[0]["frame"]["K"] == prediction.intrinsics[0].tolist()
    assert "\\" not in listed[0]["image"] and not Path(listed[0]["image"]).is_absolute()


@given(
    st.integers(60, 300),
    st.integers(60, 300),
    st.sampled_from(["crop", "pad"]),
    st.floats(0, 83),
    st.floats(0, 83),
)
def test_pixels_of_the_frame_find_their_place_in_the_photograph(
    width: int, height: int, mode: str, u: float, v: float
) -> None:
    transform = transform_of(width, height, mode, 84)
    shell = Prediction.__new__(Prediction)  # only what the two methods read
    object.__setattr__(shell, "inputs", type("", (), {"transforms": [transform]}))
    K = np.array([[70.0, 0, 42], [0, 80, 28], [0, 0, 1]])
    object.__setattr__(shell, "intrinsics", K[None])
    ray = np.linalg.solve(K, [u, v, 1])
    seen = shell.source_intrinsics(0) @ ray
    np.testing.assert_allclose(shell.source_pixels(0, np.array([[u, v]]))[0], seen[:2] / seen[2], atol=1e-8)
    np.testing.assert_allclose(transform.intrinsics(shell.source_intrinsics(0)), K, atol=1e-9)


def read_ply(path: Path) -> tuple[np.ndarray, np.ndarray]:
    """Points and colours by pycolmap's own reader."""
    model = pycolmap.Reconstruction()
    model.import_PLY(str(path))
    points = [model.points3D[i] for i in sorted(model.points3D)]
    return np.stack([p.xyz for p in points]), np.stack([p.color for p in points])


@pytest.mark.parametrize("head", [False, True], ids=["depth", "head"])
def test_the_point_cloud_holds_the_most_confident_points(tmp_path: Path, head: bool) -> None:
    _, prediction = exact_prediction(tmp_path / "photos", with_points=True)
    cloud = Cloud(prediction, 30.0, head)
    write_ply(tmp_path / "points.ply", cloud)
    xyz, rgb = read_ply(tmp_path / "points.ply")
    outputs = exact_outputs()
    confidence = outputs["world_points_conf" if head else "depth_conf"].numpy()
    keep = confidence >= np.percentile(confidence, 30)
    assert len(xyz) == len(cloud) == keep.sum()
    assert keep.mean() == pytest.approx(0.7, abs=0.001)
    truth = room().points[0].numpy()[keep]
    np.testing.assert_allclose(xyz, truth, atol=1e-5 * np.abs(truth).max())
    pixels = np.stack([np.asarray(Image.open(tmp_path / "photos" / n)) for n in ("a.png", "b.png", "c.png")])
    np.testing.assert_array_equal(rgb, pixels[keep])


def test_where_all_pixels_are_equally_confident_all_stay(tmp_path: Path) -> None:
    inputs, _ = exact_prediction(tmp_path / "photos")
    outputs = exact_outputs()
    outputs["depth_conf"].fill_(2.0)
    assert len(Cloud(as_prediction(inputs, outputs, False), 99.0, head=False)) == 3 * SIZE[0] * SIZE[1]


def test_padding_and_broken_depth_make_no_points(tmp_path: Path) -> None:
    prediction = of_resized(tmp_path / "photos", tmp_path / "out", "pad")
    prediction.depth[0, 42, :7] = [np.inf, -1, 0, np.nan, 1, 1, 1]
    heights = [round(84 * h / w / 14) * 14 for w, h in ((300, 100), (123, 77))]
    assert np.isfinite(prediction.confidence).sum(axis=(1, 2)).tolist() == [
        *(84 * height for height in heights),
        28 * 84,
    ]
    cloud = Cloud(prediction, 0, head=False)
    assert len(cloud) == cloud.candidates == 84 * sum(heights) + 28 * 84 - 4
    assert defects(prediction) == [
        "4 pixels of 1 image have no finite positive depth, first 0.png; they are left out of the point cloud"
    ]
    write_ply(tmp_path / "p.ply", cloud)
    assert np.isfinite(read_ply(tmp_path / "p.ply")[0]).all()


def test_a_cloud_without_any_point_is_still_a_file(tmp_path: Path) -> None:
    _, prediction = exact_prediction(tmp_path / "photos")
    prediction.depth[:] = np.nan
    cloud = Cloud(prediction, 30, head=False)
    write_ply(tmp_path / "p.ply", cloud)
    assert b"element vertex 0\n" in (tmp_path / "p.ply").read_bytes()
    assert write_colmap(tmp_path / "colmap", prediction, cloud, 100) == 0
    assert pycolmap.Reconstruction(str(tmp_path / "colmap")).num_images() == 3
    assert maps.png16_scale(prediction.depth) == 0.0
    maps.write_png16(tmp_path / "d.png", prediction.depth[0], 0.0)
    assert not np.asarray(Image.open(tmp_path / "d.png")).any()
    write_sheet(tmp_path / "sheet.png", prediction, "nothing")


@pytest.mark.parametrize("limit", [0, 1, 7, 100, 14111, 14112, 10**6])
def test_thinning_spreads_evenly_and_keeps_no_more_than_asked(tmp_path: Path, limit: int) -> None:
    _, prediction = exact_prediction(tmp_path / "photos")
    cloud = Cloud(prediction, 0, head=False)
    counts = [len(points.xyz) for points in cloud.thinned(limit)]
    assert len(counts) == 3
    assert sum(counts) == min(limit, len(cloud))
    assert max(counts) - min(counts) <= 1
    rows = [
        tuple(p) for points in cloud.thinned(limit) for p in points.pixels + np.array([0, 100 * points.frame])
    ]
    assert len(set(rows)) == len(rows)


@given(st.lists(st.floats(2**-20, 2**20, width=32), min_size=4, max_size=4))
def test_grey_levels_give_depth_back_within_half_a_level(
    tmp_path_factory: pytest.TempPathFactory, values: list[float]
) -> None:
    depth = np.array([[*values, np.nan], [*values, -1.0]], np.float32)
    path = tmp_path_factory.getbasetemp() / "levels.png"
    scale = maps.png16_scale(depth)
    maps.write_png16(path, depth, scale)
    with Image.open(path) as file:
        assert file.mode == "I;16"
        levels = np.asarray(file)
    assert (levels[:, 4] == 0).all()
    back, truth = levels[:, :4] * scale, depth[:, :4].astype(np.float64)
    assert (levels[:, :4] > 0).all()
    assert (np.abs(back - truth) <= np.where(truth < scale / 2, scale, scale / 2) * (1 + 1e-9)).all()
    assert back.max() == pytest.approx(truth.max(), rel=1e-12)


def test_npy_keeps_every_bit(tmp_path: Path) -> None:
    values = np.array([[1.5, np.nan], [3e-39, np.inf]], np.float32)
    maps.write_npy(tmp_path / "x.npy", values)
    back = np.load(tmp_path / "x.npy", allow_pickle=False)
    assert back.dtype == np.float32
    np.testing.assert_array_equal(back, values)


def test_colours_are_matplotlib_s_and_padding_is_white() -> None:
    from matplotlib import colormaps

    rgb = maps.coloured(np.array([[0.0, 1.0, 5.0, np.nan]], np.float32), (0.0, 1.0), "viridis")
    ends = [tuple(round(255 * c) for c in colormaps["viridis"](x)[:3]) for x in (0.0, 1.0)]
    assert [tuple(p) for p in rgb[0].tolist()] == [ends[0], ends[1], ends[1], (255, 255, 255)]


@pytest.mark.parametrize(
    ("index", "value", "message"),
    [
        (8, 0.0, "field of view is 0°"),
        (7, np.pi, "field of view"),
        (0, np.nan, "not finite"),
        (8, np.nan, "field"),
    ],
)
def test_what_is_no_camera_is_refused_by_name(tmp_path: Path, index: int, value: float, message: str) -> None:
    inputs, _ = exact_prediction(tmp_path / "photos")
    outputs = exact_outputs()
    outputs["pose_enc"][1, index] = value
    with pytest.raises(PredictionError, match=rf"^b\.png: .*{message}"):
        as_prediction(inputs, outputs, with_points=False)
    del outputs["depth"]
    with pytest.raises(PredictionError, match="gives no depth;"):
        as_prediction(inputs, outputs, with_points=False)


def test_cameras_are_those_of_decode_pose(tmp_path: Path) -> None:
    _, prediction = exact_prediction(tmp_path / "photos")
    np.testing.assert_allclose(prediction.extrinsics, room().extrinsics[0], atol=1e-12)
    np.testing.assert_allclose(prediction.intrinsics, room().intrinsics[0], rtol=1e-12)
    decoded = decode_pose(exact_outputs()["pose_enc"].double(), SIZE)
    np.testing.assert_array_equal(prediction.extrinsics, decoded[0])


def test_names_that_colmap_cannot_read_are_told_or_refused() -> None:
    assert name_notes(("a.jpg", "照片.jpg")) == []
    assert name_notes(("a b.jpg",))[0].startswith("a b.jpg has a space, where COLMAP stops reading a name")
    assert name_notes(("a b.jpg", "c\u202fd.jpg", "e"))[0].startswith("2 names have a space")
    for name in ("a\nb.jpg", "a\u2028b.jpg", "\udcff.jpg"):
        with pytest.raises(DataError, match="rename the image"):
            name_notes((name,))


@pytest.mark.parametrize("name", ["$x_$.png", "客厅" * 30 + ".png", "a\u202fb.png", "\U0001f3e0.png"])
@pytest.mark.filterwarnings("error")
def test_the_sheet_shows_any_name(tmp_path: Path, name: str) -> None:
    photographs(tmp_path / "photos", (name, "b.png", "c.png"))
    inputs = read_inputs([str(tmp_path / "photos")], tmp_path / "out", "crop", SIZE[1])
    write_sheet(tmp_path / "sheet.png", as_prediction(inputs, exact_outputs(), False), "caption $1")
    with Image.open(tmp_path / "sheet.png") as sheet:
        assert min(sheet.size) > 500


def test_the_sheet_is_as_large_for_a_hundred_images_as_for_twelve(tmp_path: Path) -> None:
    sizes = []
    for count in (12, 100):
        folder = photographs(tmp_path / str(count), tuple(f"{i}.png" for i in range(3)))
        paths = [str(folder / f"{i}.png") for i in range(3)]
        inputs = read_inputs(paths, tmp_path / "out", "crop", SIZE[1])
        rows = torch.arange(count) % 3
        many = Prediction(
            type(inputs)(
                inputs.root,
                tuple(f"{i}.png" for i in range(count)),
                tuple(map(str, range(count))),
                tuple(inputs.files[i] for i in rows),
                inputs.images[rows],
                tuple(inputs.transforms[i] for i in rows),
                (),
            ),
            *(np.repeat(x[:1], count, 0) for x in (np.eye(4)[None, :3], np.eye(3)[None])),
            *(np.random.default_rng(0).random((2, count, *SIZE), np.float32)),
        )
        write_sheet(tmp_path / "sheet.png", many, "many")
        with Image.open(tmp_path / "sheet.png") as sheet:
            sizes.append(sheet.size)
    assert sizes[0] == sizes[1]


@given(st.text(min_size=1), st.integers(3, 40))
def test_shortened_names_fit_and_keep_their_end(name: str, columns: int) -> None:
    import unicodedata

    short = shorten(name, columns)
    assert sum(2 if unicodedata.east_asian_width(c) in "WF" else 1 for c in short) <= columns
    assert name == short or (short[0] == "…" and name.endswith(short[1:]))
