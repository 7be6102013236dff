"""Where Triton's kernels are tested: on the GPU where there is one, else through Triton's interpreter on CPU tensors.

Import this before anything that imports Triton: kernels decide between the two when they are made.
"""

import os

import pytest
import torch

if torch.cuda.is_available():
    DEVICE = torch.device("cuda")
else:
    DEVICE = torch.device("cpu")
    os.environ["TRITON_INTERPRET"] = "1"

pytest.importorskip("triton", reason="Triton is not installed; pip install 'vggtq[cuda]'")

# The interpreter cuts float32 down to bfloat16 where a GPU rounds: one step of 2⁻⁷ instead of half of one.
BFLOAT16_STEP = 2.0**-7
