"""Sweeps under Hydra's launchers, whose jobs run in processes of their own: python -m pytest tests/sweep/test_launchers.py"""

import importlib.util
import json
import re
from pathlib import Path
from typing import Any

import pytest
from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf

from helpers.command import vggtq_alone
from helpers.forked import finished
from helpers.runs import TINY
from vggtq.config.compose import CONF, register
from vggtq.config.messages import EXTRAS, explain

FAST = [*TINY, "timing=off", "picture_frames=0", "fresh_memory=false", "preview_scenes=0", "--multirun"]
JOBS = ["granularity=per_tensor", "group_size=null,64"]  # the second cannot be
PLUGINS = {"joblib": "hydra_joblib_launcher", "slurm": "hydra_submitit_launcher", "ray": "hydra_ray_launcher"}
LAUNCHERS = {
    "joblib": ["hydra/launcher=joblib", "hydra.launcher.n_jobs=2"],
    "submitit_local": ["hydra/launcher=submitit_local", "hydra.launcher.timeout_min=10"],
    "ray": [
        "hydra/launcher=ray",
        "+hydra.launcher.ray.init={address:local,num_cpus:2,include_dashboard:false}",
    ],
}


def installed(extra: str) -> bool:
    return importlib.util.find_spec("hydra_plugins." + PLUGINS[extra]) is not None


def launcher(*overrides: str) -> dict[str, Any]:
    """The launcher as Hydra composes it."""
    register()
    with initialize_config_dir(str(CONF), version_base="1.3"):
        config = compose("config", overrides=list(overrides), return_hydra_config=True)
    found = OmegaConf.to_container(config.hydra.launcher)
    assert isinstance(found, dict)
    return {str(key): value for key, value in found.items()}


@pytest.mark.parametrize("name", LAUNCHERS)
def test_jobs_in_other_processes_tell_the_sweep_what_became_of_them(name: str, tmp_path: Path) -> None:
    if not installed(EXTRAS["hydra/launcher", name]):
        pytest.skip(f"vggtq[{EXTRAS['hydra/launcher', name]}] is not installed")
    # Not forked: workers may outlive such a process and keep it from ending.
    done = vggtq_alone(tmp_path, *FAST, *LAUNCHERS[name], *JOBS)
    output = done.stdout + done.stderr
    assert done.returncode == 1, output
    assert "1 of 2 runs finished; " in output
    assert re.search(r"^failed: int8_symmetric-.*: group_size=64 with granularity", output, re.MULTILINE)
    records = [json.loads(path.read_text()) for path in tmp_path.glob("outputs/runs/*/result.json")]
    assert sorted(record["status"] for record in records) == ["failed", "ok"]
    assert records[0]["sweep"] == records[1]["sweep"] != ""
    assert not list(tmp_path.glob("outputs/runs/.sweep-*"))
    # A second start needs what the first one's jobs wrote, whatever launches its own.
    _, again = finished(tmp_path, *FAST, *JOBS)
    assert "1 of 2 runs finished, 1 of them measured earlier" in again


def test_the_slurm_preset_asks_for_one_gpu_and_its_cores() -> None:
    if not installed("slurm"):
        pytest.skip("vggtq[slurm] is not installed")
    from submitit.slurm.slurm import _make_sbatch_string

    own, preset = launcher("hydra/launcher=submitit_slurm"), launcher("hydra/launcher=slurm")
    assert own["gpus_per_node"] is None, "the plugin's own option is still there"
    assert preset.keys() == own.keys()
    renamed = {"name": "job_name", "timeout_min": "time"}
    asked = {
        renamed.get(k, k): v
        for k, v in preset.items()
        if k in (*renamed, "gpus_per_node", "cpus_per_task", "setup")
    }
    text = _make_sbatch_string(command="python", folder="/tmp/%j", **asked)
    assert "#SBATCH --gpus-per-node=1" in text and "#SBATCH --cpus-per-task=8" in text
    assert text.index("export OMP_NUM_THREADS=$SLURM_CPUS_PER_TASK") < text.index("srun")


def test_the_ray_preset_gives_each_job_a_gpu_of_a_running_cluster() -> None:
    if not installed("ray"):
        pytest.skip("vggtq[ray] is not installed")
    ray = launcher("hydra/launcher=ray_cluster")["ray"]
    assert ray["remote"] == {"num_gpus": 1, "num_cpus": 8}
    assert ray["init"] == {"address": "auto", "object_store_memory": None}


@pytest.mark.parametrize("group_and_name", EXTRAS, ids="=".join)
def test_a_missing_extra_is_named(group_and_name: tuple[str, str]) -> None:
    group, name = group_and_name
    message = f"In 'config': Could not find '{group}/{name}'\n\nAvailable options in '{group}':\n\tbasic"
    assert explain(ValueError(message)).endswith(f"pip install 'vggtq[{EXTRAS[group_and_name]}]'")


def test_presets_are_not_named_like_a_plugin_s_options() -> None:
    presets = {path.stem for path in (CONF / "hydra/launcher").glob("*.yaml")}
    assert presets and not presets & {name for group, name in EXTRAS if group == "hydra/launcher"}


@pytest.mark.parametrize(
    ("name", "extra"), {e: (n, e) for (group, n), e in EXTRAS.items() if "launcher" in group}.values()
)
def test_without_the_plugin_one_line_says_what_to_install(name: str, extra: str, tmp_path: Path) -> None:
    hidden = "hydra_plugins." + PLUGINS[extra]
    status, output = finished(tmp_path, *FAST, f"hydra/launcher={name}", "bits=4,8", without=(hidden,))
    assert status == 1
    assert f"pip install 'vggtq[{extra}]'" in output
    assert "Traceback" not in output
