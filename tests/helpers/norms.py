"""A network of norms and linear layers."""

from torch import Tensor, nn

from vggtq.models.vggt.vit import Block


class Norms(nn.Module):
    """A block that declares its norms, and one linear layer without."""

    def __init__(self) -> None:
        super().__init__()
        self.block, self.last = Block(64, 2, 4.0, 1.0), nn.Linear(64, 8)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.last(self.block(x))
        return out

    def norms_before(self) -> dict[str, str]:
        return {"block.attn.qkv": "block.norm1", "block.mlp.fc1": "block.norm2"}
