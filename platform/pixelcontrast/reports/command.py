"""The options of an experiment's command that give a setting its value."""

import shlex
from collections.abc import Mapping
from typing import Any


def options(values: Mapping[str, Any]) -> list[str]:
    """Arguments that ``pixelcontrast.cli.parse`` reads back as ``values``.

    Args:
        values: dotted key → JSON value.
    """
    return [argument for key, value in values.items() for argument in _option(key, value)]


def command(program: str, values: Mapping[str, Any], *, name: str) -> str:
    """Lines for a POSIX shell that train an experiment's file with these values as the run ``name``."""
    lines = [shlex.join(_option(key, value)) for key, value in {"run.name": name, **values}.items()]
    return " \\\n  ".join([shlex.join(["python", program]), *lines])


def _option(key: str, value: Any) -> list[str]:
    section, _, field = key.replace("_", "-").partition(".")
    if isinstance(value, bool):
        return [f"--{section}.{field}" if value else f"--{section}.no-{field}"]
    if isinstance(value, list | tuple):
        return [f"--{section}.{field}", *map(str, value)]
    if isinstance(value, str) and value.startswith("-"):  # else it reads as an option
        return [f"--{section}.{field}={value}"]
    return [f"--{section}.{field}", str(value)]
