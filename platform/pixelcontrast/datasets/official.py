"""What a data set's own tools expect of result files: the ids of the classes, and the files' names."""

from pathlib import PurePosixPath

from pixelcontrast.config import Layout
from pixelcontrast.datasets.files import ColorLabels
from pixelcontrast.datasets.labels import IGNORE_INDEX
from pixelcontrast.datasets.segmentation import SegmentationSet


def result_ids(layout: Layout, dataset: SegmentationSet) -> tuple[int, ...]:
    """The id that stands for each class in a result file, by train id.

    - Cityscapes: the raw ids of its labels, as ``cityscapesscripts`` evaluates them.
    - ADE20K: 1 … 150. COCO-Stuff: the ids of the release's label files (10k: 1 … 182; 164k: 0 … 181).
    - PASCAL-Context: 1 … 59 in the class order used, 0 for background, also where the labels have 459 ids.
    - Others: the ids in the masks, of several the least; of masks of colours, the train ids.
    """
    if layout == "pascal-context-60":
        return tuple(range(60))
    if layout == "pascal-context-59":
        return tuple(range(1, 60))
    if isinstance(dataset.read_label, ColorLabels):
        return tuple(range(dataset.labels.num_classes))
    raw_ids = [raw_id for raw_id, train_id in dataset.labels.train_ids.items() if train_id != IGNORE_INDEX]
    first = {dataset.labels.train_ids[raw_id]: raw_id for raw_id in sorted(raw_ids, reverse=True)}
    return tuple(first[train_id] for train_id in range(dataset.labels.num_classes))


def result_name(layout: Layout, image: str) -> str:
    """The result file of an image, given by its path below the data set's root.

    Published layouts: the image's own name as a PNG, as their scripts match it (Cityscapes:
    ``<city>_<sequence>_<frame>_leftImg8bit.png``). Your own folder: the same path, since names may repeat.
    """
    path = PurePosixPath(image).with_suffix(".png")
    return str(path) if layout == "folder" else path.name
