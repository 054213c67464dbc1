"""Results that a folder already holds: those of another network, protocol or data are not overwritten."""

import json
from collections.abc import Iterator, Mapping
from typing import Any

from pixelcontrast.runs.run_folder import read_json
from pixelcontrast.storage import Storage

REMEDY = "choose another --out, or delete what lies there"
_SHOWN = 5


def refuse_others(folder: Storage, file: str, origin: Mapping[str, Any]) -> None:
    """Refuse to write among results of another origin.

    Args:
        folder: that the results go to.
        file: JSON in it that says what the results there are of.
        origin: what the new ones are of, by the keys of that file.

    Raises:
        ValueError: the origins differ; names each key with both values. Or the file is damaged.
    """
    if not folder.exists(file):
        return
    before = dict(_flat(read_json(folder, file, remedy="Choose another --out, or delete it")))
    now = dict(_flat(json.loads(json.dumps(origin))))
    changes = [
        f"{key} was {before.get(key)!r} and is now {value!r}"
        for key, value in now.items()
        if before.get(key) != value
    ]
    if changes:
        more = f"; and {len(changes) - _SHOWN} more" if len(changes) > _SHOWN else ""
        raise ValueError(
            f"--out {folder.location}: holds other results: {'; '.join(changes[:_SHOWN])}{more}. "
            f"{REMEDY.capitalize()}"
        )


def _flat(content: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    """Values by dotted key, of one level of nesting."""
    for key, value in content.items():
        if isinstance(value, dict):
            yield from ((f"{key}.{inner}", part) for inner, part in value.items())
        else:
            yield key, value
