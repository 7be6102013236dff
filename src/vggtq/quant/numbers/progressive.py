"""Progressive scales: w = channel_scale · group_scale · code, with integers of 1 … 15 as scales of groups.

After QServe (Lin et al. 2024, arXiv 2405.04532, section 4), whose groups refine 8-bit weights; here the scales that a rounding
has found are rounded themselves, before any weight is. code · group_scale is a signed byte, so that a product of integers runs
over whole rows and a float scale is applied once.

Rules: a channel's scale is the one of a few, from its largest group's scale / 15 up, with the least Σ(s - ŝ)² over its groups;
a group's integer is the nearest one, 1 at least.
"""

import torch
from torch import Tensor

from vggtq.quant.scheme.weights import MOST_PROGRESSIVE

TRIED = 32  # scales of a channel: its largest group's is 15 … 7.5 of them


def split_scales(scales: Tensor) -> tuple[Tensor, Tensor]:
    """scales: (R, G) float32, positive. Returns channel scales (R, 1) float32 and group scales (R, G) uint8."""
    largest = scales.amax(1, keepdim=True)
    best, least = largest / MOST_PROGRESSIVE, torch.full_like(largest, torch.inf)
    for step in range(TRIED):
        tried = largest / MOST_PROGRESSIVE * 2 ** (step / TRIED)
        error = ((scales - _integers(scales, tried) * tried) / largest).square().sum(1, keepdim=True)
        best, least = torch.where(error < least, tried, best), torch.minimum(error, least)
    return best, _integers(scales, best).to(torch.uint8)


def joined_scales(channel: Tensor, group: Tensor) -> Tensor:
    """Scales of groups, (R, G) float32, as weights are multiplied with."""
    return channel * group.to(torch.float32)


def _integers(scales: Tensor, channel: Tensor) -> Tensor:
    return torch.round(scales / channel).clamp_(1, MOST_PROGRESSIVE)
