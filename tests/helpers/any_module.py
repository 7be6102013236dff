"""A module with every kind of layer that can be quantized, and recipes for all of its layers."""

from torch import Tensor, nn

from vggtq import Layers

ALL = Layers(skip_first_last=False)
CONVS = Layers(types=["Conv2d", "ConvTranspose2d"], skip_first_last=False)


class Net(nn.Module):
    """Linears with and without bias, one row, odd widths, an attention, convolutions."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 8, 3, stride=2, padding=1)
        self.up = nn.ConvTranspose2d(8, 6, 2, stride=2, bias=False)
        self.attention = nn.MultiheadAttention(6, 2, batch_first=True)
        self.norm = nn.LayerNorm(6)
        self.mlp = nn.Sequential(nn.Linear(6, 25), nn.GELU(), nn.Linear(25, 6, bias=False))
        self.one_row = nn.Linear(6, 1)

    def forward(self, images: Tensor) -> Tensor:
        x = self.up(self.conv(images)).flatten(2).transpose(1, 2)
        x = x + self.attention(x, x, x, need_weights=False)[0]
        return self.one_row(self.mlp(self.norm(x)))

    def first_last_layers(self) -> list[str]:
        return ["conv", "one_row"]
