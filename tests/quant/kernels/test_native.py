"""The native kernels on every instruction set of this CPU: against integers, the reference, torch, and the end of memory."""

import copy
import logging
import os
import signal
import threading
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from helpers.guarded import Guarded
from helpers.instruction_sets import capped, use
from helpers.linears import DYNAMIC, draw
from vggtq.errors import ConfigError
from vggtq.machine import native
from vggtq.quant.kernels.cpu import native_linear, rules
from vggtq.quant.kernels.cpu.native_linear import NativeLinear, fits, in_product, is_right
from vggtq.quant.kernels.cpu.onednn_int8 import OneDnnInt8Linear
from vggtq.quant.kernels.linear import ReferenceLinear
from vggtq.quant.kernels.native import operator
from vggtq.quant.kernels.native.layout import codes_from_panels, codes_to_panels
from vggtq.quant.kernels.table import linear_backend
from vggtq.quant.methods.round import pack_weight
from vggtq.quant.numbers.input_range import InputRange
from vggtq.quant.numbers.packed import PackedWeight
from vggtq.quant.numbers.packing import pack
from vggtq.quant.scheme.activations import Activations
from vggtq.quant.scheme.weights import Weights

CPU = torch.device("cpu")
built = pytest.mark.skipif(native.problem() is not None, reason=f"no native kernels: {native.problem()}")


INPUTS = {
    "per token": DYNAMIC,
    "per token asymmetric": Activations("dynamic", symmetric=False),
    "per tensor": Activations("dynamic", granularity="per_tensor"),
    "per tensor asymmetric": Activations("dynamic", granularity="per_tensor", symmetric=False),
    "static": Activations("static"),
    "static asymmetric": Activations("static", symmetric=False),
    "static 5 bits": Activations("static", 5),
    "4 bits": Activations("dynamic", 4),
}
FLOAT = Activations()


def packed_of(seed: int, spec: Weights, shape: tuple[int, int]) -> PackedWeight:
    """Any codes, those at both ends among them, with scales that are powers of two, or any integers."""
    bits, symmetric, group = spec.bits, spec.symmetric, spec.group_size
    generator = torch.Generator().manual_seed(seed)
    smallest, largest = int(symmetric), 2**bits - 1
    codes = torch.randint(smallest, largest + 1, shape, generator=generator, dtype=torch.uint8)
    codes[0], codes[-1] = largest, smallest
    groups = -(-shape[1] // group) if group else 1
    scale = 2.0 ** torch.randint(-1, 2, (shape[0], groups), generator=generator)
    zero, channels = None, None
    if spec.progressive:
        channels = scale[:, :1]
        scale = torch.randint(1, 16, (shape[0], groups), generator=generator, dtype=torch.uint8)
        scale[0] = 15
    if not symmetric:
        zero = torch.randint(0, largest + 1, scale.shape, generator=generator, dtype=torch.uint8)
        zero[0], zero[-1] = 0, largest
    return PackedWeight(pack(codes, bits), scale, zero, spec, shape[1], 0.0, 0.0, tensor_scale=channels)


def whole_inputs(layer: NativeLinear, tokens: int, seed: int) -> Tensor:
    """Whole numbers that the layer's rounding keeps: every scale is 1."""
    numbers, generator = layer.activations, torch.Generator().manual_seed(seed)
    bits = layer.activation_bits
    low, high = 1 - 2 ** (bits - 1), 2 ** (bits - 1) - 1
    if not numbers.symmetric:
        low, high = (0, 2**bits - 1) if numbers.mode == "static" else (-3, 2**bits - 5)
    x = torch.randint(low, high + 1, (tokens, layer.in_features), generator=generator).float()
    x[:, 0], x[:, -1] = high, low if layer.in_features > 1 else high
    x[0], x[0, -1] = high, low if layer.in_features > 1 and not numbers.symmetric else high
    if numbers.mode == "static":
        layer.set_input_range(InputRange.between(low, high, bits, numbers.symmetric))
    return x


@given(
    st.integers(2, 8),
    st.booleans(),
    st.sampled_from([None, 16, 32, 48, 64]),
    st.booleans(),
    st.sampled_from(sorted(INPUTS)),
    st.tuples(st.integers(1, 40), st.integers(2, 150), st.integers(1, 70)),
    st.integers(0, 2**20),
)
@settings(max_examples=60, deadline=None)
def check_against_integers(
    bits: int,
    symmetric: bool,
    group: int | None,
    progressive: bool,
    inputs: str,
    shape: tuple[int, int, int],
    seed: int,
) -> None:
    tokens, columns, rows = shape
    possible = progressive and symmetric and bits <= 4 and group is not None
    scales = "progressive" if possible else "float32"
    spec = Weights("int", bits, symmetric, "group", group, scales)
    assert fits(spec, INPUTS[inputs], (rows, columns))
    packed = packed_of(seed, spec, (rows, columns))
    layer = NativeLinear(packed, None, INPUTS[inputs])
    x = whole_inputs(layer, tokens, seed)
    if not INPUTS[inputs].symmetric and columns == 1:
        return
    weight = in_product(packed, layer.product_bits).dequantize(torch.float64)
    exact, size = x.double() @ weight.t(), x.abs().double() @ weight.abs().t()
    with torch.no_grad():
        y = layer(x).double()
    if (
        layer._group and not spec.progressive
    ):  # sums of groups are float32: exact below 2^24 half steps, and rounded once a group beyond
        assert (
            (y - exact).abs() <= torch.where(size < 2**22, 0, 2e-6 * (size + 255 * weight.abs().sum(1)))
        ).all()
    else:
        assert torch.equal(y, exact.float().double())


def test_products_are_what_integers_give(isa: str) -> None:
    check_against_integers()


@pytest.mark.parametrize("bits", [2, 4, 7, 8])
@pytest.mark.parametrize("symmetric", [True, False], ids=["symmetric", "asymmetric"])
def test_nothing_saturates(isa: str, bits: int, symmetric: bool) -> None:
    """All codes at one end and all inputs at the other, longer than any sum of 16 bits lasts."""
    for end in (1 if symmetric else 0, 2**bits - 1):
        codes = torch.full((3, 1024), end, dtype=torch.uint8)
        zero = None if symmetric else torch.full((3, 1), 2**bits - 1 - end, dtype=torch.uint8)
        spec = Weights(bits=bits, symmetric=symmetric)
        packed = PackedWeight(pack(codes, bits), torch.ones(3, 1), zero, spec, 1024, 0.0, 0.0)
        layer = NativeLinear(packed, None, DYNAMIC)
        for sign in (-1.0, 1.0):
            x = torch.full((13, 1024), sign * (2 ** (layer.activation_bits - 1) - 1))
            weight = in_product(packed, layer.product_bits).dequantize(torch.float64)
            assert torch.equal(layer(x).double(), x.double() @ weight.t())


@pytest.mark.parametrize("inputs", INPUTS)
@pytest.mark.parametrize(
    "spec",
    [
        Weights(),
        Weights(symmetric=False, granularity="per_tensor"),
        Weights(bits=4, granularity="group", group_size=64, scale_dtype="float16"),
        Weights(bits=3, symmetric=False, granularity="group", group_size=32),
        Weights(symmetric=False, granularity="group", group_size=16),
        Weights(bits=4, granularity="group", group_size=64, scale_dtype="progressive"),
    ],
    ids=["w8", "w8 asymmetric", "w4 g64", "w3 g32 asymmetric", "w8 g16 asymmetric", "w4 g64 progressive"],
)
def test_the_result_is_the_references(isa: str, spec: Weights, inputs: str) -> None:
    weight, bias, x = draw("gaussian", 50, 200, seed=1), torch.randn(50), draw("outliers", 37, 200, seed=2)
    packed, numbers = pack_weight(weight, spec), INPUTS[inputs]
    layer = NativeLinear(packed, nn.Parameter(bias), numbers)
    multiplied = in_product(packed, layer.product_bits)
    reference = ReferenceLinear(multiplied, nn.Parameter(bias), replace(numbers, bits=layer.activation_bits))
    if numbers.mode == "static":
        for each, bits in ((layer, numbers.bits), (reference, layer.activation_bits)):
            known = InputRange.between(-4, 4, numbers.bits, numbers.symmetric)
            each.set_input_range(known.with_bits(bits))
    with torch.no_grad():
        difference = (layer(x) - reference(x)).abs()
    # Where a quotient is a half within float32's precision, codes may differ by one.
    step = x.abs().amax() / 2 ** (layer.activation_bits - 1) * 2
    assert (difference > 2e-6 * (x.abs() @ weight.abs().t() + bias.abs())).float().mean() < 0.05
    assert (difference <= step * weight.abs().amax() * 2).all()


@st.composite
def float_cases(draw: st.DrawFn) -> tuple[Weights, tuple[int, int, int], int]:
    kind = draw(st.sampled_from(["int", "int", "int", "float16", "bfloat16", "mxfp4", "nvfp4"]))
    shape = draw(st.tuples(st.integers(1, 40), st.integers(1, 300), st.integers(1, 70)))
    if kind in BLOCKS:
        spec = Weights(kind, 4, granularity="group", group_size=BLOCKS[kind][0], scale_dtype=BLOCKS[kind][1])
    elif kind != "int":
        spec = Weights(kind, 16, granularity="none")
    else:
        bits, group = draw(st.integers(2, 8)), draw(st.sampled_from([None, 16, 32, 48, 64]))
        scales = draw(st.sampled_from(["float32", "float16", "progressive"]))
        progressive = scales == "progressive" and bits <= 4 and group is not None
        symmetric = progressive or draw(st.booleans())
        scales = scales if progressive or scales != "progressive" else "float32"
        spec = Weights("int", bits, symmetric, "group", group, scales)
    return spec, shape, draw(st.integers(0, 2**20))


BLOCKS = {"mxfp4": (32, "float8_e8m0"), "nvfp4": (16, "float8_e4m3")}


@given(float_cases())
@settings(max_examples=60, deadline=None)
def check_float_products(case: tuple[Weights, tuple[int, int, int], int]) -> None:
    spec, (tokens, columns, rows), seed = case
    assert fits(spec, FLOAT, (rows, columns))
    generator = torch.Generator().manual_seed(seed)
    packed = pack_weight(torch.randn(rows, columns, generator=generator), spec)
    bias, x = torch.randn(rows, generator=generator), torch.randn(tokens, columns, generator=generator)
    layer, weight = NativeLinear(packed, nn.Parameter(bias), FLOAT), packed.dequantize(torch.float64)
    with torch.no_grad():
        error = (layer(x) - (x.double() @ weight.t() + bias)).abs()
    assert (error <= 2e-6 * (x.abs().double() @ weight.abs().t() + bias.abs())).all()
    kept = layer.weight_tensors()
    assert kept.keys() == packed.tensors.keys()
    for name, tensor in packed.tensors.items():
        assert kept[name].dtype == tensor.dtype
        assert torch.equal(kept[name].float(), tensor.float())


def test_float_inputs_meet_the_dequantized_weight(isa: str) -> None:
    check_float_products()


def test_broken_rows_of_floats_come_out_as_torchs(isa: str) -> None:
    packed, x = pack_weight(draw("gaussian", 40, 96), Weights(bits=4)), draw("gaussian", 30, 96)
    x[1, 5], x[2, 95], x[3, 0] = torch.nan, torch.inf, -torch.inf
    y, expected = NativeLinear(packed, None, FLOAT)(x), x @ packed.dequantize().t()
    torch.testing.assert_close(y, expected, rtol=1e-4, atol=1e-5, equal_nan=True)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64])
def test_other_types_are_rounded_once(isa: str, dtype: torch.dtype) -> None:
    group = Weights(bits=4, granularity="group", group_size=32)
    for spec, rows, inputs in ((Weights(), 64, DYNAMIC), (group, 33, DYNAMIC), (group, 33, FLOAT)):
        packed = pack_weight(draw("gaussian", rows, 77), spec)
        layer = NativeLinear(packed, nn.Parameter(torch.randn(rows)), inputs)
        x = draw("outliers", 19, 77, seed=2).to(dtype)
        assert torch.equal(layer(x), layer(x.float()).to(dtype))


def test_halves_come_out_as_torch_rounds_them(isa: str) -> None:
    """Subnormal numbers, ties, overflow and NaN, by way of the bias of a product with zeros."""
    values = torch.tensor(
        [0, 1e-8, 6e-8, 3e-5, 1 + 2**-11, 1 + 3 * 2**-11, 65519, 65520, 1e30, torch.inf, torch.nan]
    )
    values = torch.cat([values, -values])
    layer = NativeLinear(pack_weight(torch.zeros(22, 8), Weights()), nn.Parameter(values), DYNAMIC)
    for dtype in (torch.float16, torch.bfloat16):
        out = layer(torch.ones(3, 8, dtype=dtype))
        torch.testing.assert_close(out, values.to(dtype).expand(3, -1), rtol=0, atol=0, equal_nan=True)


@pytest.mark.parametrize("inputs", INPUTS)
def test_broken_rows_stay_alone_and_zeros_give_the_bias(isa: str, inputs: str) -> None:
    numbers, bias = INPUTS[inputs], torch.arange(40.0)
    for spec in (Weights(), Weights(bits=4, granularity="group", group_size=32)):
        layer = NativeLinear(pack_weight(draw("gaussian", 40, 96), spec), nn.Parameter(bias), numbers)
        if numbers.mode == "static":
            layer.set_input_range(InputRange.between(-3, 3, numbers.bits, numbers.symmetric))
        x = draw("gaussian", 30, 96)
        x[0], x[1, 5], x[2, 95], x[3, 0] = 0, torch.nan, torch.inf, -torch.inf
        y = layer(x)
        shared = numbers.scale_granularity == "per_tensor" and numbers.mode == "dynamic"
        assert y[1:4].isnan().all()
        assert shared or y[4:].isfinite().all()
        if not shared:  # where groups meet zero points, two sums cancel
            cancels = layer._group and not numbers.symmetric
            torch.testing.assert_close(y[0], bias, rtol=0, atol=1e-4 if cancels else 0)


@pytest.mark.parametrize("bits", range(2, 9))
@pytest.mark.parametrize("symmetric", [True, False], ids=["symmetric", "asymmetric"])
def test_codes_come_back(isa: str, bits: int, symmetric: bool) -> None:
    for shape, granularity, group in (
        ((33, 65), "per_channel", None),
        ((7, 96), "per_tensor", None),
        ((70, 100), "group", 32),
    ):
        spec = Weights(
            bits=bits, symmetric=symmetric, granularity=granularity, group_size=group, scale_dtype="float16"
        )
        if not fits(spec, DYNAMIC, shape):
            continue
        packed = pack_weight(draw("gaussian", *shape), spec)
        layer = NativeLinear(packed, None, DYNAMIC)
        kept, x = layer.weight_tensors(), draw("outliers", 3, shape[1])
        assert torch.equal(copy.deepcopy(layer)(x), layer(x))
        assert torch.equal(layer.state_dict()["codes"], packed.codes)
        assert kept.keys() == packed.tensors.keys()
        assert all(torch.equal(kept[k], t) and kept[k].dtype == t.dtype for k, t in packed.tensors.items())


@given(st.integers(2, 8), st.sampled_from([(8, 16), (16, 32), (8, 24)]), st.integers(1, 3), st.integers(1, 3))
@settings(deadline=None)
def test_layouts_are_undone(bits: int, vectors: tuple[int, int], panels: int, blocks: int) -> None:
    lanes, panel = vectors
    shape = (panels * panel, blocks * 32)
    codes = torch.randint(0, 2**bits, shape, dtype=torch.uint8)
    packed = codes_to_panels(codes, bits, lanes, panel)
    assert packed.numel() == codes.numel() * bits // 8
    assert torch.equal(codes_from_panels(packed, bits, lanes, panel, shape), codes)


@built
def test_four_bits_stay_four_bits_in_memory() -> None:
    spec = Weights(bits=4, granularity="group", group_size=64, scale_dtype="float16")
    packed = pack_weight(draw("gaussian", 256, 1024), spec)
    layer = NativeLinear(packed, None, DYNAMIC)
    assert layer.resident_bytes() <= 1.05 * packed.stored_bytes
    assert layer.backend == f"native_{native.describe()}_w4a8"


@pytest.mark.parametrize("group", [None, 64])
def test_more_tokens_and_outputs_than_the_cache_holds(isa: str, group: int | None) -> None:
    tokens, rows, columns = 550, 170, 8192  # more than one block and chunk of a cache of 2 MB
    spec = Weights(bits=4, granularity="group" if group else "per_channel", group_size=group)
    packed = packed_of(3, spec, (rows, columns))
    layer = NativeLinear(packed, None, DYNAMIC)
    x = whole_inputs(layer, tokens, 3)
    exact = x @ in_product(packed, layer.product_bits).dequantize(torch.float32).t()
    torch.testing.assert_close(layer(x), exact, rtol=1e-5, atol=0.25 if group else 0)


@pytest.mark.parametrize("tokens", [1, 40, 150])
@pytest.mark.parametrize(
    "spec",
    [
        Weights(bits=4, granularity="group", group_size=32, scale_dtype="float16"),
        Weights(bits=5, symmetric=False, granularity="group", group_size=64),
        Weights(),
        Weights("mxfp4", bits=4, granularity="group", group_size=32, scale_dtype="float8_e8m0"),
        Weights("float16", bits=16, granularity="none"),
    ],
    ids=lambda spec: f"{spec.format}{spec.bits}",
)
def test_bfloat16_multiplies_both_sides_rounded(isa: str, spec: Weights, tokens: int) -> None:
    packed, bias = pack_weight(draw("gaussian", 70, 200), spec), torch.randn(70)
    layer, guarded = NativeLinear(packed, nn.Parameter(bias), FLOAT), Guarded()
    x = draw("gaussian", tokens, 200, seed=1)
    float_name, in_float32 = layer.backend, layer(x)
    layer.multiply_in("bfloat16")
    found = layer(guarded.copy(x))
    if not native.library().multiplies_bfloat16:
        assert layer.backend == float_name and torch.equal(found, in_float32)
        return
    assert layer.backend.startswith(f"native_{isa}_") and layer.backend.endswith("_bfloat16")
    weight = packed.dequantize(torch.float32).bfloat16().double()
    exact = x.bfloat16().double() @ weight.t() + bias
    torch.testing.assert_close(found.double(), exact, rtol=1e-5, atol=1e-4)
    layer.load_state_dict(copy.deepcopy(layer.state_dict()))
    assert torch.equal(layer(x), found) and layer.backend.endswith("_bfloat16")
    broken = x.clone()
    broken[0, 3] = torch.nan
    assert layer(broken)[0].isnan().all() and torch.equal(layer(broken)[1:], found[1:])
    layer.multiply_in("float32")
    assert layer.backend == float_name and torch.equal(layer(x), in_float32)


@pytest.mark.parametrize("tokens", [1, 5, 250])
def test_results_do_not_depend_on_threads(isa: str, tokens: int) -> None:
    threads, x = torch.get_num_threads(), draw("outliers", tokens, 320, seed=2)
    weights = (Weights(), Weights(bits=4, granularity="group", group_size=64))
    numbers = (DYNAMIC, Activations("dynamic", granularity="per_tensor", symmetric=False), FLOAT)
    layers = [
        NativeLinear(pack_weight(draw("gaussian", 200, 320), w), None, n) for w in weights for n in numbers
    ]
    try:
        found = []
        for count in (1, 2, 3):
            torch.set_num_threads(count)
            found.append([layer(x) for layer in layers])
    finally:
        torch.set_num_threads(threads)
    assert all(torch.equal(a, b) for other in found[1:] for a, b in zip(found[0], other, strict=True))


@built
def test_there_is_one_openmp_runtime_and_children_of_a_fork_compute() -> None:
    layer, x = (
        NativeLinear(pack_weight(draw("gaussian", 200, 320), Weights()), None, DYNAMIC),
        draw("uniform", 400, 320),
    )
    threads = torch.get_num_threads()
    try:
        torch.set_num_threads(2)
        wanted = layer(x).numpy().tobytes()
        loaded = {Path(line.split()[-1]) for line in Path("/proc/self/maps").read_text().splitlines()}
        # pycolmap, which other tests import, brings one of its own.
        runtimes = [p.name for p in loaded if "omp" in p.name and "pycolmap" not in str(p)]
        assert len([name for name in runtimes if name.startswith(("libgomp", "libiomp", "libomp"))]) == 1
        child = os.fork()
        if child == 0:
            signal.alarm(60)
            same = (
                layer(x).numpy().tobytes() == wanted
            )  # torch's own operators would wait for threads that are not there
            os._exit(0 if same else 1)
        assert os.waitpid(child, 0)[1] == 0
    finally:
        torch.set_num_threads(threads)


def test_two_models_compute_at_once(isa: str) -> None:
    layers = [
        NativeLinear(pack_weight(draw("gaussian", 64, 96 * n, seed=n), Weights()), None, DYNAMIC)
        for n in (1, 2)
    ]
    inputs = [draw("gaussian", 100 * n, 96 * n) for n in (1, 2)]
    expected, found = [layer(x) for layer, x in zip(layers, inputs, strict=True)], [[], []]
    work = [
        threading.Thread(target=lambda i=i: found[i].extend(layers[i](inputs[i]) for _ in range(20)))
        for i in (0, 1)
    ]
    for thread in work:
        thread.start()
    for thread in work:
        thread.join()
    assert all(torch.equal(y, e) for many, e in zip(found, expected, strict=True) for y in many)
    assert all(len(many) == 20 for many in found)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("shape", [(1, 1, 1), (13, 33, 31), (5, 64, 32), (7, 65, 16), (12, 100, 33)], ids=str)
def test_nothing_is_read_beyond_a_buffer(isa: str, shape: tuple[int, int, int], dtype: torch.dtype) -> None:
    tokens, columns, rows = shape
    for spec in (
        Weights(),
        Weights(symmetric=False),
        Weights(bits=3),
        Weights(bits=4, granularity="group", group_size=32),
        Weights(bits=4, granularity="group", group_size=16, scale_dtype="progressive"),
        Weights(symmetric=False, granularity="group", group_size=16),
        Weights("float16", 16, granularity="none"),
        Weights("nvfp4", 4, granularity="group", group_size=16, scale_dtype="float8_e4m3"),
    ):
        packed = pack_weight(draw("gaussian", rows, columns), spec)
        inputs = DYNAMIC if spec.entry.integer else FLOAT
        layer = NativeLinear(packed, nn.Parameter(torch.randn(rows)), inputs)
        x, guarded = draw("gaussian", tokens, columns).to(dtype), Guarded()
        expected = layer(x)
        for name, buffer in list(layer.named_buffers()):
            layer._buffers[name] = guarded.copy(buffer.view(torch.uint8)).view(buffer.dtype)
        layer.bias = nn.Parameter(guarded.copy(layer.bias.data))
        assert torch.equal(layer(guarded.copy(x)), expected)


@built
@pytest.mark.parametrize("inputs", ["per token", "static", "float"])
def test_torch_compile_and_export_see_an_operator(inputs: str) -> None:
    layer = NativeLinear(
        pack_weight(draw("gaussian", 24, 64), Weights(bits=4)),
        nn.Parameter(torch.randn(24)),
        INPUTS.get(inputs, FLOAT),
    )
    if inputs == "static":
        layer.set_input_range(InputRange.between(-3, 3, 8, True))
    x = draw("gaussian", 5, 64)
    with torch.no_grad():
        expected = layer(x)
        torch._dynamo.reset()
        assert torch.equal(torch.compile(layer, fullgraph=True, backend="aot_eager")(x), expected)
        program = torch.export.export(nn.Sequential(layer), (x,))
        assert "vggtq.quantized_linear" in str(program.graph)
        assert torch.equal(program.module()(x), expected)


@built
def test_a_wrong_kernel_is_not_used(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    assert linear_backend(Weights(bits=5), DYNAMIC, (64, 64), CPU) is NativeLinear
    is_right.cache_clear()
    monkeypatch.setattr(native_linear, "traced_linear", lambda x, *rest: operator.linear(x, *rest) + 1)
    with caplog.at_level(logging.WARNING):
        assert linear_backend(Weights(bits=5), DYNAMIC, (64, 64), CPU) is ReferenceLinear
    assert "gave a wrong product" in caplog.text
    is_right.cache_clear()


@built
def test_without_tiles_of_its_own_the_library_leaves_large_bytes_to_onednn_on_amx(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(rules, "has_amx", lambda: True)
    monkeypatch.delenv(native.VARIABLE, raising=False)
    large, small, library = (1024, 1024), (64, 64), native.library()
    monkeypatch.setattr(library, "isa", "amx")
    assert linear_backend(Weights(), DYNAMIC, large, CPU) is NativeLinear
    monkeypatch.setattr(library, "isa", "avx512_vnni")
    assert linear_backend(Weights(), DYNAMIC, large, CPU) is OneDnnInt8Linear
    for other, shape in ((Weights(), small), (Weights(symmetric=False), large), (Weights(bits=4), large)):
        assert linear_backend(other, DYNAMIC, shape, CPU) is NativeLinear
    monkeypatch.setenv(native.VARIABLE, "avx512_vnni")
    assert linear_backend(Weights(), DYNAMIC, large, CPU) is NativeLinear


def test_the_instruction_set_can_be_capped(monkeypatch: pytest.MonkeyPatch) -> None:
    use("none", monkeypatch)
    assert native.library() is None
    assert native.describe() == "not used: VGGTQ_MAX_ISA=none"
    assert linear_backend(Weights(bits=4), DYNAMIC, (64, 64), CPU) is ReferenceLinear
    use("avx3", monkeypatch)
    with pytest.raises(ConfigError, match="VGGTQ_MAX_ISA=avx3 is not one of none, portable"):
        native.library()
    monkeypatch.undo()
    native.library.cache_clear()


def test_without_a_library_torch_is_used_and_the_log_says_so(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(native, "FILE", tmp_path / "vggtq_native.so")
    for cached in (native.library, native.problem):
        cached.cache_clear()
    with caplog.at_level(logging.WARNING):
        assert linear_backend(Weights(), DYNAMIC, (64, 64), CPU).backend in (
            "onednn_int8",
            "reference",
        )
        assert linear_backend(Weights(), DYNAMIC, (64, 64), CPU).backend in (
            "onednn_int8",
            "reference",
        )
    assert caplog.text.count("native kernels are not used: the library was not built") == 1
    assert native.describe().startswith("the library was not built")
    monkeypatch.undo()
    for cached in (native.library, native.problem):
        cached.cache_clear()


@built
def test_where_products_would_saturate_weights_lose_a_bit_and_activations_none() -> None:
    packed = pack_weight(draw("normal", 32, 64), Weights())
    with capped("avx2"):
        layer = NativeLinear(packed, None, DYNAMIC)
        if layer.product_bits != 7:
            pytest.skip("no AVX2 here")
        assert layer.activation_bits == 8 and layer.backend == "native_avx2_w7a8"
        assert layer.notes == (
            "weights are rounded to 7 bits in the product: this CPU's int8 products saturate with 8",
        )
        assert torch.equal(layer.stored_codes(), packed.codes), "files keep all bits"
        codes = in_product(packed, 7).integer_codes()
        assert torch.equal(codes.float(), (packed.integer_codes().float() / 2).round())
        zeros = pack_weight(draw("normal", 32, 64), Weights(symmetric=False))
        asymmetric = NativeLinear(zeros, None, DYNAMIC)
        assert (asymmetric.product_bits, asymmetric.activation_bits) == (8, 7)
