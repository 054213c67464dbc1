"""The terminal, on which what users name stands as it is."""

from typing import Any

from rich.console import Console


class PlainConsole(Console):
    """Rich's, but that text is text: a class ``[old]`` is no markup, and ``:car:`` no picture."""

    def __init__(self, **options: Any):
        super().__init__(markup=False, emoji=False, highlight=False, **options)

    def say(self, line: str) -> None:
        """Print a line, however long."""
        self.print(line, soft_wrap=True)
