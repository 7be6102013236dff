"""The one way to a quantized network: what commands have in common."""

from pathlib import Path

import pytest
import torch

from helpers.runs import TINY, recorded, tiny
from vggtq.config.validate import validated
from vggtq.errors import ConfigError, QuantizationError
from vggtq.export import export, main
from vggtq.prepare import quantized
from vggtq.quant.finetune.trainer import Trainer
from vggtq.terminal.progress import Steps

QAT = ["scheme=qat", "calibration.samples=3", "scheme.finetune.steps=3", "scheme.finetune.batch=1"]


def test_an_export_takes_the_training_of_a_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    threads = torch.get_num_threads()
    options = [*QAT, f"cache={tmp_path / 'cache'}", f"device.threads={threads + 1}"]
    record = recorded(tmp_path / "run", *options, "save=true")
    assert record["finetune"]["step"] == 3 and not record["finetune"]["cached"]
    torch.set_num_threads(threads)  # what the training depends on, the export has to set again
    monkeypatch.setattr(Trainer, "_train_step", lambda _: pytest.fail("trained again"))
    out = tmp_path / "exported.safetensors"
    try:
        assert main([*TINY, *options, f"out={out}"]) == 0
    finally:
        torch.set_num_threads(threads)
    assert out.read_bytes() == (tmp_path / "run" / "model.safetensors").read_bytes()


@pytest.mark.parametrize("scheme", ["int4_group", "smoothquant_w8a8"], ids=["streamed", "calibrated"])
def test_exports_use_the_device_and_its_threads(tmp_path: Path, scheme: str) -> None:
    options = [f"scheme={scheme}", "calibration.samples=1", "calibration.frames=1"]
    threads = torch.get_num_threads() + 1
    try:
        export(validated(tiny(*options, f"device.threads={threads}")), tmp_path / "a.safetensors", Steps())
        assert torch.get_num_threads() == threads
    finally:
        torch.set_num_threads(threads - 1)
    if not torch.cuda.is_available():
        with pytest.raises(ConfigError, match="device=cuda: "):
            export(validated(tiny(*options, "device=cuda")), tmp_path / "b.safetensors", Steps())
    assert [path.name for path in tmp_path.iterdir()] == ["a.safetensors"]


@pytest.mark.parametrize("step", ["quantize_model_", "check_bytes"])
def test_a_run_that_fails_after_bits_were_found_records_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, step: str
) -> None:
    def fail(*_: object) -> None:
        raise QuantizationError("no room")

    monkeypatch.setattr(quantized, step, fail)
    record = recorded(tmp_path, "scheme=auto_mixed", "calibration.samples=2")
    assert record["status"] == "failed" and record["error"]["message"] == "no room"
    assert 2 <= record["allocation"]["mean_bits"] == record["scheme"]["mean_bits"] <= 8
    if step == "check_bytes":
        assert {layer["bits"] for layer in record["layers"]} <= {2, 3, 4, 5, 6, 8}
        assert record["size"]["stored_bytes"] == record["allocation"]["stored_bytes"]
