"""What native layers share with their process: its threads, forks and OpenMP, the end of memory, and torch's tracing."""

import os
import signal
import threading
from pathlib import Path

import pytest
import torch
from torch import nn

from helpers.guarded import Guarded
from helpers.instruction_sets import built
from helpers.linears import DYNAMIC, FLOAT, INPUTS, draw
from helpers.threads import threads
from vggtq.quant.kernels.cpu.native_linear import NativeLinear
from vggtq.quant.methods.round import pack_weight
from vggtq.quant.numbers.input_range import InputRange
from vggtq.quant.scheme.activations import Activations
from vggtq.quant.scheme.weights import Weights


@pytest.mark.parametrize("tokens", [1, 5, 250])
def test_results_do_not_depend_on_threads(isa: str, tokens: int) -> None:
    x = draw("outliers", tokens, 320, seed=2)
    weights = (Weights(), Weights(bits=4, granularity="group", group_size=64))
    numbers = (DYNAMIC, Activations("dynamic", granularity="per_tensor", symmetric=False), FLOAT)
    layers = [
        NativeLinear(pack_weight(draw("gaussian", 200, 320), w), None, n) for w in weights for n in numbers
    ]
    found = []
    for count in (1, 2, 3):
        with threads(count):
            found.append([layer(x) for layer in layers])
    assert all(torch.equal(a, b) for other in found[1:] for a, b in zip(found[0], other, strict=True))


@built
def test_there_is_one_openmp_runtime_and_children_of_a_fork_compute() -> None:
    layer, x = (
        NativeLinear(pack_weight(draw("gaussian", 200, 320), Weights()), None, DYNAMIC),
        draw("uniform", 400, 320),
    )
    with threads(2):
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
