"""PASCAL-Context (Mottaghi et al., CVPR 2014): VOC2010's images, 59 classes and background.

Three layouts are read, the first that is there:

- the reference's PNGs: ``{train,val}/{image,label}``,
- the official release: ``trainval/<id>.mat`` (key ``LabelMap``, 459 ids) beside or in ``VOC2010``,
- mmsegmentation's PNGs: ``VOC2010/SegmentationClassContext/<id>.png``, 0 for background.

The root is ``VOC2010``, or a folder with ``VOC2010`` or ``VOCdevkit/VOC2010`` in it. Splits of the latter two
are the first that is there: ``ImageSets/SegmentationContext/{train,val}.txt`` (mmsegmentation),
``trainval_merged.json`` (Detail: 4,996 and 5,104 images), ``ImageSets/Main/{train,val}.txt`` (official: 4,998
and 5,105).

Two class orders circulate: VOC's, as in the official ``59_labels.txt`` and FCN, and the alphabetical, by the
459 ids, of mmsegmentation, Detail, HRNet and the method's reference. A ``.mat`` names its classes, and a PNG
does not: see ``class_order``.
"""

from functools import partial
from pathlib import Path
from typing import Literal

from pixelcontrast.config import ClassOrder
from pixelcontrast.datasets.detail import detail_split
from pixelcontrast.datasets.files import IMAGE_ENDINGS, FileError
from pixelcontrast.datasets.labels import IGNORE_INDEX, LabelSpace, voc_color
from pixelcontrast.datasets.listing import (
    SEE_TREES,
    Listing,
    Pairing,
    Split,
    list_files,
    pair_folders,
    pair_listed,
    read_list,
)
from pixelcontrast.datasets.matlab import read_variable
from pixelcontrast.datasets.pascal_order import class_order

_TABLE = """
2 aeroplane; 23 bicycle; 25 bird; 31 boat; 34 bottle; 45 bus; 59 car; 65 cat; 72 chair; 98 cow;
397 diningtable; 113 dog; 207 horse; 258 motorbike; 284 person; 308 pottedplant; 347 sheep; 368 sofa;
416 train; 427 tvmonitor; 9 bag; 18 bed; 22 bench; 33 book; 44 building; 46 cabinet; 68 ceiling; 80 clothes;
85 computer; 104 cup; 115 door; 144 fence; 158 floor; 159 flower; 162 food; 187 grass; 189 ground;
220 keyboard; 232 light; 259 mountain; 260 mouse; 105 curtain; 296 platform; 355 sign; 295 plate; 324 road;
326 rock; 349 shelves; 354 sidewalk; 360 sky; 366 snow; 19 bedcloth; 415 track; 420 tree; 424 truck;
440 wall; 445 water; 454 window; 458 wood
"""
"""Id in the 459 and name of each class, in VOC order.

Source: ``59_labels.txt`` and ``labels.txt`` of the release, as in shelhamer/fcn.berkeleyvision.org
data/pascal-context (BSD-2), checked against open-mmlab/mmsegmentation (Apache-2.0).
"""

_ROWS = (row.strip().split(" ", 1) for row in _TABLE.split(";"))
_CLASSES = tuple((int(raw_id), name) for raw_id, name in _ROWS)
_NUM_RAW = 459
_EXPECTED = (
    "VOC2010/JPEGImages with trainval/<id>.mat or VOC2010/SegmentationClassContext/<id>.png, "
    "or {train,val}/{image,label}"
)


def label_space(order: ClassOrder, *, background: bool, num_raw: Literal[60, 459]) -> LabelSpace:
    """The classes in an order, for label files of 459 ids (``.mat``) or of 60 (PNG, numbered in that order).

    Args:
        order: of the classes.
        background: whether it is class 0, of 60, or ignored, of 59. In 459 ids background is whatever is none
            of the 59, and 0, should a pixel have it.
        num_raw: how many ids the label files have.
    """
    number = {name: place for place, (_, name) in enumerate(_CLASSES, start=1)}
    classes = _CLASSES if order == "voc" else tuple(sorted(_CLASSES))
    names, first = tuple(name for _, name in classes), 1 if background else 0
    raw_ids = range(1, 60) if num_raw == 60 else [raw_id for raw_id, _ in classes]
    others = dict.fromkeys(range(60 if num_raw == 60 else _NUM_RAW + 1), 0 if background else IGNORE_INDEX)
    colors = tuple(voc_color(number[name]) for name in names)
    return LabelSpace(
        names=("background", *names) if background else names,
        colors=(voc_color(0), *colors) if background else colors,
        train_ids=others | {raw_id: first + place for place, raw_id in enumerate(raw_ids)},
    )


def listing(root: Path, split: Split, *, order: ClassOrder | None, background: bool) -> Listing:
    """The pairs of a split.

    Args:
        root: see above.
        split: train or val.
        order: of the classes. None: alphabetical with ``.mat`` files, and with PNGs as VOC's own labels tell.
        background: whether it is a class.

    Raises:
        ValueError: a folder or a list is missing, or PNGs whose class order is unknown or another than
            ``order``.
    """
    if not root.is_dir():
        raise ValueError(f"{root}: no such folder; expected is {_EXPECTED}")
    if (root / split / "image").is_dir():
        return _reference(root, split, order, background)
    candidates = [root / "VOCdevkit" / "VOC2010", root / "VOC2010", root]
    base = next((place for place in candidates if (place / "JPEGImages").is_dir()), root)
    images = list_files(base / "JPEGImages", IMAGE_ENDINGS, expected=_EXPECTED)
    names, source = _split_names(base, root, split)
    mats = [place / "trainval" for place in (base, root) if (place / "trainval").is_dir()]
    if mats:
        labels = list_files(mats[0], (".mat",), expected=_EXPECTED)
        found = pair_listed(names, images, labels, source=source, label_of=lambda key: mats[0] / f"{key}.mat")
        return _mat_listing(found, order or "alphabetical", background)
    folder = base / "SegmentationClassContext"
    labels = list_files(folder, (".png",), expected=_EXPECTED)
    found = pair_listed(names, images, labels, source=source, label_of=lambda key: folder / f"{key}.png")
    return _png_listing(found, class_order(labels, base / "SegmentationClass", order, folder), background)


def _reference(root: Path, split: Split, order: ClassOrder | None, background: bool) -> Listing:
    """PNGs as the method's reference has them; mmsegmentation's fit as well."""
    folder = root / split / "label"
    found = pair_folders(root / split / "image", folder, expected=_EXPECTED)
    labels = {pair.label.stem: pair.label for pair in found.pairs}
    return _png_listing(found, class_order(labels, root / "SegmentationClass", order, folder), background)


def _mat_listing(found: Pairing, order: ClassOrder, background: bool) -> Listing:
    return Listing(
        found=found,
        labels=label_space(order, background=background, num_raw=459),
        layout=_EXPECTED,
        read_label=partial(read_variable, name="LabelMap"),
        settings=order,
    )


def _png_listing(found: Pairing, order: ClassOrder, background: bool) -> Listing:
    labels = label_space(order, background=background, num_raw=60)
    return Listing(found=found, labels=labels, layout=_EXPECTED, settings=order)


def _split_names(base: Path, root: Path, split: Split) -> tuple[tuple[str, ...], Path]:
    """The image names of a split, and the file that has them."""
    lists = base / "ImageSets"
    ours, official = (lists / kind / f"{split}.txt" for kind in ("SegmentationContext", "Main"))
    if ours.is_file():
        return read_list(ours), ours
    for place in (base, root):
        if (place / "trainval_merged.json").is_file():
            return detail_split(place / "trainval_merged.json", split), place / "trainval_merged.json"
    if official.is_file():
        return read_list(official), official
    raise FileError(
        f"{base}: no split lists; allowed are ImageSets/SegmentationContext/{split}.txt, "
        f"trainval_merged.json and ImageSets/Main/{split}.txt",
        remedy=SEE_TREES,
    )
