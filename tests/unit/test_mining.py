"""Example mining by hand-made similarities, and the distribution of its free draws."""

import math
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch import Tensor

from pixelcontrast.contrast import mining
from pixelcontrast.contrast.memory import Examples
from pixelcontrast.contrast.mining import Miner
from pixelcontrast.contrast.sweeps import Block, ClassBlock, Classes, classes_of

ANCHOR, OTHER = 0, 1
TRIALS = 1000
"""Draws whose frequencies are compared with probabilities, within five standard deviations."""
LADDER = [0.1, 0.5, 0.3, 0.9, 0.7, -0.2]


def examples(*similarities: list[float], place: list[int] | None = None) -> Examples:
    """Per class, rows whose similarity with the anchor [1] is given; drawn in their order, or as said."""
    counts = [len(values) for values in similarities]
    rows = torch.zeros(len(counts), max(counts), 1)
    for c, values in enumerate(similarities):
        rows[c, : len(values), 0] = torch.tensor(values)
    return stored(rows, counts, torch.tensor(place or range(sum(counts))))


def stored(rows: Tensor, counts: list[int], keys: Tensor) -> Examples:
    """The first ``counts`` of each class of rows [C, slots, D], with keys [n]."""
    usable = torch.arange(rows.shape[1]) < torch.tensor(counts)[:, None]
    return Examples(
        [rows], [usable], [torch.zeros_like(usable).long().masked_scatter_(usable, keys)], [counts]
    )


def classes_with(labels: Tensor) -> Classes:
    return classes_of(labels, torch.bincount(labels).tolist())


def met(
    blocks: Iterator[Block] | Iterator[ClassBlock], anchors: Tensor, classes: Classes
) -> list[list[float]]:
    """Sorted similarities that each anchor meets."""
    found: list[list[float]] = [[] for _ in anchors]
    for block in blocks:
        if isinstance(block, Block):
            part = range(len(anchors))[block.anchors]
            taken = torch.ones(len(part), len(block.keys)).bool() if block.taken is None else block.taken
            for pairs in block.left_out:
                taken[pairs] = False
            parts = [(part, block.keys, taken)]
        else:
            labels = range(len(classes.labels))[block.classes]
            every = torch.ones(1, 1, block.keys.shape[1]).bool()
            taken = every if block.taken is None else block.taken
            parts = zip(
                [range(len(anchors))[classes.anchors(slice(c, c + 1))] for c in labels],
                block.keys,
                taken.expand(-1, max(classes.counts[block.classes]), -1),
                strict=True,
            )
        for part, keys, taken in parts:
            for anchor, row in zip(part, taken, strict=False):
                found[anchor] += (keys[row] @ anchors[anchor]).tolist()
    return [sorted(round(value, 6) for value in values) for values in found]


def mined(examples: Examples, hard: str, **settings: Any) -> list[float]:
    """What one anchor of class 0 meets."""
    miner, anchor = Miner(**({"num": 2, "share": 0.5} | settings)), torch.ones(1, 1)
    choose = miner.negatives if hard == "near" else miner.positives
    classes = classes_with(torch.tensor([ANCHOR]))
    return met(choose(anchor, classes, examples), anchor, classes)[0]


@pytest.mark.parametrize(
    ("mining", "near", "far"),
    [
        ("all", sorted(LADDER), sorted(LADDER)),
        ("random", [0.3, 0.9], [0.3, 0.9]),
        ("hardest", [0.7, 0.9], [-0.2, 0.1]),
        ("semi-hard", [0.7, 0.9], [-0.2, 0.3]),  # of 0.9, 0.7, 0.5, and of −0.2, 0.1, 0.3, those drawn first
        ("semi-hard-subset", [0.7, 0.9], [-0.2, 0.3]),  # of 0.9, 0.3, 0.7, −0.2, the first four
    ],
)
def test_defect_9_each_miner_chooses_as_the_paper_says(mining: str, near: Any, far: Any) -> None:
    place = [5, 3, 1, 0, 2, 4]
    if mining == "semi-hard-subset":
        place = [5, 4, 1, 0, 2, 3]
    assert mined(examples([], LADDER, place=place), "near", mining=mining) == near
    assert mined(examples(LADDER, place=place), "far", mining=mining) == far


MINERS = ("all", "random", "hardest", "semi-hard", "semi-hard-subset")


@pytest.mark.parametrize("mining", MINERS)
def test_only_the_own_class_is_positive_and_only_others_are_negative(mining: str) -> None:
    stored = examples([0.8, -0.8, 0.9], [0.1, 0.5], [0.7, -0.2, 0.2])
    assert set(mined(stored, "far", mining=mining, num=9, share=1.0)) == {0.8, -0.8, 0.9}
    assert set(mined(stored, "near", mining=mining, num=9, share=1.0)) == {0.1, 0.5, 0.7, -0.2, 0.2}


@pytest.mark.parametrize(("share", "size"), [(0.1, 3), (0.101, 4), (0.001, 1), (1.0, 30)])
def test_a_semi_hard_pool_is_the_share_rounded_up(share: float, size: int) -> None:
    stored = examples([], [i / 30 for i in range(30)])
    want = [round(i / 30, 6) for i in range(30 - size, 30)]
    assert mined(stored, "near", mining="semi-hard", share=share, num=30) == want


@pytest.mark.parametrize("mining", MINERS)
def test_more_than_there_is_gives_all_there_is(mining: str) -> None:
    assert mined(examples([], LADDER), "near", mining=mining, num=99, share=1.0) == sorted(LADDER)
    assert mined(examples(LADDER, [0.3]), "far", mining=mining, num=99, share=1.0) == sorted(LADDER)
    assert mined(examples(LADDER, []), "near", mining=mining, num=99) == []
    assert mined(examples([], LADDER), "far", mining=mining, num=99) == []


def test_those_as_hard_as_the_last_are_all_taken() -> None:
    stored = examples([], [0.9, 0.5, 0.5, 0.1, 0.5])
    assert mined(stored, "near", mining="hardest", num=2) == [0.5, 0.5, 0.5, 0.9]
    assert mined(stored, "near", mining="semi-hard", num=2, share=0.6) == [0.5, 0.9], "K all the same"


@pytest.mark.parametrize("most", [1, 7, 50])
@pytest.mark.parametrize("mining", MINERS)
def test_blocks_of_any_size_choose_the_same(mining: str, most: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Many anchors of several classes, of which one is not stored, one stored without anchor."""
    generator = torch.Generator().manual_seed(0)
    kept = stored(
        torch.randn(5, 30, 3, generator=generator).double(),
        [30, 0, 12, 25, 1],
        torch.randperm(68, generator=generator),
    )
    labels = torch.tensor([0, 0, 0, 1, 2, 2, 4])
    anchors = torch.randn(7, 3, generator=generator).double()
    miner = Miner(mining, 4, 0.3)  # type: ignore[arg-type]
    classes = classes_with(labels)

    def everything() -> list[list[list[float]]]:
        return [
            met(choose(anchors, classes, kept), anchors, classes)
            for choose in (miner.positives, miner.negatives)
        ]

    want = everything()
    for name in ("mining._CPU_HELD", "mining._MOST_ROWS", "sweeps._CPU_CHUNK"):
        monkeypatch.setattr(f"pixelcontrast.contrast.{name}", most)
    assert everything() == want
    assert [len(values) for values in want[0]][3] == 0
    assert all(len(values) >= 4 for values in want[1])


def test_a_pool_that_lies_far_back_in_the_order_is_still_found() -> None:
    """The hardest are drawn last: the look at the front of the order must not be taken for all."""
    n = 2000
    similarities = [i / n for i in range(n)]
    stored = examples([], similarities)
    assert mined(stored, "near", mining="semi-hard", num=3, share=0.1) == [0.9, 0.9005, 0.901]


def draw_often(miner: Miner, anchors: Tensor, *, n: int = 20, trials: int = TRIALS) -> Tensor:
    """How often each of n examples is chosen as a negative of each of the anchors."""
    generator = torch.Generator().manual_seed(0)
    rows = torch.zeros(2, n, 1)
    rows[OTHER, :, 0] = torch.linspace(-1, 1, n)
    times = torch.zeros(len(anchors), n)
    classes = classes_with(torch.full((len(anchors),), ANCHOR))
    for _ in range(trials):
        kept = stored(rows, [0, n], torch.randperm(n, generator=generator))
        for row, values in enumerate(met(miner.negatives(anchors, classes, kept), anchors, classes)):
            which = ((torch.tensor(values) / anchors[row] + 1) / 2 * (n - 1)).round().long()
            assert len(which.unique()) == len(which), "drawn without replacement"
            times[row, which] += 1
    return times / trials


@pytest.mark.parametrize(
    ("mining", "pools"),
    [
        ("random", [range(20), range(20)]),
        ("semi-hard", [range(12, 20), range(8)]),
        ("hardest", [range(17, 20), range(3)]),
    ],
)
def test_free_draws_are_uniform_in_their_pool(mining: Any, pools: list[range]) -> None:
    """Anchors that look to either end of the examples draw from their own pool alone."""
    times = draw_often(Miner(mining, 3, 0.4), torch.tensor([[1.0], [-1.0]]))
    for row, pool in zip(times, pools, strict=True):
        p = 3 / len(pool)
        assert row.sum() == pytest.approx(3)
        assert row[list(pool)].sum() == pytest.approx(3)
        assert (row[list(pool)] - p).abs().max() <= 5 * (p * (1 - p) / TRIALS) ** 0.5


def test_a_subset_s_hardest_have_the_stated_distribution_near_to_the_exact_one() -> None:
    """Rank j is in with the probability m/n · P(fewer than ⌈share · m⌉ of the harder ones are drawn)."""
    n, num, share, trials = 60, 6, 0.3, 2000
    subset = draw_often(Miner("semi-hard-subset", num, share), torch.ones(1, 1), n=n, trials=trials)[0].flip(
        0
    )
    exact = draw_often(Miner("semi-hard", num, share), torch.ones(1, 1), n=n, trials=trials)[0].flip(0)
    m = 20  # K / share
    for rank, observed in enumerate(subset.tolist()):
        ways = [math.comb(rank, k) * math.comb(n - 1 - rank, m - 1 - k) for k in range(num)]
        p = m / n * sum(ways) / math.comb(n - 1, m - 1)
        assert abs(observed - p) <= 5 * (p * (1 - p) / trials) ** 0.5 + 1e-9
    pool = 18  # of the exact draw, each of them with K / pool = 1/3
    edge = math.ceil(2 * n * math.sqrt(share * (1 - share) / m))
    assert subset.sum() == pytest.approx(num)
    assert (subset - exact)[: pool - edge].abs().max() < 0.05
    assert subset[pool + edge :].max() < 0.02
    assert subset[: pool + edge].sum() > 0.98 * num


def test_shards_choose_a_draw_stratified_by_shards() -> None:
    """Two halves choose K/2 each among their own hardest: 4 of 10 here; no shard's row has another chance."""
    n = 20
    halves = [list(range(0, n, 2)), list(range(1, n, 2))]
    times = draw_often(Miner("semi-hard", 2, 0.4), torch.ones(1, 1), n=n // 2)[0]
    union = torch.zeros(n)
    for half in halves:
        union[half] = times
    want = torch.zeros(n)
    want[12:] = 4 / 8  # the pool of both halves is that of the whole here, as their ranks alternate
    assert (union - want).abs().max() <= 5 * (0.25 / TRIALS) ** 0.5


def test_kth_smallest_of_each_row() -> None:
    values = torch.randn(4, 40, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    k = torch.tensor([[1], [7], [40], [0]])
    want = torch.stack([values[i].sort().values[k[i] - 1] for i in range(4)])
    want[3] = -torch.inf
    assert torch.equal(mining._kth_smallest(values, k, 40), want)
