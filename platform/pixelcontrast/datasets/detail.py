"""The split of PASCAL-Context in the Detail file, ``trainval_merged.json`` (https://github.com/zhanghang1989/detail-api).

The file has hundreds of megabytes of annotations; only its list of images is decoded.
"""

import json
import mmap
from pathlib import Path
from typing import Any

from pixelcontrast.datasets.files import FileError
from pixelcontrast.datasets.listing import Split

_KEY = b'"images"'
_FIRST_READ = 1 << 22
"""Bytes of the list to decode at first; it has about 2 MB."""


def detail_split(path: Path, split: Split) -> tuple[str, ...]:
    """The names, without ending, of a split's images in the file's order.

    Raises:
        ValueError: the file cannot be read, or has no list of images with ``file_name`` and ``phase``.
    """
    try:
        images = _images(path)
        return tuple(Path(image["file_name"]).stem for image in images if image["phase"] == split)
    except (OSError, ValueError, LookupError, TypeError) as error:
        raise FileError(
            f'{path}: cannot be read as Detail\'s file: {error!r}; expected is a list "images" of entries '
            "with file_name and phase",
            remedy="copy or download the file again",
        ) from error


def _images(path: Path) -> list[dict[str, Any]]:
    """The list below the key ``images``, wherever in the file it is."""
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content:
        place = content.find(_KEY)
        while place >= 0:
            start = content.find(b"[", place, place + len(_KEY) + 16)
            found = _list_at(content, start) if start >= 0 else None
            if found and isinstance(found[0], dict) and "phase" in found[0]:
                return found
            place = content.find(_KEY, place + 1)
    raise ValueError("no list of images")


def _list_at(content: mmap.mmap, start: int) -> list[Any] | None:
    size = _FIRST_READ
    while True:
        # A character that the cut splits can only be behind the list.
        text = content[start : start + size].decode("utf-8", errors="ignore")
        try:
            return json.JSONDecoder().raw_decode(text)[0]
        except ValueError:
            if start + size >= len(content):
                return None
            size *= 8
