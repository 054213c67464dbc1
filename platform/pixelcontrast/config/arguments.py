"""Settings as arguments of a command line."""

from collections.abc import Mapping
from typing import Any


def arguments(values: Mapping[str, Any]) -> list[str]:
    """Arguments that ``pixelcontrast.parse`` reads back as ``values``.

    Args:
        values: dotted key → JSON value, or ``Workers``.
    """
    return [argument for key, value in values.items() for argument in _option(key, value)]


def _option(key: str, value: Any) -> list[str]:
    section, _, field = key.replace("_", "-").partition(".")
    if isinstance(value, bool):
        return [f"--{section}.{field}" if value else f"--{section}.no-{field}"]
    if isinstance(value, list | tuple):
        return [f"--{section}.{field}", *map(str, value)]
    if isinstance(value, str) and value.startswith("-"):  # else it reads as an option
        return [f"--{section}.{field}={value}"]
    return [f"--{section}.{field}", str(value)]
