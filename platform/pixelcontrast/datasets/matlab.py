"""Label maps in MATLAB files (version 5), as PASCAL-Context and COCO-Stuff 10k were released."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from pixelcontrast.datasets.files import MAX_PIXELS, FileError

_REMEDY = "copy or download the file again"


def read_variable(path: Path, name: str) -> np.ndarray:
    """Read a matrix of ids.

    Returns:
        uint8 or uint16 [H, W].

    Raises:
        FileError: the file cannot be read or is truncated, has no such variable, or that is no matrix of
            whole numbers from 0 to 65,535 with at most ``MAX_PIXELS``.
    """
    from scipy.io import loadmat

    shapes = variable_shapes(path)
    if name not in shapes:
        raise FileError(f"{path}: no variable {name}; it has {', '.join(shapes) or 'none'}", remedy=_REMEDY)
    shape = shapes[name]
    if len(shape) != 2 or shape[0] * shape[1] > MAX_PIXELS:
        size = "×".join(map(str, shape))
        raise FileError(
            f"{path}: {name} is {size}; allowed are matrices of at most {MAX_PIXELS:,} values", remedy=_REMEDY
        )
    ids = _read(path, lambda: loadmat(path, variable_names=[name])[name])
    return _narrowed(ids, f"{path}: {name}")


def variable_shapes(path: Path) -> dict[str, tuple[int, ...]]:
    """Name → shape of the variables in a file; raises ``FileError`` where it cannot be read."""
    from scipy.io import whosmat

    return {name: shape for name, shape, _ in _read(path, lambda: whosmat(path))}


def _read(path: Path, read: Callable[[], Any]) -> Any:
    try:
        return read()
    except Exception as error:  # scipy raises many types on damaged files, and none of them names the file.
        raise FileError(f"{path}: cannot be read as a MATLAB file: {error}", remedy=_REMEDY) from error


def _narrowed(ids: np.ndarray, what: str) -> np.ndarray:
    if ids.dtype in (np.uint8, np.uint16):
        return np.asarray(ids)
    whole = ids.dtype.kind in "iu" or (ids.dtype.kind == "f" and bool((ids == np.floor(ids)).all()))
    if not whole or ids.min(initial=0) < 0 or ids.max(initial=0) > 65_535:
        raise FileError(
            f"{what} has values of type {ids.dtype} that are no ids; allowed are whole numbers 0 to 65535",
            remedy=_REMEDY,
        )
    return ids.astype(np.uint16)
