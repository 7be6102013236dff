"""Plans for a memory budget: against the tensors that are alive and the memory of processes, and what is refused."""

import json
import subprocess
import sys
from functools import cache
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file

from helpers.live_bytes import LiveBytes
from helpers.prediction_cases import photographs, video, write_model
from helpers.runs import TINY
from vggtq.artifact.read import read_header
from vggtq.data.frames import Frames
from vggtq.errors import ConfigError
from vggtq.export import main as export
from vggtq.models.loading import VGGTModel, model_of
from vggtq.models.vggt.network import VGGT
from vggtq.network.bounded import bound_
from vggtq.network.memory import KEY_BLOCK, Memory
from vggtq.predict.__main__ import main
from vggtq.predict.budget import Budget, weight_bytes
from vggtq.predict.inputs import Inputs
from vggtq.predict.plan import BLOCK_SCRATCH, GIB, HEAD_SCRATCH, LADDER, Plan, Shapes, choices, largest, plan
from vggtq.predict.windows.options import Windows

MIB = 2**20
NARROW = {
    "aggregator": {"embed_dim": 64, "depth": 4, "num_heads": 2},
    "patch_embed": {"embed_dim": 64, "depth": 1, "num_heads": 2},
    "camera_head": {"trunk_depth": 1, "num_heads": 2},
    "dpt": {"features": 16, "out_channels": [16, 16, 16, 16], "intermediate_layer_idx": [0, 1, 2, 3]},
}


@cache
def large() -> Shapes:
    skeleton = VGGTModel(track_head=False).skeleton()  # VGGT-1B
    assert isinstance(skeleton, VGGT)
    skeleton.leave_out_points_()
    return Shapes.of(skeleton)


@pytest.mark.parametrize(
    "memory",
    [
        Memory(8, chunk_tokens=KEY_BLOCK),
        Memory(2, chunk_tokens=2 * KEY_BLOCK),
        Memory(2, "bfloat16", KEY_BLOCK),
        Memory(1, "disk", KEY_BLOCK),
        Memory(1, "disk", KEY_BLOCK, "int8"),
    ],
    ids=lambda memory: memory.label.replace("memory.", ""),
)
def test_what_is_alive_is_what_is_planned(memory: Memory) -> None:
    """Operators see no scratch memory of kernels, which the plan has."""
    network = VGGTModel(source=None, architecture=NARROW).load(torch.device("cpu")).module
    assert isinstance(network, VGGT)
    network.leave_out_points_()
    bound_(network, memory)
    images = torch.rand(1, 12, 3, 168, 168)
    planned = plan(Shapes.of(network), 12, (168, 168), memory, 0, 0)
    with torch.inference_mode(), LiveBytes() as live:
        network(images)
    stages = {stage.name: stage.bytes for stage in planned.stages}
    blocks = max(stages["patch embed"], stages["attention"]) - BLOCK_SCRATCH
    expected = max(blocks, stages["heads"] - HEAD_SCRATCH)
    assert 0.8 * expected < live.peak <= 1.02 * expected


@pytest.mark.parametrize("scheme", ["bf16", "int4_group", "w4a8", "nvfp4"])
def test_the_plan_counts_every_byte_of_the_weights(scheme: str, tmp_path: Path) -> None:
    path = tmp_path / "m.safetensors"
    assert export([*TINY, f"scheme={scheme}", f"out={path}"]) == 0
    stored = load_file(path)
    skeleton = model_of(read_header(path).model or {}).skeleton()
    counted = weight_bytes(skeleton, read_header(path), path)
    packed = {name: tensor.nbytes for name, tensor in stored.items() if name not in skeleton.state_dict()}
    assert packed and packed.items() <= counted.items()
    assert sum(counted.values()) == sum(packed.values()) + sum(
        4 * tensor.numel() for name, tensor in stored.items() if name not in packed
    )


def test_a_prediction_stays_within_its_budget(tmp_path: Path) -> None:
    """In a process of its own, whose resident memory counts."""
    model = write_model(tmp_path)
    photographs(tmp_path / "photos")
    command = [
        sys.executable,
        "-m",
        "vggtq.predict",
        f"model={model}",
        "images=photos",
        "out=out",
        "budget_gb=1",
    ]
    done = subprocess.run([*command, "device=cpu"], cwd=tmp_path, capture_output=True, text=True, check=True)
    memory = json.loads((tmp_path / "out/prediction.json").read_text())["memory"]
    assert memory["measured_peak_bytes"] <= memory["predicted_bytes"] <= 1.15 * memory["measured_peak_bytes"]
    assert memory["levers"]["chunk_tokens"] == LADDER[0].chunk_tokens
    assert "GiB predicted" in done.stdout + done.stderr


def test_what_cannot_fit_is_refused_before_loading(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    model = write_model(tmp_path)
    photographs(tmp_path / "photos")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("vggtq.predict.pipeline.load", lambda *_: pytest.fail("it was loaded"))
    assert main([f"model={model}", "images=photos", "out=out", "budget_gb=0.01", "device=cpu"]) == 1
    said = capsys.readouterr().err
    assert "budget_gb=0.01: 3 images of 84×56 pixels need" in said
    assert "not even one image fits" in said
    assert not (tmp_path / "out").exists()


def test_a_prediction_in_windows_stays_within_its_budget(tmp_path: Path) -> None:
    model = write_model(tmp_path)
    video(tmp_path / "video", 30)
    words = [f"model={model}", "images=video", "out=out", "budget_gb=1", "windows.frames=8", "device=cpu"]
    command = [sys.executable, "-m", "vggtq.predict", *words]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=True)
    index = json.loads((tmp_path / "out/prediction.json").read_text())
    memory = index["memory"]
    assert memory["measured_peak_bytes"] <= memory["predicted_bytes"] <= 1.2 * memory["measured_peak_bytes"]
    assert memory["windows_frames"] == index["windows"]["frames"] == 8
    assert "windows of 8 images" in done.stdout + done.stderr


@pytest.fixture
def budget(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Budget:
    """Of a process that holds 300 MiB."""
    model = write_model(tmp_path)
    monkeypatch.setattr("vggtq.predict.budget.rss_bytes", lambda: 300 * MIB)
    return Budget(1.0, read_header(model), model, torch.device("cpu"), points=False)


def images(count: int) -> Inputs:
    """Only what a plan looks at."""
    frames = Frames()
    frames.size_hw = (84, 84)
    return Inputs(Path(), ("",) * count, (), (), frames, (), ())


def test_windows_are_the_last_lever_and_as_large_as_fits(budget: Budget) -> None:
    auto, many = Windows(frames="auto"), images(2000)
    assert budget.choose(many, Memory(), auto).frames == 2000  # all at once
    budget.bytes = 550 * MIB
    chosen = budget.choose(many, Memory(), auto)
    assert 4 <= chosen.frames < 2000
    assert chosen.bytes <= budget.bytes
    more = Windows(frames=chosen.frames + 1)
    with pytest.raises(
        ConfigError, match=rf"windows of {chosen.frames + 1} images of 84×84 pixels need"
    ) as no:
        budget.choose(many, Memory(), more)
    assert f"at most {chosen.frames} images of that size fit" in str(no.value)
    assert budget.choose(many, Memory(), Windows(frames=chosen.frames)).memory == chosen.memory


def test_a_refusal_names_windows_where_they_would_fit(budget: Budget) -> None:
    budget.bytes = 550 * MIB
    with pytest.raises(ConfigError, match=r"2000 images of .* use budget_gb=.*, windows.frames=auto, fewer"):
        budget.choose(images(2000), Memory(), Windows())
    budget.bytes = MIB
    for windows in (Windows(), Windows(frames="auto")):
        with pytest.raises(ConfigError, match=r"not even one image fits; use budget_gb=[.0-9]+, fewer"):
            budget.choose(images(2000), Memory(), windows)
    with pytest.raises(ConfigError, match="windows of 11 images"):
        budget.choose(images(2000), Memory(), Windows(frames="auto", overlap=10))


@settings(deadline=None, max_examples=30)
@given(
    st.integers(1, 300),
    st.sampled_from([(224, 224), (350, 518), (518, 518), (518, 154)]),
    st.sampled_from(LADDER),
)
def test_plans_grow_with_frames_and_shrink_along_the_ladder(
    frames: int, size: tuple[int, int], memory: Memory
) -> None:
    known = large()
    planned = plan(known, frames, size, memory, 0, GIB)
    assert planned.bytes < plan(known, frames + 8, size, memory, 0, GIB).bytes
    rest = LADDER[LADDER.index(memory) + 1 :]
    assert all(plan(known, frames, size, later, 0, GIB).bytes <= planned.bytes for later in rest)


def test_the_largest_number_of_images_is_the_last_that_fits() -> None:
    budget = 6 * GIB

    def planned(frames: int) -> Plan:
        return plan(large(), frames, (350, 518), LADDER[-1], GIB // 2 + frames * 2 * MIB, GIB)

    most = largest(planned, budget)
    assert planned(most).bytes <= budget < planned(most + 1).bytes
    assert most > 100
    assert largest(planned, GIB) == 0


def test_chosen_levers_stay() -> None:
    own = list(choices(Memory(tokens="bfloat16")))
    assert {memory.tokens for memory in own} == {"bfloat16"}
    assert len(own) == len({memory.label for memory in own})
    assert next(choices(Memory())) == LADDER[0]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["budget_gb=0"], "more than 0"),
        (["windows.frames=auto"], "windows.frames=auto without budget_gb"),
        (["windows.frames=many"], "windows.frames=many: expected a whole number or auto"),
        (["memory.tokens=fp16"], "memory.tokens=fp16"),
        (["memory.chunk_tokens=100"], "memory.chunk_tokens=100: use at least 256"),
        (["memory.chunk_tokens=300"], "multiple of 256"),
        (["memory.head_frame=1"], "did you mean memory.head_frames"),
    ],
)
def test_mistakes_are_told(options: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["model=m.safetensors", "images=photos", "out=out", *options]) == 1
    assert message in capsys.readouterr().err
