"""The wheel carries its configurations and kernels and runs from any folder, without the checkout."""

import os
import subprocess
import sys
from pathlib import Path

from helpers.command import FAST
from vggtq.machine import native

ROOT = Path(__file__).parents[1]
LIBRARY = ROOT / "src/vggtq/quant/kernels/native/vggtq_native.so"
PRODUCT = """
import sys
import torch
from vggtq.machine import native
from vggtq.network.native_attention import int8_problem
from vggtq.quant.kernels.cpu import native_block
from vggtq.quant.kernels.linear import ReferenceLinear
from vggtq.quant.kernels.table import quantized_linear
from vggtq.quant.methods.round import pack_weight
from vggtq.quant.scheme.activations import Activations
from vggtq.quant.scheme.weights import Weights

torch.manual_seed(0)
packed, x = pack_weight(torch.randn(50, 100), Weights(bits=4)), torch.randn(9, 100)
layer, exact = (make(packed, None, Activations("dynamic")) for make in (quantized_linear, ReferenceLinear))
assert (layer(x) - exact(x)).abs().max() < 0.01 * exact(x).abs().max()
assert str(native.FILE).startswith(sys.argv[1]), native.FILE
if native.library() is not None:
    assert int8_problem(torch.device("cpu")) is None and native_block.is_right()
print(native.describe(), layer.backend)
"""


def test_the_wheel_runs_without_the_checkout(tmp_path: Path) -> None:
    site, elsewhere = tmp_path / "site", tmp_path / "elsewhere"
    elsewhere.mkdir()
    pip = [sys.executable, "-m", "pip", "--quiet", "--disable-pip-version-check"]
    build = ["wheel", "--no-deps", "--no-build-isolation", "--wheel-dir", str(tmp_path), str(ROOT)]
    if (
        native.problem() is None and LIBRARY.is_file()
    ):  # of the editable install, which compiled the same sources
        build += ["--config-settings", f"cmake.define.VGGTQ_BUILT={LIBRARY}"]
    subprocess.run([*pip, *build], check=True, capture_output=True, text=True)
    (wheel,) = tmp_path.glob("vggtq-*.whl")
    subprocess.run([*pip, "install", "--no-deps", "--target", str(site), str(wheel)], check=True)
    code = (
        "import sys, pathlib, vggtq.config.compose as c, vggtq.run.__main__ as r\n"
        f"assert c.CONF == pathlib.Path({str(site)!r}) / 'vggtq' / 'conf', c.CONF\n"
        "r.main()\n"
    )
    env = os.environ | {"PYTHONPATH": str(site)}
    command = [sys.executable, "-c", code, *FAST, "scheme=int4_group", "group_size=64"]
    done = subprocess.run(command, cwd=elsewhere, env=env, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert len(list(elsewhere.glob("outputs/runs/*/result.json"))) == 1
    for cap in (*native.LEVELS[::-1], "none"):
        capped = [sys.executable, "-c", PRODUCT, str(site)]
        done = subprocess.run(
            capped,
            cwd=elsewhere,
            env=env | {native.VARIABLE: cap},
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        kernels = done.stdout.strip().rpartition(" ")[2]
        if cap == "none":
            assert kernels == "reference"
            continue
        isa = kernels.removeprefix("native_").removesuffix("_w4a8")  # the best of this CPU's up to the cap
        assert native.LEVELS.index(isa) <= native.LEVELS.index(cap)
        # It has no integer products of its own.
        level = done.stdout.split()[0].replace("avx512_bf16", "avx512_vnni")
        assert isa == level and (isa == "portable") == (cap == "portable")
