"""Generated street scenes in the layout of Cityscapes: a data set for demos and tests, without a download.

    streets.write("data/streets", num_train=160, num_val=40)

The folder is read like the real data set (`datasets.cityscapes`). `render` returns a single scene.
"""

import json
import os
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from PIL import Image

from pixelcontrast.scenes.scene import SMALLEST, render

__all__ = ["render", "write"]

_VERSION = 1
"""Raised whenever the same seed gives other pixels, so that a folder never mixes two generators' scenes."""

_MARK = "streets.json"
_UNFINISHED = "streets.unfinished.json"
_CITIES = {"train": ("altenau", "birkheim", "carlshof", "dornfeld"), "val": ("eschbach", "falkenau")}
_FRAME = 19  # of the 30 frames of a sequence, Cityscapes labels the twentieth
_FIRST_VAL = 1 << 20  # the scenes from here on are validation: what they show does not depend on num_train


def write(
    root: str | Path, *, num_train: int, num_val: int, size: tuple[int, int] = (256, 512), seed: int = 0
) -> None:
    """Write scenes to `leftImg8bit/{train,val}/<city>/`, their raw label ids likewise to `gtFine/`.

    The same arguments give the same pixels. A folder that already holds these scenes is left unchanged; an
    interrupted write is resumed. Training and validation scenes are disjoint.

    Args:
        root: the folder, created if missing.
        num_train: scenes of the training split, 1 to 1,048,576.
        num_val: scenes of the validation split, 1 or more.
        size: height and width in pixels.
        seed: which world to draw from, 0 or more.

    Raises:
        ValueError: an argument is out of its range, or the folder holds scenes of other arguments or
            anything that this function did not write.
    """
    root = Path(root)
    wanted = {
        "num_train": num_train,
        "num_val": num_val,
        "size": list(size),
        "seed": seed,
        "version": _VERSION,
    }
    _check_arguments(num_train, num_val, size, seed)
    if _finished(root, wanted):
        return
    root.mkdir(parents=True, exist_ok=True)
    _write_json(root / _UNFINISHED, wanted)
    for index, image_path, label_path in _scenes(root, num_train, num_val):
        if image_path.exists() and label_path.exists():
            continue
        image, label = render(seed, index, size)
        _write_png(image_path, image)
        _write_png(label_path, label)
    _write_json(root / _MARK, wanted)
    (root / _UNFINISHED).unlink(missing_ok=True)


def _check_arguments(num_train: int, num_val: int, size: tuple[int, int], seed: int) -> None:
    if not 1 <= num_train <= _FIRST_VAL:
        raise ValueError(f"num_train must be 1 to {_FIRST_VAL}, not {num_train}")
    if num_val < 1:
        raise ValueError(f"num_val must be 1 or more, not {num_val}")
    if min(size) < SMALLEST:
        raise ValueError(f"size (height, width) must be at least {SMALLEST} pixels each, not {tuple(size)}")
    if seed < 0:
        raise ValueError(f"seed must be 0 or more, not {seed}")


def _finished(root: Path, wanted: dict[str, object]) -> bool:
    """Whether `root` holds all wanted scenes; raises ``ValueError`` if it holds other pictures."""
    for mark in (root / _MARK, root / _UNFINISHED):
        if mark.is_file():
            _refuse_others(root, _read_json(mark), wanted)
            return mark.name == _MARK
    if root.exists() and any(root.iterdir()):
        raise ValueError(
            f"{root}: is not empty, and was not written by the street generator (no {_MARK}); name a new or "
            "an empty folder for its scenes"
        )
    return False


def _refuse_others(root: Path, found: dict[str, object], wanted: dict[str, object]) -> None:
    for name, value in wanted.items():
        if found.get(name) != value:
            raise ValueError(
                f"{root}: holds scenes with {name} {found.get(name)}, not {name} {value} as asked for; "
                "delete the folder, choose another one, or ask for what it holds"
            )


def _scenes(root: Path, num_train: int, num_val: int) -> Iterator[tuple[int, Path, Path]]:
    """Index, image and label file of every scene; neighbours lie in different cities."""
    for split, first, count in (("train", 0, num_train), ("val", _FIRST_VAL, num_val)):
        cities = _CITIES[split]
        for number in range(count):
            city = cities[number % len(cities)]
            name = f"{city}_{number // len(cities):06d}_{_FRAME:06d}"
            yield (
                first + number,
                root / "leftImg8bit" / split / city / f"{name}_leftImg8bit.png",
                root / "gtFine" / split / city / f"{name}_gtFine_labelIds.png",
            )


def _write_png(path: Path, pixels: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    # Level 1: noise compresses badly at any level, and the others take several times as long.
    temporary = _temporary(path)
    Image.fromarray(pixels).save(temporary, format="PNG", compress_level=1)
    temporary.replace(path)


def _write_json(path: Path, content: dict[str, object]) -> None:
    temporary = _temporary(path)
    temporary.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
    temporary.replace(path)


def _read_json(path: Path) -> dict[str, object]:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"{path}: damaged ({error}); delete the folder {path.parent}") from error


def _temporary(path: Path) -> Path:
    """A file beside `path`, so that renaming is atomic; named by process, so that writers never share it."""
    return path.with_name(f".{path.name}.{os.getpid()}.tmp")
