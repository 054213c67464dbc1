"""The report of arms trained on the same seeds."""

from collections.abc import Mapping
from dataclasses import dataclass

from markupsafe import Markup

from pixelcontrast.reports import figures, html, parts, trials
from pixelcontrast.runs.search_record import SearchRecord, TrialRecord
from pixelcontrast.search.arms import FEWEST_SEEDS, ArmResult, compare
from pixelcontrast.words import NOTHING, count, moment, percent, points


@dataclass(frozen=True, kw_only=True)
class ArmsComparison:
    """Arms against the first, by mIoU and by the IoU of each class, as shares from 0 to 1."""

    seeds: list[int]
    miou: list[ArmResult]
    classes: Mapping[str, list[ArmResult]]


def compare_record(search: SearchRecord) -> ArmsComparison:
    """The statistics of an arms study's folder, over the runs that are complete."""
    seeds = {trial.seed for trial in search.trials if trial.seed is not None}
    return ArmsComparison(
        seeds=sorted(seeds),
        miou=compare(search.scores()),
        classes={name: compare(search.scores(name)) for name in search.class_names},
    )


def arms_page(search: SearchRecord, *, written: float) -> str:
    """The whole HTML file."""
    found = compare_record(search)
    lead = html.Lead(
        kicker="Comparison of arms",
        title=search.name,
        words=f"{count(len(search.arms), 'arm')} on {count(len(found.seeds), 'seed')}: "
        f"{parts.states(search.trials) or 'no run yet'}.",
        location=search.storage.location,
        written=moment(written),
    )
    shown = _first_runs(search)
    attempts = [trial.attempt for trial in search.trials if trial.attempt]
    sections = [
        html.Section("Result", _result(search, found)),
        html.Section("Classes", _classes(found, without_classes(search))),
        html.Section("Curves", _curves(search)),
        html.Section("Runs", trials.trials(search)),
        html.Section("Predictions", _predictions(search, shown)),
        html.Section("Cost", parts.cost(search)),
        html.Section("Configuration", _configuration(search)),
        html.Section(
            "Provenance", parts.provenance(attempts[0], attempts) if attempts else html.NOTHING_TO_SHOW
        ),
    ]
    return html.page(f"{search.name}: report", lead=lead, sections=sections)


def _result(search: SearchRecord, found: ArmsComparison) -> Markup:
    if not any(arm.scores for arm in found.miou):
        return html.paragraph("No run is complete yet.")
    first = found.miou[0].name
    heads = [
        "arm",
        *(f"seed {seed}" for seed in found.seeds),
        "mean ± std",
        f"minus {first}",
        "95 % interval",
        "seeds",
    ]
    rows = [_arm_row(arm, found.seeds) for arm in found.miou]
    plot = figures.arms(search.scores(), _colors(search))
    return html.join(
        html.paragraph(
            "mIoU after the last step, in %. A seed gives every arm the same start, order of images and "
            f"augmentation, so each arm is compared with {first} seed by seed."
        ),
        html.table(heads, rows, label="Arms by seed"),
        html.paragraph(
            "std: standard deviation of the sample (n − 1). Differences are in percentage points, over "
            "the seeds that both arms have finished; the interval is Student's t of their mean. One that "
            f"holds 0 is compatible with no difference. Fewer than {FEWEST_SEEDS} seeds give none. Intervals "
            "are of each comparison alone, not corrected for their number.",
            kind="note",
        ),
        html.figure(plot, name="arms", label="mIoU of each arm and seed"),
    )


def _arm_row(arm: ArmResult, seeds: list[int]) -> list[html.Cell]:
    by_seed = [arm.scores.get(seed) for seed in seeds]
    difference = arm.difference
    return [
        html.cell(arm.name),
        *(html.number(percent(score), score) for score in by_seed),
        html.number(spread(arm), arm.mean),
        html.number(NOTHING if difference is None else points(difference.mean), None),
        html.number(interval(arm), None),
        html.number(NOTHING if difference is None else str(difference.num_seeds), None),
    ]


def spread(arm: ArmResult) -> str:
    """``42.3 ± 0.8`` in %; the mean alone with one seed."""
    return percent(arm.mean) + ("" if arm.std is None else f" ± {percent(arm.std)}")


def on_seeds(arm: ArmResult, found: ArmsComparison) -> str:
    """Below a column's head, where not all arms have finished the same seeds: how many this one has."""
    return "" if _all_on_the_same(found) else f"\n{count(len(arm.scores), 'seed')}"


def on_shared_seeds(arm: ArmResult, found: ArmsComparison) -> str:
    """Likewise of a difference: how many seeds both arms have."""
    if arm.difference is None or _all_on_the_same(found):
        return ""
    return f"\n{count(arm.difference.num_seeds, 'seed')}"


def class_spread(arm: ArmResult, whole: ArmResult) -> str:
    """``spread`` of a class, and of how many seeds, where it has fewer than ``whole``, the arm's mIoU."""
    fewer = 0 < len(arm.scores) < len(whole.scores)
    return spread(arm) + (f" (n = {len(arm.scores)})" if fewer else "")


def class_seeds(arm: ArmResult, whole: ArmResult) -> str:
    """Likewise beside a class's difference."""
    if arm.difference is None or whole.difference is None:
        return ""
    fewer = arm.difference.num_seeds < whole.difference.num_seeds
    return f" (n = {arm.difference.num_seeds})" if fewer else ""


def without_classes(search: SearchRecord) -> str:
    """Names the complete runs that count by their mIoU alone; empty where there are none."""
    names = [trial.run for trial in search.in_state("COMPLETE") if trial.miou is not None and not trial.iou]
    if not names:
        return ""
    return (
        f"Without IoU of classes: {', '.join(names)}. The study has the mIoU; the run's folder, which has "
        "the rest, is gone or cannot be read."
    )


def _all_on_the_same(found: ArmsComparison) -> bool:
    return all(set(arm.scores) == set(found.miou[0].scores) for arm in found.miou)


def interval(arm: ArmResult) -> str:
    """``−0.3 to +1.2`` in points; "–" where there is none."""
    if arm.difference is None or arm.difference.interval is None:
        return NOTHING
    low, high = arm.difference.interval
    return f"{points(low)} to {points(high)}"


def _classes(found: ArmsComparison, missing: str) -> Markup:
    if not found.miou:
        return html.NOTHING_TO_SHOW
    first, *others = found.miou
    heads = ["class", f"{first.name}, %{on_seeds(first, found)}"]
    for arm in others:
        heads += [
            f"{arm.name}, %{on_seeds(arm, found)}",
            f"{arm.name}\n− {first.name}{on_shared_seeds(arm, found)}",
        ]
    rows = [
        _class_row(title, arms, found.miou)
        for title, arms in found.classes.items()
        if any(arm.scores for arm in arms)
    ]
    if not rows:
        return html.NOTHING_TO_SHOW
    words = (
        "IoU after the last step, mean ± standard deviation over the seeds that an arm has finished, and the "
        "difference in points over those that both have, with its 95 % interval. Among so many intervals, "
        "about one in twenty misses the truth by chance. n: seeds, where a class has fewer than the arm."
    )
    notes = [html.paragraph(text, kind="note") for text in (words, missing) if text]
    return html.join(*notes, html.table(heads, rows, label="IoU per class", sortable=True))


def _class_row(title: str, arms: list[ArmResult], whole: list[ArmResult]) -> list[html.Cell]:
    row = [html.cell(title)]
    for index, (arm, its_miou) in enumerate(zip(arms, whole, strict=True)):
        row.append(html.number(class_spread(arm, its_miou), arm.mean))
        if index:
            row.append(_difference(arm, its_miou))
    return row


def _difference(arm: ArmResult, whole: ArmResult) -> html.Cell:
    if arm.difference is None:
        return html.number(NOTHING, None)
    shown = points(arm.difference.mean) + class_seeds(arm, whole)
    if arm.difference.interval is not None:
        shown = html.with_detail(shown, interval(arm))
    return html.Cell(content=shown, sort=arm.difference.mean, is_number=True)


def _colors(search: SearchRecord) -> dict[str, str]:
    arms = enumerate(search.scores())  # also those that search.json lacks
    return {arm: figures.ARM_COLORS[index % len(figures.ARM_COLORS)] for index, arm in arms}


def _curves(search: SearchRecord) -> Markup:
    colors = _colors(search)
    lines = [
        figures.Curve(trial.run, trial.curve, group=arm, color=colors[arm])
        for arm in search.arms
        for trial in search.trials
        if trial.arm == arm and trial.curve
    ]
    if not lines:
        return html.paragraph("Nothing has been evaluated yet.")
    return html.figure(figures.curves(lines), name="curves", label="mIoU over steps of all runs")


def _first_runs(search: SearchRecord) -> list[TrialRecord]:
    """The complete run of each arm that has the smallest seed."""
    complete = sorted(search.in_state("COMPLETE"), key=lambda trial: trial.seed or 0)
    firsts = [next((trial for trial in complete if trial.arm == arm), None) for arm in search.arms]
    return [trial for trial in firsts if trial is not None]


def _predictions(search: SearchRecord, shown: list[TrialRecord]) -> Markup:
    """Each arm's sheet, of the same validation images; the first one open."""
    pictures = []
    for trial in shown:
        label = f"Validation images, truth and prediction of {trial.run}"
        sheet = parts.overlays(search.storage / trial.run, trial.summary.get("overlays"), label=label)
        if sheet:
            pictures.append(html.folded(trial.run, sheet, opened=not pictures))
    return html.join(*pictures)


def _configuration(search: SearchRecord) -> Markup:
    arms = {
        name: ", ".join(f"{key} = {value}" for key, value in arm.items()) or "the experiment as it is"
        for name, arm in search.arms.items()
    }
    return html.facts(arms) + parts.configuration(search.settings, title="All settings of the experiment")
