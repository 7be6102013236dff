"""`python -m vggtq.engines.worker`: an exported model in a process of its own, for requests as JSON lines.

{"open": FILE, "threads": N, "precision": P} loads it, {"images": FILE} reads what is predicted from then on, {"predict": FILE}
writes outputs, {"run": true} predicts, {"ran": true} names the products, {"measure": FILE, …} loads and predicts for memory.
Each is answered by one line.
"""

import json
import os
import statistics
import sys
import time
from pathlib import Path
from typing import Any

from vggtq.engines.sessions import Session, arithmetic, open_session
from vggtq.errors import VggtqError
from vggtq.machine.memory import peak_rss_bytes, reset_peak, rss_bytes


class Worker:
    """Answers requests, one after the other."""

    session: Session
    images: Any

    def answer(self, request: dict[str, Any]) -> dict[str, Any]:
        if "measure" in request:
            return self._measured(request)
        if "open" in request:
            self.session = open_session(Path(request["open"]), request["threads"], request["precision"])
            return {
                "engine": type(self.session).__name__,
                "version": self.session.version,
                "threads": self.session.threads,
            }
        if "images" in request:
            self.images = _read(request["images"])
            self.session.check(self.images.shape)
        elif "predict" in request:
            from safetensors.numpy import save_file

            save_file(self.session.predict(self.images), request["predict"])
        elif "ran" in request:
            ran = self.session.ran(self.images)
            return {"ran": ran, "arithmetic": arithmetic(ran, getattr(self.session, "rounds", 0))}
        else:
            self.session.predict(self.images)
        return {}

    def _measured(self, request: dict[str, Any]) -> dict[str, Any]:
        """As `vggtq run peak_memory` prints it."""
        images = _read(request["images"])
        resettable, before, started = reset_peak(), rss_bytes(), time.perf_counter()
        session = open_session(Path(request["measure"]), request["threads"], request["precision"])
        load_seconds, load_peak, level = time.perf_counter() - started, peak_rss_bytes(), rss_bytes()
        reset_peak()
        seconds = []
        for _ in range(request.get("predictions", 1)):
            started = time.perf_counter()
            session.predict(images)
            seconds.append(time.perf_counter() - started)
        peak = peak_rss_bytes()
        return {
            "rss_before_load_bytes": before,
            "load_peak_rss_bytes": load_peak if resettable else None,
            "rss_loaded_bytes": level,
            "predict_peak_rss_bytes": peak if resettable else None,
            "peak_rss_bytes": max(load_peak, peak),
            "cuda_peak_bytes": None,
            "load_seconds": load_seconds,
            "predict_seconds": seconds[0],
            "warm_seconds": statistics.median(seconds[1:]) if seconds[1:] else None,
        }


def _read(path: str) -> Any:
    from safetensors.numpy import load_file

    return load_file(path)["images"]


def main() -> None:
    """Answers until its input ends. What libraries print goes to the error stream."""
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    worker = Worker()
    for line in sys.stdin:
        try:
            reply = worker.answer(json.loads(line))
        except VggtqError as error:
            reply = {"error": " ".join(str(error).split())}
        print(json.dumps(reply), file=answers, flush=True)


if __name__ == "__main__":
    main()
