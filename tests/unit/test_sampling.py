"""Which pixels become anchors and which enter the memory."""

from typing import Any

import pytest
import torch
from torch import Tensor

from pixelcontrast.contrast import sampling

CLASSES = 3


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


@pytest.mark.parametrize("spread", [1, 1 << 20, 1 << 62])
@pytest.mark.parametrize("budgets", [0, 3, [0, 7, 500, 2]])
def test_the_smallest_of_each_group_are_those_of_a_full_sort(budgets: int | list[int], spread: int) -> None:
    """Also where keys crowd, so that the guess which of them are small enough is wrong."""
    generator = torch.Generator().manual_seed(0)
    keys = torch.randint(spread, (4000,), generator=generator)
    groups = torch.randint(3, (4000,), generator=generator) * torch.randint(2, (4000,), generator=generator)
    given = budgets if isinstance(budgets, int) else torch.tensor(budgets)[:3]
    want = []
    for group in range(3):
        rows = sorted(torch.nonzero(groups == group).flatten().tolist(), key=lambda row: int(keys[row]))
        want.append(rows[: budgets if isinstance(budgets, int) else budgets[group]])
    for rows, sort in ((keys, sampling.smallest_per_group), (keys, sampling._first_of_sorted)):
        table = sort(rows, groups, given, num_groups=3, most=500)
        assert [row[taken].tolist() for row, taken in zip(*table, strict=True)] == want


def draw(labels: Tensor, wrong: Tensor, *, per_class: int = 5, **settings: Any) -> sampling.Anchors:
    """Anchors of three classes, in one process."""
    positions = settings.get("positions", torch.arange(len(labels)))
    classes, _ = sampling.classes_of_pixels(labels, CLASSES, 255)
    keys = sampling.pixel_keys(labels.shape, positions, settings.get("seed", 0), sampling.HARD, sampling.ANY)
    chosen, _ = sampling.choose_anchors(
        sampling.Pixels(classes.flatten(), wrong.flatten(), keys[0], keys[1]),
        budgets=sampling.equal_budgets(per_class, settings.get("hard_share", 0.5)),
        num_classes=CLASSES,
        note=torch.zeros(1, dtype=torch.int64),
        group=None,
    )
    return chosen.anchors(chosen.look(None).tolist(), wrong, None)


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
    times, trials = torch.zeros(40), 1000
    for position in range(trials):
        anchors = draw(labels, wrong, per_class=8, positions=torch.tensor([position]))
        times[anchors.indices] += 1
    random = 4 / 36  # four hard ones first, then four of the 36 others
    hard, easy = times[:20] / trials, times[20:] / trials
    assert hard.mean() == pytest.approx(4 / 20 + 16 / 20 * random, abs=0.005)
    assert easy.mean() == pytest.approx(random, abs=0.005)
    for group in (hard, easy):
        p = group.mean()
        assert (group - p).abs().max() < 5 * (p * (1 - p) / trials).sqrt()


def test_anchors_say_which_of_them_are_misclassified() -> None:
    labels = torch.zeros(2, 10, 10, dtype=torch.int64)
    wrong = torch.rand(2, 10, 10, generator=torch.Generator().manual_seed(0)) < 0.3
    anchors = draw(labels, wrong, per_class=20)
    assert torch.equal(anchors.hard, wrong.flatten()[anchors.indices])
    assert 10 <= int(anchors.hard.sum()) < 20


def test_memory_entries_are_drawn_uniformly_from_each_class_of_each_image() -> None:
    labels = torch.zeros(2, 4, 10, dtype=torch.int64)
    labels[1, 2:] = 2
    labels[0, 0] = 255
    times, trials = torch.zeros(80), 1000
    for step in range(trials):
        positions = torch.tensor([2 * step, 2 * step + 1])
        classes, _ = sampling.classes_of_pixels(labels.flatten(), CLASSES, 255)
        keys = sampling.pixel_keys(labels.shape, positions, 0, sampling.ENTRY)[0]
        table = sampling.choose_entries(classes, keys, num_images=2, num_classes=CLASSES, per_image=3)
        _, entries = table.chosen(int(table.taken.sum()))
        assert torch.bincount(entries // 40 * 3 + labels.flatten()[entries]).tolist() == [3, 0, 0, 3, 0, 3]
        times[entries] += 1
    observed = times / trials
    assert not observed[:10].any()
    for part, p in ((slice(10, 40), 3 / 30), (slice(40, 60), 3 / 20), (slice(60, 80), 3 / 20)):
        assert (observed[part] - p).abs().max() < 5 * (p * (1 - p) / trials) ** 0.5


@pytest.mark.parametrize(
    ("power", "budgets"),
    [
        (0.0, [12, 12, 12, 12]),
        (1.0, [2, 6, 30, 12]),  # as 1/1000 : 1/100 : 1/20, and two at least; the last is not seen
        (0.5, [3, 10, 23, 12]),
    ],
)
def test_rare_classes_may_have_more_anchors(power: float, budgets: list[int]) -> None:
    pixels = torch.tensor([1000, 100, 20, 0])
    found = sampling.rare_budgets(pixels, per_class=12, rare_class_power=power, hard_share=0.5)
    assert isinstance(found.each, Tensor)
    assert isinstance(found.hard, Tensor)
    assert found.each.tolist() == budgets
    assert found.hard.tolist() == [sampling.ceil_share(budget, 0.5) for budget in budgets]


def test_a_class_of_a_few_pixels_does_not_take_the_others_anchors() -> None:
    pixels = torch.tensor([50_000] * 18 + [1])
    for power in (0.5, 1.0, 30.0):
        found = sampling.rare_budgets(pixels, per_class=50, rare_class_power=power, hard_share=0.5)
        assert isinstance(found.each, Tensor)
        assert found.each.tolist() == [42] * 18 + [200]  # (19 · 50 − 200) / 18


def test_what_two_rare_classes_leave_goes_to_the_others() -> None:
    """The second is above the limit only once it is given what the first leaves."""
    pixels = torch.tensor([1, 10] + [1_000_000] * 17)
    found = sampling.rare_budgets(pixels, per_class=50, rare_class_power=1.0, hard_share=0.5)
    assert isinstance(found.each, Tensor)
    assert found.each.tolist() == [200, 200] + [32] * 17  # (19 · 50 − 400) / 17


def test_before_anything_is_seen_all_budgets_are_alike() -> None:
    pixels = torch.zeros(3, dtype=torch.int64)
    found = sampling.rare_budgets(pixels, per_class=7, rare_class_power=1.0, hard_share=0.0)
    assert isinstance(found.each, Tensor)
    assert found.each.tolist() == [7, 7, 7]
