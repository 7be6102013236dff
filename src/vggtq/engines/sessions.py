"""Exported files in their engines. Imports no torch unless a file is torch's own, so that memory is the engine's."""

import json
import tempfile
from abc import ABC, abstractmethod
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vggtq.engines.extras import required
from vggtq.errors import DataError, ExportError, WeightsError, describe

if TYPE_CHECKING:
    import numpy as np

Arrays = dict[str, "np.ndarray"]
PRODUCTS = ("MatMul", "Gemm", "Conv", "Linear", "FullyConnected")
INTEGER = ("MatMulInteger", "QLinear", "QGemm", "DynamicQuantize", "ConvInteger", "QAttention")


class Session(ABC):
    """One file in one engine. metadata: as the export wrote it. version: of the engine."""

    metadata: dict[str, str]
    version: str
    threads: int  # that the engine says it uses

    def __init__(self, path: Path) -> None:
        self.path = path

    @abstractmethod
    def predict(self, images: "np.ndarray") -> Arrays:
        """images: (S, 3, H, W) float32 in [0, 1]. Outputs by name."""

    @abstractmethod
    def ran(self, images: "np.ndarray") -> dict[str, int]:
        """Matrix products and convolutions of one prediction, by the kernels that the engine used."""

    def check(self, shape: tuple[int, ...]) -> None:
        """Raises DataError for images of another size than the file takes, or of too many frames."""
        height, width = json.loads(self.metadata["size"])
        if tuple(shape[-2:]) != (height, width):
            raise DataError(
                f"images of {shape[-2]}×{shape[-1]}: {self.path.name} takes {height}×{width}; "
                f"export it again with image_size=[{shape[-2]},{shape[-1]}]"
            )
        most = int(self.metadata["most_frames"])
        if shape[0] > most:
            raise DataError(f"{shape[0]} frames: {self.path.name} takes 1 to {most}")

    def _foreign(self) -> WeightsError:
        return WeightsError(
            f"{self.path}: no export of vggtq, so that its inputs and outputs are unknown; make one with vggtq export"
        )


def open_session(path: Path, threads: int, precision: str = "float32") -> Session:
    """The file in the engine that its name says. precision: of float products, float32 or bfloat16. Raises VggtqError."""
    kinds: dict[str, Any] = {".onnx": OnnxRuntime, ".xml": OpenVino, ".pt2": TorchExport}
    if path.suffix not in kinds:
        raise WeightsError(f"{path}: an exported model ends in {', '.join(kinds)}")
    if not path.is_file():
        raise WeightsError(f"{path}: no such file; make one with vggtq export out={path.name}")
    session: Session = kinds[path.suffix](path, threads, precision)
    return session


class OnnxRuntime(Session):
    """The CPU provider. Its threads do not spin, which would slow whatever runs beside them."""

    def __init__(self, path: Path, threads: int, precision: str) -> None:
        super().__init__(path)
        self._ort = required("onnxruntime", "onnx")
        self.version, self._asked = self._ort.__version__, threads
        self._session = self._opened()
        self.metadata = self._session.get_modelmeta().custom_metadata_map
        if "size" not in self.metadata:
            raise self._foreign()
        self.threads = self._session.get_session_options().intra_op_num_threads

    def _opened(self, profile: str | None = None) -> Any:
        options = self._ort.SessionOptions()
        options.intra_op_num_threads, options.inter_op_num_threads = self._asked, 1
        options.log_severity_level = 3
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        # Else it rounds the inputs of layers with dequantized weights to 8 bits.
        options.add_session_config_entry("session.qdq_matmulnbits_accuracy_level", "1")
        if profile:
            options.enable_profiling, options.profile_file_prefix = True, profile
        try:
            return self._ort.InferenceSession(self.path, options, providers=["CPUExecutionProvider"])
        except Exception as error:  # a class of its own for each status
            raise _refused(self.path, f"ONNX Runtime {self.version}", error) from error

    def predict(self, images: "np.ndarray") -> Arrays:
        self.check(images.shape)
        names = [output.name for output in self._session.get_outputs()]
        return dict(zip(names, self._session.run(names, {"images": images}), strict=True))

    def ran(self, images: "np.ndarray") -> dict[str, int]:
        with tempfile.TemporaryDirectory() as folder:
            session = self._opened(f"{folder}/profile")
            session.run(None, {"images": images})
            events = json.loads(Path(session.end_profiling()).read_text())
        names = [event["args"].get("op_name", "") for event in events if event.get("cat") == "Node"]
        return dict(Counter(name for name in names if any(part in name for part in PRODUCTS)))


class OpenVino(Session):
    """The CPU plug-in."""

    def __init__(self, path: Path, threads: int, precision: str) -> None:
        super().__init__(path)
        openvino = required("openvino", "openvino")
        self.version = openvino.__version__.split("-")[0]
        core = openvino.Core()
        asked: dict[str, Any] = {"INFERENCE_NUM_THREADS": threads, "NUM_STREAMS": 1}
        asked["INFERENCE_PRECISION_HINT"] = "bf16" if precision == "bfloat16" else "f32"
        try:
            model = core.read_model(path)
            if not model.has_rt_info(["vggtq", "size"]):
                raise self._foreign()
            found = model.get_rt_info(["vggtq"]).value
            self.metadata = {key: str(getattr(value, "value", value)) for key, value in found.items()}
            self._model = core.compile_model(model, "CPU", asked)
        except RuntimeError as error:
            raise _refused(path, f"OpenVINO {self.version}", error) from error
        self.threads = int(self._model.get_property("INFERENCE_NUM_THREADS"))
        self.rounds = int(self._model.get_property("DYNAMIC_QUANTIZATION_GROUP_SIZE"))

    def predict(self, images: "np.ndarray") -> Arrays:
        self.check(images.shape)
        found = self._model({"images": images})
        return {port.get_any_name(): found[port].copy() for port in self._model.outputs}

    def ran(self, images: "np.ndarray") -> dict[str, int]:
        counts: Counter[str] = Counter()
        for node in self._model.get_runtime_model().get_ops():
            kind, primitive, numbers = (
                str(getattr(node.rt_info[key], "value", node.rt_info[key]))
                for key in ("layerType", "primitiveType", "runtimePrecision")
            )
            if any(part in kind for part in PRODUCTS):
                counts[f"{kind} {primitive} {numbers}"] += 1
        return dict(counts)


class TorchExport(Session):
    """torch.export's program, run by torch."""

    def __init__(self, path: Path, threads: int, precision: str) -> None:
        super().__init__(path)
        import torch

        import vggtq.engines.operators
        import vggtq.network.native_attention
        import vggtq.quant.kernels.native.operator  # noqa: F401  # operators that the graph may name

        torch.set_num_threads(threads)
        files = {"vggtq.json": ""}
        try:
            self._module: Any = torch.export.load(path, extra_files=files).module()
        except (RuntimeError, ValueError, KeyError) as error:
            raise _refused(path, f"torch {torch.__version__}", error) from error
        if not files["vggtq.json"]:
            raise self._foreign()
        self.metadata = json.loads(files["vggtq.json"])
        self.version, self.threads, self._torch = torch.__version__, torch.get_num_threads(), torch

    def predict(self, images: "np.ndarray") -> Arrays:
        self.check(images.shape)
        with self._torch.inference_mode():
            outputs = self._module(self._torch.from_numpy(images))
        return {name: value.numpy() for name, value in outputs.items()}

    def ran(self, images: "np.ndarray") -> dict[str, int]:
        names = (str(node.target) for node in self._module.graph.nodes if node.op == "call_function")
        kept = ("vggtq", "linear", "conv", "matmul", "mm")
        return dict(Counter(name for name in names if any(part in name for part in kept)))


def arithmetic(ran: dict[str, int], rounds: int = 0) -> str:
    """The arithmetic of the products of quantized layers, in words, from `Session.ran`."""
    # OpenVINO names a kernel, the type of its products and that of the weights: `FullyConnected brgemm_avx512_i8 i8`.
    if any(name.startswith(INTEGER) or "_i8 " in name.lower() for name in ran):
        return "integer products"
    if rounds:
        return f"inputs rounded by the engine in groups of {rounds}; it does not tell how it multiplies them"
    if any("vggtq" in name for name in ran):
        return "our kernels"
    return "weights dequantized, products in float"


def _refused(path: Path, engine: str, error: Exception) -> ExportError:
    return ExportError(
        f"{path.name}: {engine} does not load it ({describe(error)}); export it again, or update the engine"
    )
