"""Every YAML composes, every spelling works, and what cannot work says so before anything is loaded."""

import dataclasses
import importlib
import itertools
import re

import pytest
from hydra import initialize_config_dir
from omegaconf import OmegaConf

from helpers import composing
from vggtq.config.compose import CONF, NUMERIC_GROUPS, compose, options, quote_numbers
from vggtq.config.messages import explain
from vggtq.config.names import config_hash, plain, run_name
from vggtq.config.schema import Config
from vggtq.config.validate import validated
from vggtq.errors import ConfigError

GROUPS = (
    "scheme",
    "bits",
    "granularity",
    "group_size",
    "dataset",
    "device",
    "engine",
    "model",
    "timing",
    "experiment",
    "variant",
    "tracker",
)


def scheme(*overrides: str) -> dict[str, object]:
    values: dict[str, object] = plain(compose(overrides))["scheme"]["weights"]
    return values


@pytest.mark.parametrize(("group", "option"), [(g, o) for g in GROUPS for o in options(g)])
def test_every_yaml_composes(group: str, option: str) -> None:
    added = "+" if group in ("experiment", "variant") else ""
    config = plain(compose([f"{added}{group}={option}"]))
    assert "???" not in str(config)


@pytest.mark.parametrize("option", options("scheme"))
def test_every_scheme_validates_with_its_own_defaults(option: str) -> None:
    config = validated(compose([f"scheme={option}"]))
    assert config.scheme.name == option
    assert dataclasses.asdict(config.scheme) == plain(compose([f"scheme={option}"]))["scheme"]


@pytest.mark.parametrize("option", options("model"))
@pytest.mark.parametrize("dataset", ["objects", "motorcycle"])
def test_every_model_validates_and_images_are_prepared_for_it(option: str, dataset: str) -> None:
    config = validated(compose([f"model={option}", f"dataset={dataset}", "scheme=awq"]))
    assert config.model.name == option
    if dataset == "motorcycle":
        prepared = config.dataset.image_size, config.dataset.mode, config.dataset.patch_size
        assert prepared == (config.model.image_size, config.model.mode, config.model.patch_size)


def test_a_scheme_sets_defaults_and_the_command_line_wins() -> None:
    assert scheme("scheme=int4_group")["group_size"] == 128
    assert scheme("scheme=int4_group", "group_size=64")["group_size"] == 64
    assert scheme("group_size=64", "scheme=int4_group")["group_size"] == 64
    assert scheme("scheme=int4_group", "bits=8")["bits"] == 8
    assert scheme("scheme=int4_group", "group_size=null")["group_size"] is None
    assert scheme("scheme=int4_group", "scheme.weights.group_size=96")["group_size"] == 96
    assert scheme("scheme=int8_symmetric", "granularity=per_tensor")["granularity"] == "per_tensor"
    assert scheme("+experiment=group_size_search", "group_size=32")["group_size"] == 32
    assert plain(compose(["scheme=mixed_precision", "bits=3"]))["scheme"]["mixed"]["normal_bits"] == 3


@pytest.mark.parametrize(
    ("typed", "passed"),
    [
        ("group_size=64", "group_size='64'"),
        ("group_size=32,64,128", "group_size='32','64','128'"),
        ("group_size=null", "group_size='null'"),
        ("bits=4,8", "bits='4','8'"),
        ("bits='4'", "bits='4'"),
        ('bits="4",8', "bits='4','8'"),
        ("bits=choice(4,8)", "bits='4','8'"),
        ("bits=range(4,9,2)", "bits='4','6','8'"),
        ("+group_size=64", "+group_size='64'"),
        ("scheme.weights.group_size=96", "scheme.weights.group_size=96"),
        ("dataset.max_images=4", "dataset.max_images=4"),
        ("--multirun", "--multirun"),
        ("bits", "bits"),
        ("bits=(4", "bits=(4"),
        ("bits=glob(*)", "bits=glob(*)"),
        ("dataset.path=my photos", "dataset.path=my photos"),
        ("dataset.path=照片/é (1)", "dataset.path='照片/é (1)'"),
        ("dataset.path=it's here", r"dataset.path='it\'s here'"),
        ("dataset.path='my photos'", "dataset.path='my photos'"),
    ],
)
def test_numbers_are_quoted_for_hydra(typed: str, passed: str) -> None:
    assert quote_numbers([typed]) == [passed]


def test_numeric_groups_are_those_whose_options_are_not_words() -> None:
    assert set(NUMERIC_GROUPS) == {g for g in GROUPS if any(o.isdigit() or o == "null" for o in options(g))}


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["granularity=per_tensor", "group_size=64"], "group_size=64 with granularity=per_tensor.*set group_size=null"),
        (["scheme=int4_group", "granularity=per_channel"], "group_size=128 with granularity=per_channel"),
        (["scheme=int4_group", "scheme.weights.group_size=0"], "group_size=0: a group has at least 2"),
        (["scheme=int4_group", "scheme.weights.group_size=-1"], "group_size=-1"),
        (["scheme.weights.bits=9"], "bits=9: integer weights have 2 to 8 or 16 bits; try"),
        (["scheme=fp16", "bits=8"], "bits=8: float16 weights have 16 bits"),
        (["scheme=fp32", "granularity=per_channel"], "float32 weights have no scales"),
        (["granularity=none"], "granularity=none: integer weights need a scale"),
        (["scheme.weights.granularity=per_chanel"], "did you mean per_channel"),
        (["bits=16", "scheme.weights.scale_dtype=float16"], "scale_dtype=float16 with bits=16"),
        (["scheme=fp32", "scheme.activations.mode=dynamic"], "both need one format"),
        (["scheme=int8_dynamic", "scheme.activations.bits=9"], "activations have 2 to 8 bits"),
        (["scheme=mixed_precision", "scheme.mixed.sensitive_bits=1"], "sensitive_bits=1"),
        (["scheme.mixed.normal_bits=4"], "without scheme.mixed.sensitive"),
        (["scheme.layers.types=[Linaer]"], "Linaer is not one of.*did you mean Linear"),
        (["scheme.layers.types=[]"], "name at least one"),
        (["model.image_size=100"], "image_size=100 is not a positive multiple of the patch size 14; try 98 or 112"),
        (["model.image_size=0"], "try 14$"),
        (["seed=-1"], "seed=-1: seeds lie between 0 and 4294967295"),
        (["+foo=1"], "foo is not an option"),
        (["+timing.round=1"], "timing.round is not an option; did you mean rounds"),
        (["+dataset.max_image=3"], "dataset.max_image is not an option"),
        (["scheme=mixed_precision", "scheme.mixed.sensitive_bits=16"], "scale_dtype=float16 with bits=16"),
        (["dataset=images"], "dataset.path"),
        (["dataset=eth3d", "scene=courtyrd"], "courtyrd.*did you mean courtyard"),
        (["dataset=motorcycle", "scene=office"], "scene=office: dataset=motorcycle has no scenes"),
        (["dataset=motorcycle", "dataset.mode=croop"], "Mode must be either 'crop' or 'pad'"),
        (["timing.rounds=0"], "timing.rounds=0"),
        (["timing.references=[fp23]"], "fp23 is not one of"),
        (["device.threads=0"], "device.threads=0"),
        (["depth_alignment=mean"], "depth_alignment=mean is not one of"),
        (["model._target_=os.system"], "is not a dataclass"),
        (["model._target_=nowhere.Model"], "cannot be imported"),
    ],
)  # fmt: skip
def test_impossible_combinations_name_value_rule_and_remedy(overrides: list[str], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        validated(compose(overrides))


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["bits=9"], "bits=9: integer weights have 2 to 8 or 16 bits"),
        (["group_size=96"], "group_size=96 is not one of 16, .*256, null; .* scheme.weights.group_size=96 with"),
        (["group_size=0"], "group_size=0 is not one of .*at least 2"),
        (["scheme=int4_grup"], "did you mean int4_group"),
        (["device=gpu"], "device=gpu is not one of auto, cpu, cuda"),
        (["device=mps"], "no kernels for Apple.s GPUs.*use device=cpu"),
        (["scheme=INT4_GROUP"], "did you mean int4_group"),
        (["scheme=mixed"], "did you mean mixed_precision"),
        (["scheme=null"], "name one of its options"),
        (["scheme=4"], "name one of its options"),
        (["experiment=eight_schemes"], r"\+experiment=\w+; choices: .*eight_schemes"),
        (["bits=4,"], "bits=4, cannot be read"),
        (["group_size=abc"], "group_size=abc is not one of .*null$"),
        (["dataset.max_image=4"], "dataset.max_image is not an option"),
        (["seeed=1"], "seeed is not an option; did you mean seed"),
        (["seed=abc"], "seed.*'abc' of type 'str' could not be converted to Integer"),
        (["model=vggt_1b", "model.architecture.aggregator.depth=4"], r"with a plus: \+model\.architecture\.agg"),
        (["scheme.weights.grop_size=64"], "did you mean scheme.weights.group_size"),
        (["groupsize=64"], r"did you mean group_size\?"),
        (["symmetric=false"], r"did you mean scheme.weights.symmetric\?"),
        (["image_folder=x"], r"did you mean dataset=images dataset.path=DIR\?"),
        (["max_images=3"], r"did you mean dataset.max_images\?"),
        (["output_dir=x"], r"did you mean hydra.run.dir\?"),
        (["dataset.path=x"], "dataset.path is an option of dataset=images; add dataset=images$"),
        (["dataset.max_images=3"], "is an option of dataset=eth3d, images.*; add dataset=eth3d, or another of them$"),
    ],
)  # fmt: skip
def test_what_hydra_refuses_is_told_in_one_line(overrides: list[str], message: str) -> None:
    with pytest.raises(Exception) as caught:
        compose(overrides)
    line = explain(caught.value)
    assert "\n" not in line
    assert re.search(message, line), line


@pytest.mark.parametrize(
    "overrides",
    [
        [],
        ["scheme=int4_group", "group_size='64'", "seed=3"],
        ["+experiment=eight_schemes", "timing.rounds=2", "+plugins=[mine]"],
        ["model=vggt_small", "model.architecture.aggregator={depth:2}", "+model.architecture.heads={track:true}"],
        ["dataset=images", "dataset.path=a b", "~tracker", "calibration=rooms", "calibration.samples=3"],
    ],
)  # fmt: skip
def test_what_tests_keep_of_compositions_is_what_hydra_composes(overrides: list[str]) -> None:
    with initialize_config_dir(str(CONF), version_base="1.3"):
        found, again = (composing.kept("config", overrides) for _ in range(2))
        expected = composing.anew("config", overrides)
    assert plain(found) == plain(again) == plain(expected)
    assert OmegaConf.to_yaml(found) == OmegaConf.to_yaml(expected), "in the same order, interpolations too"
    assert OmegaConf.is_struct(found) and found is not again
    assert OmegaConf.get_type(found) is OmegaConf.get_type(expected) is Config


def test_same_configuration_same_hash_and_name() -> None:
    first, second = (
        compose(["scheme=int4_group", "group_size=64"]),
        compose(["scheme=int4_group", "scheme.weights.group_size=64"]),
    )
    assert config_hash(plain(first)) == config_hash(plain(second))
    assert run_name(_root_=first) == run_name(_root_=second)


def test_different_configurations_have_different_names() -> None:
    names = [
        run_name(_root_=compose([f"bits={bits}", "scheme=int4_group", f"group_size={size}", f"seed={seed}"]))
        for bits, size, seed in itertools.product((4, 8), (32, 64), (0, 1))
    ]
    assert len(set(names)) == len(names)
    assert all("/" not in name and name.startswith("int4_group-w") for name in names)


@pytest.mark.parametrize(
    ("overrides", "label"),
    [
        (["scheme=fp32"], "FP32"),
        (["scheme=bf16"], "BF16"),
        (["granularity=per_tensor"], "INT8 per-tensor symmetric"),
        (["scheme=int8_asymmetric"], "INT8 per-channel asymmetric"),
        (["scheme=int4_group", "group_size=64"], "INT4 group 64"),
        (["scheme=int8_dynamic"], "W8A8 dynamic per-channel symmetric"),
        (["scheme=mixed_precision"], "mixed INT4/8 group 128"),
        (["scheme=int4_group", "group_size=null"], "INT4 whole-row groups"),
        (["scheme=mixed_precision", "scheme.activations.mode=dynamic"], "mixed W4/8A8 dynamic group 128"),
    ],
)
def test_labels(overrides: list[str], label: str) -> None:
    assert validated(compose(overrides)).scheme.label == label


@pytest.mark.parametrize(
    "path", ["my photos", "照片/é (1)", "it's here", "<script>alert(1)</script>", "C:\\new x"]
)
def test_paths_arrive_as_they_were_typed(path: str) -> None:
    assert compose(["dataset=images", f"dataset.path={path}"]).dataset.path == path


@pytest.mark.parametrize(("group", "option"), [(g, o) for g in ("model", "dataset") for o in options(g)])
def test_every_field_of_a_dataclass_is_in_its_yaml(group: str, option: str) -> None:
    node = plain(compose([f"{group}={option}"]))[group]
    module, _, name = node["_target_"].rpartition(".")
    cls = getattr(importlib.import_module(module), name)
    assert {f.name for f in dataclasses.fields(cls)} == set(node) - {"_target_"}


def test_the_seed_reaches_the_weights() -> None:
    assert validated(compose(["seed=5"])).model.seed == 5
    assert validated(compose(["seed=5", "model.seed=7"])).model.seed == 7
