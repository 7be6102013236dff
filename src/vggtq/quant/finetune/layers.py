"""A linear layer in training: a float weight that is rounded anew in every forward pass, by a step size that is learned too.

The step size is s = s₀ · e^ρ with s₀ that of rounding after training: ρ starts at 0, s stays positive, and a learning rate is
a relative change in every layer (as Jain et al. 2020, TQT, arXiv 1903.08066, section 3.3, argue for log₂ s).
"""

from dataclasses import replace

import torch
from torch import Tensor, nn

from vggtq.quant.finetune.straight_through import rounded_inputs, rounded_linear, rounded_tokens
from vggtq.quant.kernels.linear import QuantLinear, unknown_range
from vggtq.quant.kernels.modules import TransformedLinear
from vggtq.quant.methods.round import pack_weight
from vggtq.quant.numbers.basis import LowRank
from vggtq.quant.numbers.input_range import InputRange
from vggtq.quant.numbers.packed import PackedWeight
from vggtq.quant.numbers.rounding import group_columns
from vggtq.quant.scheme.activations import Activations

REACH = 0.49  # of a step: how far from the middle of its bin a weight may start


class LearnedWeight(nn.Module):
    """latent: (R, C), the values to round; log_step: ρ, of the shape of the scales. Shared by layers that share
    a weight.
    """

    def __init__(self, packed: PackedWeight) -> None:
        super().__init__()
        assert packed.scale is not None
        self.packed = replace(packed, exact=None)
        self.latent = nn.Parameter(nearest_with_same_codes(packed))
        self.log_step = nn.Parameter(torch.zeros_like(packed.scale, dtype=torch.float32))

    def scale(self) -> Tensor:
        """As it will be stored: half precision where the scheme asks for it, straight through in the backward pass."""
        stored = self.packed.scale
        assert stored is not None
        exact = stored.float() * self.log_step.exp()
        if stored.dtype == torch.float32:
            return exact
        limits = torch.finfo(stored.dtype)
        return as_stored(exact.clamp(limits.smallest_normal, limits.max), stored.dtype)

    def product(self, inputs: Tensor, bias: Tensor | None = None) -> Tensor:
        """x ŵᵀ + b, (T, R) for inputs (T, C)."""
        packed = self.packed
        return rounded_linear(inputs, self.latent, self.scale(), packed.zero_point, bias, packed.spec)

    @torch.no_grad()
    def pack(self) -> PackedWeight:
        """The codes and scales that `product` computes with. Signal and noise are those of the latent weight."""
        old = self.packed
        assert old.scale is not None
        packed = pack_weight(
            self.latent, old.spec, parameters=(self.scale().to(old.scale.dtype), old.zero_point)
        )
        return replace(packed, transform=old.transform, low_rank=old.low_rank, notes=old.notes)


def as_stored(exact: Tensor, dtype: torch.dtype) -> Tensor:
    """float32 values as they will be kept in `dtype`, straight through in the backward pass."""
    return exact + (exact.to(dtype).float() - exact).detach()


def nearest_with_same_codes(packed: PackedWeight) -> Tensor:
    """The float weight, each value moved just far enough that it rounds to the code that it has, (R, C) float32.

    GPTQ's codes are often not the nearest ones. In the middle of their bins all weights would be equally far from changing
    their codes; here those that have a reason to change are close to it.
    """
    rounded = packed.dequantize(torch.float32)
    if packed.exact is None:
        return rounded
    assert packed.scale is not None
    size = group_columns(packed.columns, packed.spec)
    reach = REACH * packed.scale.float().repeat_interleave(size, 1)[:, : packed.columns]
    exact = packed.exact.float()
    # What lies beyond the range is clipped and keeps the outermost code, but would get no gradient there.
    return torch.minimum(torch.maximum(exact, rounded - reach), rounded + reach)


class LearnedLinear(QuantLinear):
    """y = x̂ ŵᵀ + b, differentiable in x, b, the parameters of `weight`, and log_range: of static activations,
    as ρ of weights.
    """

    backend = "training"
    simulated = True

    def __init__(self, weight: LearnedWeight, bias: nn.Parameter | None, activations: Activations) -> None:
        super().__init__(weight.packed, bias, activations)
        self.weight = weight
        static = activations.mode == "static"
        self.log_range = nn.Parameter(torch.zeros(1, 1)) if static else None

    def weight_tensors(self) -> dict[str, Tensor]:
        return self.weight.pack().tensors

    @torch.no_grad()
    def learned_range(self) -> InputRange | None:
        """The range that static activations are rounded with after the training."""
        known = self.input_range
        if known is None or self.log_range is None:
            return known
        return replace(known, scale=known.scale * self.log_range.exp().view(1))

    def multiply(self, rows: Tensor) -> Tensor:
        return self.weight.product(self._rounded_inputs(rows), self.bias)

    def _rounded_inputs(self, rows: Tensor) -> Tensor:
        known = self.input_range
        if self.activations.mode == "none":
            return rows
        if known is None or self.log_range is None:
            dynamic = self.activations.mode == "dynamic"
            return rounded_tokens(rows, self.activations if dynamic else unknown_range(self.activations))
        return rounded_inputs(rows, known.scale.view(1, 1) * self.log_range.exp(), known)


class LearnedBranch(TransformedLinear):
    """A layer whose low-rank branch learns too; down: (r, C), up: (R, r), float32, rounded to half in every forward pass."""

    def __init__(self, layer: TransformedLinear, branch: LowRank) -> None:
        super().__init__(layer.linear, layer.transform)
        self.down, self.up = nn.Parameter(branch.down.float()), nn.Parameter(branch.up.float())

    @property
    def low_rank(self) -> LowRank:
        return LowRank(as_stored(self.down, torch.float16), as_stored(self.up, torch.float16))

    def settled(self) -> TransformedLinear:
        """The layer to predict with."""
        branch = LowRank(self.down.detach().half(), self.up.detach().half())
        layer = TransformedLinear(self.linear, self.transform, branch)
        return layer.train(self.training)
