"""Features of each image by itself: the patch tokens of the network's patch embed, averaged."""

import numpy as np
import torch
from torch import Tensor

from vggtq.models.network import Network
from vggtq.predict.windows.layout import Features

AT_A_TIME = 8  # images


def features(network: Network, images: Tensor, device: torch.device) -> Features:
    """(S, D) of images (S, 3, H, W). Runs the stages that precede the first block in which images see each other."""
    parts = []
    with torch.inference_mode():
        for some in images.split(AT_A_TIME):
            parts.append(_patches(network, network.checked(some.to(device))).float().mean(1).cpu())
    return np.asarray(torch.cat(parts).numpy())


def _patches(network: Network, images: Tensor) -> Tensor:
    """(S, patches, D), images (1, S, 3, H, W)."""
    prefix = network.stage_names()[0].rpartition(".")[0] + "."
    special = next(
        count for name, (_, count) in network.special_tokens(images).items() if prefix.startswith(name)
    )
    stages = network.stages(network.held(images))
    name, arguments = next(stages)
    while name.startswith(prefix):
        tokens = network.get_submodule(name)(*arguments())
        name, arguments = stages.send(tokens)
        if prefix.endswith(
            "frame_blocks."
        ):  # a patch embed without blocks; the next frame block follows global ones
            break
    stages.close()
    return tokens.flatten(0, -3)[:, special:]
