"""In which order the classes of PASCAL-Context's PNG files are numbered: told by the user, or by VOC's
labels.

VOC2010 itself labels 20 of the 59 classes in ``SegmentationClass/<id>.png``, as 1 to 20. Where an image has
both labels, most pixels of its VOC classes have the same class in PASCAL-Context, so that the numbers there
tell the order.
"""

from collections.abc import Mapping
from pathlib import Path

import numpy as np

from pixelcontrast.config import ClassOrder
from pixelcontrast.datasets.files import read_label

_ALPHABETICAL = np.array([0, 1, 6, 7, 8, 10, 12, 14, 15, 17, 20, 50, 23, 31, 34, 37, 40, 43, 49, 52, 55])
"""The alphabetical number of each of VOC's classes 0 to 20."""
_LOOKED_AT = 16
_AGREE, _DISAGREE = 0.6, 0.2
"""Shares of VOC's pixels: above the first in one order and below the second in the other, the order is
clear."""


def class_order(
    labels: Mapping[str, Path], voc_labels: Path, chosen: ClassOrder | None, folder: Path
) -> ClassOrder:
    """The order of the classes in PNG label files.

    Args:
        labels: key → label file.
        voc_labels: VOC's folder ``SegmentationClass``, which need not be there.
        chosen: what the user says; None: what the files tell.
        folder: where the labels are, for the errors.

    Raises:
        ValueError: the user says nothing and the files do not tell, or they tell another order.
    """
    told = _told_by_voc(labels, voc_labels)
    if chosen is None and told is None:
        raise ValueError(
            f"data.class_order: not set, and the files in {folder} do not tell how they number the classes; "
            "allowed are alphabetical (files made by mmsegmentation, or from Detail's train.pth and val.pth "
            "as the method's reference does) and voc (the order of the official 59_labels.txt)"
        )
    if chosen is not None and told is not None and chosen != told:
        raise ValueError(
            f"data.class_order: {chosen}, but the files in {folder} number the classes in the order {told}, "
            f"as {voc_labels} shows"
        )
    order = chosen or told
    assert order is not None
    return order


def _told_by_voc(labels: Mapping[str, Path], voc_labels: Path) -> ClassOrder | None:
    """The order that VOC's labels of the same images agree with, if they clearly do with one."""
    shared = [key for key in sorted(labels) if (voc_labels / f"{key}.png").is_file()][:_LOOKED_AT]
    pixels, hits = 0, {"voc": 0, "alphabetical": 0}
    for key in shared:
        voc, context = read_label(voc_labels / f"{key}.png"), read_label(labels[key])
        # Aeroplane, 1, has the same number in both orders; VOC's 255 is the border of objects.
        told = (voc >= 2) & (voc <= 20)
        if voc.shape != context.shape:
            continue
        pixels += int(told.sum())
        hits["voc"] += int((context[told] == voc[told]).sum())
        hits["alphabetical"] += int((context[told] == _ALPHABETICAL[voc[told]]).sum())
    voc_share, alphabetical_share = (hits[order] / max(pixels, 1) for order in ("voc", "alphabetical"))
    if voc_share > _AGREE and alphabetical_share < _DISAGREE:
        return "voc"
    if alphabetical_share > _AGREE and voc_share < _DISAGREE:
        return "alphabetical"
    return None
