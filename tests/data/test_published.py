"""Published data sets, on small files in their layouts."""

import gzip
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from helpers.co3d_files import write_category
from helpers.posed_photographs import Posed, grey, write_mvsnet, write_pose_files
from vggtq.config.validate import composed
from vggtq.data.co3d import CO3D, SEEN, UNSEEN
from vggtq.data.published import DTU, PosedSequences, RealEstate10K, SevenScenes
from vggtq.data.scene import Scene
from vggtq.errors import ConfigError, DataError


def all_scenes(dataset: PosedSequences) -> list[Scene]:
    return list(dataset.scenes())


def order_of(scene: Scene) -> list[str]:
    return [Path(file.path).name for file in scene.files]


def check(scene: Scene, posed: Posed) -> None:
    """Each frame has the camera that its image was given."""
    assert scene.truth.extrinsics is not None and scene.truth.intrinsics is not None
    names = [Path(name).name for name in posed.names]
    for file, pose, K in zip(order_of(scene), scene.truth.extrinsics, scene.truth.intrinsics, strict=True):
        assert np.allclose(pose.numpy(), posed.poses[names.index(file)][:3], atol=1e-6)
        assert np.allclose(K.numpy(), posed.K, atol=1e-6)


# CO3D


@pytest.mark.parametrize("isotropic", [True, False])
def test_co3d_keeps_to_the_protocol(tmp_path: Path, isotropic: bool) -> None:
    made = write_category(tmp_path, "apple", isotropic)
    dataset = CO3D(root=str(tmp_path), scene="apple", image_size=56)
    (scene,) = all_scenes(dataset)
    # "good" is in the list of training, "bad" and "short" do not count
    assert scene.name == "apple/fine" and len(scene.images) == 10
    check(scene, made["fine"])
    assert len(set(order_of(scene))) == 10 and max(order_of(scene)) <= "frame000054.jpg"
    assert order_of(scene) != sorted(order_of(scene))
    assert order_of(all_scenes(dataset)[0]) == order_of(scene)
    other = CO3D(root=str(tmp_path), scene="apple", image_size=56, seed=1)
    assert order_of(all_scenes(other)[0]) != order_of(scene)
    train = dataset.calibration(count=4, frames=3, seed=0)
    assert [(s.name, len(s.images)) for s in train.scenes()] == [("apple/good", 3)]
    assert {file.name for file in dataset.inputs()} >= {"frame_annotations.jgz", *order_of(scene)}


def test_co3d_draws_the_same_images_whatever_else_is_evaluated(tmp_path: Path) -> None:
    for category in ("apple", "vase"):
        write_category(tmp_path, category)
    both = all_scenes(CO3D(root=str(tmp_path), scene="apple+vase", image_size=56))
    alone = all_scenes(CO3D(root=str(tmp_path), scene="vase/fine", image_size=56))
    assert [scene.name for scene in both] == ["apple/fine", "vase/fine"]
    assert order_of(both[1]) == order_of(alone[0])
    # at most one sequence of each category, not one in all
    assert len(all_scenes(CO3D(root=str(tmp_path), scene="apple+vase", image_size=56, count=1))) == 2


def test_co3d_calibrates_whatever_is_evaluated(tmp_path: Path) -> None:
    for category in ("apple", "vase"):
        write_category(tmp_path, category)
    words = [
        "dataset=nrgbd",
        "scheme=gptq_w4a16",
        "calibration=co3d",
        "calibration.dataset.scene=apple+vase",
        "calibration.frames=3",
    ]
    calibration = composed([*words, f"calibration.dataset.root={tmp_path}"]).calibration
    scenes = list(calibration.dataset.scenes())
    assert [(scene.name, len(scene.images)) for scene in scenes] == [("apple/good", 3), ("vase/good", 3)]
    with pytest.raises(ConfigError, match=r"calibration\.dataset\.frames=0"):
        composed([*words, "calibration.dataset.frames=0"])


def test_co3d_says_what_is_missing(tmp_path: Path) -> None:
    assert len(SEEN) == 41 and len(UNSEEN) == 10
    write_category(tmp_path, "apple")
    with pytest.raises(DataError, match=r"frame_annotations\.jgz of .*vase.* not found.*docs/data\.md"):
        all_scenes(CO3D(root=str(tmp_path)))
    with pytest.raises(ConfigError, match="no aple; did you mean apple"):
        CO3D(scene="aple")
    with pytest.raises(ConfigError, match="split=val is not one of"):
        CO3D(split="val")
    with pytest.raises(DataError, match=r"no such folder.*docs/data\.md"):
        all_scenes(CO3D(root=str(tmp_path / "gone")))
    (tmp_path / "apple/frame_annotations.jgz").write_bytes(b"no gzip")
    with pytest.raises(DataError, match=r"cannot read .*frame_annotations\.jgz"):
        all_scenes(CO3D(root=str(tmp_path), scene="apple"))
    (tmp_path / "apple/frame_annotations.jgz").write_bytes(gzip.compress(b'[{"frame_number": 1}]'))
    with pytest.raises(DataError, match=r"not those of CO3Dv2 \(KeyError"):
        all_scenes(CO3D(root=str(tmp_path), scene="apple"))


# RealEstate10K


def write_realestate(root: Path, name: str, place: str = "frames/test", frames: int = 12) -> Posed:
    posed = grey(root, frames, names=f"{place}/{name}/{{}}00000.png")
    (w, h), K = posed.size, posed.K
    lens = [K[0, 0] / w, K[1, 1] / h, (K[0, 2] + 0.5) / w, (K[1, 2] + 0.5) / h, 0, 0]
    lines = ["https://www.youtube.com/watch?v=x"]
    for image, pose in zip(posed.names, posed.poses, strict=True):
        numbers = [*lens, *pose[:3].ravel()]
        lines.append(f"{Path(image).stem} {' '.join(map(str, numbers))}")
    (root / "test").mkdir(exist_ok=True)
    # a moment of which no image was kept
    (root / "test" / f"{name}.txt").write_text("\n".join([*lines, lines[-1].replace(Path(image).stem, "7")]))
    return posed


@pytest.mark.parametrize("place", ["frames/test", "frames", "test"])
def test_realestate10k(tmp_path: Path, place: str) -> None:
    posed = write_realestate(tmp_path, "0a1b", place)
    (tmp_path / "test/ffff.txt").write_text("https://x\n1 0 0 0 0")  # a sequence without images
    (scene,) = all_scenes(RealEstate10K(root=str(tmp_path), image_size=56))
    assert scene.name == "0a1b" and len(scene.images) == 10
    check(scene, posed)


def test_realestate10k_says_what_is_missing(tmp_path: Path) -> None:
    (tmp_path / "test").mkdir()
    with pytest.raises(DataError, match=r"of 0 sequences 0 have"):
        all_scenes(RealEstate10K(root=str(tmp_path)))
    write_realestate(tmp_path, "a", frames=3)
    scene = all_scenes(RealEstate10K(root=str(tmp_path), image_size=56))[0]
    assert "it has 3 images, fewer than frames=10" in scene.notes
    with pytest.raises(DataError, match=r"of 2 sequences 1 have"):
        all_scenes(RealEstate10K(root=str(tmp_path), scene="a+b"))
    (tmp_path / "test/a.txt").write_text("0 1 2\n")
    with pytest.raises(DataError, match=r"a\.txt: expected the address of a video"):
        all_scenes(RealEstate10K(root=str(tmp_path)))
    (tmp_path / "test/a.txt").write_text("https://x\n000000 1 2\n")
    with pytest.raises(DataError, match=r"a\.txt:2: expected 19 numbers, got 3"):
        all_scenes(RealEstate10K(root=str(tmp_path)))


# 7-Scenes and DTU


def write_sequence(root: Path, place: str, frames: int) -> Posed:
    posed = grey(root / place, frames, names="frame-{:06d}.color.png")
    write_pose_files(posed)
    levels = np.full((42, 56), 2500, np.uint16)
    levels[:, 28:] = 65535
    for name in posed.names:
        Image.fromarray(levels).save(root / place / name.replace("color", "depth.proj"))
    return posed


def test_seven_scenes(tmp_path: Path) -> None:
    made = {i: write_sequence(tmp_path, f"chess/seq-{i:02d}", frames=21) for i in (3, 5)}
    write_sequence(tmp_path, "chess/seq-01", frames=4)  # for training
    (tmp_path / "chess/TestSplit.txt").write_text("sequence3\r\nsequence5\r\n")
    K = made[3].K
    lens = [K[0, 0], K[1, 1], K[0, 2], K[1, 2]]
    dataset = SevenScenes(root=str(tmp_path), scene="chess", image_size=56, frames=5, intrinsics=lens)
    scenes = all_scenes(dataset)
    assert [scene.name for scene in scenes] == ["chess/seq-03", "chess/seq-05"]
    assert order_of(scenes[0]) == [f"frame-{i:06d}.color.png" for i in (0, 5, 10, 15, 20)]
    check(scenes[0], made[3])
    truth = scenes[0].truth
    assert truth.metric and truth.depth is not None
    assert (truth.depth[:, :, :28] == 2.5).all() and truth.depth[:, :, 28:].isnan().all()
    with pytest.raises(DataError, match=r"TestSplit\.txt of fire not found"):
        all_scenes(SevenScenes(root=str(tmp_path), scene="fire"))
    with pytest.raises(ConfigError, match="has no kitchen"):
        SevenScenes(scene="kitchen")


def write_pfm(path: Path, depth: np.ndarray) -> None:
    path.parent.mkdir(exist_ok=True)
    header = f"Pf\n{depth.shape[1]} {depth.shape[0]}\n-1.0\n".encode()
    path.write_bytes(header + depth[::-1].astype("<f4").tobytes())  # rows from below


def test_dtu(tmp_path: Path) -> None:
    posed = grey(tmp_path / "scan4", 49, names="images/{:08d}.jpg")
    write_mvsnet(posed, tmp_path / "scan4/cams")
    depth = np.zeros((42, 56))
    depth[:21] = 640.0
    for name in posed.names:
        write_pfm(tmp_path / "scan4/depths" / f"{Path(name).stem}.pfm", depth)
    (scene,) = all_scenes(DTU(root=str(tmp_path), scene="scan4", image_size=56))
    assert len(scene.images) == 10 and order_of(scene)[-1] == "00000048.jpg"
    check(scene, posed)
    assert scene.truth.metric and scene.truth.depth is not None
    assert (
        scene.truth.depth[:, :21].numpy() == pytest.approx(0.64) and scene.truth.depth[:, 21:].isnan().all()
    )
    everything = DTU(root=str(tmp_path), scene="scan4", image_size=56, frames=None)
    assert len(all_scenes(everything)[0].images) == 49
    with pytest.raises(DataError, match=r"cams of scan1, scan9, .* not found"):
        all_scenes(DTU(root=str(tmp_path)))


# their configurations


@pytest.mark.parametrize("name", ["co3d", "realestate10k", "seven_scenes", "nrgbd", "dtu"])
def test_their_configurations_compose(name: str) -> None:
    dataset = composed([f"dataset={name}", "frames=4", "scenes=2", "seed=3"]).dataset
    assert (dataset.name, dataset.frames, dataset.count, dataset.seed) == (name, 4, 2, 3)
    assert dataset.check_cameras and dataset.image_size == composed([]).dataset.size[0]


@pytest.mark.parametrize("change", [{"order": "sorted"}, {"frames": 0}, {"count": 0}])
def test_wrong_options_are_found_without_files(change: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match=f"dataset.{next(iter(change))}="):
        DTU(**change)
