"""An evaluation's numbers as plain values and as a table."""

import math
from collections.abc import Sequence
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from pixelcontrast.evaluation.boundary import BoundaryIoU
from pixelcontrast.evaluation.confusion import ConfusionMatrix

CONVENTIONS = {
    "iou": "from the counts of all images; pixels that the truth ignores are left out",
    "miou": "mean over the classes that occur or are predicted",
    "mean_accuracy": "mean over the classes that occur",
    "boundary_iou": "class by class, counts of all images; the mean as that of miou",
}
"""What the means are taken over: tools differ."""


def summarize(names: Sequence[str], confusion: ConfusionMatrix, boundary: BoundaryIoU) -> dict[str, Any]:
    """All scores as plain JSON values, shares of 1; None where a class has none.

    Args:
        names: of the K classes.
        confusion: of all images.
        boundary: likewise.
    """
    scores, outlines = confusion.scores(), boundary.iou()
    pixels = confusion.matrix.sum(dim=1).tolist()
    values = zip(names, scores.iou, scores.accuracy, outlines, pixels, strict=True)
    seen = [value for value in outlines if not math.isnan(value)]
    return {
        "miou": _number(scores.miou),
        "frequency_weighted_iou": _number(scores.frequency_weighted_iou),
        "pixel_accuracy": _number(scores.pixel_accuracy),
        "mean_accuracy": _number(scores.mean_accuracy),
        "boundary_iou": sum(seen) / len(seen) if seen else None,
        "boundary_ratio": boundary.ratio,
        "classes": {
            name: {
                "iou": _number(iou),
                "accuracy": _number(accuracy),
                "boundary_iou": _number(outline),
                "pixels": count,
            }
            for name, iou, accuracy, outline, count in values
        },
        "conventions": CONVENTIONS,
    }


def confusion_table(names: Sequence[str], confusion: ConfusionMatrix) -> bytes:
    """A parquet file: ``true`` and ``predicted`` class, and ``pixels``, a row for each pair of classes."""
    num_classes = len(names)
    table = pa.table(
        {
            "true": [name for name in names for _ in range(num_classes)],
            "predicted": list(names) * num_classes,
            "pixels": confusion.matrix.flatten().tolist(),
        }
    )
    sink = pa.BufferOutputStream()
    pq.write_table(table, sink)
    return sink.getvalue().to_pybytes()


def _number(value: float) -> float | None:
    """JSON has no NaN."""
    return None if math.isnan(value) else value
