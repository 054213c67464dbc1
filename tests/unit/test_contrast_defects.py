"""Defects of the method's published code, each by its number: ``PixelContrast`` has none of them."""

import pytest
import torch
import torch.nn.functional as F

from contrasts import CLASSES, DIM, embeddings, logits_for, small_contrast
from pixelcontrast.contrast.maps import labels_and_errors, read_at


def test_defect_1_queue_holds_pixels_of_the_class_they_are_filed_under() -> None:
    """A pixel's embedding names its class here, so a wrong pixel in a ring is seen."""
    labels = torch.tensor([[[0, 1, 2, 1], [2, 2, 0, 1]]])
    codes = F.one_hot(labels, DIM).permute(0, 3, 1, 2).float()
    contrast = small_contrast(pixels_per_image=2)
    contrast(codes, labels, logits_for(labels))
    for c in range(CLASSES):
        assert contrast.memory.pixel is not None
        assert contrast.memory.pixel.filled[c] == 2
        assert (contrast.memory.pixel.rows[c, :2].argmax(1) == c).all()


@pytest.mark.parametrize("size", [(8, 8), (16, 16), (7, 10), (64, 64)])
@pytest.mark.parametrize("align_corners", [True, False])
def test_defect_3_labels_are_read_at_the_embedding_s_size(size: tuple[int, int], align_corners: bool) -> None:
    """Left half class 0, right half class 1, whatever the ratio of the two sizes."""
    labels = torch.zeros(1, 32, 32, dtype=torch.int64)
    labels[:, :, 16:] = 1
    contrast = small_contrast(pixels_per_image=10_000, pixel_queue_size=10_000)
    column = torch.arange(size[1]).expand(size) / size[1]
    codes = torch.stack([column, 1 - column, 0 * column, 0 * column])[None]
    contrast(codes, labels, logits_for(labels), align_corners=align_corners)
    assert contrast.memory.pixel is not None
    queue = contrast.memory.pixel
    left, right = (queue.rows[c, : queue.filled[c], :2] for c in (0, 1))
    left, right = (rows[:, 0] / rows.sum(dim=1) for rows in (left, right))
    assert len(left) + len(right) == size[0] * size[1]
    assert left.max() < 0.5 <= right.min()


@pytest.mark.parametrize("align_corners", [True, False])
@pytest.mark.parametrize(("cells", "pixels"), [(48, 192), (13, 97), (1, 32), (24, 24), (9, 32), (60, 30)])
def test_a_cell_s_label_is_that_of_the_pixel_that_upsampling_gives_its_logits(
    cells: int, pixels: int, align_corners: bool
) -> None:
    """And "misclassified" is said of that pixel, so a network that is right everywhere has no hard ones."""
    ramp = torch.arange(cells).float()[None, None, :, None].expand(1, 1, cells, cells)
    upsampled = F.interpolate(ramp, (pixels, pixels), mode="bilinear", align_corners=align_corners)
    found = read_at(upsampled[:, 0], torch.Size((cells, cells)), align_corners=align_corners)
    of_a_pixel = (cells - 1) / max(pixels - 1, 1) if align_corners else cells / pixels
    assert (found - ramp[:, 0]).abs().max() <= of_a_pixel / 2 + 1e-4
    labels = torch.randint(CLASSES, (1, pixels, pixels), generator=torch.Generator().manual_seed(0))
    read, wrong = labels_and_errors(
        labels, logits_for(labels), torch.Size((cells, cells)), align_corners=align_corners
    )
    assert read.shape == wrong.shape == (1, cells, cells)
    assert not wrong.any()


def test_defect_4_class_0_is_an_ordinary_class() -> None:
    labels = torch.zeros(2, 4, 4, dtype=torch.int64)
    labels[:, 2:] = 1
    contrast = small_contrast()
    assert contrast(embeddings(2, DIM, 4, 4), labels, logits_for(1 - labels)) > 0
    assert contrast.memory.pixel is not None
    assert contrast.memory.pixel.filled.tolist() == [8, 8, 0]
    torch.testing.assert_close(contrast.memory.pixel.rows[0].norm(dim=1), torch.ones(8))


def test_defect_5_empty_slots_are_not_samples() -> None:
    """A hardly filled queue gives the same loss as one of just that size."""
    labels = torch.tensor([[[0, 1], [1, 0]]])
    values = []
    for size in (2, 1000):
        contrast = small_contrast(pixel_queue_size=size, pixels_per_image=2)
        contrast(embeddings(1, DIM, 2, 2), labels, logits_for(labels))
        values.append(contrast(embeddings(1, DIM, 2, 2, seed=1), labels, logits_for(labels)))
    assert values[0] > 0
    torch.testing.assert_close(values[0], values[1])


def test_defect_6_an_anchor_is_masked_from_itself_only() -> None:
    """One anchor a class and its twin in the queue: the twin is a positive, the anchor itself is not."""
    labels = torch.tensor([[[0, 1]]])
    vectors = F.normalize(torch.tensor([[1.0, 0.3, 0, 0], [0.2, 1.0, 0, 0]]), dim=1)
    codes = vectors.T[None, :, None, :].clone()
    contrast = small_contrast(temperature=0.5, memory_term="joint")
    assert contrast(codes, labels, logits_for(labels)) == 0, "no anchor has a positive yet"
    value = contrast(codes, labels, logits_for(labels))
    cross = vectors[0] @ vectors[1] / 0.5
    own = torch.tensor(1 / 0.5)
    expected = -torch.log(
        own.exp() / (own.exp() + 2 * cross.exp())
    )  # the other class: in the batch and the queue
    torch.testing.assert_close(value, expected)


@pytest.mark.parametrize("label", [0, 255])
@pytest.mark.parametrize("pixel_queue_size", [0, 8])
def test_defect_7_nothing_to_contrast_is_a_zero_that_reaches_the_network(
    label: int, pixel_queue_size: int
) -> None:
    """Void only, and one pixel only: neither crashes, neither is NaN."""
    inputs = embeddings(1, DIM, 3, 3)
    labels = torch.full((1, 3, 3), 255)
    labels[0, 1, 1] = label
    value = small_contrast(pixel_queue_size=pixel_queue_size)(inputs, labels, torch.zeros(1, CLASSES, 3, 3))
    value.backward()
    assert value == 0
    assert inputs.grad is not None
    assert torch.equal(inputs.grad, torch.zeros_like(inputs))


def test_defect_7_loss_is_finite_where_similarities_are_extreme() -> None:
    labels = torch.tensor([[[0, 0, 1, 1]]])
    codes = torch.zeros(1, DIM, 1, 4)
    codes[0, 0] = torch.tensor([1.0, -1.0, 1.0, -1.0])
    codes.requires_grad_()
    value = small_contrast(temperature=1e-3, pixel_queue_size=0)(codes, labels, logits_for(labels))
    value.backward()
    assert torch.isfinite(value)
    assert codes.grad is not None
    assert torch.isfinite(codes.grad).all()


def test_defect_11_one_process_without_a_group_contrasts() -> None:
    assert not torch.distributed.is_initialized()
    labels = torch.tensor([[[0, 0], [1, 1]]])
    inputs = embeddings(1, DIM, 2, 2)
    small_contrast()(inputs, labels, logits_for(labels)).backward()
    assert inputs.grad is not None
    assert inputs.grad.abs().sum() > 0
