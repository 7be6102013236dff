"""`quantize_` rounds the layers of a network by a scheme; `restore_` puts back layers that were rounded before."""

import time
from collections.abc import Callable, Collection, Sequence

import torch
from torch import nn

from vggtq.errors import QuantizationError
from vggtq.network.reduced import reduce_
from vggtq.quant.kernels.cpu.native_block import use_native_blocks_
from vggtq.quant.kernels.cuda.fuse import fuse_blocks_
from vggtq.quant.kernels.table import quantized_linear
from vggtq.quant.numbers.packed import PackedWeight
from vggtq.quant.scheme.scheme import Scheme
from vggtq.quant.walk.computing import choose_computing_, resolved_compute
from vggtq.quant.walk.described import Quantization, describe_layers
from vggtq.quant.walk.fold import folds_of
from vggtq.quant.walk.observe import Calibrate, StatisticsCache, needed, observer_for
from vggtq.quant.walk.recipe import Recipe
from vggtq.quant.walk.replace import Fetch, LinearFactory, as_it_is, replace_layers_, set_parameters_
from vggtq.quant.walk.select import WeightOf, layer_weights, named_weights, observed_layers, select_layers
from vggtq.quant.walk.static_ranges import set_input_ranges_


def quantize_(
    model: nn.Module,
    scheme: Scheme,
    first_last: Sequence[str] | None = None,
    on_layer: Callable[[int, int], None] | None = None,
    fetch: Fetch = as_it_is,
    linear: LinearFactory = quantized_linear,
    calibrate: Calibrate | None = None,
    cache: StatisticsCache | None = None,
    keep_exact: bool = False,
) -> Quantization:
    """Quantizes the layers of `model` that `scheme` selects, in place. Works on any module.

    Parameters that stay in float are neither copied nor converted. The float weight of a layer is released as soon as the layer
    is replaced. first_last: the names of the layers that skip_first_last keeps; default: the model's `first_last_layers()`.
    on_layer(done, total): called after each layer. fetch: loads one weight, so that the model may lie on the meta device; each
    weight is loaded, rounded and dropped in turn. linear: makes the layers; the default chooses the fastest backend for the
    device. calibrate: the samples, or a function that runs the model on them, for schemes with calibration. cache: keeps the
    statistics. keep_exact: `linear` also gets the float weights, for fine-tuning.

    Raises QuantizationError for patterns that match no layer, for weights that cannot be rounded (the message names the layer),
    and for schemes with fine-tuning, which `vggtq.quant.finetune.finetune.finetune_` quantizes.
    """
    started = time.perf_counter()
    _check_complete(scheme)
    selection = select_layers(model, scheme, first_last)
    if scheme.observes_inputs:
        needed(calibrate, scheme)
    modules = selection.replace
    observer = observer_for(model, scheme, observed_layers(modules), calibrate, cache)
    if observer:
        modules.sort(key=lambda weights: observer.order(weights[0].name))
    folds = folds_of(model, scheme, observed_layers(modules), observer)
    recipe = Recipe(model, scheme, modules, observer, folds, fetch, keep_exact)
    names = [weight.name for weights in modules for weight in weights]
    special_ratios: dict[str, float | None] = {}

    def packed(weight: WeightOf) -> PackedWeight:
        rounded = recipe.round(weight, layer_weights(scheme, weight.name))
        set_parameters_(model, rounded.parameters)
        special_ratios[weight.name] = rounded.special_ratio
        if observer:
            observer.release(weight.name)
        return rounded.packed

    replace_layers_(model, modules, packed, scheme.activations, linear, fetch, on_layer)
    device = device_of(model)
    notes = selection.notes + choose_computing_(model, scheme, device)
    reduce_(model, scheme.global_attention.frame_blocks, scheme.global_attention.key_stride)
    if static := scheme.activations.mode == "static":
        set_input_ranges_(model, needed(calibrate, scheme))
    return Quantization(
        layers=describe_layers(model, names, special_ratios),
        kept=selection.kept,
        notes=notes,
        fused=use_native_blocks_(model),
        compute=resolved_compute(scheme, device),
        seconds=time.perf_counter() - started,
        calibration_passes=(observer.whole_passes if observer else 0) + static,
        calibration_groups=len(observer.groups) if observer else 0,
        calibration_seconds=observer.seconds if observer else 0.0,
    )


def _check_complete(scheme: Scheme) -> None:
    """Raises QuantizationError for schemes that ask for more than rounding."""
    if scheme.finetune.steps:
        raise QuantizationError(
            f"scheme {scheme.name} is fine-tuned, which quantize_ does not do; use finetune_, or scheme.finetune.steps=0"
        )
    if scheme.allocates:
        raise QuantizationError(
            f"scheme {scheme.name} has candidates but no bits per layer; find them first with vggtq.quant.bits.allocate"
        )


def restore_(
    model: nn.Module,
    names: Collection[str],
    packed: Callable[[WeightOf], PackedWeight],
    scheme: Scheme,
    fetch: Fetch = as_it_is,
    on_layer: Callable[[int, int], None] | None = None,
) -> Quantization:
    """Puts weights that were packed before in place of the layers called `names`, and fetches all other parameters.

    scheme: what they were rounded by. packed: asked for one weight after the other. on_layer: called after each layer with how
    many are done, and of how many. The model may lie on the meta device. Raises QuantizationError for names that it does not
    have.
    """
    modules = named_weights(model, names)
    in_order = [weight.name for weights in modules for weight in weights]
    replace_layers_(model, modules, packed, scheme.activations, quantized_linear, fetch, on_layer)
    device = device_of(model)
    notes = choose_computing_(model, scheme, device, loaded=True)
    return Quantization(
        layers=describe_layers(model, in_order),
        notes=notes,
        fused=use_native_blocks_(model),
        compute=resolved_compute(scheme, device),
    )


def device_of(model: nn.Module) -> torch.device:
    """Of its first tensor."""
    return next((t.device for t in (*model.parameters(), *model.buffers())), torch.device("cpu"))


def fuse_(module: nn.Module, quantization: Quantization) -> None:
    """Fuses what W8A8 and FP8 layers on Triton's kernels allow, in place, and enters it; elsewhere nothing changes.

    The codes are those of separate kernels up to the last bit of LayerNorm and GELU. Names of parameters stay.
    """
    fused = fuse_blocks_(module)
    quantization.fused += fused
    if fused:
        quantization.notes.append(
            f"LayerNorm and GELU round what they hand on in one kernel in {len(fused)} places"
        )
