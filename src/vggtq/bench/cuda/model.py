"""VGGT end to end on a GPU: the best BF16 model against every scheme, all as CUDA graphs, in pairs.

The reference is in bfloat16 throughout, with SDPA's FlashAttention; it runs as a plain graph and with compiled
blocks, and every scheme is measured against the faster of both.
"""

import copy
import gc
import statistics
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from vggtq.bench.cuda.timing import captured, elapsed_ms, kind_of, paired, profiled, shares
from vggtq.models.vggt.initialize import initialize_
from vggtq.models.vggt.network import VGGT, build
from vggtq.models.vggt.vit import Block
from vggtq.quant.kernels.cuda.fuse import fuse_blocks_
from vggtq.quant.kernels.linear import QuantLinear
from vggtq.quant.scheme.scheme import Scheme
from vggtq.quant.walk.quantize import quantize_

SIZE = (350, 518)  # height and width of a frame, pixels
MODES = ("graph", "compile")
COMPARED = ("pose_enc", "depth", "world_points")
BLOCK_SHAPES = 64  # patch, frame, global and camera blocks times a few numbers of frames


def random_model(config: Mapping[str, Any] | None = None) -> VGGT:
    """VGGT-1B, or another `config`, without tracker, with random float32 weights whose outputs vary, on the CPU."""
    with torch.device("meta"):
        model = build(dict(config or {}) | {"heads": {"track": False}})
    initialize_(model, seed=0, lively=True)
    return model.requires_grad_(False)


def variant(base: nn.Module, scheme: Scheme | None, device: torch.device, mode: str = "graph") -> nn.Module:
    """A copy of `base` on `device`, quantized from its float32 weights, the rest in bfloat16.

    mode: compile compiles the transformer blocks; graph fuses rounding into LayerNorm and GELU by hand instead.
    """
    model = copy.deepcopy(base).to(device)
    if scheme is not None:
        quantize_(model, scheme)
    model = model.to(torch.bfloat16).eval()
    if mode == "compile":
        # One compilation for all blocks of a shape.
        torch._dynamo.config.recompile_limit = BLOCK_SHAPES
        for module in model.modules():
            if isinstance(module, Block):
                module.compile(dynamic=False)
    elif device.type == "cuda":
        fuse_blocks_(model)
    return model


def outputs(model: nn.Module, images: Tensor) -> dict[str, Tensor]:
    """The outputs to compare, in float32. images: (S, 3, H, W)."""
    with torch.no_grad():
        found = model(images)
    return {name: found[name].float() for name in COMPARED}


def relative_errors(found: dict[str, Tensor], exact: dict[str, Tensor]) -> dict[str, float]:
    """‖found - exact‖ / ‖exact‖ per output."""
    return {name: float((found[name] - exact[name]).norm() / exact[name].norm()) for name in exact}


def model_rows(
    schemes: Mapping[str, Scheme],
    frames: Sequence[int],
    modes: Sequence[str],
    rounds: int,
    device: torch.device,
) -> Iterator[dict[str, Any]]:
    """One entry per number of frames, scheme and mode; the reference's own comes first."""
    base = random_model()
    for count in frames:
        images = torch.rand(count, 3, *SIZE, generator=torch.Generator().manual_seed(0)).to(device)
        exact = _exact(base, images, device)
        prepared = partial(_prepared, base, images=images.bfloat16(), exact=exact, device=device)
        references = [prepared(None, mode) for mode in modes]
        replay, best = min(references, key=lambda entry: float(entry[1]["median_ms"]))
        for _, facts in references:
            yield {"frames": count, "scheme": "bf16", "is_reference": facts is best} | facts
        del references
        for name in schemes:
            for mode in modes:
                row = {"frames": count, "scheme": name, "mode": mode, "reference_mode": best["mode"]}
                try:
                    candidate, facts = prepared(schemes[name], mode)
                    row |= facts | {"reference_peak_bytes": best["peak_bytes"]}
                    row |= paired(replay, candidate, rounds)
                    del candidate
                except RuntimeError as error:
                    # The others are worth measuring still; the report says what failed.
                    row["error"] = (str(error).splitlines() or [type(error).__name__])[0]
                yield row
                torch.cuda.empty_cache()


def _exact(base: nn.Module, images: Tensor, device: torch.device) -> dict[str, Tensor]:
    with torch.backends.cudnn.flags(allow_tf32=False):  # TF32 convolutions are off by 1e-3
        exact = outputs(copy.deepcopy(base).to(device), images)
    torch.cuda.empty_cache()
    return exact


Prepared = tuple[Callable[[], None], dict[str, Any]]


def _prepared(
    base: nn.Module,
    scheme: Scheme | None,
    mode: str,
    images: Tensor,
    exact: dict[str, Tensor],
    device: torch.device,
) -> Prepared:
    """A model as a captured graph, and the facts known of it before the comparison with its reference."""
    gc.collect()  # modules hold each other; what is left of an earlier model would be counted as this one's
    before = torch.cuda.memory_allocated(device)
    model = variant(base, scheme, device, mode)
    gc.collect()
    weight_bytes = torch.cuda.memory_allocated(device) - before
    errors = relative_errors(outputs(model, images), exact)  # also searches for tiles and compiles
    torch.cuda.empty_cache()
    torch.cuda.reset_peak_memory_stats(device)
    outputs(model, images)
    peak_bytes = torch.cuda.max_memory_allocated(device) - before

    def predict() -> Any:
        with torch.no_grad():
            return model(images)

    replay = captured(predict)
    wall_ms = statistics.median(elapsed_ms(replay) for _ in range(7))
    kernels = profiled(replay, device)
    layers = [module.backend for module in model.modules() if isinstance(module, QuantLinear)]
    return replay, {
        "mode": mode,
        "backends": dict(Counter(layers)),
        "weight_bytes": weight_bytes,
        "peak_bytes": peak_bytes,
        "relative_errors": errors,
        "median_ms": wall_ms,
        "shares": shares(kernels, wall_ms),
        "kernels_ms": [{"name": name, "kind": kind_of(name), "ms": ms} for name, ms in kernels[:25]],
    }
