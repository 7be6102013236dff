"""Digests of source code: what a change of a file invalidates, and what it does not."""

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from vggtq.machine import environment, source_code
from vggtq.machine.source_code import RUNS, digest_of, digest_of_packages, run_code
from vggtq.prepare import cache

KINDS = {
    "outputs": cache.OUTPUTS,
    "statistics": cache.STATISTICS,
    "sensitivities": cache.SENSITIVITIES,
    "trainings": cache.TRAININGS,
}


@pytest.fixture
def copied(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of the source, which digests are made of."""
    folder = tmp_path / "vggtq"
    shutil.copytree(
        source_code.PACKAGE, folder, ignore=shutil.ignore_patterns("__pycache__", "*.safetensors")
    )
    monkeypatch.setattr(source_code, "PACKAGE", folder)
    return folder


def digests() -> dict[str, str]:
    digest_of.cache_clear()
    return {name: digest_of_packages(*kind.packages) for name, kind in KINDS.items()} | {"runs": run_code()}


@pytest.mark.parametrize(
    ("file", "invalidated"),
    [
        ("report/words/texts.py", set()),
        ("report/build.py", set()),
        ("bench/kernels.py", set()),
        ("terminal/progress.py", set()),
        ("sweep/journal.py", set()),
        ("export.py", set()),
        ("records/picture.py", {"runs"}),
        ("quant/methods/round.py", {"runs", "statistics", "sensitivities", "trainings"}),
        ("quant/finetune/losses.py", {"runs", "statistics", "sensitivities", "trainings"}),
        ("prepare/samples.py", {"runs", "statistics", "sensitivities", "trainings"}),
        ("metrics/fidelity.py", {"runs", "sensitivities"}),
        ("models/vggt/vit.py", {"runs", *KINDS}),
        ("network/attention.py", {"runs", *KINDS}),
    ],
)
def test_a_change_invalidates_what_depends_on_it(file: str, invalidated: set[str], copied: Path) -> None:
    before = digests()
    assert (copied / file).is_file()
    with (copied / file).open("a") as source:
        source.write("# changed\n")
    after = digests()
    digest_of.cache_clear()
    assert {name for name in before if before[name] != after[name]} == invalidated


def test_a_copy_has_the_digest_of_the_original(tmp_path: Path) -> None:
    original, names = run_code(), digest_of_packages("quant.methods")
    with pytest.MonkeyPatch.context() as monkeypatch:
        shutil.copytree(
            source_code.PACKAGE, tmp_path / "vggtq", ignore=shutil.ignore_patterns("*.safetensors")
        )
        monkeypatch.setattr(source_code, "PACKAGE", tmp_path / "vggtq")
        assert (run_code(), digest_of_packages("quant.methods")) == (original, names)
    assert environment.run_code() == original


def test_a_name_that_is_no_package_is_refused() -> None:
    with pytest.raises(ValueError, match="quantt"):
        digest_of_packages("models", "quantt")


def test_runs_are_made_of_the_packages_that_they_import(tmp_path: Path) -> None:
    code = (
        "import sys; from pathlib import Path; sys.path.insert(0, 'tests'); from helpers.runs import recorded;"
        "few = ['picture_frames=1', 'scheme=gptq_w4a16', 'calibration.samples=1'];"
        f"assert recorded(Path({str(tmp_path)!r}), *few)['status'] == 'ok';"
        "print(*sorted(name for name in sys.modules if name.startswith('vggtq.')))"
    )
    root = Path(__file__).parents[2]
    done = subprocess.run([sys.executable, "-c", code], cwd=root, capture_output=True, text=True, check=True)
    imported = {name.split(".")[1] for name in done.stdout.split()}
    # What `import vggtq` offers, which sweep a run belongs to, progress bars, and the version (compared beside the code).
    assert imported - {"compare", "sweep", "terminal", "version"} == set(RUNS)
