"""The pictures of a training's evaluation: the same as of rows kept whole, without their memory."""

import tracemalloc
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor, nn

from pixelcontrast.config import Data
from pixelcontrast.datasets.segmentation import build_dataset
from pixelcontrast.datasets.segmentation_set import SegmentationSet
from pixelcontrast.evaluation import contact_sheet, overlay
from pixelcontrast.training.evaluate import draw_overlays
from small_sets import some_ids, write_image, write_label

HEIGHT, WIDTH = 480, 1200


class SaysRoad(nn.Module):
    """A network that finds the first class everywhere."""

    mean, std = (0.5, 0.5, 0.5), (0.5, 0.5, 0.5)

    def forward(self, images: Tensor) -> SimpleNamespace:
        logits = torch.zeros(1, 2, *images.shape[2:])
        logits[:, 0] = 1
        return SimpleNamespace(logits=logits)


def wide_images(root: Path, number: int) -> SegmentationSet:
    for index in range(number):
        write_image(root / f"images/val/{index}.jpg", size=(HEIGHT, WIDTH), seed=index)
        write_label(root / f"masks/val/{index}.png", some_ids(2).repeat(20, 0).repeat(40, 1)[:HEIGHT, :WIDTH])
    text = 'images = "images/{split}"\nmasks = "masks/{split}"\n[[classes]]\nname = "road"\n'
    (root / "dataset.toml").write_text(text + '[[classes]]\nname = "car"\n')
    return build_dataset(Data(layout="folder", root=str(root)), "val")


def drawn(dataset: SegmentationSet) -> tuple[bytes, int]:
    """The sheet, and the most bytes that numpy and Python held meanwhile."""
    network: Any = SaysRoad()
    tracemalloc.start()
    sheet = draw_overlays(network, dataset, device=torch.device("cpu"))
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    return sheet, peak


def test_rows_are_kept_as_small_as_the_sheet_shows_them(tmp_path: Path) -> None:
    one, four = wide_images(tmp_path / "one", 1), wide_images(tmp_path / "four", 4)
    drawn(one)  # what is imported and cached once
    (_, of_one), (sheet, of_four) = drawn(one), drawn(four)
    row = 3 * HEIGHT * (3 * WIDTH + 8)
    assert of_four < of_one + 1.5 * row
    colors = torch.tensor(four.labels.colors, dtype=torch.uint8)
    whole = []
    for index in range(4):
        image, truth = four.read(index)
        whole.append(overlay(image, truth, torch.zeros_like(truth), colors))
    assert sheet == contact_sheet(whole, names=four.labels.names, colors=colors)
