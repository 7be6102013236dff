"""The wheel carries its configurations and runs from any folder, without the checkout."""

import os
import subprocess
import sys
from pathlib import Path

from test_cli import FAST

ROOT = Path(__file__).parents[1]


def test_the_wheel_runs_without_the_checkout(tmp_path: Path) -> None:
    site, elsewhere = tmp_path / "site", tmp_path / "elsewhere"
    elsewhere.mkdir()
    pip = [sys.executable, "-m", "pip", "--quiet", "--disable-pip-version-check"]
    build = ["wheel", "--no-deps", "--no-build-isolation", "--wheel-dir", str(tmp_path), str(ROOT)]
    subprocess.run([*pip, *build], check=True, capture_output=True, text=True)
    (wheel,) = tmp_path.glob("vggtq-*.whl")
    subprocess.run([*pip, "install", "--no-deps", "--target", str(site), str(wheel)], check=True)
    code = (
        "import sys, pathlib, vggtq.config as c, vggtq.run as r\n"
        f"assert c.CONF == pathlib.Path({str(site)!r}) / 'vggtq' / 'conf', c.CONF\n"
        "r.main()\n"
    )
    env = os.environ | {"PYTHONPATH": str(site)}
    command = [sys.executable, "-c", code, *FAST, "scheme=int4_group", "group_size=64"]
    done = subprocess.run(command, cwd=elsewhere, env=env, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert len(list(elsewhere.glob("outputs/runs/*/result.json"))) == 1
