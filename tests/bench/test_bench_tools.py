"""What the benchmark compares: every scheme beside every tool of others, in kernels, blocks and models."""

from dataclasses import replace

import pytest
import torch
from torch import nn

from vggtq.bench import alternatives, kernels, networks, table
from vggtq.bench.rows import INSTALL, Candidate, Missing, rows_of

CPU = torch.device("cpu")

# Tools that trace a network take seconds for each of its blocks.
ONE_BLOCK = (
    *("model=vggt_small", "model.image_size=28"),
    "model.architecture.aggregator={img_size:28,embed_dim:128,depth:1,num_heads:2}",
    "model.architecture.patch_embed={img_size:28,embed_dim:128,depth:1,num_heads:2}",
    "model.architecture.camera_head={trunk_depth:1,num_heads:2}",
    "model.architecture.dpt={features:16,out_channels:[8,8,16,16],intermediate_layer_idx:[0,0,0,0]}",
)


@pytest.fixture(autouse=True)
def uncompiled(monkeypatch: pytest.MonkeyPatch) -> None:
    """Compiling takes half a minute and changes no result that is tested here."""
    for module in (alternatives, networks):
        monkeypatch.setattr(module, "compiled", lambda network: network)


def test_a_kernel_case_has_every_scheme_and_every_tool(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kernels, "SECONDS", 0)
    (rows,) = kernels.kernel_rows(CPU, [(40, 256, 64)], full=True)
    by_name = {row["name"]: row for row in rows}
    tools = {tool.name for tool in alternatives.TOOLS}
    onnx = {name for name in by_name if name.startswith("ONNX Runtime")}
    in_bf16 = {name for name in by_name if name.endswith("BF16")}
    assert set(by_name) - in_bf16 == {"FP32", *kernels.SCHEMES, *tools, *onnx} and len(onnx) == 3
    for name, row in by_name.items():
        if "skipped" in row:
            assert row["tool"] not in ("vggtq", "torch"), (name, row["skipped"])
            continue
        low, high = row["speedup"]["fp32"]["q25"], row["speedup"]["fp32"]["q75"]
        assert 0 < low <= row["speedup"]["fp32"]["median"] <= high
        assert row["relative_error"] < 0.2, name
    # Independent of all kernels: Gaussian weights lose about a twelfth of a squared step.
    assert by_name["INT4 group 32"]["relative_error"] < by_name["INT4 group 128"]["relative_error"]
    assert by_name["INT8 per-channel"]["relative_error"] < by_name["INT4 group 64"]["relative_error"] / 8
    assert by_name["INT4 group 64"]["resident_bytes"] < by_name["INT8 per-channel"]["resident_bytes"]
    assert by_name["INT8 per-channel"]["resident_bytes"] < by_name["FP32"]["resident_bytes"] / 2


@pytest.mark.parametrize("tool", alternatives.TOOLS, ids=lambda tool: tool.name)
def test_other_tools_quantize_a_copy(tool: alternatives.Tool) -> None:
    if not alternatives.is_installed(tool.package):
        pytest.skip(f"{tool.package} is not installed")
    torch.manual_seed(0)
    module = nn.Sequential(nn.Linear(128, 64), nn.GELU(), nn.Linear(64, 32)).requires_grad_(False)
    before = [p.clone() for p in module.parameters()]
    quantized = alternatives.quantized_by(tool, module)
    assert isinstance(quantized, nn.Module), quantized
    x = torch.randn(70, 128)
    with torch.no_grad():
        error = (quantized(x) - module(x)).norm() / module(x).norm()
    assert error < 0.2
    assert error < 1e-6 if "FP32" in tool.name else error > 1e-4, "fewer bits lose something"
    assert all(torch.equal(p, q) for p, q in zip(module.parameters(), before, strict=True))
    assert all(type(p) is nn.Parameter for p in module.parameters())


def test_bytes_inside_tensor_subclasses_are_counted() -> None:
    tool = next(tool for tool in alternatives.TOOLS if tool.name == "torchao int8 weights")
    if not alternatives.is_installed(tool.package):
        pytest.skip("torchao is not installed")
    linear = nn.Linear(256, 512)
    quantized = alternatives.quantized_by(tool, nn.Sequential(linear))
    assert isinstance(quantized, nn.Module)
    codes, bias = 256 * 512, 4 * 512
    assert codes + bias < alternatives.resident_bytes(quantized) <= codes + bias + 8 * 512
    assert alternatives.resident_bytes(linear) == 4 * (256 * 512 + 512)


def test_what_is_not_installed_says_how_to_install_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(alternatives, "is_installed", lambda package: package == "torch")
    monkeypatch.setattr(alternatives.importlib.util, "find_spec", lambda name: None)
    x, linear = kernels.case_of(8, 64, 64, CPU)
    found = alternatives.linear_alternatives(x, linear, full=True)
    missing = [candidate for candidate in found if isinstance(candidate, Missing)]
    assert len(missing) == len(found) - 2, "all but torch's own"
    assert {candidate.reason for candidate in missing} == {INSTALL}
    rows = rows_of({}, [Candidate("FP32", lambda: linear(x), "", 1), *missing], 1, CPU)
    assert table.cells_of(rows[-1]) == ["–", "–", "–", "–", INSTALL]


def test_blocks_and_models_are_compared_in_the_same_way(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(networks, "DIM", 64)
    monkeypatch.setattr(networks, "HEADS", 2)
    monkeypatch.setattr(networks, "GRID", (3, 4))
    monkeypatch.setattr(networks, "FRAMES", (2,))
    monkeypatch.setattr(networks, "SECONDS", 0)
    (rows,) = networks.block_rows(CPU)
    assert rows[0]["tokens"] == 2 * (3 * 4 + 5)
    monkeypatch.setattr(
        networks, "exported_candidates", lambda *case: iter([Missing("exported", "onnxruntime", "why")])
    )
    tiny = networks.Case("one block", ONE_BLOCK, 1, 28, 0)
    single = replace(tiny, everything=False)
    together, *apart = networks.model_rows(CPU, (tiny, single))
    own = {scheme.name for scheme in networks.SCHEMES}
    for found in (rows, together):
        names = {row["name"] for row in found}
        tools = {tool.name for tool in alternatives.TOOLS if found is rows or not tool.compiled}
        assert own | tools <= names
        errors = {row["name"]: row["relative_error"] for row in found if "skipped" not in row}
        assert errors["FP16 weights"] < errors["INT8 weights"] < errors["INT4 group 64"] < 0.5
        assert {"OpenVINO FP32", "OpenVINO INT8 (NNCF)", "OpenVINO INT4 group 64 (NNCF)"} <= names
    assert "exported" in {row["name"] for row in together}
    beside = [group[-1]["name"] for group in apart]
    assert beside[: len(networks.SCHEMES)] == [scheme.name for scheme in networks.SCHEMES]
    assert beside[-1] == "exported" and len(beside) == len(set(beside))


def test_the_fastest_of_one_s_own_also_runs_on_one_thread() -> None:
    threads, seen = torch.get_num_threads(), []

    def call() -> torch.Tensor:
        seen.append(torch.get_num_threads())
        return torch.ones(1)

    found = [
        Candidate("FP32", call, "", 1),
        Missing("theirs", "other", "why"),
        Candidate(networks.THREADED, call, "k", 1),
    ]
    try:
        torch.set_num_threads(2)
        (alone,) = networks._one_thread(found)
        assert (alone.name, alone.backend) == (f"{networks.THREADED}, one thread", "k")
        alone.call(), found[2].call()
        assert seen == [1, 2]
        torch.set_num_threads(1)
        assert not list(networks._one_thread(found))
    finally:
        torch.set_num_threads(threads)
