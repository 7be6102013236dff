"""Hints name the option that was meant, or none."""

import pytest

from vggtq import pull, push
from vggtq.config.messages import known_keys
from vggtq.data.eth3d.__main__ import Options as Download
from vggtq.errors import did_you_mean
from vggtq.predict.options import Options as Predict
from vggtq.report.__main__ import Options as Report
from vggtq.terminal.synonyms import NAMES, SYNONYMS, meant, plain


@pytest.fixture(scope="module")
def keys() -> list[str]:
    return known_keys()


@pytest.mark.parametrize(
    ("typed", "expected"),
    [
        ("groupsize", "group_size"),
        ("group-size", "group_size"),
        ("GroupSize", "group_size"),
        ("grop_size", "group_size"),
        ("symmetric", "scheme.weights.symmetric"),
        ("per_channel", "granularity=per_channel"),
        ("max_images", "dataset.max_images"),
        ("output_dir", "hydra.run.dir"),
        ("image_folder", "dataset=images dataset.path=DIR"),
        ("num_bits", "bits"),
        ("weight_bits", "bits"),
        ("model_path", "model.source"),
        ("data_path", "dataset=images dataset.path=DIR"),
        ("act_bits", "scheme.activations.bits"),
        ("num_threads", "device.threads"),
        ("seeed", "seed"),
        ("weights.bits", "scheme.weights.bits"),
        ("scheme.weights.grop_size", "scheme.weights.group_size"),
        ("scheme.granularity", "scheme.weights.granularity"),
        ("dataset.pth", "dataset.path"),
        ("calibration.sample", "calibration.samples"),
        ("dataset.scenes", "scenes"),
    ],
)
def test_a_run_s_option(typed: str, expected: str, keys: list[str]) -> None:
    assert meant(typed, keys) == f"; did you mean {expected}?"


@pytest.mark.parametrize("typed", ["foo", "zzz", "temperature", "prompt", "x"])
def test_no_hint_is_better_than_a_wrong_one(typed: str, keys: list[str]) -> None:
    assert meant(typed, keys) == ""


@pytest.mark.parametrize(
    ("options", "typed", "expected"),
    [
        (Predict, "image_folder", "images"),
        (Predict, "output_dir", "out"),
        (Predict, "model_path", "model"),
        (Predict, "conf_threshold", "confidence"),
        (Predict, "force", "overwrite"),
        (Report, "language", "lang"),
        (Report, "output_dir", "out"),
        (push.Options, "mesage", "message"),
        (pull.Options, "save_path", "out"),
    ],
)
def test_another_command_s_option(options: type, typed: str, expected: str) -> None:
    assert meant(typed, list(options.__dataclass_fields__)) == f"; did you mean {expected}?"


def test_every_synonym_leads_to_an_option_and_hides_none(keys: list[str]) -> None:
    of_others = {
        f for o in (Predict, Report, push.Options, pull.Options, Download) for f in o.__dataclass_fields__
    }
    for options, _ in NAMES:
        for option in options:
            assert option.partition("=")[0] in {*keys, *of_others}, option
    for name, options in SYNONYMS.items():
        same = [key for key in keys if plain(key) == name]
        assert not same or same == list(options), name


@pytest.mark.parametrize(
    ("value", "options", "expected"),
    [
        ("INT4-Group", ["int4_group", "int8_dynamic"], "int4_group"),
        ("mixed", ["auto_mixed", "mixed_precision"], "mixed_precision"),
        ("bits", ["model.bits", "bits"], "bits"),
        ("", ["a"], ""),
        ("a", [], ""),
        ("path", ["split", "plot"], ""),
    ],
)
def test_spelling(value: str, options: list[str], expected: str) -> None:
    assert did_you_mean(value, options) == (f"; did you mean {expected}?" if expected else "")
