"""A progress bar of files."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Protocol

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn


class Tell(Protocol):
    """Called with how many are done, and of how many."""

    def __call__(self, done: int, total: int, /) -> None: ...


@contextmanager
def progress(what: str) -> Iterator[Tell]:
    """Show a bar on a terminal, else nothing."""
    console = Console(stderr=True)
    columns = (TextColumn(what), MofNCompleteColumn(), BarColumn(bar_width=30), TimeRemainingColumn())
    with Progress(*columns, console=console, disable=not console.is_terminal, transient=True) as bar:
        task = bar.add_task(what, total=None)
        yield lambda done, total: bar.update(task, completed=done, total=total)
