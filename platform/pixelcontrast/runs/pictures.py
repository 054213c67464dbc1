"""Pictures of a trained network in a folder beside its report, with the words that go with them."""

import json
from collections.abc import Sequence
from typing import NamedTuple

from pixelcontrast.storage import Storage

FOLDER = "pictures"
"""Where a run's pictures lie in its folder."""
_CONTENTS = "pictures.json"


class Picture(NamedTuple):
    """A PNG file, as a report shows it."""

    file: str
    """Its name in the folder."""
    title: str
    words: str
    """What is to be seen."""


def write_pictures(folder: Storage, pictures: Sequence[tuple[Picture, bytes]]) -> None:
    """Write PNG files, then ``pictures.json``, which lists them in order; those of an earlier list go."""
    before = {picture.file for picture in read_pictures(folder)}
    for picture, png in pictures:
        folder.write(picture.file, png)
    listed = [picture._asdict() for picture, _ in pictures]
    folder.write(_CONTENTS, json.dumps(listed, indent=2, ensure_ascii=False).encode())
    for file in before - {picture.file for picture, _ in pictures}:
        folder.delete(file)


def read_pictures(folder: Storage) -> list[Picture]:
    """What a folder's ``pictures.json`` lists and is there; nothing where there is no list.

    Raises:
        ValueError: the list is damaged.
    """
    if not folder.exists(_CONTENTS):
        return []
    try:
        listed = [Picture(**entry) for entry in json.loads(folder.read(_CONTENTS))]
        if any("/" in picture.file for picture in listed):
            raise ValueError("a file is not in the folder")
    except (ValueError, TypeError) as error:
        raise ValueError(
            f"{folder.path(_CONTENTS)}: damaged; rerun `pixelcontrast inspect`, or delete the folder"
        ) from error
    there = set(folder.names())
    return [picture for picture in listed if picture.file in there]
