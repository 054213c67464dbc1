"""Prediction files as a data set's own tools and servers read them."""

from collections.abc import Sequence
from io import BytesIO

import numpy as np
from numpy.typing import ArrayLike
from PIL import Image


def result_file(classes: ArrayLike, ids: Sequence[int]) -> bytes:
    """A prediction as an 8-bit grey PNG of the data set's own ids, at the image's size.

    Args:
        classes: integers [H, W], 0 … K−1.
        ids: the data set's id of each class, 0 … 255.
    """
    table = np.asarray(ids, np.uint8)
    file = BytesIO()
    Image.fromarray(table[np.asarray(classes)]).save(file, "PNG")
    return file.getvalue()
