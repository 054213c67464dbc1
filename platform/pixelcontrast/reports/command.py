"""The command that trains a trial's settings again."""

import shlex
from collections.abc import Mapping, Sequence
from typing import Any

from pixelcontrast import config


def command(program: Sequence[str], values: Mapping[str, Any], *, name: str) -> str:
    """Lines for a POSIX shell that train these values as the run ``name``.

    Args:
        program: the words before the options, such as ``python`` and an experiment's file.
        values: dotted key → JSON value.
    """
    settings = {"run.name": name, **values}
    lines = [shlex.join(config.arguments({key: value})) for key, value in settings.items()]
    return " \\\n  ".join([shlex.join(program), *lines])
