"""A small data set of one's own, and packs of it."""

from pathlib import Path

import numpy as np

from pixelcontrast.config import Data
from small_sets import write_image, write_label

TOML = """images = "images/{split}"
masks = "masks/{split}"
ignored_ids = [255]
[[classes]]
name = "road"
ids = [7]
[[classes]]
name = "car"
ids = [3]
[[classes]]
name = "sign"
ids = [9]
"""


def write_folder(root: Path, *, num_train: int = 9, num_val: int = 4) -> Data:
    """Images of different sizes, as JPEG and PNG; every third training mask has a sign."""
    for split, count in (("train", num_train), ("val", num_val)):
        for number in range(count):
            size = 40 + 3 * number, 60 + 2 * number
            ending = "jpg" if number % 2 else "png"
            seed = number + 100 * (split == "val")
            write_image(root / f"images/{split}/{number:03d}.{ending}", size=size, seed=seed)
            ids = np.where(np.arange(size[0])[:, None] < 20, 7, 3) * np.ones(size, int)
            ids[:, :5] = 255
            if number % 3 == 0:
                ids[30:33, 10:20] = 9
            write_label(root / f"masks/{split}/{number:03d}.png", ids)
    (root / "dataset.toml").write_text(TOML)
    return Data(layout="folder", root=str(root), crop_size=(24, 32))
