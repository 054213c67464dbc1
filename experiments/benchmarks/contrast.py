"""The contrast's speed and memory against plain forms of the same, and how its cost grows.

    python experiments/benchmarks/contrast.py --out contrast.json
    python experiments/benchmarks/contrast.py --quick

One thread. Each ratio is measured in one run, the compared forms taking turns; measure.py says how seconds
and peak memory are taken, README.md has the results. With a GPU, the bank loss, mining and the training step
are measured there too. The targets are those of the full sizes, so ``--quick`` has none.
"""

import argparse
import os
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from inputs import (
    DIM,
    NUM_CLASSES,
    embedding_maps,
    fill,
    full_queue,
    label_maps,
    logit_maps,
    problem,
    streaming_loss,
    unit_rows,
)
from measure import Form, Row, peak_bytes, row, save, seconds, show
from plain import LoopedQueue, dense_loss, looped_sampling_loss, sorted_loss, two_products
from ranks import Measured, Setting, measure

from pixelcontrast.config import Model, Optim
from pixelcontrast.contrast import MemoryConfig, MiningConfig, PixelContrast
from pixelcontrast.contrast.hyperparameters import ExampleMining
from pixelcontrast.datasets.loading import Batch
from pixelcontrast.models import build_model
from pixelcontrast.training.optim import build_optimizer
from pixelcontrast.training.step import train_step

_ALL = partial(streaming_loss, negatives="all", positives="all")
_LOSSES = {
    "ours": _ALL,
    "ours, in-batch part": partial(streaming_loss, negatives=None, positives=None),
    "products": two_products,
    "dense": dense_loss,
}
_NUM_NEGATIVES, _SHARE = 2048, 0.1


def bank_loss(quick: bool, device: str = "cpu") -> Iterator[Row]:
    """Some 1000 anchors against a bank of which all is taken, forward and backward.

    Ours and the dense form also have the anchors meet each other, the two products do not.
    """
    _check_against_dense(device)
    for bank_rows in (9_500,) if quick else (38_000, 95_000, 190_000):
        forms = {name: _bank_form(name, 950, bank_rows, device) for name in _LOSSES}
        dense = {name: forms.pop(name) for name in ("dense",)} | {"ours": forms["ours"]}
        beside_dense = seconds(dense, rounds=1 if quick else 3, device=device)
        taken = seconds(forms, rounds=3 if quick else 9, device=device)
        peak = {
            name: peak_bytes(
                _bank_form, name, 950, bank_rows, device, small=(name, 38, 380, device), device=device
            )
            for name in ("ours", "dense")
        }
        where = f"bank loss, {bank_rows:,} rows"
        for name, value in {**beside_dense, **taken}.items():
            yield row(f"{where}, {name}", value, "s", device=device)
        for name, value in peak.items():
            yield row(f"{where}, {name}: peak memory", value / 2**20, "MiB", device=device)
        ratio = taken["ours"] / taken["products"]
        yield row(f"{where}: ours / its two products", ratio, "×", at_most=1.2, device=device)
        ratio = beside_dense["dense"] / beside_dense["ours"]
        yield row(f"{where}: dense / ours", ratio, "×", at_least=5, device=device)
        ratio = peak["dense"] / peak["ours"]
        target = 100 if device == "cpu" else None  # on a GPU ours takes larger blocks, to be faster
        yield row(f"{where}: dense / ours, peak memory", ratio, "×", at_least=target, device=device)


def _bank_form(name: str, num_anchors: int, bank_rows: int, device: str) -> Form:
    given = problem(num_anchors=num_anchors, bank_rows=bank_rows, device=device)
    loss = _LOSSES[name]
    return partial(loss, given) if name == "products" else partial(given.with_gradient, loss)


def _check_against_dense(device: str) -> None:
    """What is compared is the same: value and gradient."""
    given = problem(num_anchors=95, bank_rows=1_900, device=device)
    results = []
    for loss in (_ALL, dense_loss):
        value = given.with_gradient(loss)
        assert given.anchors.grad is not None
        results.append((value, given.anchors.grad.clone()))
    torch.testing.assert_close(results[0], results[1], rtol=1e-3, atol=1e-5)


def in_batch(quick: bool) -> Iterator[Row]:
    """Sampling and loss on a map, without memory, forward and backward into the map."""
    height, width = (64, 128) if quick else (128, 256)
    labels = label_maps(4, height, width, block=8)
    logits, maps = logit_maps(labels), embedding_maps(labels)
    contrast = PixelContrast(num_classes=NUM_CLASSES, embedding_dim=DIM)
    positions = torch.arange(len(labels))

    def ours() -> None:
        maps.grad = None
        contrast(maps, labels, logits, positions=positions).backward()

    def looped() -> None:
        maps.grad = None
        looped_sampling_loss(maps, labels, logits).backward()

    where = f"in-batch loss, 4×{DIM}×{height}×{width}"
    yield from _compare(where, {"ours": ours, "looped": looped}, rounds=1 if quick else 5, at_least=50)


def mining(quick: bool, device: str = "cpu") -> Iterator[Row]:
    """Semi-hard negatives of 950 anchors, forward and backward; positives of the batch only."""
    bank_rows = 9_500 if quick else 190_000
    given = problem(num_anchors=950, bank_rows=bank_rows, device=device)
    plain = partial(sorted_loss, num=_NUM_NEGATIVES, share=_SHARE)
    forms = {"sorted": partial(given.with_gradient, plain)}
    modes: tuple[ExampleMining, ...] = ("semi-hard", "semi-hard-subset")
    for mode in modes:
        ours = partial(streaming_loss, negatives=mode, positives=None, num=_NUM_NEGATIVES)
        forms[mode] = partial(given.with_gradient, ours)
    taken = seconds(forms, rounds=1 if quick else 3, device=device)
    where = f"mining, {bank_rows:,} rows"
    for name, value in taken.items():
        yield row(f"{where}, {name}", value, "s", device=device)
    for mode, target in zip(modes, (4, 10), strict=True):
        ratio = taken["sorted"] / taken[mode]
        yield row(f"{where}: sorted / {mode}", ratio, "×", at_least=target, device=device)


def enqueue(quick: bool) -> Iterator[Row]:
    """A batch of 8 images, with 10 rows of each of 19 classes, into a queue of 10,000 per class."""
    per_image = 10 * NUM_CLASSES
    labels = torch.arange(NUM_CLASSES).repeat_interleave(10).repeat(8)
    rows = unit_rows(labels, seed=6)
    queue, looped = full_queue(NUM_CLASSES, 1_000 if quick else 10_000), LoopedQueue(10_000, DIM)
    forms = {
        "ours": lambda: queue.write(rows, labels, step=1),
        "looped": lambda: looped.enqueue(rows, labels, per_image=per_image),
    }
    yield from _compare("enqueue", forms, rounds=51, at_least=8)


def training_step(quick: bool, device: str = "cpu") -> Iterator[Row]:
    """hrnet_w18_small, 2 images of 256×512, bank 500 pixels and 500 regions per class, head included."""
    height, width = (128, 256) if quick else (256, 512)
    modes: tuple[ExampleMining, ...] = ("all", "random", "semi-hard", "semi-hard-subset")
    forms = {"cross-entropy": _step_form(None, height, width, device)}
    forms |= {mode: _step_form(mode, height, width, device) for mode in modes}
    taken = seconds(forms, rounds=1 if quick else 9, device=device)
    for name, value in taken.items():
        yield row(f"training step, {name}", value, "s", device=device)
    for mode in modes:
        ratio = taken[mode] / taken["cross-entropy"]
        target = 1.3 if mode == "all" else None
        yield row(f"training step: {mode} / cross-entropy", ratio, "×", at_most=target, device=device)


def _step_form(mode: ExampleMining | None, height: int, width: int, device: str) -> Form:
    torch.manual_seed(0)
    settings = Model(backbone="hrnet_w18_small")
    model = build_model(settings, num_classes=NUM_CLASSES, embedding=mode is not None).to(device)
    contrast = None if mode is None else _contrast(mode).to(device)
    labels = label_maps(2, height, width, block=16)
    batch = Batch(torch.randn(2, 3, height, width), labels, torch.arange(2), torch.arange(2))
    batch = Batch(*(tensor.to(device) for tensor in batch))
    optimizer = build_optimizer(model, Optim(lr=1e-4))
    return partial(train_step, model, contrast, optimizer, batch, contrast_weight=1.0)


def _contrast(mode: ExampleMining) -> PixelContrast:
    contrast = PixelContrast(
        num_classes=NUM_CLASSES,
        embedding_dim=DIM,
        memory=MemoryConfig(memory="both", pixel_queue_size=500, region_memory_size=500),
        mining=MiningConfig(positive_mining=mode, negative_mining=mode),
    )
    for queue in (contrast.memory.pixel, contrast.memory.region):
        assert queue is not None
        fill(queue)  # type: ignore[arg-type]
    return contrast


def growth(quick: bool) -> Iterator[Row]:
    """Seconds of the bank loss against anchors, rows, classes and the type that the bank is stored in."""
    middle = 3_800 if quick else 95_000
    settings: dict[str, dict[str, Any]]
    settings = {f"{anchors} anchors": {"num_anchors": anchors} for anchors in (250, 500, 1000, 2000)}
    settings |= {f"{rows:,} rows": {"bank_rows": rows} for rows in (middle // 4, middle // 2, 2 * middle)}
    settings |= {f"{classes} classes": {"num_classes": classes} for classes in (60, 171)}
    settings["bfloat16"] = {"dtype": torch.bfloat16}
    usual: dict[str, Any] = {"num_anchors": 1000, "bank_rows": middle}
    forms = {name: _growth_form(**(usual | setting)) for name, setting in settings.items()}
    taken = seconds(forms, rounds=1 if quick else 3)
    base = f"growth from 1000 anchors, {middle:,} rows, 19 classes, float32"
    yield row(base, taken["1000 anchors"], "s")
    for name, value in taken.items():
        if name != "1000 anchors":
            yield row(f"growth: {name}", value, "s")


def _growth_form(
    *, num_anchors: int, bank_rows: int, num_classes: int = NUM_CLASSES, dtype: torch.dtype = torch.float32
) -> Form:
    given = problem(num_anchors=num_anchors, bank_rows=bank_rows, num_classes=num_classes, dtype=dtype)
    return partial(given.with_gradient, _ALL)


def over_ranks(quick: bool) -> Iterator[Row]:
    """The whole term, 4 images with 950 anchors and the bank split over gloo processes, all mined."""
    bank_rows = 9_500 if quick else 95_000
    for world_size in (2,) if quick else (1, 2, 4):
        for sharded in (False, True) if world_size > 1 else (False,):
            setting = Setting(sharded=sharded, bank_rows=bank_rows)
            results = measure(world_size, setting)
            form = "sharded" if sharded else "replicated"
            yield from _rank_rows(f"{world_size} ranks, {bank_rows:,} rows, {form}", results)


def _rank_rows(where: str, results: list[Measured]) -> Iterator[Row]:
    yield row(f"{where}: CPU of the slowest rank", max(each.seconds for each in results), "s")
    sent, formula = (max(values) for values in zip(*((r.sent, r.formula) for r in results), strict=True))
    if formula:
        yield row(f"{where}: sent by a rank", sent / 2**20, "MiB")
        yield row(f"{where}: sent by a rank, by the formula", formula / 2**20, "MiB")
        yield row(f"{where}: sent / formula", sent / formula, "×", equal=1)


def _compare(where: str, forms: Mapping[str, Form], *, rounds: int, at_least: float) -> Iterator[Row]:
    """Rows of two forms, the second against the first."""
    taken = seconds(forms, rounds=rounds)
    for name, value in taken.items():
        yield row(f"{where}, {name}", value, "s")
    ours, other = taken
    yield row(f"{where}: {other} / {ours}", taken[other] / taken[ours], "×", at_least=at_least)


BENCHMARKS: dict[str, Callable[[bool], Iterator[Row]]] = {
    function.__name__: function
    for function in (bank_loss, in_batch, mining, enqueue, training_step, growth, over_ranks)
}
ON_CUDA = bank_loss, mining, training_step


def main() -> None:
    """Measure, print, save."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--out", type=Path, help="where the rows go, as JSON")
    parser.add_argument("--quick", action="store_true", help="all of it at reduced sizes, in under a minute")
    parser.add_argument("--only", nargs="+", choices=BENCHMARKS, default=list(BENCHMARKS))
    args = parser.parse_args()
    torch.set_num_threads(1)
    rows: list[Row] = []

    def keep(found: Iterator[Row]) -> None:
        for each in found:
            rows.append(replace(each, target=None, met=None) if args.quick else each)
            show(rows[-1])
            if args.out:
                save(rows, args.out)

    print(f"load average before: {os.getloadavg()[0]:.1f}")
    for name in args.only:
        keep(BENCHMARKS[name](args.quick))
    print(f"load average after: {os.getloadavg()[0]:.1f}")
    if not torch.cuda.is_available():
        print("CUDA: none here")
    else:
        for function in ON_CUDA:
            if function.__name__ in args.only:
                keep(function(args.quick, "cuda"))


if __name__ == "__main__":
    main()
