"""The log's tables, from the results committed here; `--picture` draws the first arm against the second.

    python experiments/results/tables.py camvid_pretrained ce in-batch ce-weighted weighted
    python experiments/results/tables.py camvid_pretrained ce in-batch --picture experiments/gain.png

Differences are to the first arm, on the seeds that both have, with Student's 95 % interval of their mean.
The picture needs `pip install matplotlib`.
"""

import argparse
import json
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from pixelcontrast.search.arms import ArmResult, Difference, compare

Results = Mapping[str, Mapping[int, Mapping[str, Any]]]
"""Arm → seed → its ``result.json``."""
HERE = Path(__file__).parent


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("folder", help="a folder of this one")
    parser.add_argument("arms", nargs="+", help="files are <arm>-s<seed>.json; the first is compared with")
    parser.add_argument("--picture", type=Path, help="where to draw it")
    options = parser.parse_args()
    results = {arm: read(HERE / options.folder, arm) for arm in options.arms}
    seeds = sorted({seed for runs in results.values() for seed in runs})
    print_row("mIoU", *(f"seed {seed}" for seed in seeds), "mean ± std", "difference, 95 %")
    print_row(*["---"] * (len(seeds) + 3))
    for arm in compared(results, lambda run: run["miou"]):
        each = (f"{arm.scores[seed]:.1f}" if seed in arm.scores else "" for seed in seeds)
        print_row(arm.name, *each, mean(arm), difference(arm))
    print()
    reference, *compared_arms = options.arms
    print_row("IoU", reference, *(cell for arm in compared_arms for cell in (arm, "")))
    print_row(*["---"] * (2 * len(options.arms)))
    for name, arms in by_class(results).items():
        first, *others = arms
        print_row(name, mean(first), *(cell for arm in others for cell in (mean(arm), difference(arm))))
    if options.picture is not None:
        draw(results, options.picture)


def read(folder: Path, arm: str) -> dict[int, dict[str, Any]]:
    """The results of an arm's seeds."""
    named = re.compile(rf"{re.escape(arm)}-s(\d+)\.json")
    found = {int(match[1]): path for path in folder.iterdir() if (match := named.fullmatch(path.name))}
    if not found:
        raise SystemExit(f"{folder} has no {arm}-s<seed>.json")
    return {seed: json.loads(found[seed].read_text()) for seed in sorted(found)}


def compared(results: Results, score: Callable[[Mapping[str, Any]], float | None]) -> list[ArmResult]:
    """Arms by one score, in percent; a run that has none, of a class that does not occur, is left out."""
    scores = {
        arm: {seed: 100 * found for seed, run in runs.items() if (found := score(run)) is not None}
        for arm, runs in results.items()
    }
    return compare(scores)


def by_class(results: Results) -> dict[str, list[ArmResult]]:
    """Class → its arms, of the classes that have an IoU in every arm."""
    run = next(iter(next(iter(results.values())).values()))
    arms = {name: compared(results, lambda of, name=name: of["iou"][name]) for name in run["iou"]}
    return {name: found for name, found in arms.items() if all(arm.scores for arm in found)}


def print_row(*cells: str) -> None:
    print(f"| {' | '.join(cells)} |")


def mean(arm: ArmResult) -> str:
    assert arm.mean is not None
    return f"{arm.mean:.1f}" + ("" if arm.std is None else f" ± {arm.std:.1f}")


def difference(arm: ArmResult) -> str:
    if arm.difference is None:
        return ""
    ends = arm.difference.interval
    shown = f"{arm.difference.mean:+.1f}" + ("" if ends is None else f" [{ends[0]:+.1f}, {ends[1]:+.1f}]")
    return shown.replace("-", "−")


def draw(results: Results, target: Path) -> None:
    """Left the mIoU of every seed, right the difference of every class with its interval."""
    import matplotlib.pyplot as plt

    first, second = list(results)[:2]
    figure, (left, right) = plt.subplots(1, 2, figsize=(9, 3.4), width_ratios=(1, 1.5), layout="constrained")
    arms = compared({arm: results[arm] for arm in (first, second)}, lambda run: run["miou"])
    for seed in sorted(set(arms[0].scores) & set(arms[1].scores)):
        left.plot((0, 1), [arm.scores[seed] for arm in arms], color="0.75", linewidth=1, zorder=1)
    for place, (arm, color) in enumerate(zip(arms, ("0.35", "tab:blue"), strict=True)):
        left.scatter([place] * len(arm.scores), list(arm.scores.values()), color=color, zorder=2)
    left.set_xticks((0, 1), (first, second))
    left.set_xlim(-0.4, 1.4)
    left.set_ylabel("mIoU, %, a line per seed")
    classes = by_class({arm: results[arm] for arm in (first, second)})
    draw_differences(right, {name: arm.difference for name, (_, arm) in classes.items() if arm.difference})
    right.set_xlabel(f"IoU, {second} minus {first}, points, with 95 % intervals")
    for axes in (left, right):
        axes.spines[["top", "right"]].set_visible(False)
    figure.savefig(target, dpi=150)


def draw_differences(axes: Any, classes: Mapping[str, Difference]) -> None:
    names = sorted(classes, key=lambda name: classes[name].mean)
    for place, found in enumerate(classes[name] for name in names):
        if found.interval is not None:
            axes.plot(found.interval, (place, place), color="tab:blue", linewidth=2, alpha=0.5)
        axes.plot(found.mean, place, "o", color="tab:blue")
    axes.axvline(0, color="0.6", linewidth=1)
    axes.set_yticks(range(len(names)), names)


if __name__ == "__main__":
    main()
