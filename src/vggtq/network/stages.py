"""A forward pass as a row of calls of submodules, so that it can be stopped between them.

A network that has `stages(held)` finds its input in held["inputs"], keeps there every tensor that a later call
needs, and yields (name of a submodule, a function that makes its arguments); it is sent the result of that
call. `stage_names()` are all names in the order of the calls. Between two calls a pass has its tensors in
`held` and nowhere else, so that many can wait in front of one block with most of them on disk.
"""

from collections.abc import Callable, Generator, Iterator, MutableMapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from vggtq.files.spill import HeldTensors, Overflow

Held = MutableMapping[str, Tensor]
"""The tensors of a pass, by names that the network chooses."""
Stages = Generator[tuple[str, Callable[[], tuple[Any, ...]]], Any, Any]

WAITING_BYTES = 2**30  # of waiting passes that stay in memory


def run_stages(model: nn.Module, stages: Stages) -> Any:
    """The return value of `stages` after a whole pass; names are those of submodules of `model`."""
    output = None
    while True:
        try:
            name, arguments = stages.send(output)
        except StopIteration as end:
            return end.value
        output = None  # `held` has it now
        output = model.get_submodule(name)(*arguments())


def within(prefix: str, stages: Stages) -> Stages:
    """The same pass with names that start at the parent of the submodule `prefix`."""
    output = None
    while True:
        try:
            name, arguments = stages.send(output)
        except StopIteration as end:
            return end.value
        output = None  # `held` has it now
        output = yield f"{prefix}.{name}", arguments


class StagedPasses:
    """One pass per batch, all waiting in front of the same stage. memory_bytes: the most that they may hold
    outside of the disk.
    """

    def __init__(
        self, model: nn.Module, batches: Sequence[Tensor], memory_bytes: int = WAITING_BYTES
    ) -> None:
        self._model = model
        device = next(iter(model.parameters())).device
        overflow = Overflow(memory_bytes)
        self._passes = [_Pass(model, batch.to(device), HeldTensors(overflow)) for batch in batches]

    def before(self, stage: str) -> Iterator["_Pass"]:
        """The passes one after the other, each run up to the call of `stage`, which a later one must not precede.

        The stages between run in their present state: quantized, where they have been quantized.
        """
        for waiting in self._passes:
            while waiting.stage != stage:
                waiting.advance()
            yield waiting


class _Pass:
    def __init__(self, model: nn.Module, inputs: Tensor, held: Held) -> None:
        self.inputs = torch.empty_like(inputs, device="meta")  # their shape
        held["inputs"] = inputs
        self._model, self._stages = model, model.stages(held)  # type: ignore[operator]
        self.stage, self._arguments = next(self._stages)

    def call(self) -> Any:
        """Runs the stage and returns its output; the pass stays in front of it."""
        return self._model.get_submodule(self.stage)(*self._arguments())

    def advance(self) -> None:
        try:
            self.stage, self._arguments = self._stages.send(self.call())
        except StopIteration:
            raise ValueError(
                f"{type(self._model).__name__}.stage_names() does not match its stages()"
            ) from None
