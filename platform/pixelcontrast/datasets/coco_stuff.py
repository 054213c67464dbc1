"""COCO-Stuff (Caesar et al., CVPR 2018): 171 classes of things and stuff.
https://github.com/nightrome/cocostuff

Two releases with two numberings of the same classes:

- 164k: ``images/{train,val}2017/*.jpg`` and the PNGs of ``stuffthingmaps``, in
  ``annotations/{train,val}2017`` or ``stuffthingmaps/{train,val}2017``: a pixel is the class's id − 1, 255 is
  unlabelled. 118,287 and 5,000 images.
- 10k, version 1.1: ``images/*.jpg``, ``annotations/*.mat`` (key ``S``) and ``imageLists/{train,test}.txt``,
  of which test is used as val: a pixel is the class's id, 0 is unlabelled. 9,000 and 1,000 images. The
  method's reference keeps the same ids in PNGs, ``{train,val}/{image,label}``. HRNet and the reference mean
  this one by COCO-Stuff.
"""

from pathlib import Path

import numpy as np

from pixelcontrast.datasets.files import IMAGE_ENDINGS, FileError
from pixelcontrast.datasets.labels import IGNORE_INDEX, LabelSpace, voc_color
from pixelcontrast.datasets.listing import (
    Listing,
    Split,
    first_folder,
    list_files,
    pair_all,
    pair_folders,
    pair_listed,
    read_list,
)
from pixelcontrast.datasets.matlab import read_variable, variable_shapes

_ABSENT = (12, 26, 29, 30, 45, 66, 68, 69, 71, 83, 91)
"""Ids of things that COCO names and never labels: street sign, hat, shoe, eye glasses, plate, mirror, window,
desk, door, blender, hair brush."""
_NAMES = """
person; bicycle; car; motorcycle; airplane; bus; train; truck; boat; traffic light; fire hydrant; stop sign;
parking meter; bench; bird; cat; dog; horse; sheep; cow; elephant; bear; zebra; giraffe; backpack; umbrella;
handbag; tie; suitcase; frisbee; skis; snowboard; sports ball; kite; baseball bat; baseball glove;
skateboard; surfboard; tennis racket; bottle; wine glass; cup; fork; knife; spoon; bowl; banana; apple;
sandwich; orange; broccoli; carrot; hot dog; pizza; donut; cake; chair; couch; potted plant; bed;
dining table; toilet; tv; laptop; mouse; remote; keyboard; cell phone; microwave; oven; toaster; sink;
refrigerator; book; clock; vase; scissors; teddy bear; hair drier; toothbrush; banner; blanket; branch;
bridge; building-other; bush; cabinet; cage; cardboard; carpet; ceiling-other; ceiling-tile; cloth; clothes;
clouds; counter; cupboard; curtain; desk-stuff; dirt; door-stuff; fence; floor-marble; floor-other;
floor-stone; floor-tile; floor-wood; flower; fog; food-other; fruit; furniture-other; grass; gravel;
ground-other; hill; house; leaves; light; mat; metal; mirror-stuff; moss; mountain; mud; napkin; net; paper;
pavement; pillow; plant-other; plastic; platform; playingfield; railing; railroad; river; road; rock; roof;
rug; salad; sand; sea; shelf; sky-other; skyscraper; snow; solid-other; stairs; stone; straw;
structural-other; table; tent; textile-other; towel; tree; vegetable; wall-brick; wall-concrete; wall-other;
wall-panel; wall-stone; wall-tile; wall-wood; water-other; waterdrops; window-blind; window-other; wood
"""
"""Names of the ids 1 to 182 without the absent ones.

Source: ``labels.txt`` of nightrome/cocostuff; annotations and code CC BY 4.0.
"""

_IDS = tuple(raw_id for raw_id in range(1, 183) if raw_id not in _ABSENT)
_CLASS_NAMES = tuple(name.strip() for name in _NAMES.split(";"))
_COLORS = tuple(voc_color(1 + place) for place in range(len(_CLASS_NAMES)))
_NAMES_IN_VERSION_1_0 = 172

LABELS_10K = LabelSpace(
    names=_CLASS_NAMES,
    colors=_COLORS,
    train_ids={0: IGNORE_INDEX} | {raw_id: place for place, raw_id in enumerate(_IDS)},
)
LABELS_164K = LabelSpace(
    names=_CLASS_NAMES,
    colors=_COLORS,
    train_ids={255: IGNORE_INDEX} | {raw_id - 1: place for place, raw_id in enumerate(_IDS)},
)

_EXPECTED_164K = "images/{split}2017/<name>.jpg with annotations/{split}2017/<name>.png (stuffthingmaps)"
_EXPECTED_10K = (
    "images/<name>.jpg, annotations/<name>.mat and imageLists/{split}.txt, or {train,val}/{image,label}"
)


def listing_164k(root: Path, split: Split) -> Listing:
    """The pairs of a split of 164k; raises ``ValueError`` where a folder is missing."""
    folder, expected = f"{split}2017", _EXPECTED_164K.format(split=split)
    image_folder = first_folder([root / "images" / folder, root / folder], expected=expected)
    names = ("annotations", "stuffthingmaps", "stuffthingmaps_trainval2017")
    places = [
        *(root / name / folder for name in names),
        *(root / names[0] / name / folder for name in names[1:]),
    ]
    label_folder = first_folder(places, expected=expected)
    labels = list_files(label_folder, (".png",), expected=expected)
    found = pair_all(
        list_files(image_folder, IMAGE_ENDINGS, expected=expected),
        # mmsegmentation writes a second label map beside each, of train ids.
        {key: path for key, path in labels.items() if not key.endswith("_labelTrainIds")},
        folder=image_folder,
        label_of=lambda key: label_folder / f"{key}.png",
        expected=expected,
    )
    return Listing(found=found, labels=LABELS_164K, layout=expected)


def listing_10k(root: Path, split: Split) -> Listing:
    """The pairs of a split of 10k; raises ``ValueError`` where a folder or the list is missing."""
    if (root / split / "image").is_dir():
        return _reference(root, split)
    list_name = "test" if split == "val" else split
    expected, label_folder = _EXPECTED_10K.replace("{split}", list_name), root / "annotations"
    images = list_files(root / "images", IMAGE_ENDINGS, expected=expected)
    labels = list_files(label_folder, (".mat",), expected=expected)
    source = root / "imageLists" / f"{list_name}.txt"
    found = pair_listed(
        read_list(source), images, labels, source=source, label_of=lambda key: label_folder / f"{key}.mat"
    )
    return Listing(found=found, labels=LABELS_10K, layout=expected, read_label=read_10k)


def read_10k(path: Path) -> np.ndarray:
    """The ids of a ``.mat`` file of version 1.1, uint8 or uint16 [H, W].

    Raises:
        FileError: as ``matlab.read_variable``, or a file of version 1.0, whose ids mean other classes.
    """
    if variable_shapes(path).get("names", (0,))[0] == _NAMES_IN_VERSION_1_0:
        raise FileError(
            f"{path}: a label map of COCO-Stuff 10k version 1.0 ({_NAMES_IN_VERSION_1_0} names), whose ids "
            "mean other classes; allowed is version 1.1",
            remedy="download version 1.1, cocostuff-10k-v1.1.zip of nightrome/cocostuff10k",
        )
    return read_variable(path, "S")


def _reference(root: Path, split: Split) -> Listing:
    expected = _EXPECTED_10K.replace("{split}", split)
    found = pair_folders(root / split / "image", root / split / "label", expected=expected)
    return Listing(found=found, labels=LABELS_10K, layout=expected)
