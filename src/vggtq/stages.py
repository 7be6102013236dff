"""A forward pass as a row of calls of submodules, so that it can be stopped between them.

A network that has `stages(inputs)` yields (name of a submodule, its arguments), is sent what that returned, and returns the
output of the whole: `run_stages(model, model.stages(x))` is `model(x)`. `stage_names()` are all names in the order of the
calls. Between two calls a pass holds nothing but what later ones read, so that many can wait in front of one block.
"""

from collections.abc import Generator, Iterator, Sequence
from typing import Any, Protocol

from torch import Tensor, nn

Stages = Generator[tuple[str, tuple[Any, ...]], Any, Any]


class Staged(Protocol):
    """What a network declares to be run block by block."""

    def stages(self, inputs: Tensor) -> Stages: ...

    def stage_names(self) -> list[str]: ...


def run_stages(model: nn.Module, stages: Stages) -> Any:
    """The output of a whole pass; names are those of submodules of `model`."""
    output = None
    while True:
        try:
            name, arguments = stages.send(output)
        except StopIteration as end:
            return end.value
        output = model.get_submodule(name)(*arguments)


def within(prefix: str, stages: Stages) -> Stages:
    """The same pass with names that start at the parent of the submodule `prefix`."""
    output = None
    while True:
        try:
            name, arguments = stages.send(output)
        except StopIteration as end:
            return end.value
        output = yield f"{prefix}.{name}", arguments


class StagedPasses:
    """One pass per batch, all waiting in front of the same stage."""

    def __init__(self, model: Any, batches: Sequence[Tensor]) -> None:
        self._model = model
        device = next(iter(model.parameters())).device
        self._passes = [_Pass(model, batch.to(device)) for batch in batches]

    def before(self, stage: str) -> Iterator["_Pass"]:
        """The passes one after the other, each run up to the call of `stage`, which a later one must not precede.

        What lies between runs as it is by now: quantized, where it has been quantized.
        """
        for waiting in self._passes:
            while waiting.stage != stage:
                waiting.advance()
            yield waiting


class _Pass:
    def __init__(self, model: nn.Module, inputs: Tensor) -> None:
        self.inputs = inputs
        self._model, self._stages = model, model.stages(inputs)  # type: ignore[operator]
        self.stage, self._arguments = next(self._stages)

    def call(self) -> Any:
        """What the stage returns, which is forgotten: the pass stays where it is."""
        return self._model.get_submodule(self.stage)(*self._arguments)

    def advance(self) -> None:
        output = self.call()
        self._arguments = ()  # nothing else may need them
        try:
            self.stage, self._arguments = self._stages.send(output)
        except StopIteration:
            raise ValueError(
                f"{type(self._model).__name__}.stage_names() does not match its stages()"
            ) from None
