"""What a scheme does not quantize (biases, norms, tokens, layers that are kept) may still be stored in half precision."""

import torch
from torch import Tensor, nn

from vggtq.errors import QuantizationError
from vggtq.quant.size import rest_tensors


def round_rest_(model: nn.Module, dtype: str) -> None:
    """Rounds every unquantized parameter to `dtype` and back, so that storing it there changes nothing any more.

    Parameters are replaced, not written to, since another model may share them. Raises QuantizationError for values that the
    dtype cannot hold.
    """
    if dtype == "float32":
        return
    target = getattr(torch, dtype)
    rounded = {id(t): _rounded(name, t, target) for name, t in rest_tensors(model).items()}
    for module in model.modules():
        own = {**module._parameters, **module._buffers}
        for key, tensor in own.items():
            if tensor is not None and id(tensor) in rounded:
                setattr(module, key, rounded[id(tensor)])


def _rounded(name: str, tensor: Tensor, dtype: torch.dtype) -> Tensor:
    if not tensor.is_floating_point():
        return tensor
    exact = tensor.detach()
    new = exact.to(dtype).to(tensor.dtype)
    if not torch.isfinite(new).all():
        raise QuantizationError(
            f"{name}: the largest value, {float(exact.abs().amax()):.3g}, is beyond {dtype}'s "
            f"{torch.finfo(dtype).max:.3g}; use rest=bfloat16 or rest=float32"
        )
    return nn.Parameter(new, requires_grad=tensor.requires_grad) if isinstance(tensor, nn.Parameter) else new
