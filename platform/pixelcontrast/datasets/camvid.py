"""CamVid (Brostow et al., 2009) as released with SegNet: 480×360, 11 classes and void."""

from pathlib import Path
from typing import Literal

from pixelcontrast.datasets.files import Pair, find_pairs
from pixelcontrast.datasets.labels import IGNORE_INDEX, LabelSpace

_CLASSES = (
    ("sky", (128, 128, 128)),
    ("building", (128, 0, 0)),
    ("pole", (192, 192, 128)),
    ("road", (128, 64, 128)),
    ("pavement", (60, 40, 222)),
    ("tree", (128, 128, 0)),
    ("sign", (192, 128, 128)),
    ("fence", (64, 64, 128)),
    ("car", (64, 0, 128)),
    ("pedestrian", (64, 64, 0)),
    ("bicyclist", (0, 128, 192)),
)
"""Name and colour of each class; raw and train ids are the same, and 11 is void."""

LABELS = LabelSpace(
    names=tuple(name for name, _ in _CLASSES),
    colors=tuple(color for _, color in _CLASSES),
    train_ids={**{class_id: class_id for class_id in range(11)}, 11: IGNORE_INDEX},
)


def pairs(root: Path, split: Literal["train", "val"]) -> tuple[Pair, ...]:
    """The images and labels of a split, sorted by name; errors as ``find_pairs``."""
    return find_pairs(
        root,
        images=f"{split}/*.png",
        labels=f"{split}annot/*.png",
        label_of=lambda image: Path(f"{split}annot", image.name),
        layout=f"{split}/<name>.png with {split}annot/<name>.png",
    )
