"""The names and colours of a trained network's classes, also where its data set is not at hand."""

from collections.abc import Mapping, Sequence

from pixelcontrast.config import Data
from pixelcontrast.datasets.labels import LabelSpace, voc_color
from pixelcontrast.datasets.segmentation import list_split, published_labels
from pixelcontrast.inference.metadata import Color


def classes_of(
    data: Data, recorded: Sequence[str] | None, recorded_colors: Mapping[str, Color], num_classes: int
) -> tuple[tuple[str, ...], tuple[Color, ...]]:
    """Names and RGB colours by class number.

    Args:
        data: the data set that the network was trained on.
        recorded: the names that its run recorded, which are the truth where they are there; else those of the
            data set, or of its layout if the folder is not there.
        recorded_colors: those of its classes by name, which go before those of the data set likewise.
        num_classes: that the network tells apart.
    """
    if recorded is not None and all(name in recorded_colors for name in recorded):
        # The data are not asked: a store that cannot be reached answers after minutes.
        return tuple(recorded), tuple(recorded_colors[name] for name in recorded)
    labels = _labels(data)
    if recorded is not None:
        names = tuple(recorded)
    elif labels is not None and labels.num_classes == num_classes:
        names = labels.names
    else:
        names = tuple(f"class {number}" for number in range(num_classes))
    colors = dict(zip(labels.names, labels.colors, strict=True)) if labels is not None else {}
    colors |= recorded_colors
    # VOC's first colour is black.
    return names, tuple(colors.get(name, voc_color(1 + number)) for number, name in enumerate(names))


def check_classes(ours: tuple[str, ...], theirs: tuple[str, ...], data: Data) -> None:
    """Raise ``ValueError`` unless the data set's classes are the network's, in the same order."""
    if ours == theirs:
        return
    if len(ours) != len(theirs):
        difference = f"it has {len(theirs)} classes, and the network {len(ours)}"
    else:
        place = next(place for place, pair in enumerate(zip(ours, theirs, strict=True)) if pair[0] != pair[1])
        difference = f"its class {place} is {theirs[place]}, and the network's {ours[place]}"
    raise ValueError(
        f"data.layout {data.layout} in {data.root}: {difference}; allowed is a data set with the network's "
        "classes in the same order"
    )


def _labels(data: Data) -> LabelSpace | None:
    try:
        return list_split(data, "val").labels
    except (ValueError, OSError):  # the run may have been trained on another machine
        return published_labels(data)
