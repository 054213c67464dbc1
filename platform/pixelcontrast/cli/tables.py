"""Tables at the terminal: trials of a search, arms of a comparison, findings of a check."""

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from rich.table import Table

from pixelcontrast.console import PlainConsole
from pixelcontrast.words import count, percent, points, setting

if TYPE_CHECKING:
    from pixelcontrast.datasets.check_files import DataReport, Finding
    from pixelcontrast.runs.search_record import SearchRecord

_SHOWN = 10


def show_best(search: "SearchRecord") -> None:
    """Print the best trials that are complete, or the Pareto front of several objectives, and how many trials
    ended in which way.
    """
    console, best, ranked = PlainConsole(), search.best, search.ranked
    if len(search.objectives) > 1:
        front = search.front
        ranked = [trial for trial in ranked if trial in front]
        console.say(f"Pareto front of {' and '.join(search.objectives)}")
    shown = _table("trial", "mIoU %", "s / step")
    shown.add_column("settings")
    for trial in ranked[:_SHOWN]:
        numbers = percent(trial.miou), f"{trial.summary['seconds_per_step']:.2f}"
        shown.add_row(trial.run, *numbers, settings(trial.overrides))
    console.print(shown)
    states = Counter(trial.state for trial in search.trials)
    console.say(f"{states['COMPLETE']} complete, {states['PRUNED']} stopped early, {states['FAIL']} failed")
    if best is not None:
        network = search.storage / best.run / best.summary["checkpoint"] / "model.safetensors"
        console.say(f"best network {network.location}")


def show_arms(search: "SearchRecord") -> None:
    """Print every arm's mIoU on each seed and its difference to the first arm; then the same by class."""
    from pixelcontrast.reports.arms_page import (
        class_seeds,
        class_spread,
        compare_record,
        on_seeds,
        on_shared_seeds,
        spread,
        without_classes,
    )

    console, found = PlainConsole(), compare_record(search)
    first = found.miou[0]
    shown = _table(
        "arm", *(f"seed {seed}" for seed in found.seeds), "mean ± std", f"minus {first.name}, 95 %", "seeds"
    )
    for arm in found.miou:
        scores = [percent(arm.scores.get(seed)) for seed in found.seeds]
        seeds = "" if arm.difference is None else str(arm.difference.num_seeds)
        shown.add_row(arm.name, *scores, spread(arm), _difference(arm), seeds)
    console.print("mIoU in % after the last step")
    console.print(shown)
    if missing := without_classes(search):
        console.say(missing)
    for number, other in enumerate(found.miou[1:], start=1):
        heads = (f"{arm.name}{on_seeds(arm, found)}" for arm in (first, other))
        shown = _table("class", *heads, f"difference, 95 %{on_shared_seeds(other, found)}")
        for name, arms in found.classes.items():
            means = class_spread(arms[0], first), class_spread(arms[number], other)
            shown.add_row(name, *means, _difference(arms[number]) + class_seeds(arms[number], other))
        console.print(f"\nIoU in %, {other.name} and {first.name}")
        console.print(shown)


def show_findings(findings: Sequence[tuple[str, str, str]]) -> None:
    """Print one row per check: its name, the finding, and the remedy, empty where all is well."""
    shown = Table(box=None, pad_edge=False, header_style="", padding=(0, 2, 0, 0))
    shown.add_column("check", no_wrap=True)
    shown.add_column("finding", overflow="fold")
    shown.add_column("remedy", overflow="fold")
    for finding in findings:
        shown.add_row(*finding)
    PlainConsole().print(shown)


def show_data_findings(findings: "Sequence[Finding]", *, limit: int) -> None:
    """Print a row per finding, problems first: at most ``limit`` of one kind, then how many are left out."""
    if not findings:
        return
    shown = Table(box=None, pad_edge=False, header_style="", padding=(0, 2, 0, 0))
    shown.add_column("", no_wrap=True)
    for name in ("file", "finding", "remedy"):
        shown.add_column(name, overflow="fold")
    ordered = sorted(findings, key=lambda found: (found.severity == "note", found.subject))
    counts: Counter[tuple[str, str]] = Counter()
    for found in ordered:
        counts[found.severity, found.subject] += 1
        if counts[found.severity, found.subject] <= limit:
            shown.add_row(found.severity, found.file, found.problem, found.remedy)
    console = PlainConsole()
    console.print(shown)
    for (severity, subject), number in counts.items():
        if number > limit:
            more = f"… and {count(number - limit, f'more {severity}')} of this kind: {subject}"
            console.say(f"{more} (raise --limit to see them)")
    problems = sum(found.severity == "problem" for found in findings)
    console.say(f"{count(problems, 'problem')}, {count(len(findings) - problems, 'note')}")


def show_data_summary(report: "DataReport") -> None:
    """Print each class's share of the pixels in both splits, the ignored share, image sizes and weights."""
    console, shown = PlainConsole(), _table("class", *(f"{split} %" for split in report.splits), "images")
    shares = {split: found.shares() for split, found in report.splits.items()}
    for place, name in enumerate((*report.names, "ignored")):
        images = sum(int(found.class_images[place]) for found in report.splits.values())
        shown.add_row(name, *(percent(share[place], digits=3) for share in shares.values()), str(images))
    console.print("pixels of each class, without the ignored ones; those as a share of all")
    console.print(shown)
    for split, found in report.splits.items():
        sizes = [f"{width}×{height} ({number})" for (width, height), number in found.sizes.most_common(3)]
        more = f", {count(len(found.sizes) - 3, 'other size')}" if len(found.sizes) > 3 else ""
        console.say(f"{split}: {count(found.num_pairs, 'image')} of {', '.join(sizes)}{more}")
        console.say(f"{split}: sha256 of all names and bytes {found.contents}")
    if "train" in report.splits:
        weights = " ".join(f"{weight:.3g}" for weight in report.splits["train"].class_weights())
        console.say(f"to weigh rare classes more, train with --optim.class-weights {weights}")
    if report.well:
        console.say("all well")


def settings(overrides: Mapping[str, Any]) -> str:
    """Settings on one line."""
    return "  ".join(f"{key} {setting(value)}" for key, value in overrides.items())


def _difference(arm: Any) -> str:
    if arm.difference is None:
        return ""
    mean, interval = arm.difference.mean, arm.difference.interval
    ends = "" if interval is None else f" [{', '.join(map(points, interval))}]"
    return points(mean) + ends


def _table(first: str, *others: str) -> Table:
    shown = Table(box=None, pad_edge=False, header_style="")
    shown.add_column(first, no_wrap=True)
    for name in others:
        shown.add_column(name, justify="right")
    return shown
