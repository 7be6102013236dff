"""A network of linear layers and convolutions."""

from torch import Tensor, nn


class Mixed(nn.Module):
    """An attention of torch's own, a convolution, and two layers that share a weight but not their inputs."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 16, 3, padding=1)
        self.attention = nn.MultiheadAttention(16, 2, batch_first=True)
        self.one, self.other = nn.Linear(16, 16), nn.Linear(16, 16)
        self.other.weight = self.one.weight

    def forward(self, images: Tensor) -> Tensor:
        tokens = self.conv(images).flatten(2).transpose(1, 2)
        out: Tensor = self.other(nn.functional.gelu(self.one(self.attention(tokens, tokens, tokens)[0])) * 3)
        return out
