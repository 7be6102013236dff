"""A progress bar on a terminal; no output elsewhere."""

from types import TracebackType

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    SpinnerColumn,
    TextColumn,
    TimeElapsedColumn,
)


class Steps:
    """A bar that is relabelled from step to step. Shown on a terminal only, and gone when the run ends."""

    def __init__(self) -> None:
        columns = (
            SpinnerColumn(),
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
        )
        console = Console(stderr=True)
        self._bar = Progress(*columns, console=console, transient=True, disable=not console.is_terminal)
        self._task = self._bar.add_task("starting", total=None)

    def __enter__(self) -> "Steps":
        self._bar.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._bar.stop()

    def step(self, description: str, total: int | None = None) -> None:
        """Starts a step; `total` None shows only that something is going on."""
        self._bar.reset(self._task, description=description, total=total)

    def tell(self, description: str) -> None:
        """Says more of the step that is going on."""
        self._bar.update(self._task, description=description)

    def advance(self) -> None:
        self._bar.advance(self._task)

    def at(self, done: int, total: int) -> None:
        """For code that counts itself: `on_layer=steps.at`."""
        self._bar.update(self._task, completed=done, total=total)
