"""The streaming loss against the dense formula, which holds every similarity at once."""

from collections.abc import Iterator
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from pixelcontrast.contrast import sweeps
from pixelcontrast.contrast.info_nce import Comparison, NegativeBlocks, PositiveBlocks, info_nce
from pixelcontrast.contrast.sweeps import Block, ClassBlock, Classes, Negatives, Pairs

D = 5


def negative_blocks(keys: Tensor, taken: Tensor, *, size: int) -> NegativeBlocks:
    """Keys [k, D] that anchors meet where ``taken`` [a, k] says so, ``size`` of them at a time."""

    def choose(anchors: Tensor, _: Classes) -> Iterator[Block]:
        half = len(anchors) // 2
        for part in (slice(0, half), slice(half, len(anchors))):
            for begin in range(0, len(keys), size):
                columns = slice(begin, begin + size)
                yield Block(part, keys[columns], taken[part, columns])

    return choose


def positive_blocks(keys: Tensor, taken: Tensor, *, size: int) -> PositiveBlocks:
    """The same for the anchors of some classes at a time."""

    def choose(_: Tensor, classes: Classes) -> Iterator[ClassBlock]:
        for few in sweeps.split(len(classes.labels), 2):
            numbers, _ = classes.table(few)
            for begin in range(0, len(keys), size):
                columns = keys[begin : begin + size].expand(len(numbers), -1, -1)
                yield ClassBlock(few, columns, taken[numbers][..., begin : begin + size])

    return choose


def dense(
    anchors: Tensor, batch: Tensor, labels: Tensor, keys: Tensor, taken: list[Tensor], temperature: float
) -> Tensor:
    """Eq. 3 as it is written, for anchors that are the whole batch; keys and taken: positives, negatives."""
    same = labels[:, None] == labels
    itself = torch.eye(len(labels)).bool()
    positive = torch.cat([same & ~itself, taken[0]], dim=1)
    negative = torch.cat([~same, taken[1]], dim=1)
    similarity = anchors @ torch.cat([batch, keys]).T / temperature
    total = torch.zeros((), dtype=anchors.dtype)
    for s, p, n in zip(similarity, positive, negative, strict=True):
        for value in s[p]:
            total = total + (torch.logsumexp(torch.cat([value[None], s[n]]), 0) - value) / p.sum()
    return total


def problem(
    classes: list[int], *, keys: int = 11, seed: int = 0, dtype: torch.dtype = torch.float64
) -> dict[str, Any]:
    generator = torch.Generator().manual_seed(seed)
    labels = torch.tensor(classes)
    own = torch.randint(max(classes) + 2, (keys,), generator=generator)
    some = torch.rand(len(labels), keys, generator=generator) < 0.7
    anchors, rows = (
        F.normalize(torch.randn(n, D, generator=generator, dtype=torch.float64), dim=1).to(dtype)
        for n in (len(labels), keys)
    )
    taken = [(labels[:, None] == own) & some, (labels[:, None] != own) & some]
    return {"anchors": anchors, "keys": rows, "labels": labels, "taken": taken}


def comparison_of(case: dict[str, Any], *, temperature: float, size: int) -> Comparison:
    labels, keys, (positive, negative) = case["labels"], case["keys"], case["taken"]
    return Comparison(
        labels=labels,
        counts=[len(labels)],
        here=slice(0, len(labels)),
        temperature=temperature,
        of_class=torch.bincount(labels).tolist(),
        positives=positive_blocks(keys, positive, size=size),
        negatives=negative_blocks(keys, negative, size=size),
    )


def both(
    case: dict[str, Any], *, temperature: float = 0.1, size: int = 3
) -> tuple[list[Tensor], list[Tensor]]:
    """Loss and gradients in anchors and batch: streaming, and dense."""
    results = []
    labels, keys, taken = case["labels"], case["keys"], case["taken"]
    for streaming in (True, False):
        anchors, batch = (case["anchors"].clone().requires_grad_() for _ in range(2))
        if streaming:
            comparison = comparison_of(case, temperature=temperature, size=size)
            loss = info_nce(anchors, batch, comparison)
        else:
            loss = dense(anchors, batch, labels, keys, taken, temperature)
        gradients = torch.autograd.grad(loss, [anchors, batch], allow_unused=True)
        results.append([loss.detach(), *(torch.zeros_like(keys[:1]) if g is None else g for g in gradients)])
    return results[0], results[1]


CASES = {
    "three classes": [0, 0, 0, 1, 1, 3, 3, 3],
    "some alone": [0, 1, 2, 2, 5],
    "one class": [2, 2, 2],
    "one anchor": [1],
}


@pytest.mark.parametrize("size", [1, 4, 100])
@pytest.mark.parametrize("chunk", [1, 10, 1 << 20])
@pytest.mark.parametrize("name", CASES)
def test_streaming_equals_the_dense_formula(
    name: str, chunk: int, size: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sweeps, "_CPU_CHUNK", chunk)
    case = problem(CASES[name])
    ours, want = both(case, size=size)
    for got, expected in zip(ours, want, strict=True):
        torch.testing.assert_close(got, expected.expand_as(got), rtol=0, atol=1e-10)
    single = {**problem(CASES[name], dtype=torch.float32)}
    for got, expected in zip(both(single, size=size)[0], want, strict=True):
        torch.testing.assert_close(got.double(), expected.expand_as(got), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("temperature", [1e-3, 0.01, 0.07, 1.0, 10.0])
def test_no_temperature_overflows_or_underflows(temperature: float) -> None:
    """At 0.001 similarities span 2,000, far beyond what exp can take."""
    case = problem([0, 0, 0, 1, 1, 3, 3, 3], keys=40)
    for got, expected in zip(*both(case, temperature=temperature), strict=True):
        assert got.isfinite().all()
        torch.testing.assert_close(got, expected, rtol=1e-9, atol=1e-10)


def test_maxima_that_rise_from_chunk_to_chunk_are_followed(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each chunk's similarities exceed those before by more than exp can take."""
    monkeypatch.setattr(sweeps, "_CPU_CHUNK", 1)
    case = problem([0, 1], keys=6)
    case["keys"] = case["anchors"][:1] * torch.tensor([-1.0, -0.5, 0.0, 0.3, 0.6, 1.0])[:, None]
    case["taken"] = [torch.zeros(2, 6).bool(), torch.ones(2, 6).bool()]
    case["anchors"][1] = case["anchors"][0] * 0.9
    case["taken"][0][0, 3] = True
    for temperature in (0.05, 0.002):
        for got, expected in zip(*both(case, temperature=temperature, size=1), strict=True):
            torch.testing.assert_close(got, expected, rtol=1e-9, atol=1e-10)


@pytest.mark.parametrize("temperature", [0.005, 0.1])
@pytest.mark.parametrize("chunk", [1, 10, 33, 1 << 20])
def test_pairs_that_are_left_out_are_as_a_mask_is(
    temperature: float, chunk: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Classes of keys that begin and end within chunks."""
    monkeypatch.setattr(sweeps, "_CPU_CHUNK", chunk)
    case = problem([0, 0, 0, 1, 1, 3, 3, 3], keys=40)
    pairs = [
        Pairs(slice(0, 3), slice(0, 7)),
        Pairs(slice(3, 5), slice(7, 30)),
        Pairs(slice(5, 8), slice(31, 40)),
    ]
    taken = torch.ones(8, 40).bool()
    for few in pairs:
        taken[few] = False
    sums = []
    for block in (Block(slice(0, 8), case["keys"], taken), Block(slice(0, 8), case["keys"], None, pairs)):
        negatives = Negatives(case["anchors"] / temperature, temperature)
        negatives.add(block)
        sums.append((negatives.log_sum, negatives.pull / negatives.safe_weight))
    torch.testing.assert_close(sums[0], sums[1], rtol=1e-12, atol=0)


def test_without_a_shift_float32_holds_the_smallest_and_the_largest_similarities() -> None:
    """At 1/40, the lowest temperature without one: keys equal to the anchors, and opposite."""
    case = problem([0, 0, 1, 1, 2], keys=10, dtype=torch.float32)
    case["keys"] = torch.cat([case["anchors"], -case["anchors"]])
    wide = {name: value.double() if name in ("anchors", "keys") else value for name, value in case.items()}
    for got, expected in zip(both(case, temperature=0.025)[0], both(wide, temperature=0.025)[1], strict=True):
        torch.testing.assert_close(got.double(), expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("temperature", [0.005, 0.1])
def test_what_is_not_taken_is_not_met(temperature: float) -> None:
    """Keys equal to the anchors, which would raise a maximum."""
    case = problem([0, 0, 1, 1, 2], keys=9)
    case["keys"][:5] = case["anchors"]
    case["taken"][1][:, :5] = False
    for got, expected in zip(*both(case, temperature=temperature), strict=True):
        torch.testing.assert_close(got, expected, rtol=1e-9, atol=1e-10)


def test_gradients_are_those_of_finite_differences() -> None:
    case = problem([0, 0, 1, 1, 2], keys=7)
    comparison = comparison_of(case, temperature=0.3, size=3)
    inputs = [case["anchors"].clone().requires_grad_() for _ in range(2)]
    assert torch.autograd.gradcheck(lambda a, b: info_nce(a, b, comparison), inputs)


def test_stored_bfloat16_is_summed_in_float32() -> None:
    case = problem([0, 0, 1, 1], keys=500, dtype=torch.float32)
    rounded = {**case, "keys": case["keys"].bfloat16()}
    exact = {**case, "keys": case["keys"].bfloat16().float()}
    for got, expected in zip(both(rounded, size=100)[0], both(exact)[1], strict=True):
        torch.testing.assert_close(got, expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(("count", "most"), [(0, 5), (7, 0), (40, 16), (95_000, 551), (33, 33)])
def test_slices_make_up_everything_and_begin_at_64_bytes(count: int, most: int) -> None:
    parts = list(sweeps.split(count, most))
    assert [number for part in parts for number in range(part.start, part.stop)] == list(range(count))
    assert all(part.stop - part.start <= max(most, 1) for part in parts)
    if most >= 16:
        assert all(part.start % 16 == 0 for part in parts), "float32 rows"


def test_nothing_at_all() -> None:
    nothing = torch.zeros(0, D, requires_grad=True)
    loss = info_nce(nothing, nothing, Comparison(torch.zeros(0).long(), [0], slice(0, 0), 0.1))
    loss.backward()
    assert loss == 0
