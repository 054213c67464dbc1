"""Boundary IoU against numbers of the official code, and against its definition, class by class."""

import math

import numpy as np
import pytest
import torch
from scipy import ndimage

from pixelcontrast.evaluation import BoundaryIoU
from pixelcontrast.evaluation.boundary import boundary_distance, class_boundaries


@pytest.mark.parametrize(
    ("size", "at_2_percent", "at_half_a_percent"),
    [
        ((360, 480), 12, 3),
        ((720, 960), 24, 6),
        ((1024, 2048), 46, 11),
        ((512, 683), 17, 4),
        ((375, 500), 12, 3),
        ((8, 8), 1, 1),
    ],
)
def test_the_distance_is_a_part_of_the_diagonal(
    size: tuple[int, int], at_2_percent: int, at_half_a_percent: int
) -> None:
    assert boundary_distance(*size, ratio=0.02) == at_2_percent
    assert boundary_distance(*size, ratio=0.005) == at_half_a_percent


def test_a_shifted_rectangle_scores_as_with_the_official_code() -> None:
    truth, guess = torch.zeros(100, 100, dtype=torch.int64), torch.zeros(100, 100, dtype=torch.int64)
    truth[10:60, 20:80] = 1
    guess[10:60, 22:82] = 1
    for mask in (truth, guess):
        assert (class_boundaries(mask.numpy().astype(np.int32), 3) & (mask.numpy() == 1)).sum() == 624
    measured = BoundaryIoU(2)
    measured.update(guess, truth)
    assert measured.counts[:, 1].tolist() == [436, 812]
    assert measured.iou()[1] == pytest.approx(0.536946, abs=1e-6)
    assert class_boundaries(np.ones((100, 100), np.int32), 3).sum() == 1164


def official_boundary(mask: np.ndarray, ratio: float) -> np.ndarray:
    """mask_to_boundary of bowenc0221/boundary-iou-api, step by step."""
    distance = max(1, round(ratio * math.sqrt(mask.shape[0] ** 2 + mask.shape[1] ** 2)))
    padded = np.pad(mask, 1)
    eroded = ndimage.binary_erosion(padded, np.ones((3, 3)), iterations=distance, border_value=1)
    return mask & np.logical_not(eroded)[1:-1, 1:-1]


def blobs(seed: int, num_classes: int, shape: tuple[int, int]) -> torch.Tensor:
    noise = np.random.default_rng(seed).normal(size=(num_classes, *shape))
    smooth = ndimage.gaussian_filter(noise, (0, 4, 4))
    return torch.from_numpy(smooth.argmax(0))


@pytest.mark.parametrize("ratio", [0.02, 0.08])
def test_all_classes_at_once_equal_each_class_s_mask_by_the_official_steps(ratio: float) -> None:
    measured = BoundaryIoU(5, ratio)
    both, either = np.zeros(5), np.zeros(5)
    for seed, shape in enumerate([(60, 80), (41, 97)]):
        truth, guess = blobs(seed, 4, shape), blobs(seed + 10, 4, shape)
        truth[5:20, 30:50] = 255
        measured.update(guess, truth)
        for number in range(5):
            kept = (truth != 255).numpy()
            ours, theirs = ((map_ == number).numpy() & kept for map_ in (guess, truth))
            first, second = official_boundary(ours, ratio), official_boundary(theirs, ratio)
            both[number] += (first & second).sum()
            either[number] += (first | second).sum()
    assert measured.counts.tolist() == [both.tolist(), either.tolist()]
    assert math.isnan(measured.iou()[4])


def test_the_number_of_a_class_does_not_matter() -> None:
    truth, guess = blobs(0, 4, (50, 50)), blobs(1, 4, (50, 50))
    renamed = torch.tensor([2, 0, 3, 1])
    first, second = BoundaryIoU(4), BoundaryIoU(4)
    first.update(guess, truth)
    second.update(renamed[guess], renamed[truth])
    assert torch.equal(second.counts[:, renamed], first.counts)


def test_a_ratio_that_is_none_is_refused() -> None:
    with pytest.raises(ValueError, match=r"boundary ratio 2: allowed is a part of the diagonal"):
        BoundaryIoU(2, 2)
