"""The GPU benchmark as far as a CPU goes: names of kernels, shares of time, pairs, arguments, and a machine without GPU."""

import itertools
import json
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from helpers.command import vggtq
from vggtq.bench.cuda import __main__, model
from vggtq.bench.cuda.timing import kind_of, paired, profiled, shares
from vggtq.errors import VggtqError
from vggtq.quant.scheme.scheme import Scheme


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("nvjet_tst_128x256_64x4_1x2_h_bz_coopA_TNT", "linear"),
        ("sm90_xmma_gemm_bf16bf16_bf16f32_f32_tn_n_tilesize128x128x64", "linear"),
        ("void cutlass::device_kernel<enable_3x_kernel_for_sm9x<cutlass::gemm::kernel::GemmUniversal>>", "linear"),
        ("_scaled_matmul", "linear"),
        ("_few_rows_linear", "linear"),
        ("void gemv2T_kernel_val<int, int, float>", "linear"),
        ("aten::addmm", "linear"),
        ("aten::_int_mm", "linear"),
        ("aten::bmm", "linear"),
        ("triton_tem_fused_mm_3", "linear"),
        ("void (anonymous namespace)::upsample_bilinear2d_nhwc_out_frame<BFloat16, float>", "elementwise"),
        ("_quantize_rows", "rounding"),
        ("_dequantize", "rounding"),
        ("void pytorch_flash::flash_fwd_kernel<Flash_fwd_kernel_traits<64, 128, 128, 4>>", "attention"),
        ("cudnn_generated_fort_native_sdpa_sm90_flash_fprop_wgmma_f16_knob", "attention"),
        ("fmha_cutlassF_bf16_aligned_64x64_rf_sm80", "attention"),
        ("aten::_scaled_dot_product_flash_attention_for_cpu", "attention"),
        ("sm90_xmma_fprop_implicit_gemm_bf16bf16_bf16f32_f32_nhwckrsc_nhwc", "convolution"),
        ("sm80_xmma_dgrad_implicit_gemm_indexed_bf16", "convolution"),
        ("void cudnn::ops::nchwToNhwcKernel<__nv_bfloat16>", "convolution"),
        ("aten::mkldnn_convolution", "convolution"),
        ("triton_poi_fused_addmm_convert_element_type_gelu_3", "elementwise"),
        ("triton_red_fused_convolution_native_layer_norm_1", "elementwise"),
        ("void at::native::vectorized_elementwise_kernel<4, at::native::GeluCUDAKernelImpl>", "elementwise"),
        ("void at::native::(anonymous namespace)::vectorized_layer_norm_kernel<c10::BFloat16>", "elementwise"),
        ("aten::convert_element_type", "elementwise"),
        ("Memcpy DtoD (Device -> Device)", "elementwise"),
    ],
)  # fmt: skip
def test_kernels_are_told_apart_by_name(name: str, kind: str) -> None:
    assert kind_of(name) == kind


def test_shares_add_up_and_leave_the_gaps() -> None:
    events = [("nvjet_a", 4.0), ("_scaled_matmul", 2.0), ("flash_fwd", 3.0), ("add", 1.0)]
    assert shares(events) == {"linear": 0.6, "attention": 0.3, "elementwise": 0.1}
    assert shares(events, wall=20.0) == {"linear": 0.3, "attention": 0.15, "elementwise": 0.05, "gaps": 0.5}
    assert shares(events, wall=5.0)["gaps"] == 0  # kernels that overlap fill more than the wall clock
    with pytest.raises(VggtqError, match="holds no time"):
        shares([])


def test_a_profile_of_the_cpu_finds_what_ran() -> None:
    x, conv, weight = torch.randn(1, 8, 256, 256), nn.Conv2d(8, 8, 3), torch.randn(512, 512)

    def convolve() -> None:
        conv(x)

    def multiply() -> None:
        F.linear(weight, weight)

    with torch.no_grad():
        assert shares(profiled(convolve, torch.device("cpu")))["convolution"] > 0.5
        events = profiled(multiply, torch.device("cpu"))
    assert shares(events)["linear"] > 0.5
    assert [ms for _, ms in events] == sorted((ms for _, ms in events), reverse=True)


def test_pairs_alternate_and_give_ratios() -> None:
    calls: list[str] = []
    times = {"a": itertools.count(10), "b": itertools.count(5)}

    def clock(call: object) -> float:
        name = call()  # type: ignore[operator]
        calls.append(name)
        return float(next(times[name]))

    result = paired(lambda: "a", lambda: "b", 3, clock)
    assert calls == list("abbaabbaab")
    assert result["reference_ms"] == [12, 13, 14]
    assert result["candidate_ms"] == [7, 8, 9]
    assert result["speedup"] == pytest.approx(13 / 8)


def test_without_a_gpu_one_line_names_the_remedy(tmp_path: Path) -> None:
    if torch.cuda.is_available():
        pytest.skip("this machine has a GPU")
    done = vggtq(tmp_path, module="vggtq.bench.cuda")
    assert done.returncode == 1
    assert done.stderr.startswith("error: this benchmark needs an NVIDIA GPU")
    assert "vggtq bench" in done.stderr
    assert len(done.stderr.splitlines()) == 1


@pytest.mark.parametrize("argument", ["schemes=int3", "frames=5,0", "parts=all", "rounds=0", "--parts"])
def test_arguments_that_cannot_work_are_refused(argument: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert __main__.main([argument]) == 2
    assert argument.partition("=")[0] in capsys.readouterr().err


def test_schemes_are_those_of_the_configuration() -> None:
    assert set(__main__.SCHEMES) == {"int8_dynamic", "fp8", "int8_symmetric", "int4_group"}
    assert all(isinstance(scheme, Scheme) for scheme in __main__.SCHEMES.values())
    assert __main__.SCHEMES["int4_group"].weights.group_size == 64
    assert __main__.Options().frames == [5, 10]


SMALL = {
    "aggregator": {"embed_dim": 64, "depth": 2, "num_heads": 2, "img_size": 56},
    "patch_embed": {"embed_dim": 64, "img_size": 56, "depth": 1, "num_heads": 2},
    "camera_head": {"trunk_depth": 1, "num_heads": 2},
    "dpt": {"features": 16, "out_channels": [16, 16, 16, 16], "intermediate_layer_idx": [0, 0, 1, 1]},
}
CPU = torch.device("cpu")


def test_a_variant_of_a_model_runs_in_bfloat16() -> None:
    base = model.random_model(SMALL)
    images = torch.rand(2, 3, 42, 56)
    plain = model.variant(base, None, CPU)
    quantized = model.variant(base, __main__.SCHEMES["fp8"], CPU)
    assert {p.dtype for p in plain.parameters()} == {torch.bfloat16}
    assert {p.dtype for p in base.parameters()} == {torch.float32}
    exact = model.outputs(base, images)
    for network, limit in ((plain, 0.05), (quantized, 0.3)):
        errors = model.relative_errors(model.outputs(network, images.bfloat16()), exact)
        assert errors.keys() == {"pose_enc", "depth", "world_points"}
        assert all(0 < value < limit for value in errors.values()), errors


@pytest.fixture
def without_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    """Graphs, events and CUDA's memory counters replaced by what a CPU has, so that the rest of the benchmark runs."""

    def wall_ms(call: Callable[[], object]) -> float:
        started = time.perf_counter()
        call()
        return (time.perf_counter() - started) * 1e3

    for module in (__main__, model):
        monkeypatch.setattr(module, "captured", lambda call: call)
        monkeypatch.setattr(module, "paired", lambda a, b, rounds: paired(a, b, rounds, wall_ms))
    monkeypatch.setattr(model, "elapsed_ms", wall_ms)
    monkeypatch.setattr(torch.cuda, "memory_allocated", lambda device: 7)
    monkeypatch.setattr(torch.cuda, "max_memory_allocated", lambda device: 9)
    for name in ("reset_peak_memory_stats", "empty_cache"):
        monkeypatch.setattr(torch.cuda, name, lambda *device: None)


@pytest.mark.usefixtures("without_gpu")
@pytest.mark.parametrize("name", list(__main__.SCHEMES))
def test_a_shape_is_compared_with_bfloat16(name: str) -> None:
    row = __main__.shape_row((20, 64, 48), name, __main__.SCHEMES[name], 2, CPU)
    assert row["copies"] == __main__.MOST_COPIES
    assert 0.001 < row["relative_errors"]["bf16"] < 0.01
    assert 0.002 < row["relative_errors"][name] < {"int4_group": 0.2, "fp8": 0.06}.get(name, 0.03)
    assert len(row["reference_ms"]) == len(row["candidate_ms"]) == 2
    assert row["scheme"] in __main__._line("shapes", row)


@pytest.mark.usefixtures("without_gpu")
def test_models_are_compared_with_the_fastest_reference(monkeypatch: pytest.MonkeyPatch) -> None:
    small = model.random_model(SMALL)
    monkeypatch.setattr(model, "random_model", lambda: small)
    monkeypatch.setattr(model, "SIZE", (42, 56))
    schemes = {"fp8": __main__.SCHEMES["fp8"], "broken": __main__.SCHEMES["fp8"]}
    original = model.variant

    def variant(base: nn.Module, scheme: Scheme | None, device: torch.device, mode: str) -> nn.Module:
        if len(seen) == 2:
            raise RuntimeError("CUDA out of memory\nmore")
        seen.append(mode)
        return original(base, scheme, device, mode)

    seen: list[str] = []
    monkeypatch.setattr(model, "variant", variant)
    rows = list(model.model_rows(schemes, [2], ["graph"], 3, CPU))
    assert [row["scheme"] for row in rows] == ["bf16", "fp8", "broken"]
    assert rows[0]["is_reference"]
    assert len(rows[1]["reference_ms"]) == 3
    assert sum(rows[1]["shares"].values()) == pytest.approx(1)
    assert rows[2]["error"] == "CUDA out of memory"
    assert [bool(__main__._line("model", row)) for row in rows] == [True] * 3
    json.dumps(rows, allow_nan=False)
