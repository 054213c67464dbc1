"""What ``PixelContrast`` measures of the anchors and their similarities."""

from typing import Any

import pytest
import torch
import torch.nn.functional as F

from contrasts import CLASSES, DIM, logits_for, small_contrast


def test_diagnostics_average_what_the_batch_s_anchors_were_compared_with() -> None:
    """Three anchors of class 0, one of class 1, which has no positive; two of the four are misclassified."""
    labels = torch.tensor([[[0, 0], [0, 1]]])
    vectors = F.normalize(torch.tensor([[1.0, 0, 0, 0], [1, 1, 0, 0], [0, 1, 0, 0], [0, 0, 1, 0]]), dim=1)
    vectors[3, :2] = torch.tensor([0.6, 0.0])
    vectors[3, 2] = 0.8
    codes = vectors.T.reshape(1, DIM, 2, 2).clone()
    contrast = small_contrast(pixel_queue_size=0)
    contrast(codes, labels, logits_for(torch.tensor([[[0, 1], [0, 2]]])))
    root = 0.5**0.5
    read = contrast.diagnostics.read(contrast.memory, int(contrast.steps))
    assert read["hard_anchors"] == 2 / 4
    assert read["batch_positive_similarity"] == pytest.approx((root + 0 + root) / 3)  # each pair twice
    assert read["batch_negative_similarity"] == pytest.approx(2 * (0.6 + 0.6 * root + 0) / 6)
    assert read["gap"] == pytest.approx(root * 2 / 3 - (0.6 + 0.6 * root) / 3)
    assert read["class_gap"] == [pytest.approx(root * 2 / 3 - (0.6 + 0.6 * root) / 3), None, None]
    mean = torch.tensor([1 + root + 0.6, root + 1, 0.8]) / 4
    assert read["mean_embedding_norm"] == pytest.approx(float(mean.norm()))
    assert read["memory_positive_similarity"] is read["memory_negative_similarity"] is None
    again = contrast.diagnostics.read(contrast.memory, int(contrast.steps))
    assert again.pop("class_gap") == [None] * CLASSES
    assert again.pop("refused_rows") == 0
    assert set(again.values()) == {None}, "it begins anew"


@pytest.mark.parametrize("term", ["separate", "joint"])
def test_diagnostics_tell_the_memory_s_similarities_from_the_batch_s(term: Any) -> None:
    """Two steps of two classes, whose anchors turn by 60° between them."""
    labels = torch.tensor([[[0, 0, 1, 1]]])
    root = 0.75**0.5
    before = torch.tensor([[1.0, 0, 0, 0], [1, 0, 0, 0], [0, 1, 0, 0], [0, 1, 0, 0]])
    now = torch.tensor([[0.5, 0, root, 0], [0.5, 0, root, 0], [0, 1, 0, 0], [0, 1, 0, 0]])
    contrast = small_contrast(memory_term=term)
    contrast(before.T[None, :, None], labels, logits_for(labels))
    first = contrast.diagnostics.read(contrast.memory, int(contrast.steps))
    assert (first["gap"], first["class_gap"]) == (1, [1, 1, None])
    contrast(now.T[None, :, None], labels, logits_for(labels))
    read = contrast.diagnostics.read(contrast.memory, int(contrast.steps))
    assert read["batch_positive_similarity"] == pytest.approx(1)
    assert read["batch_negative_similarity"] == pytest.approx(0)
    assert read["memory_positive_similarity"] == pytest.approx((0.5 + 1 + 1 + 1) / 4), "with both steps' rows"
    assert read["memory_negative_similarity"] == pytest.approx(0)
    assert read["mean_embedding_norm"] == pytest.approx((0.25**2 + 0.5**2 + (root / 2) ** 2) ** 0.5)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_diagnostics_are_the_same_under_the_caller_s_autocast(dtype: torch.dtype) -> None:
    """Nearly equal embeddings lose their gap in bfloat16, and sums of many overflow in float16."""
    generator = torch.Generator().manual_seed(0)
    codes = torch.ones(1, DIM, 20, 20) + 0.05 * torch.randn(1, DIM, 20, 20, generator=generator)
    labels = torch.arange(2).repeat_interleave(200).reshape(1, 20, 20)
    reads = []
    for enabled in (False, True):
        contrast = small_contrast(pixel_queue_size=0, anchors_per_class=150)
        with torch.autocast("cpu", dtype=dtype, enabled=enabled):
            contrast(codes, labels, logits_for(labels))
        reads.append(contrast.diagnostics.read(contrast.memory, int(contrast.steps)))
    assert reads[0] == reads[1]


def test_a_batch_of_one_class_says_nothing_of_a_collapse() -> None:
    """Its embeddings are alike because they should be; in the other batch two classes are opposite."""
    codes = torch.zeros(1, DIM, 2, 2)
    codes[0, 0] = torch.tensor([[1.0, 1.0], [-1.0, -1.0]])
    both = torch.tensor([[[0, 0], [1, 1]]])
    contrast = small_contrast(pixel_queue_size=0)
    for _ in range(20):
        contrast(codes.abs(), 0 * both, logits_for(both))
    assert contrast.diagnostics.read(contrast.memory, int(contrast.steps))["mean_embedding_norm"] is None
    contrast(codes, both, logits_for(both))
    contrast(codes.abs(), 0 * both, logits_for(both))
    read = contrast.diagnostics.read(contrast.memory, int(contrast.steps))
    assert (read["gap"], read["mean_embedding_norm"]) == (2, 0)


def test_what_is_counted_on_the_host_stays_there_wherever_the_module_is_built_or_read() -> None:
    labels = torch.tensor([[[0, 0], [1, 1]]])
    inputs = F.normalize(torch.arange(1.0, 17).view(1, DIM, 2, 2), dim=1), labels, logits_for(labels)
    with torch.device("meta"):
        contrast = small_contrast()
    contrast.to_empty(device="cpu").load_state_dict(small_contrast().state_dict())
    with torch.inference_mode():
        contrast.diagnostics.read(contrast.memory, 0)  # what a buffer holds before is arbitrary
    for _ in range(2):
        contrast(*inputs)
        with torch.inference_mode():
            read: dict[str, Any] = contrast.diagnostics.read(contrast.memory, int(contrast.steps))
        assert (read["hard_anchors"], read["class_gap"][2]) == (0, None)
        assert read["gap"] > 0
