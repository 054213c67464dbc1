"""The commands: of an experiment file, and ``pixelcontrast``."""

from pixelcontrast.cli.commands import command
from pixelcontrast.cli.experiment import main, run
from pixelcontrast.cli.options import parse

__all__ = ["command", "main", "parse", "run"]
