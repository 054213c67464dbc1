"""What a training crop costs: from a pack, and from PNG and JPEG files.

    python experiments/benchmarks/loader.py --out loader.json
    python experiments/benchmarks/loader.py --quick

A crop is scaled by 0.5 to 2, cut to half the image's height and width, and flipped, without colour jitter;
one thread, no loader processes, files in the page cache. The forms take turns:

- packed raw, packed source: ``TrainStream`` on a pack of that encoding;
- files: ``TrainStream`` on the folder: decode, then crop, then scale the crop;
- plain: what the field's tools do: decode, scale the whole image and label, crop.

Start-up is the time from the configuration to the first crop, in this process; memory is the peak beyond it
while 64 crops are loaded, in a process of its own, mapped pages that were touched included.
"""

import argparse
import tempfile
from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from itertools import count
from pathlib import Path

import numpy as np
import torch
from measure import Form, Row, peak_bytes, row, save, seconds, show
from PIL import Image
from torch import Tensor
from torchvision.transforms import InterpolationMode
from torchvision.transforms.v2 import functional as F

from pixelcontrast.config import Data
from pixelcontrast.datasets.files import read_image, read_label
from pixelcontrast.datasets.loading import TrainStream
from pixelcontrast.datasets.packing.write import pack
from pixelcontrast.datasets.segmentation import build_dataset
from pixelcontrast.datasets.stream import build_stream
from pixelcontrast.datasets.transforms import IMAGENET, normalize
from pixelcontrast.draws import uniform
from pixelcontrast.scenes import streets

_NUM_IMAGES = 4
_TOML = """images = "images/{split}"
masks = "masks/{split}"
classes = [CLASSES]
ignored_ids = [255]
"""


def main() -> None:
    """Measure, print, save."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--out", type=Path, help="where the rows go, as JSON")
    parser.add_argument("--quick", action="store_true", help="smaller, in under a minute, without targets")
    options = parser.parse_args()
    torch.set_num_threads(1)
    rows: list[Row] = []
    sizes = [(128, 256)] if options.quick else [(1024, 2048), (480, 640)]
    for size in sizes:
        for ending in ("png", "jpg"):
            for each in measure(size, ending, rounds=3 if options.quick else 30):
                rows.append(replace(each, target=None, met=None) if options.quick else each)
                show(rows[-1])
    if options.out is not None:
        save(rows, options.out)


def measure(size: tuple[int, int], ending: str, *, rounds: int) -> Iterator[Row]:
    """All forms on generated street scenes of one size (height, width) and kind of file."""
    what = f"{size[1]}×{size[0]} {ending.upper()}"
    with tempfile.TemporaryDirectory() as folder:
        files = _write(Path(folder) / "files", size, ending)
        sets = {"files": files}
        for encoding in ("raw", "source"):
            dest = str(Path(folder) / encoding)
            pack(files, dest, encoding=encoding)
            sets[f"packed {encoding}"] = replace(files, root=dest)
        forms = {name: crops(data) for name, data in sets.items()} | {"plain": plain_crops(files)}
        taken = seconds(forms, rounds=rounds)
        for name in forms:
            yield row(f"{what}, {name}", 1 / taken[name], "img/s")
        large_png = ending == "png" and size == (1024, 2048)
        ratio = taken["plain"] / taken["packed raw"]
        yield row(f"{what}, plain / packed raw", ratio, "×", at_least=20 if large_png else None)
        starts = seconds({name: partial(_first_crop, data) for name, data in sets.items()}, rounds=3)
        for name, data in sets.items():
            yield row(f"{what}, {name}, start-up", starts[name], "s")
            peak = peak_bytes(_many_crops, data, small=(data, 1))
            yield row(f"{what}, {name}, memory of 64 crops", peak / 2**20, "MiB")


def crops(data: Data) -> Form:
    """The next crop of the training stream."""
    dataset = build_dataset(data, "train")
    stream = TrainStream(dataset, data, 0, build_stream(dataset, data, 0))
    positions = count()
    return lambda: stream[next(positions)]


def plain_crops(data: Data) -> Form:
    """Decode, scale the whole image, crop, flip: the next one."""
    pairs, positions = build_dataset(data, "train").pairs, count()

    def crop() -> tuple[Tensor, Tensor]:
        position = next(positions)
        scale, top, left, flip = uniform(0, 1, position, torch.arange(4)).tolist()
        pair = pairs[position % len(pairs)]
        image, label = read_image(pair.image), torch.from_numpy(np.array(read_label(pair.label)))[None]
        size = [round(side * (0.5 + 1.5 * scale)) for side in label.shape[1:]]
        image = F.resize(image, size, interpolation=InterpolationMode.BILINEAR, antialias=True)
        label = F.resize(label, size, interpolation=InterpolationMode.NEAREST_EXACT, antialias=False)
        (height, width), (rows, columns) = data.crop_size, size
        place = int(top * (rows - height + 1)), int(left * (columns - width + 1))
        image, label = (F.crop(part, place[0], place[1], height, width) for part in (image, label))
        if flip < 0.5:
            image, label = F.horizontal_flip(image), F.horizontal_flip(label)
        return normalize(image, IMAGENET), label[0].long()

    return crop


def _first_crop(data: Data) -> object:
    return crops(data)()


def _many_crops(data: Data, number: int = 64) -> Form:
    form = crops(data)
    return lambda: [form() for _ in range(number)] and None


def _write(root: Path, size: tuple[int, int], ending: str) -> Data:
    """Generated scenes as a folder with its dataset.toml."""
    classes = ", ".join(f'{{ name = "class {number}", ids = [{number}] }}' for number in range(34))
    for split, number in (("train", _NUM_IMAGES), ("val", 1)):
        for index in range(number):
            image, ids = streets.render(0, index, size)
            for folder, pixels, kind in (("images", image, ending), ("masks", ids, "png")):
                path = root / folder / split / f"{index}.{kind}"
                path.parent.mkdir(parents=True, exist_ok=True)
                Image.fromarray(pixels).save(path)
    (root / "dataset.toml").write_text(_TOML.replace("CLASSES", classes))
    crop_size = size[0] // 2, size[1] // 2
    return Data(layout="folder", root=str(root), crop_size=crop_size, color_jitter=0.0)


if __name__ == "__main__":
    main()
