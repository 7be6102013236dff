"""OpenVINO's rows of the benchmark: where it is installed, and where it is not."""

import importlib.util
import logging

import pytest
import torch
from torch import nn

from vggtq.bench import networks, openvino
from vggtq.bench.openvino import openvino_candidates
from vggtq.bench.rows import INSTALL, Candidate, Missing

installed = pytest.mark.skipif(not importlib.util.find_spec("openvino"), reason="needs openvino")


BY_NNCF = ("INT8 (NNCF)", "INT4 group 64 (NNCF)")


def network() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(64, 96), nn.GELU(), nn.Linear(96, 32)).eval().requires_grad_(False)


def test_without_it_rows_say_how_to_install_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(openvino.importlib.util, "find_spec", lambda name: None)
    for multiplies, names in ((False, ["FP32", *BY_NNCF]), (True, ["FP32", "BF16", *BY_NNCF])):
        monkeypatch.setattr(openvino, "has_bf16", lambda device, known=multiplies: known)
        found = list(openvino_candidates(network(), torch.randn(3, 64)))
        assert [missing.name for missing in found] == [f"OpenVINO {name}" for name in names]
        assert all(isinstance(missing, Missing) and missing.reason == INSTALL for missing in found)


@installed
def test_fp32_is_exact_and_int8_close() -> None:
    net, x = network(), torch.randn(40, 64)
    exact = net(x)
    fp32, *_, int8, int4 = openvino_candidates(net, x)
    assert isinstance(fp32, Candidate)
    assert (fp32.call() - exact).norm() < 1e-5 * exact.norm()
    if isinstance(int8, Missing):
        pytest.skip(int8.reason)
    assert 1e-4 * exact.norm() < (int8.call() - exact).norm() < 0.1 * exact.norm()
    assert isinstance(int4, Candidate)
    assert 1e-2 * exact.norm() < (int4.call() - exact).norm() < 0.3 * exact.norm()
    assert torch.equal(fp32.call(), fp32.call())


def test_all_outputs_of_a_model_are_asked_for() -> None:
    class Heads(nn.Module):
        def forward(self, images: torch.Tensor) -> dict[str, object]:
            listed = [images, images]
            return {"pose_enc": images + 1, "list": listed, "depth": images + 2, "images": images}

    x = torch.zeros(2)
    depth, pose = networks._Bound(Heads(), networks._depth_and_others)(x)
    assert (float(depth[0]), float(pose[0])) == (2.0, 1.0)


@installed
def test_a_network_that_it_cannot_convert_says_why() -> None:
    class Unknown(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            raise ValueError("no such layer")

    level = logging.root.level
    found = list(openvino_candidates(Unknown(), torch.randn(3, 64)))
    assert found and all(isinstance(missing, Missing) for missing in found)
    assert logging.root.level == level, "warnings of ours would not be seen from here on"
