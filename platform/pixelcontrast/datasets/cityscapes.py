"""Cityscapes (Cordts et al., CVPR 2016): fine annotations, 19 classes. https://www.cityscapes-dataset.com"""

from pathlib import Path

from pixelcontrast.datasets.labels import IGNORE_INDEX, LabelSpace
from pixelcontrast.datasets.listing import Listing, Split, pair_folders

_IMAGE = "_leftImg8bit.png"
_LABEL = "_gtFine_labelIds.png"

_CLASSES = (
    (7, "road", (128, 64, 128)),
    (8, "sidewalk", (244, 35, 232)),
    (11, "building", (70, 70, 70)),
    (12, "wall", (102, 102, 156)),
    (13, "fence", (190, 153, 153)),
    (17, "pole", (153, 153, 153)),
    (19, "traffic light", (250, 170, 30)),
    (20, "traffic sign", (220, 220, 0)),
    (21, "vegetation", (107, 142, 35)),
    (22, "terrain", (152, 251, 152)),
    (23, "sky", (70, 130, 180)),
    (24, "person", (220, 20, 60)),
    (25, "rider", (255, 0, 0)),
    (26, "car", (0, 0, 142)),
    (27, "truck", (0, 0, 70)),
    (28, "bus", (0, 60, 100)),
    (31, "train", (0, 80, 100)),
    (32, "motorcycle", (0, 0, 230)),
    (33, "bicycle", (119, 11, 32)),
)
"""Raw id, name and colour in the order of the train ids, as in ``cityscapesscripts.helpers.labels``."""

LABELS = LabelSpace(
    names=tuple(name for _, name, _ in _CLASSES),
    colors=tuple(color for _, _, color in _CLASSES),
    # 255 is the licence plate's −1 as an unsigned byte stores it.
    train_ids=dict.fromkeys((*range(34), 255), IGNORE_INDEX)
    | {raw_id: train_id for train_id, (raw_id, _, _) in enumerate(_CLASSES)},
)


def listing(root: Path, split: Split) -> Listing:
    """The images and ``labelIds`` files of a split; raises ``ValueError`` where a folder is missing."""
    expected = f"leftImg8bit/{split}/<city>/<name>{_IMAGE} with gtFine/{split}/<city>/<name>{_LABEL}"
    if not root.is_dir():
        raise ValueError(f"{root}: no such folder; expected is {expected}")
    found = pair_folders(
        root / "leftImg8bit" / split,
        root / "gtFine" / split,
        expected=expected,
        image_endings=(_IMAGE,),
        label_ending=_LABEL,
    )
    return Listing(found=found, labels=LABELS, layout=expected)
