"""Files of other engines: our codes are in them, and the engines compute from them what we compute."""

import json
import logging
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from helpers.exported_nets import pictures, small
from helpers.instruction_sets import skip_where_onnx_runtime_saturates
from vggtq.api import quantize_
from vggtq.engines import exporting, parity
from vggtq.engines.exporting import SUFFIXES, ExportedFile, check_format, export_network
from vggtq.engines.network import ExportedNetwork, fixed_positions
from vggtq.engines.sessions import arithmetic, open_session
from vggtq.errors import ConfigError, DataError, DiskFull, ExportError, MissingExtraError, WeightsError
from vggtq.models.vggt.config import PatchEmbedConfig
from vggtq.models.vggt.vit import DinoV2
from vggtq.quant.kernels.cpu.native_linear import NativeLinear
from vggtq.quant.kernels.linear import QuantLinear
from vggtq.quant.scheme.activations import Activations
from vggtq.quant.scheme.methods import Transform
from vggtq.quant.scheme.parts import Layers, Mixed
from vggtq.quant.scheme.scheme import Scheme
from vggtq.quant.scheme.weights import Weights

onnx = pytest.importorskip("onnx")
pytest.importorskip("onnxruntime")
openvino = pytest.importorskip("openvino")

GROUPS = Weights(bits=4, granularity="group", group_size=32)
WITH_CONV = Layers(types=["Linear", "Conv2d"], skip_first_last=False)
SCHEMES = {
    "int8": Scheme("int8", Weights(), layers=WITH_CONV),
    "int8_asymmetric": Scheme("int8_asymmetric", Weights(symmetric=False)),
    "int4": Scheme("int4", GROUPS, layers=WITH_CONV),
    "int4_asymmetric": Scheme(
        "int4_asymmetric", Weights(bits=4, symmetric=False, granularity="group", group_size=32)
    ),
    "int3": Scheme("int3", Weights(bits=3, granularity="group", group_size=32)),
    "w8a8": Scheme("w8a8", Weights(), Activations("dynamic")),
    "w8a8_per_tensor": Scheme(
        "w8a8_per_tensor", Weights(), Activations("dynamic", granularity="per_tensor", symmetric=False)
    ),
    "w8a8_asymmetric": Scheme(
        "w8a8_asymmetric", Weights(symmetric=False), Activations("dynamic", symmetric=False)
    ),
    "w8a8_static": Scheme("w8a8_static", Weights(), Activations("static")),
    "w4a8": Scheme("w4a8", GROUPS, Activations("dynamic")),
    "w4a4_rotated": Scheme(
        "w4a4_rotated", Weights(bits=4), Activations("dynamic", 4), transform=Transform(hadamard=True)
    ),
    "mixed": Scheme("mixed", GROUPS, mixed=Mixed(sensitive=["narrow"], sensitive_bits=8, normal_bits=4)),
}
IN_CI = ("int8", "int4", "w8a8", "mixed")  # in both engines; the others where their graphs differ
Once = Callable[[str, str], tuple[nn.Module, ExportedFile]]
CASES = [
    *((name, format_) for name in IN_CI for format_ in ("onnx", "openvino")),
    *((name, "onnx") for name in SCHEMES if name not in IN_CI),
    ("w8a8_static", "openvino"),
    ("w8a8", "torch_export"),
]


def quantized(name: str) -> nn.Module:
    model, scheme = small(), SCHEMES[name]
    calibrate = [pictures()[None]] if scheme.needs_calibration else None
    quantize_(model, scheme, first_last=["last"], calibrate=calibrate)
    return model


def exported(model: nn.Module, format_: str, folder: Path) -> ExportedFile:
    if format_ == "onnx":
        skip_where_onnx_runtime_saturates(model)
    return export_network(
        model, format_, folder / f"model{SUFFIXES[format_]}", pictures(), {"licence": "none"}
    )


@pytest.fixture(scope="module")
def once(tmp_path_factory: pytest.TempPathFactory) -> Once:
    """A network and its file by scheme and format, which no test changes. Exporting takes seconds."""

    @cache
    def made(name: str, format_: str) -> tuple[nn.Module, ExportedFile]:
        model, level = quantized(name), logging.root.level
        written = exported(model, format_, tmp_path_factory.mktemp(name))
        assert logging.root.level == level, "warnings of ours would not be seen from here on"
        return model, written

    return made


@pytest.mark.parametrize(("name", "format_"), CASES)
def test_an_engine_computes_what_we_compute(name: str, format_: str, once: Once) -> None:
    model, written = once(name, format_)
    folder = written.path.parent
    assert sorted(folder.iterdir()) == sorted([*written.files, folder / f"{written.path.name}.json"])
    entry = written.parity["depth"]
    assert 0 <= entry.error <= entry.limit
    native = [module for module in model.modules() if isinstance(module, NativeLinear)]
    fewer = any(layer.product_bits < layer.spec.bits for layer in native)  # than the engine multiplies
    if not fewer and not (format_ == "openvino" and SCHEMES[name].activations.mode == "dynamic"):
        # A code that lies between two goes the other way now and then.
        assert entry.error < 1e-4, "only the order of sums differs"
    session = open_session(written.path, 1)
    assert session.threads == 1
    for frames in (1, 5):
        with torch.inference_mode():
            ours = ExportedNetwork(model)(pictures(frames))["depth"].numpy()
        found = session.predict(pictures(frames).numpy())["depth"]
        allowed = 2 * entry.limit if fewer else entry.limit  # two roundings apart
        assert parity.relative(found, ours) <= max(allowed, 1e-3)


def test_weights_beyond_a_protobuf_file_lie_beside_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("vggtq.engines.onnx_file.LARGEST", 1000)
    written = exported(quantized("int4"), "onnx", tmp_path)  # parity is checked on the way
    assert {file.name for file in written.files} == {"model.onnx", "model.onnx.data"}
    moved = tmp_path / "elsewhere"
    moved.mkdir()
    for file in written.files:
        file.rename(moved / file.name)
    assert open_session(moved / "model.onnx", 1).predict(pictures(2).numpy())["depth"].shape[0] == 2


@pytest.mark.parametrize(("name", "kind"), [("int8", "INT8"), ("int4", "INT4"), ("int4_asymmetric", "UINT4")])
def test_an_onnx_file_holds_our_codes(name: str, kind: str, once: Once) -> None:
    model, written = once(name, "onnx")
    layer = model.get_submodule("wide")
    assert isinstance(layer, QuantLinear)
    file = onnx.load(written.path)
    stored = {entry.name: entry for entry in file.graph.initializer}
    codes = next(value for key, value in stored.items() if key.endswith("wide.stored.codes"))
    assert onnx.TensorProto.DataType.Name(codes.data_type) == kind
    ours = layer.packed().integer_codes().numpy()
    assert np.array_equal(onnx.numpy_helper.to_array(codes).astype(np.int32).T, ours)
    assert {entry.key: entry.value for entry in file.metadata_props}["licence"] == "none"


def test_an_openvino_file_holds_our_codes_and_tells_the_plugin_not_to_round(once: Once) -> None:
    _, written = once("int4", "openvino")
    file = openvino.Core().read_model(written.path)
    narrow = [
        op
        for op in file.get_ops()
        if op.get_type_name() == "Constant" and op.get_element_type().get_type_name() == "i4"
    ]
    assert len(narrow) == 4  # three linear layers and the convolution
    assert file.get_rt_info(["runtime_options", "DYNAMIC_QUANTIZATION_GROUP_SIZE"]).value == "0"
    assert written.file_bytes > written.path.with_suffix(".bin").stat().st_size > 0


def test_products_of_integers_are_told_from_dequantized_ones(once: Once) -> None:
    ran = {}
    for name, format_ in (
        ("w8a8", "onnx"),
        ("w8a8_static", "openvino"),
        ("int8", "onnx"),
        ("int4", "openvino"),
    ):
        session = open_session(once(name, format_)[1].path, 1)
        ran[name] = arithmetic(session.ran(pictures().numpy()), getattr(session, "rounds", 0))
    assert ran == {
        "w8a8": "integer products",
        "w8a8_static": "integer products",
        "int8": "weights dequantized, products in float",
        "int4": "weights dequantized, products in float",
    }


def test_a_file_that_computes_something_else_is_not_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = exporting._write

    def wrong(model: nn.Module, *others: Any) -> bool:
        layer = model.get_submodule("last")
        assert isinstance(layer, nn.Linear)
        layer.weight = nn.Parameter(layer.weight * 1.01, requires_grad=False)
        return real(model, *others)

    monkeypatch.setattr(exporting, "_write", wrong)
    with pytest.raises(ExportError, match=r"OnnxRuntime .* computes depth with a relative error of 0\.0"):
        exported(quantized("int8_asymmetric"), "onnx", tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_the_model_is_whole_again_after_an_export_that_failed() -> None:
    model = quantized("int8")
    before = dict(model.named_modules())
    with pytest.raises(ZeroDivisionError), exporting.exportable(model, exporting.ONNX, (28, 42)):
        raise ZeroDivisionError
    assert dict(model.named_modules()) == before


def test_a_graph_for_one_size_has_the_positions_of_that_size() -> None:
    config = PatchEmbedConfig(img_size=56, embed_dim=16, depth=1, num_heads=2)
    vit = DinoV2(config).eval().requires_grad_(False)
    nn.init.normal_(vit.pos_embed)
    images = torch.rand(1, 3, 28, 42)
    exact = vit(images)
    with exporting.exportable(nn.Sequential(vit), exporting.ONNX, (28, 42)):
        assert torch.equal(vit(images), exact)
        graph = torch.export.export(vit, (images,)).graph
        assert not [node for node in graph.nodes if "bicubic" in str(node.target)]
    assert vit.fixed_positions is None
    assert vit(torch.rand(1, 3, 56, 56)).shape == (1, 16, 16)
    with fixed_positions(vit, (56, 56)):  # the size of the stored table, which OpenVINO must not find twice
        names = [name for name, _ in vit.named_parameters(remove_duplicate=False) if "positions" in name]
        assert not names and torch.equal(vit.fixed_positions, vit.pos_embed)


def test_images_that_a_file_does_not_take_are_refused_with_the_remedy(once: Once) -> None:
    session = open_session(once("int8", "onnx")[1].path, 1)
    with pytest.raises(
        DataError, match=r"28×24: model.onnx takes 32×24; export it again with image_size=\[28,24\]"
    ):
        session.predict(np.zeros((2, 3, 28, 24), np.float32))
    with pytest.raises(DataError, match=r"1025 frames: model\.onnx takes 1 to 1024"):
        session.check((1025, 3, 32, 24))


def test_files_of_others_are_refused(tmp_path: Path) -> None:
    other = tmp_path / "other.onnx"
    value = onnx.helper.make_tensor_value_info("x", onnx.TensorProto.FLOAT, [1])
    node = onnx.helper.make_node("Identity", ["x"], ["y"])
    out = onnx.helper.make_tensor_value_info("y", onnx.TensorProto.FLOAT, [1])
    graph = onnx.helper.make_graph([node], "g", [value], [out])
    onnx.save(
        onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 21)], ir_version=10), other
    )
    with pytest.raises(WeightsError, match="no export of vggtq"):
        open_session(other, 1)
    other.write_bytes(b"nothing")
    with pytest.raises(ExportError, match=r"ONNX Runtime .* does not load it"):
        open_session(other, 1)
    with pytest.raises(WeightsError, match="no such file"):
        open_session(tmp_path / "none.xml", 1)
    with pytest.raises(WeightsError, match=r"ends in \.onnx, \.xml, \.pt2"):
        open_session(tmp_path / "model.safetensors", 1)


@pytest.mark.parametrize(
    ("scheme", "said"),
    [
        (
            Scheme(
                "mxfp4", Weights("mxfp4", 4, granularity="group", group_size=32, scale_dtype="float8_e8m0")
            ),
            "mxfp4 weights",
        ),
        (Scheme("wide", Weights(bits=16, symmetric=False)), "asymmetric weights of 16 bits"),
    ],
)
def test_numbers_that_a_format_lacks_are_named(scheme: Scheme, said: str, tmp_path: Path) -> None:
    model = small()
    quantize_(model, scheme, first_last=["last"])
    with pytest.raises(ExportError, match=said):
        exported(model, "onnx", tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_a_disk_that_is_too_small_is_told_before_anything_is_exported(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    usage = type("Usage", (), {"free": 10})()
    monkeypatch.setattr("shutil.disk_usage", lambda place: usage)
    with pytest.raises(DiskFull, match="an export needs about"):
        exported(quantized("int8"), "onnx", tmp_path)


def test_formats_have_their_endings_and_their_extras(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ConfigError, match=r"format=openvino writes a \.xml file; use out=model\.xml"):
        check_format("openvino", Path("model.onnx"))
    monkeypatch.setitem(__import__("sys").modules, "openvino", None)
    with pytest.raises(MissingExtraError, match=r"pip install 'vggtq\[openvino\]'"):
        check_format("openvino", Path("model.xml"))


def test_parity_is_written_beside_the_file(once: Once) -> None:
    _, written = once("w8a8", "onnx")
    said = json.loads(Path(f"{written.path}.json").read_text())
    assert said["engine"].startswith("OnnxRuntime ") and said["size"] == "[32, 24]"
    assert set(said["parity"]["depth"]) == {"error", "limit"}


def test_an_output_that_is_not_finite_is_no_parity() -> None:
    ours = {"depth": np.ones(3)}
    found = parity.compare({"depth": np.array([1, np.nan, 1])}, ours, None, False)
    with pytest.raises(ExportError):
        parity.check(found, "engine")
