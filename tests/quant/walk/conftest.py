"""A module with every kind of layer, for tests of the walk through it."""

import pytest
import torch

from helpers.any_module import Net


@pytest.fixture
def net() -> Net:
    torch.manual_seed(0)
    return Net().eval().requires_grad_(False)
