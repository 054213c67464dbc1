"""CamVid (Brostow et al., 2009), 11 classes and void: SegNet's release, and full-size with colour labels.

- SegNet's: ``{train,val}/<name>.png`` with ``{train,val}annot/<name>.png``, 480×360, ids 0 to 11.
- Full-size: 701 pairs of 960×720, ``701_StillsRaw_full/<name>.png`` with
  ``LabeledApproved_full/<name>_L.png``, or ``{train,val}`` with ``{train,val}_labels``. The 32 colours are
  grouped to the same 11 classes. The first layout has no splits: SegNet's, 367 and 101 images, are told by
  the names.
"""

from pathlib import Path

from pixelcontrast.datasets.files import ColorLabels
from pixelcontrast.datasets.labels import IGNORE_INDEX, Color, LabelSpace
from pixelcontrast.datasets.listing import Listing, Split, list_files, pair_all, pair_folders

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


_FULL_CLASSES: tuple[tuple[str, Color, int], ...] = (
    ("Animal", (64, 128, 64), 9),
    ("Archway", (192, 0, 128), 1),
    ("Bicyclist", (0, 128, 192), 10),
    ("Bridge", (0, 128, 64), 1),
    ("Building", (128, 0, 0), 1),
    ("Car", (64, 0, 128), 8),
    ("CartLuggagePram", (64, 0, 192), 9),
    ("Child", (192, 128, 64), 9),
    ("Column_Pole", (192, 192, 128), 2),
    ("Fence", (64, 64, 128), 7),
    ("LaneMkgsDriv", (128, 0, 192), 3),
    ("LaneMkgsNonDriv", (192, 0, 64), 3),
    ("Misc_Text", (128, 128, 64), 6),
    ("MotorcycleScooter", (192, 0, 192), 10),
    ("OtherMoving", (128, 64, 64), 8),
    ("ParkingBlock", (64, 192, 128), 4),
    ("Pedestrian", (64, 64, 0), 9),
    ("Road", (128, 64, 128), 3),
    ("RoadShoulder", (128, 128, 192), 4),
    ("Sidewalk", (0, 0, 192), 4),
    ("SignSymbol", (192, 128, 128), 6),
    ("Sky", (128, 128, 128), 0),
    ("SUVPickupTruck", (64, 128, 192), 8),
    ("TrafficCone", (0, 0, 64), 2),
    ("TrafficLight", (0, 64, 64), 6),
    ("Train", (192, 64, 128), 8),
    ("Tree", (128, 128, 0), 5),
    ("Truck_Bus", (192, 128, 192), 8),
    ("Tunnel", (64, 0, 64), 1),
    ("VegetationMisc", (192, 192, 0), 5),
    ("Void", (0, 0, 0), 255),
    ("Wall", (64, 192, 0), 1),
)
"""Name, colour and train id of the 32 classes of the full-size release.

Source: the colours of ``label_colors.txt`` (Cambridge MIL; no licence stated, data for research use); the
grouping is SegNet's as MathWorks lists it (``camvidPixelLabelIDs``). Networks trained on the 11 exact colours
alone, as PIDNet's and BiSeNet's, ignore the 21 others instead.
"""

FULL_LABELS = LabelSpace(
    names=LABELS.names,
    colors=LABELS.colors,
    train_ids={place: train_id for place, (_, _, train_id) in enumerate(_FULL_CLASSES)},
)
_FULL_EXPECTED = (
    "701_StillsRaw_full/<name>.png with LabeledApproved_full/<name>_L.png, or {split} with {split}_labels"
)
_VAL_FRAMES = range(7959, 8160)
"""SegNet's validation images: these frames of the sequence 0016E5."""
_LAST_TRAIN_FRAME = 8520
"""Last training frame of the sequence 0001TP; SegNet tests on the later ones and on the sequence Seq05VD."""


def listing(root: Path, split: Split) -> Listing:
    """The pairs of a split of SegNet's release; raises ``ValueError`` where a folder is missing."""
    expected = f"{split}/<name>.png with {split}annot/<name>.png"
    if not root.is_dir():
        raise ValueError(f"{root}: no such folder; expected is {expected}")
    found = pair_folders(root / split, root / f"{split}annot", expected=expected, image_endings=(".png",))
    return Listing(found=found, labels=LABELS, layout=expected)


def full_listing(root: Path, split: Split) -> Listing:
    """The pairs of a split of the full-size release; raises ``ValueError`` where a folder is missing."""
    expected = _FULL_EXPECTED.replace("{split}", split)
    image_folder, label_folder = root / "701_StillsRaw_full", root / "LabeledApproved_full"
    if (root / split).is_dir():
        image_folder, label_folder = root / split, root / f"{split}_labels"
    images = list_files(image_folder, (".png",), expected=expected)
    labels = list_files(label_folder, ("_L.png", ".png"), expected=expected)
    if image_folder != root / split:
        images = {key: path for key, path in images.items() if _split_of(key) == split}
        labels = {key: path for key, path in labels.items() if _split_of(key) == split}
    found = pair_all(
        images,
        labels,
        folder=image_folder,
        label_of=lambda key: label_folder / f"{key}_L.png",
        expected=expected,
    )
    reader = ColorLabels(tuple(color for _, color, _ in _FULL_CLASSES))
    return Listing(found=found, labels=FULL_LABELS, layout=expected, read_label=reader)


def _split_of(name: str) -> str:
    """SegNet's split of an image."""
    sequence, _, text = name.partition("_")
    frame = int(text) if text.isdecimal() else 0
    if sequence == "0016E5":
        return "val" if frame in _VAL_FRAMES else "train"
    if sequence == "0001TP":
        return "train" if frame <= _LAST_TRAIN_FRAME else "test"
    return "train" if sequence == "0006R0" else "test"
