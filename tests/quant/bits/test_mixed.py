"""Bits that are found: the solver against brute force, sensitivities against direct computation, bytes against the result."""

import csv
import itertools
import json
import re
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from helpers.runs import TINY, recorded, tiny
from vggtq import artifact
from vggtq.config.compose import compose
from vggtq.config.validate import validated
from vggtq.errors import ConfigError, QuantizationError
from vggtq.export import main as export_main
from vggtq.models.loading import share_parameters
from vggtq.prepare.find_bits import check_bytes, measured
from vggtq.prepare.samples import Samples
from vggtq.quant.bits import sensitivity
from vggtq.quant.bits.allocate import allocate, solve
from vggtq.quant.bits.candidates import Candidates
from vggtq.quant.bits.sensitivity import Sensitivities, exact_errors, jacobian_errors
from vggtq.quant.scheme.methods import Compensation, Rounding, Transform
from vggtq.quant.scheme.parts import Layers, Mixed
from vggtq.quant.scheme.scheme import Scheme
from vggtq.quant.scheme.weights import Weights
from vggtq.quant.walk.quantize import quantize_
from vggtq.quant.walk.stored import stored_bytes
from vggtq.sensitivity.__main__ import main as sensitivity_main
from vggtq.terminal.progress import Steps

WHOLE = Layers(skip_first_last=False)
GROUPS = Weights(bits=4, granularity="group", group_size=16, scale_dtype="float16")
AUTO = Scheme("auto", GROUPS, layers=WHOLE, mixed=Mixed(candidates=[2, 4, 8]))
ROOMS = ["calibration.samples=2", "calibration.frames=2", "group_size=16", "cache=null"]


@given(data=st.data())
@settings(max_examples=60)
def test_the_solver_finds_what_trying_everything_finds(data: st.DataObject) -> None:
    shape = data.draw(st.tuples(st.integers(1, 5), st.integers(1, 4)))
    rng = np.random.default_rng(data.draw(st.integers(0, 2**32 - 1)))
    sizes = rng.integers(0, 10 ** rng.integers(1, 10), shape)
    errors = 10 ** rng.uniform(-10, 0, shape)  # of layers and widths that differ as they do in a network
    budget = int(rng.integers(sizes.min(1).sum(), sizes.max(1).sum() + 1))
    found = solve(sizes, errors, budget)
    every = [list(picks) for picks in itertools.product(range(shape[1]), repeat=shape[0])]
    rows = range(shape[0])
    best = min(errors[rows, picks].sum() for picks in every if sizes[rows, picks].sum() <= budget)
    assert found.error == pytest.approx(best, rel=1e-9)
    assert found.bytes == sizes[rows, list(found.picks)].sum() <= budget
    assert (found.status, found.gap) == ("optimal", 0.0)


def two_layers() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(16, 24, bias=False), nn.Linear(24, 8, bias=False))


def rounded(weight: Tensor, bits: int) -> Tensor:
    net = nn.Sequential(nn.Linear(weight.shape[1], weight.shape[0], bias=False))
    net[0].weight.data = weight.clone()
    candidates = Candidates(net, AUTO)
    return candidates.packed(candidates.units[0], bits)["0"].dequantize()


def test_sensitivities_of_two_layers_are_those_of_direct_computation() -> None:
    net, x = two_layers(), torch.randn(50, 16)
    first, second = (layer.weight.detach() for layer in net)
    exact = x @ first.T @ second.T
    candidates = Candidates(net, AUTO)
    widths = AUTO.mixed.candidates
    choices = candidates.choices(widths)

    def relative(y: Tensor) -> float:
        return float((y - exact).double().square().sum() / exact.double().square().sum())

    direct = [
        [relative(x @ rounded(first, bits).T @ second.T) for bits in widths],
        [relative(x @ first.T @ rounded(second, bits).T) for bits in widths],
    ]
    quiet = lambda done, total: None  # noqa: E731
    errors = lambda network: {"y": relative(network(x).detach())}  # noqa: E731
    one_by_one = exact_errors(partial(share_parameters, net), candidates, choices, errors, quiet)
    assert one_by_one["y"].tolist() == [pytest.approx(row, rel=1e-3) for row in direct]
    # A layer of a linear network changes its output linearly, so that gradients know the error up to the chance of probes.
    by_gradient = jacobian_errors(candidates, choices, [lambda: {"y": net(x)}], quiet, probes=2000)
    assert by_gradient["y"].tolist() == [pytest.approx(row, rel=0.15) for row in direct]
    assert torch.equal(net[0].weight, first) and net[0].weight.grad is None


@pytest.mark.parametrize("rank", [0, 2])
def test_gradients_see_rounding_in_another_basis(rank: int) -> None:
    net, x = two_layers(), torch.randn(50, 16)
    scheme = replace(AUTO, rounding=Rounding("gptq"), transform=Transform("smooth", hadamard=True))
    scheme = replace(scheme, compensation=Compensation(rank))
    candidates = Candidates(net, scheme, calibrate=lambda m: m(x))
    choices = candidates.choices([4])
    exact = net(x).detach()

    def errors(network: nn.Module) -> dict[str, float]:
        return {"y": float((network(x).detach() - exact).square().sum() / exact.square().sum())}

    quiet = lambda done, total: None  # noqa: E731
    direct = exact_errors(partial(share_parameters, net), candidates, choices, errors, quiet)["y"]
    found = jacobian_errors(candidates, choices, [lambda: {"y": net(x)}], quiet, probes=2000)["y"]
    assert found.flatten().tolist() == pytest.approx(direct.flatten().tolist(), rel=0.15)


def test_gradients_that_do_not_fit_at_once_give_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    net, x = two_layers(), torch.randn(50, 16)
    candidates = Candidates(net, AUTO)
    choices, quiet = candidates.choices([2, 4]), lambda done, total: None
    held = []
    slopes = sensitivity._slopes
    monkeypatch.setattr(sensitivity, "_slopes", lambda *of: held.append(len(of[-1])) or slopes(*of))

    def sample() -> dict[str, Tensor]:
        y = net(x)
        return {"y": y, "z": y.square(), "w": net[0](x)}

    together = jacobian_errors(candidates, choices, [sample], quiet, probes=2)
    monkeypatch.setattr(sensitivity, "GRADIENT_BYTES", 4 * sum(w.numel() for w in net.parameters()) * 4)
    parts = jacobian_errors(candidates, choices, [sample], quiet, probes=2)
    assert held == [6, 4, 2]
    assert all(torch.equal(parts[name], together[name]) for name in ("y", "z", "w"))
    assert not together["w"][1].any(), "an output that does not depend on the second layer"


class Shared(nn.Module):
    """An attention, and two layers with one weight."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.c = nn.Linear(32, 32), nn.Linear(32, 32), nn.Linear(32, 32)
        self.attention = nn.MultiheadAttention(32, 2, batch_first=True)
        self.c.weight = self.a.weight

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.c(self.attention(*[self.b(self.a(x))] * 3)[0])
        return out


@pytest.mark.parametrize(
    "scheme",
    [
        AUTO,
        replace(AUTO, weights=replace(GROUPS, symmetric=False)),
        replace(AUTO, rounding=Rounding("gptq")),
        replace(AUTO, transform=Transform("awq")),
        replace(AUTO, compensation=Compensation(2)),
    ],
    ids=["nearest", "asymmetric", "gptq", "awq", "low rank"],
)
@pytest.mark.parametrize("rest", [torch.float32, torch.float16])
def test_bytes_are_foreseen_to_the_byte(scheme: Scheme, rest: torch.dtype) -> None:
    torch.manual_seed(0)
    net, x = Shared(), torch.randn(4, 10, 32)
    candidates = Candidates(net, scheme, calibrate=lambda m: m(x))
    assert [unit.names for unit in candidates.units] == [
        ("a", "c"),
        ("b",),
        ("attention.in_proj", "attention.out_proj"),
    ]
    assert [unit.numel for unit in candidates.units] == [1024, 1024, 4096]
    widths = scheme.mixed.candidates
    sizes = [
        [candidates.stored_bytes(candidates.packed(u, b), rest) for b in widths] for u in candidates.units
    ]
    found = Sensitivities(
        layers=[unit.names for unit in candidates.units],
        bits=widths,
        weights=torch.tensor([unit.numel for unit in candidates.units]),
        bytes=torch.tensor(sizes),
        other_bytes=candidates.other_bytes(rest),
        errors={"y": torch.tensor([[9.0, 3.0, 0.0], [5.0, 1.0, 0.0], [90.0, 5.0, 0.0]], dtype=torch.float64)},
    )
    allocation = allocate(scheme, found)
    quantize_(net, allocation.scheme, calibrate=lambda m: m(x))
    assert stored_bytes(net, rest) == allocation.stored_bytes <= allocation.budget_bytes
    assert check_bytes(allocation, stored_bytes(net, rest)) == []
    with pytest.raises(QuantizationError, match="beyond the budget"):
        check_bytes(allocation, allocation.budget_bytes + 1)


def found_on(weights: tuple[int, ...] = (1000, 3000)) -> Sensitivities:
    sizes = torch.tensor([[n * bits // 8 for bits in (2, 4, 8)] for n in weights])
    errors = torch.tensor([[1.0, 0.2, 0.1], [1.0, 0.9, 0.1]], dtype=torch.float64)
    return Sensitivities([("a",), ("b",)], [2, 4, 8], torch.tensor(weights), sizes, 500, {"y": errors})


def test_a_budget_is_spent_where_it_helps_and_the_label_says_how_much() -> None:
    allocation = allocate(replace(AUTO, mixed=replace(AUTO.mixed, budget_mb=2500 / 2**20)), found_on())
    assert allocation.scheme.mixed.bits == {"a": 8, "b": 2}
    assert (allocation.stored_bytes, allocation.budget_bytes) == (500 + 1000 + 750, 2500)
    assert allocation.scheme.label == "auto 3.5 bits group 16"
    assert allocation.scheme.family == "auto n bits group 16"
    assert not allocation.scheme.allocates
    assert allocation.predicted == {"y": pytest.approx(1.1**0.5)}
    uniform = allocate(AUTO, found_on())  # without a budget: what 4 bits everywhere take
    assert uniform.budget_bytes == 500 + 2000


@pytest.mark.parametrize("budget", [100, 1499])
def test_a_budget_that_cannot_be_met_names_what_can(budget: int) -> None:
    scheme = replace(AUTO, mixed=replace(AUTO.mixed, budget_mb=budget / 2**20))
    with pytest.raises(
        QuantizationError, match=r"budget_mb=.*the stored model takes 0\.01 to 0\.01 MiB; raise the budget"
    ):
        allocate(scheme, found_on())


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["scheme=int4_group", "budget_mb=5"], "budget_mb=5: scheme=int4_group has no bits to choose; use scheme=auto_mixed"),
        (["scheme=auto_mixed", "budget_mb=0"], "budget_mb=0: a model takes more than 0 MiB"),
        (["scheme=auto_mixed", "bits=7"], r"bits=7 is not among scheme.mixed.candidates=\[2, 3, 4, 5, 6, 8\]"),
        (["scheme=auto_mixed", "scheme.mixed.candidates=[4,9]"], "scheme.mixed.candidates=9: integer weights have"),
        (["scheme=auto_mixed", "scheme.mixed.candidates=[4,4]"], "name each width once"),
        (["scheme=auto_mixed", "scheme.mixed.sensitivity=jacobi"], "did you mean jacobian"),
        (["scheme=auto_mixed", "scheme.mixed.sensitive=['*']"], "by patterns or found, not both"),
        (
            ["scheme=auto_mixed", "scheme.mixed.sensitivity=exact", "scheme.activations.mode=static"],
            "ranges are found when all layers are quantized",
        ),
        (["scheme=fp16", "scheme.mixed.candidates=[4]"], "bits per layer need integer weights"),
        (["scheme=mixed_precision", "scheme.mixed.budget_mb=4"], "without scheme.mixed.candidates"),
    ],
)  # fmt: skip
def test_impossible_allocations_are_refused_before_anything_is_loaded(
    overrides: list[str], message: str
) -> None:
    with pytest.raises(ConfigError, match=message):
        validated(compose(overrides))


def test_bits_can_be_given_by_name() -> None:
    named = "+scheme.mixed.bits={camera_head.embed_pose: 8, camera_head.pose_branch.fc1: 6}"
    config = validated(compose(["scheme=int4_group", named]))
    assert config.scheme.mixed.bits == {"camera_head.embed_pose": 8, "camera_head.pose_branch.fc1": 6}
    scheme = Scheme(weights=GROUPS, layers=WHOLE, mixed=Mixed(bits={"0": 8}))
    result = quantize_(two_layers(), scheme)
    assert [layer.weights.bits for layer in result.layers] == [8, 4]
    assert scheme.label == "mixed INT8 group 16"
    with pytest.raises(QuantizationError, match=r"scheme\.mixed\.bits: 7 is no layer"):
        quantize_(two_layers(), replace(scheme, mixed=Mixed(bits={"7": 8})))
    with pytest.raises(QuantizationError, match="candidates but no bits"):
        quantize_(two_layers(), AUTO)


def test_a_run_finds_bits_within_its_budget_and_says_so(tmp_path: Path) -> None:
    record = recorded(tmp_path, "scheme=auto_mixed", "budget_mb=0.7", "save=true", *ROOMS)
    assert record["status"] == "ok", record["error"]
    allocation, size = record["allocation"], record["size"]
    assert (
        size["stored_bytes"] == allocation["stored_bytes"] <= allocation["budget_bytes"] == int(0.7 * 2**20)
    )
    assert allocation["solver"] == {"status": "optimal", "gap": 0.0}
    widths = {layer["bits"] for layer in record["layers"]}
    assert len(widths) > 1
    weights = [(np.prod(layer["shape"]), layer["bits"]) for layer in record["layers"]]
    mean = sum(n * bits for n, bits in weights) / sum(n for n, _ in weights)
    assert allocation["mean_bits"] == record["scheme"]["mean_bits"] == pytest.approx(mean, abs=1e-3)
    assert record["scheme"]["label"] == f"auto {mean:.1f} bits group 16"
    assert allocation["budget_from"] == "budget_mb"
    assert len(allocation["sensitivity"]["layers"]) == len(record["layers"])
    header = artifact.read_header(tmp_path / "model.safetensors")
    assert header.label == record["scheme"]["label"]
    loaded = artifact.load(tmp_path / "model.safetensors")
    assert [layer.weights.bits for layer in loaded.quantization.layers] == [
        layer["bits"] for layer in record["layers"]
    ]

    out = tmp_path / "exported.safetensors"
    assert export_main([*TINY, "scheme=auto_mixed", "budget_mb=0.7", *ROOMS, f"out={out}"]) == 0
    assert out.read_bytes() == (tmp_path / "model.safetensors").read_bytes()


@pytest.mark.parametrize("mode", ["dynamic", "static"])
def test_bits_are_found_beside_rounded_activations(mode: str, tmp_path: Path) -> None:
    inputs = [f"scheme.activations.mode={mode}", "scheme.transform.scale=smooth"]
    record = recorded(tmp_path, "scheme=auto_mixed", *ROOMS, *inputs)
    assert record["status"] == "ok", record["error"]
    assert record["size"]["stored_bytes"] == record["allocation"]["stored_bytes"]
    assert re.match(rf"auto \d\.\d bits A8 {mode}", record["scheme"]["label"])


def test_what_sensitivities_were_measured_on_is_never_evaluated(tmp_path: Path) -> None:
    overlap = ["dataset=objects", "scenes=1", "frames=2", "size=[56,56]", "scheme=auto_mixed", *ROOMS]
    record = recorded(tmp_path, *overlap, "calibration.dataset.split=test")
    assert "among the calibration samples" in record["error"]["message"]


def test_sensitivities_are_measured_once_for_all_budgets(tmp_path: Path) -> None:
    place = f"cache={tmp_path}"

    def found(*overrides: str) -> tuple[bool, Tensor]:
        few = "scheme.layers.include=['*frame_blocks.0.*']"
        config = validated(tiny("scheme=auto_mixed", *ROOMS, place, few, *overrides))
        model = config.model.load(torch.device("cpu"))
        result = measured(config, model, Samples.of(config.calibration), Steps())
        return result[1], result[0].mean

    first, again, other = found("budget_mb=0.7"), found("bits=3"), found("calibration.seed=1")
    assert (first[0], again[0], other[0]) == (False, True, False)
    assert torch.equal(first[1], again[1]) and not torch.equal(first[1], other[1])
    assert not found("scheme.mixed.sensitivity=exact", "scheme.layers.include=['*embed_pose']")[0]


def test_the_command_writes_table_and_picture(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    few = "scheme.layers.include=['*frame_blocks.0.*']"
    own = ["scheme=int4_group", "bits=[3,8]", "method=exact", f"out={tmp_path}", few, "check=true"]
    assert sensitivity_main([*TINY, *ROOMS, *own]) == 0
    told = json.loads((tmp_path / "sensitivity.json").read_text())
    with (tmp_path / "sensitivity.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == len(told["rows"]) and {row["bits"] for row in rows} == {"3", "8"}
    assert float(rows[0]["mean_relative_error"]) > 3 * float(rows[1]["mean_relative_error"]) > 0
    for row in told["additivity"]:
        assert row["found_stored_bytes"] <= row["even_stored_bytes"]
        assert row["even_real"] == pytest.approx(row["even_predicted"], rel=0.5)
    assert (tmp_path / "sensitivity.png").read_bytes()[:4] == b"\x89PNG"
    assert "3 bits" in capsys.readouterr().out
    assert sensitivity_main(["bits=four"]) == sensitivity_main(["bits=[]"]) == 1
    four, none = capsys.readouterr().err.splitlines()
    assert "bits=four: expected a whole number" in four and "a list of widths" in none
