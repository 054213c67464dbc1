"""Crops cut before they are scaled equal crops of the scaled image; crops that no class dominates."""

import pytest
import torch
from torch import Tensor
from torchvision.transforms import InterpolationMode
from torchvision.transforms.v2 import functional as F

from pixelcontrast.config import Data
from pixelcontrast.datasets.labels import IGNORE_INDEX
from pixelcontrast.datasets.transforms import denormalize, train_transform

EDGE = 4
"""Pixels at a crop's border that antialiasing mixes with what lies outside of it."""


def settings(**changes: object) -> Data:
    values = {"crop_size": (32, 40), "color_jitter": 0.0, "flip_probability": 0.0, **changes}
    return Data(layout="camvid", root="unused", **values)  # type: ignore[arg-type]


def noise(height: int = 60, width: int = 90) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    image = torch.randint(0, 256, (3, height, width), dtype=torch.uint8, generator=generator)
    return image, torch.randint(0, 9, (height, width), dtype=torch.uint8, generator=generator)


def inner(image: Tensor) -> Tensor:
    return image[..., EDGE:-EDGE, EDGE:-EDGE]


def places(part: Tensor, whole: Tensor, tolerance: float) -> list[tuple[int, int]]:
    """Where in ``whole`` [c, H, W] the inside of ``part`` [c, h, w] is found."""
    wanted, height, width = inner(part).float(), part.shape[1] - 2 * EDGE, part.shape[2] - 2 * EDGE
    rows = whole[0].float().unfold(1, width, 1)  # looked at first: the uppermost row of the first channel
    candidates = ((rows - wanted[0, 0]).abs().amax(dim=2) <= tolerance).nonzero().tolist()
    return [
        (top, left)
        for top, left in candidates
        if top + height <= whole.shape[1]
        and (whole[:, top : top + height, left : left + width] - wanted).abs().max() <= tolerance
    ]


@pytest.mark.parametrize(("scale", "step"), [(2.0, 2), (1.0, 1)])
def test_a_crop_is_a_crop_of_the_scaled_image(scale: float, step: int) -> None:
    """At each place that scale-then-crop could choose, up to the source's own pixels, and equally often."""
    image, label = noise()
    size = [round(side * scale) for side in label.shape]
    scaled = F.resize(image, size, interpolation=InterpolationMode.BILINEAR, antialias=True)
    ids = F.resize(label[None], size, interpolation=InterpolationMode.NEAREST_EXACT, antialias=False)
    tops = []
    for position in range(60):
        data = settings(scale_range=(scale, scale))
        crop, classes = train_transform(image, label, data=data, seed=0, position=position)
        found = places(denormalize(crop), scaled, tolerance=1)
        assert len(found) == 1
        assert found == places(classes[None], ids, tolerance=0)
        tops.append(found[0][0] - EDGE)
    last = size[0] - 32
    assert all(0 <= top <= last and top % step == 0 for top in tops)
    assert sum(tops) / len(tops) == pytest.approx(last / 2, abs=0.16 * last)


def test_a_shrunk_crop_has_the_pixels_of_the_shrunk_image() -> None:
    """An odd first pixel lies between two of the shrunk image: only even ones can be compared."""
    image, label = noise(120, 180)
    scaled = F.resize(image, [60, 90], interpolation=InterpolationMode.BILINEAR, antialias=True)
    data = settings(scale_range=(0.5, 0.5), crop_size=(32, 40))
    matches = 0
    for position in range(60):
        crop, _ = train_transform(image, label, data=data, seed=0, position=position)
        matches += len(places(denormalize(crop), scaled, tolerance=1))
    assert 5 <= matches <= 30  # a quarter of 60 is expected


def halves() -> tuple[Tensor, Tensor]:
    """Class 0 but for a stripe of class 1 at the right."""
    label = torch.zeros(100, 400, dtype=torch.uint8)
    label[:, 340:] = 1
    return label.expand(3, -1, -1).contiguous(), label


def largest_share(label: Tensor) -> float:
    counts = torch.bincount(label[label != IGNORE_INDEX].flatten())
    return float(counts.max() / counts.sum())


def test_crops_that_one_class_dominates_are_drawn_anew() -> None:
    plain, chosen = settings(scale_range=(1.0, 1.0)), settings(scale_range=(1.0, 1.0), max_class_share=0.75)
    crops = [
        [train_transform(*halves(), data=data, seed=0, position=position)[1] for position in range(80)]
        for data in (plain, chosen)
    ]
    dominated = [sum(largest_share(label) > 0.75 for label in labels) for labels in crops]
    assert dominated[0] > 60
    assert dominated[1] < 0.75 * dominated[0]
    for before, after in zip(*crops, strict=True):
        if largest_share(before) <= 0.75:
            assert torch.equal(before, after)


def test_a_crop_drawn_anew_depends_on_seed_and_position_only() -> None:
    data = settings(max_class_share=0.6)
    one = train_transform(*halves(), data=data, seed=3, position=5)
    train_transform(*halves(), data=data, seed=3, position=6)
    again = train_transform(*halves(), data=data, seed=3, position=5)
    assert all(torch.equal(a, b) for a, b in zip(one, again, strict=True))


def test_an_image_of_one_class_is_cropped_all_the_same() -> None:
    label = torch.zeros(50, 60, dtype=torch.uint8)
    image = label.expand(3, -1, -1).contiguous()
    _, found = train_transform(image, label, data=settings(max_class_share=0.5), seed=0, position=0)
    assert found.shape == (32, 40)
    label.fill_(IGNORE_INDEX)
    _, found = train_transform(image, label, data=settings(max_class_share=0.5), seed=0, position=0)
    assert (found == IGNORE_INDEX).all()
