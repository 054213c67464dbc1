"""The contrast reads the labels that the cross-entropy teaches the cells of the feature map."""

import math
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.optim import SGD

from pixelcontrast import Model
from pixelcontrast.contrast import AnchorConfig, PixelContrast
from pixelcontrast.datasets.loading import Batch
from pixelcontrast.models import Output, SegmentationModel, build_model
from pixelcontrast.training.step import train_step

IGNORED = 255
ALL = AnchorConfig(anchors_per_class=1000)
"""More than there are pixels."""
RESNETS = [
    ({"backbone": "resnet18", "decoder": decoder}, (side, side))
    for decoder in ("deeplabv3", "hrnet", "ocr")
    for side in (256, 480, 512, 769)
]
PADDED = [
    ({"backbone": "hrnet_w18_small", "decoder": decoder, "align_corners": aligned}, (200, 328))
    for decoder in ("hrnet", "ocr")
    for aligned in ("yes", "no")
]


def outline(size: tuple[int, int], **settings: Any) -> tuple[SegmentationModel, Output]:
    """A network without memory for its tensors, and its output for two images."""
    with torch.device("meta"):
        model = build_model(Model(embedding_dim=8, **settings), num_classes=2, embedding=True)
        return model, model(torch.empty(2, 3, *size))


@pytest.mark.parametrize(("settings", "size"), [*RESNETS, *PADDED], ids=str)
@pytest.mark.parametrize("across", ["rows", "columns"])
def test_a_cell_s_label_is_the_one_that_cross_entropy_teaches_it(settings, size, across: str) -> None:
    """Stripes of three cells, upsampled as the logits are: what the image then shows are a cell's labels."""
    model, output = outline(size, **settings)
    assert output.features is not None
    assert output.uncropped is not None
    rows, columns = (torch.arange(cells) for cells in output.uncropped.shape[-2:])
    stripes = rows[:, None] + 0 * columns if across == "rows" else 0 * rows[:, None] + columns
    taught = stripes.div(3, rounding_mode="floor") % 2
    logits = F.one_hot(taught, 2).movedim(-1, 0)[None].float()
    padded = [math.ceil(side / model.multiple) * model.multiple for side in size]
    shown = F.interpolate(logits, padded, mode="bilinear", align_corners=model.align_corners)
    shown = shown[..., : size[0], : size[1]]
    labels = model.read_at_cells(shown.argmax(dim=1), output, padding=IGNORED)[0]
    assert labels.shape == output.features.shape[-2:]
    inside = labels != IGNORED
    assert inside[:-1, :-1].all()
    assert torch.equal(labels[inside], taught[: len(labels), : labels.shape[1]][inside])
    assert settings["backbone"] != "resnet18" or inside.all()


def pixel_of(cell: int, cells: int, pixels: int, *, aligned: bool) -> int:
    """The one nearest to a cell's centre, the later of two."""
    if aligned:
        return math.floor(cell * (pixels - 1) / (cells - 1) + 0.5)
    return math.floor((cell + 0.5) * pixels / cells)


def slow_labels(labels: Tensor, cells: tuple[int, int], padded: tuple[int, int], *, aligned: bool) -> Tensor:
    """Labels [b, *cells] of a padded image."""
    found = torch.full((len(labels), *cells), IGNORED)
    for row in range(cells[0]):
        for column in range(cells[1]):
            y = pixel_of(row, cells[0], padded[0], aligned=aligned)
            x = pixel_of(column, cells[1], padded[1], aligned=aligned)
            if y < labels.shape[1] and x < labels.shape[2]:
                found[:, row, column] = labels[:, y, x]
    return found


@pytest.mark.parametrize(
    ("settings", "size", "cells", "padded"),
    [
        ({"backbone": "resnet18"}, (64, 48), (17, 13), (64, 48)),
        ({"backbone": "hrnet_w18_small"}, (40, 72), (16, 24), (64, 96)),
        ({"backbone": "hrnet_w18_small", "embedding_batchnorm": True}, (40, 72), (16, 24), (64, 96)),
        ({"backbone": "hrnet_w18_small", "align_corners": "no"}, (40, 72), (16, 24), (64, 96)),
        ({"backbone": "hrnet_w18_small", "align_corners": "no"}, (32, 64), (8, 16), (32, 64)),
    ],
    ids=str,
)
def test_a_step_s_contrast_reads_each_cell_s_own_pixel(settings, size, cells, padded) -> None:
    torch.manual_seed(0)
    model = build_model(Model(embedding_dim=8, **settings), num_classes=2, embedding=True).double()
    labels = torch.randint(2, (2, *size))
    batch = Batch(torch.randn(2, 3, *size).double(), labels, torch.arange(2), torch.arange(2))
    output = model(batch.images)
    assert output.features is not None
    assert model.projection is not None
    rows, columns = output.features.shape[-2:]
    own = slow_labels(labels, cells, padded, aligned="align_corners" not in settings)[:, :rows, :columns]
    # Every pixel is an anchor, so nothing but the labels decides the term.
    contrast = PixelContrast(num_classes=2, embedding_dim=8, anchors=ALL)
    want = contrast(model.projection(output.features), own, F.one_hot(own % IGNORED, 2).movedim(-1, 1))
    losses = train_step(model, contrast, SGD(model.parameters(), lr=0.1), batch, contrast_weight=1.0)
    torch.testing.assert_close(losses.contrast, want.detach(), rtol=0, atol=1e-9)
