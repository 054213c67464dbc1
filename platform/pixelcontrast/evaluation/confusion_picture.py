"""A picture of a confusion matrix: which classes the pixels of each class are taken for."""

from collections.abc import Sequence
from io import BytesIO

import numpy as np
from numpy.typing import ArrayLike, NDArray

from pixelcontrast.evaluation.matrix_picture import Scale, matrix_picture

_BLUES = np.array(
    [
        (255, 255, 255),
        (222, 235, 247),
        (198, 219, 239),
        (158, 202, 225),
        (107, 174, 214),
        (66, 146, 198),
        (33, 113, 181),
        (8, 81, 156),
        (8, 48, 107),
    ],
    np.float64,
)
"""ColorBrewer's Blues from white on: evenly darker, also in print and for the colour-blind."""
_SCALE = Scale(
    colors=_BLUES,
    low=0,
    high=1,
    write=lambda share: f"{100 * share:.0f}" if share >= 0.01 else "",
    ticks=((0, "0%"), (0.5, "50%"), (1, "100%")),
    meaning="of a true class's pixels",
    empty="no pixels of this class",
)


def confusion_picture(pixels: ArrayLike, names: Sequence[str], *, title: str = "") -> bytes:
    """Draw each class's pixels as shares of its row, from white (0 %) to dark blue (100 %).

    Shares stand in the cells in percent, from 1 % on, where they fit: with up to 41 classes. The row of a
    class that has no pixels is grey.

    Args:
        pixels: counts [K, K], rows the truth, columns the prediction.
        names: of the K classes.
        title: a line of text above.

    Returns:
        A PNG file's bytes.

    Raises:
        ValueError: the counts are not K × K for K ≥ 1 names.
    """
    counts = np.asarray(pixels, np.float64)
    if not names or counts.shape != (len(names), len(names)):
        raise ValueError(f"pixels {list(counts.shape)} are not one row and column for {len(names)} names")
    axes = "true class", "predicted class"
    file = BytesIO()
    matrix_picture(_shares(counts), names, scale=_SCALE, title=title, axes=axes).save(
        file, "PNG", optimize=True
    )
    return file.getvalue()


def _shares(counts: NDArray[np.float64]) -> NDArray[np.float64]:
    """Shares of each row; nan in the rows of classes without pixels."""
    totals = counts.sum(axis=1, keepdims=True)
    return np.divide(counts, totals, out=np.full_like(counts, np.nan), where=totals > 0)
