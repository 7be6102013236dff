"""A network that torch.export traces in a second, with layers of every kind that an export has to translate."""

import torch
from torch import Tensor, nn


class Small(nn.Module):
    """images (B, S, 3, H, W) to `depth` (B, S, tokens, 2); 40 inputs are no whole number of groups."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 64, 4, stride=4)
        self.wide, self.narrow, self.last = nn.Linear(64, 40), nn.Linear(40, 64), nn.Linear(64, 2)

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        tokens = self.conv(images.flatten(0, 1)).flatten(2).transpose(1, 2)
        tokens = tokens + self.narrow(nn.functional.gelu(self.wide(tokens)))
        return {"depth": self.last(tokens)[None]}


def small() -> nn.Module:
    torch.manual_seed(0)
    return Small().eval().requires_grad_(False)


def pictures(frames: int = 3) -> Tensor:
    """(S, 3, 32, 24), values in [0, 1]."""
    return torch.rand(frames, 3, 32, 24, generator=torch.Generator().manual_seed(frames))
