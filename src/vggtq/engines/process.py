"""The other side of `vggtq.engines.worker`."""

import json
import subprocess
import sys
from pathlib import Path
from types import TracebackType
from typing import Any

from safetensors.torch import load_file
from torch import Tensor

from vggtq.errors import ExportError
from vggtq.files.atomic import temporary_folder
from vggtq.files.tensors import write_safetensors


class EngineProcess:
    """An exported file in a process of its own. folder: for the files that the two processes exchange. Raises
    ExportError.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._process = subprocess.Popen(
            [sys.executable, "-m", "vggtq.engines.worker"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def open(self, path: Path, threads: int, precision: str = "float32") -> dict[str, Any]:
        """Loads the file; the engine's version and the threads that it says it uses."""
        return self.ask(open=str(path), threads=threads, precision=precision)

    def take(self, images: Tensor) -> None:
        """Sets the images of the predictions from now on, (S, 3, H, W)."""
        with temporary_folder(self._folder) as inside:
            write_safetensors(inside / "images.safetensors", {"images": images}, {})
            self.ask(images=str(inside / "images.safetensors"))

    def predict(self, images: Tensor) -> dict[str, Tensor]:
        """Outputs by name, float32 on the CPU."""
        self.take(images)
        with temporary_folder(self._folder) as inside:
            path = inside / "outputs.safetensors"
            self.ask(predict=str(path))
            return {name: value.clone() for name, value in load_file(path).items()}

    def run(self) -> None:
        """Predicts from the images that it received last, and throws the outputs away."""
        self.ask(run=True)

    def measure(self, path: Path, images: Tensor, threads: int, precision: str) -> dict[str, Any]:
        """Peak memory of loading a file and predicting once, in a process that has done nothing before."""
        with temporary_folder(self._folder) as inside:
            write_safetensors(inside / "images.safetensors", {"images": images}, {})
            where = {"measure": str(path), "images": str(inside / "images.safetensors")}
            return self.ask(**where, threads=threads, precision=precision)

    def ask(self, **request: Any) -> dict[str, Any]:
        """The answer to one request."""
        assert self._process.stdin is not None and self._process.stdout is not None
        try:
            print(json.dumps(request), file=self._process.stdin, flush=True)
            line = self._process.stdout.readline()
        except BrokenPipeError:
            line = ""
        if not line:
            assert self._process.stderr is not None
            status, said = self._process.wait(), self._process.stderr.read().strip().splitlines()
            why = said[-1] if said else "it was killed, perhaps for lack of memory"
            raise ExportError(f"the engine's process ended with status {status}: {why}")
        answer: dict[str, Any] = json.loads(line)
        if "error" in answer:
            raise ExportError(answer["error"])
        return answer

    def __enter__(self) -> "EngineProcess":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._process.kill()
        self._process.communicate()
