"""PixelContrast in the hands of a user; each defect of the reference implementation has its test by name."""

import doctest
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from pixelcontrast.contrast import PixelContrast, loss, sampling
from pixelcontrast.contrast.memory import PixelQueue

CLASSES, DIM = 3, 4


def make(**settings: Any) -> PixelContrast:
    defaults: dict[str, Any] = {"num_classes": CLASSES, "embedding_dim": DIM, "queue_size": 8}
    return PixelContrast(**defaults | settings)


def embeddings(*shape: int, seed: int = 0) -> Tensor:
    """Unit vectors [B, D, h, w]; a pixel's first component is not degenerate."""
    generator = torch.Generator().manual_seed(seed)
    return F.normalize(torch.randn(*shape, generator=generator), dim=1).requires_grad_()


def logits_for(predictions: Tensor, num_classes: int = CLASSES) -> Tensor:
    return F.one_hot(predictions, num_classes).permute(0, 3, 1, 2).float()


def test_docstring_example_runs() -> None:
    result = doctest.testmod(loss)
    assert result.attempted >= 8
    assert result.failed == 0


def test_defect_1_queue_holds_pixels_of_the_class_they_are_filed_under() -> None:
    """A pixel's embedding names its class here, so a wrong pixel in a ring is seen."""
    labels = torch.tensor([[[0, 1, 2, 1], [2, 2, 0, 1]]])
    codes = F.one_hot(labels, DIM).permute(0, 3, 1, 2).float()
    contrast = make(pixels_per_image=2)
    contrast(codes, labels, logits_for(labels))
    for c in range(CLASSES):
        assert contrast.queue is not None
        assert contrast.queue.filled[c] == 2
        assert (contrast.queue.rows[c, :2].argmax(1) == c).all()


def numbered(*numbers: int) -> Tensor:
    return torch.tensor(numbers, dtype=torch.float32)[:, None].expand(-1, DIM)


def test_defect_2_pointer_advances_by_what_was_written_and_the_oldest_leave() -> None:
    queue = PixelQueue(2, 4, DIM)
    queue.enqueue(numbered(1, 2, 3), torch.tensor([1, 1, 1]))
    assert queue.pointer.tolist() == [0, 3]
    queue.enqueue(numbered(4, 5, 6), torch.tensor([1, 1, 1]))
    assert queue.pointer.tolist() == [0, 2]
    assert sorted(queue.rows[1, :, 0].tolist()) == [3, 4, 5, 6]
    queue.enqueue(numbered(*range(10, 19)), torch.tensor([1] * 9))
    assert sorted(queue.rows[1, :, 0].tolist()) == [15, 16, 17, 18]
    assert queue.filled.tolist() == [0, 4]


@pytest.mark.parametrize("size", [(8, 8), (16, 16), (7, 9), (64, 64)])
def test_defect_3_labels_are_read_at_the_embedding_s_size(size: tuple[int, int]) -> None:
    """Left half class 0, right half class 1, whatever the ratio of the two sizes."""
    labels = torch.zeros(1, 32, 32, dtype=torch.int64)
    labels[:, :, 16:] = 1
    contrast = make(pixels_per_image=10_000, queue_size=10_000)
    column = torch.arange(size[1]).expand(size) / size[1]
    codes = torch.stack([column, 1 - column, 0 * column, 0 * column])[None]
    contrast(codes, labels, logits_for(labels))
    assert contrast.queue is not None
    left, right = (contrast.queue.rows[c, : contrast.queue.filled[c], 0] for c in (0, 1))
    assert len(left) + len(right) == size[0] * size[1]
    assert left.max() < 0.5 <= right.min()


def test_defect_4_class_0_is_an_ordinary_class() -> None:
    labels = torch.zeros(2, 4, 4, dtype=torch.int64)
    labels[:, 2:] = 1
    contrast = make()
    assert contrast(embeddings(2, DIM, 4, 4), labels, logits_for(1 - labels)) > 0
    assert contrast.queue is not None
    assert contrast.queue.filled.tolist() == [8, 8, 0]
    torch.testing.assert_close(contrast.queue.rows[0].norm(dim=1), torch.ones(8))


def test_defect_5_empty_slots_are_not_samples() -> None:
    """A hardly filled queue gives the same loss as one of just that size."""
    labels = torch.tensor([[[0, 1], [1, 0]]])
    values = []
    for size in (2, 1000):
        contrast = make(queue_size=size, examples="all", pixels_per_image=2)
        contrast(embeddings(1, DIM, 2, 2), labels, logits_for(labels))
        values.append(contrast(embeddings(1, DIM, 2, 2, seed=1), labels, logits_for(labels)))
    assert values[0] > 0
    torch.testing.assert_close(values[0], values[1])


def test_defect_6_an_anchor_is_masked_from_itself_only() -> None:
    """One anchor a class and its twin in the queue: the twin is a positive, the anchor itself is not."""
    labels = torch.tensor([[[0, 1]]])
    vectors = F.normalize(torch.tensor([[1.0, 0.3, 0, 0], [0.2, 1.0, 0, 0]]), dim=1)
    codes = vectors.T[None, :, None, :].clone()
    contrast = make(temperature=0.5, examples="all")
    assert contrast(codes, labels, logits_for(labels)) == 0, "no anchor has a positive yet"
    value = contrast(codes, labels, logits_for(labels))
    cross = vectors[0] @ vectors[1] / 0.5
    own = torch.tensor(1 / 0.5)
    expected = -torch.log(
        own.exp() / (own.exp() + 2 * cross.exp())
    )  # the other class: in the batch and the queue
    torch.testing.assert_close(value, expected)


@pytest.mark.parametrize("label", [0, 255])
@pytest.mark.parametrize("queue_size", [0, 8])
def test_defect_7_nothing_to_contrast_is_a_zero_that_reaches_the_network(label: int, queue_size: int) -> None:
    """Void only, and one pixel only: neither crashes, neither is NaN."""
    inputs = embeddings(1, DIM, 3, 3)
    labels = torch.full((1, 3, 3), 255)
    labels[0, 1, 1] = label
    value = make(queue_size=queue_size)(inputs, labels, torch.zeros(1, CLASSES, 3, 3))
    value.backward()
    assert value == 0
    assert inputs.grad is not None
    assert torch.equal(inputs.grad, torch.zeros_like(inputs))


def test_defect_7_loss_is_finite_where_similarities_are_extreme() -> None:
    labels = torch.tensor([[[0, 0, 1, 1]]])
    codes = torch.zeros(1, DIM, 1, 4)
    codes[0, 0] = torch.tensor([1.0, -1.0, 1.0, -1.0])
    codes.requires_grad_()
    value = make(temperature=1e-3, queue_size=0)(codes, labels, logits_for(labels))
    value.backward()
    assert torch.isfinite(value)
    assert codes.grad is not None
    assert torch.isfinite(codes.grad).all()


@pytest.mark.parametrize(
    ("per_class", "share", "hard"), [(1, 0.5, 1), (5, 0.5, 3), (4, 0.5, 2), (10, 0.3, 3)]
)
def test_defect_8_odd_budgets_favour_hard_anchors(per_class: int, share: float, hard: int) -> None:
    """With few hard pixels among many, about all hard anchors come from the hard budget."""
    labels = torch.zeros(1, 100, 100, dtype=torch.int64)
    wrong = torch.zeros(1, 100, 100, dtype=torch.bool)
    wrong[0, 0, :20] = True
    counts = []
    for seed in range(20):
        anchors = draw(labels, wrong, per_class=per_class, hard_share=share, seed=seed)
        counts.append(int(wrong.flatten()[anchors.indices].sum()))
    assert min(counts) == hard
    assert sum(counts) / len(counts) < hard + 0.2


def draw(labels: Tensor, wrong: Tensor, **settings: Any) -> sampling.Anchors:
    defaults = {"num_classes": CLASSES, "per_class": 5, "hard_share": 0.5, "seed": 0, "ignore_index": 255}
    return sampling.draw_anchors(labels, wrong, torch.arange(len(labels)), **defaults | settings)


def test_too_few_hard_pixels_are_filled_up_at_random() -> None:
    labels = torch.zeros(2, 10, 10, dtype=torch.int64)
    wrong = torch.zeros_like(labels, dtype=torch.bool)
    wrong[1, 5, 5] = True
    anchors = draw(labels, wrong, per_class=8)
    assert len(anchors.indices.unique()) == 8
    assert 155 in anchors.indices


def test_budget_is_global_and_a_rare_class_gives_what_it_has() -> None:
    labels = torch.zeros(4, 10, 10, dtype=torch.int64)
    labels[2, 3, :2] = 2
    anchors = draw(labels, torch.zeros_like(labels, dtype=torch.bool), per_class=30)
    assert torch.bincount(anchors.labels, minlength=3).tolist() == [30, 0, 2]


def test_anchors_are_drawn_uniformly() -> None:
    """Each of 40 pixels, half of them hard, is drawn as often as it should be, over many steps."""
    labels = torch.zeros(1, 4, 10, dtype=torch.int64)
    wrong = torch.zeros(1, 4, 10, dtype=torch.bool)
    wrong[0, :2] = True
    times, trials = torch.zeros(40), 3000
    for position in range(trials):
        anchors = sampling.draw_anchors(
            labels,
            wrong,
            torch.tensor([position]),
            num_classes=1,
            per_class=8,
            hard_share=0.5,
            seed=0,
            ignore_index=255,
        )
        times[anchors.indices] += 1
    random = 4 / 36  # four hard ones first, then four of the 36 others
    hard, easy = times[:20] / trials, times[20:] / trials
    assert hard.mean() == pytest.approx(4 / 20 + 16 / 20 * random, abs=0.005)
    assert easy.mean() == pytest.approx(random, abs=0.005)
    for group in (hard, easy):
        p = group.mean()
        assert (group - p).abs().max() < 5 * (p * (1 - p) / trials).sqrt()


def test_random_examples_are_drawn_uniformly_without_replacement() -> None:
    queue = PixelQueue(3, 10, 1)
    for c, count in enumerate([10, 4, 7]):
        queue.enqueue(torch.arange(count)[:, None] + 100.0 * c, torch.full((count,), c))
    trials, positives, negatives = 3000, torch.zeros(210), torch.zeros(210)
    for key in range(trials):
        examples = queue.random_examples(
            torch.tensor([0, 1]), num_positives=3, num_negatives=5, seed=0, key=key
        )
        ids = examples.rows[:, 0].long()
        own = ids[(examples.labels == 0) & examples.positive]
        others = ids[(examples.labels != 0) & (examples.place < examples.end[0])]
        assert len(own.unique()) == 3
        assert len(others.unique()) == 5
        positives[own] += 1
        negatives[others] += 1
    for times, members, p in (
        (positives, range(10), 3 / 10),
        (negatives, [*range(100, 104), *range(200, 207)], 5 / 11),
    ):
        observed = times[list(members)] / trials
        assert (observed - p).abs().max() < 5 * (p * (1 - p) / trials) ** 0.5


def test_defect_11_one_process_without_a_group_contrasts() -> None:
    assert not torch.distributed.is_initialized()
    labels = torch.tensor([[[0, 0], [1, 1]]])
    inputs = embeddings(1, DIM, 2, 2)
    make()(inputs, labels, logits_for(labels)).backward()
    assert inputs.grad is not None
    assert inputs.grad.abs().sum() > 0


def test_evaluation_mode_leaves_the_memory_alone() -> None:
    contrast = make().eval()
    labels = torch.tensor([[[0, 0], [1, 1]]])
    assert contrast(embeddings(1, DIM, 2, 2), labels, logits_for(labels)) > 0
    assert contrast.queue is not None
    assert contrast.queue.filled.sum() == 0
    assert contrast.next_position == 0


def test_without_positions_images_are_numbered_on() -> None:
    labels = torch.randint(CLASSES, (2, 8, 8), generator=torch.Generator().manual_seed(0))
    counted, given = make(anchors_per_class=2), make(anchors_per_class=2)
    for step in range(3):
        inputs = embeddings(2, DIM, 8, 8, seed=step)
        positions = torch.arange(2) + 2 * step
        value = given(inputs, labels, logits_for(labels), positions=positions)
        assert counted(inputs, labels, logits_for(labels)) == value
    assert counted.state_dict()["next_position"] == 6


def test_state_dict_restores_everything() -> None:
    labels = torch.randint(CLASSES, (2, 8, 8), generator=torch.Generator().manual_seed(0))
    first, second = make(num_positives=2, num_negatives=3), make(num_positives=2, num_negatives=3)
    for step in range(3):
        first(embeddings(2, DIM, 8, 8, seed=step), labels, logits_for(labels))
    second.load_state_dict(first.state_dict())
    inputs = embeddings(2, DIM, 8, 8, seed=9)
    assert first(inputs, labels, logits_for(labels)) == second(inputs, labels, logits_for(labels))


def test_half_precision_inputs_are_contrasted_in_float32() -> None:
    labels = torch.tensor([[[0, 0], [1, 1]]])
    inputs = embeddings(1, DIM, 2, 2).detach().bfloat16()
    with torch.autocast("cpu", torch.bfloat16):
        value = make()(inputs, labels, logits_for(labels).bfloat16())
    assert value.dtype == torch.float32
    torch.testing.assert_close(value, make()(inputs.float(), labels, logits_for(labels)))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"embeddings": torch.zeros(2, 5, 4, 4)}, r"embeddings are \[B, 4, h, w\], not \[2, 5, 4, 4\]"),
        ({"labels": torch.zeros(2, 1, 4, 4).long()}, r"labels are int64 \[B, H, W\]"),
        ({"labels": torch.zeros(2, 4, 4)}, "labels are int64"),
        ({"logits": torch.zeros(2, 7, 4, 4)}, r"logits are \[B, 3, \., \.\]"),
        ({"logits": torch.zeros(1, 3, 4, 4)}, "hold 2, 2 and 1 images"),
        ({"labels": torch.full((2, 4, 4), 3)}, r"labels hold \[3\]; allowed are 0 to 2 and the ignored 255"),
    ],
)
def test_wrong_inputs_are_named(change: dict[str, Tensor], message: str) -> None:
    inputs = {"embeddings": torch.zeros(2, 4, 4, 4), "labels": torch.zeros(2, 4, 4).long()}
    inputs |= {"logits": torch.zeros(2, 3, 4, 4)}
    with pytest.raises(ValueError, match=message):
        make()(*(inputs | change).values())


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("temperature", 0.0),
        ("hard_share", 1.5),
        ("anchors_per_class", 0),
        ("num_negatives", 0),
        ("ignore_index", 2),
    ],
)
def test_wrong_settings_are_named(name: str, value: float) -> None:
    with pytest.raises(ValueError, match=f"{name} (is )?{value}"):
        make(**{name: value})
