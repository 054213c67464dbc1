"""Example mining by hand-made similarities, and the distribution of its free draws."""

from typing import Any

import pytest
import torch
from torch import Tensor

from pixelcontrast.contrast.memory import Examples
from pixelcontrast.contrast.mining import mine


def examples(similarities: list[float], place: list[int] | None = None) -> Examples:
    """Rows whose similarity with the anchor [1] is given; by default drawn in the order of the list."""
    n = len(similarities)
    order = torch.arange(n) if place is None else torch.tensor(place)
    return Examples(torch.tensor(similarities)[:, None], torch.zeros(n, dtype=torch.int64), order)


def mined(rows: Examples, candidates: list[slice] | None = None, **settings: Any) -> list[float]:
    defaults: dict[str, Any] = {"hard": "near", "num": 2, "share": 0.5}
    chosen = mine(torch.ones(1, 1), rows, candidates or [slice(None)], **defaults | settings)
    return sorted(round(value, 6) for value in chosen[0].tolist())


LADDER = [0.1, 0.5, 0.3, 0.9, 0.7, -0.2]


@pytest.mark.parametrize(
    ("mining", "near", "far"),
    [
        ("all", sorted(LADDER), sorted(LADDER)),
        ("random", [0.3, 0.9], [0.3, 0.9]),
        ("hardest", [0.7, 0.9], [-0.2, 0.1]),
        ("semi-hard", [0.7, 0.9], [-0.2, 0.3]),  # of 0.9, 0.7, 0.5, and of −0.2, 0.1, 0.3, those drawn first
    ],
)
def test_defect_9_each_miner_chooses_as_the_paper_says(mining: str, near: Any, far: Any) -> None:
    rows = examples(LADDER, place=[5, 3, 1, 0, 2, 4])
    assert mined(rows, mining=mining, hard="near") == near
    assert mined(rows, mining=mining, hard="far") == far


@pytest.mark.parametrize("mining", ["random", "hardest", "semi-hard"])
def test_only_candidates_are_chosen(mining: str) -> None:
    parts = [slice(0, 2), slice(4, None)]
    assert set(mined(examples(LADDER), parts, mining=mining, num=3, share=1.0)) <= {0.1, 0.5, 0.7, -0.2}


@pytest.mark.parametrize(("share", "size"), [(0.1, 3), (0.101, 4), (0.001, 1), (1.0, 30)])
def test_a_semi_hard_pool_is_the_share_rounded_up(share: float, size: int) -> None:
    rows = examples([i / 30 for i in range(30)])
    assert mined(rows, mining="semi-hard", share=share, num=30) == [
        round(i / 30, 6) for i in range(30 - size, 30)
    ]


@pytest.mark.parametrize("mining", ["all", "random", "hardest", "semi-hard"])
def test_more_than_there_is_gives_all_there_is(mining: str) -> None:
    assert mined(examples(LADDER), mining=mining, num=99, share=1.0) == sorted(LADDER)
    assert mined(examples([]), mining=mining, num=99) == []


def draw_often(mining: str, anchors: Tensor, trials: int = 4000) -> Tensor:
    """How often each of 20 examples is chosen for each of the anchors."""
    generator = torch.Generator().manual_seed(0)
    rows = torch.linspace(-1, 1, 20)[:, None]
    times = torch.zeros(len(anchors), 20)
    for _ in range(trials):
        step = Examples(rows, torch.zeros(20).long(), torch.randperm(20, generator=generator))
        chosen = mine(anchors, step, [slice(None)], hard="near", mining=mining, num=3, share=0.4)  # type: ignore[arg-type]
        which = ((chosen / anchors + 1) / 2 * 19).round().long()
        assert all(len(row.unique()) == 3 for row in which), "drawn without replacement"
        times.scatter_add_(1, which, torch.ones_like(chosen))
    return times / trials


@pytest.mark.parametrize(
    ("mining", "pools"),
    [
        ("random", [range(20), range(20)]),
        ("semi-hard", [range(12, 20), range(8)]),
        ("hardest", [range(17, 20), range(3)]),
    ],
)
def test_free_draws_are_uniform_in_their_pool(mining: str, pools: list[range]) -> None:
    """Of anchors that look to either end of the examples, each draws from its own pool alone."""
    times = draw_often(mining, torch.tensor([[1.0], [-1.0]]))
    for row, pool in zip(times, pools, strict=True):
        p = 3 / len(pool)
        assert row.sum() == pytest.approx(3)
        assert row[list(pool)].sum() == pytest.approx(3)
        assert (row[list(pool)] - p).abs().max() <= 5 * (p * (1 - p) / 4000) ** 0.5


def test_gradient_reaches_the_anchors_through_the_chosen_alone() -> None:
    anchors = torch.tensor([[1.0]], requires_grad=True)
    mine(
        anchors, examples(LADDER), [slice(None)], hard="near", mining="hardest", num=2, share=1
    ).sum().backward()
    assert anchors.grad is not None
    assert anchors.grad.item() == pytest.approx(0.9 + 0.7)
