"""The command that trains a trial's settings again."""

import shlex
from collections.abc import Mapping
from typing import Any

from pixelcontrast import config


def command(program: str, values: Mapping[str, Any], *, name: str) -> str:
    """Lines for a POSIX shell that train an experiment's file with these values as the run ``name``.

    Args:
        values: dotted key → JSON value.
    """
    settings = {"run.name": name, **values}
    lines = [shlex.join(config.arguments({key: value})) for key, value in settings.items()]
    return " \\\n  ".join([shlex.join(["python", program]), *lines])
