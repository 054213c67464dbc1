"""The report of a search over settings."""

from collections.abc import Mapping
from typing import Any

from markupsafe import Markup, escape

from pixelcontrast.reports import figures, html, parallel, parts, trials
from pixelcontrast.reports.command import command
from pixelcontrast.reports.importance import FEWEST, RESAMPLES, TOP_SHARE, importances
from pixelcontrast.runs.run_folder import EXPERIMENT
from pixelcontrast.runs.search_record import MAXIMIZED, SearchRecord, TrialRecord
from pixelcontrast.words import NOTHING, OBJECTIVES, count, moment, percent, points, setting


def search_page(search: SearchRecord, *, written: float) -> str:
    """The whole HTML file."""
    best = search.best
    shown = best or max(search.front, key=lambda trial: trial.miou or 0.0, default=None)
    total = count(len(search.trials), "trial")
    goals = " and ".join(OBJECTIVES[name] for name in search.objectives)
    lead = html.Lead(
        kicker="Search over settings",
        title=search.name,
        words=f"{total} for {goals}: {parts.states(search.trials) or 'none yet'}.",
        location=search.storage.location,
        written=moment(written),
    )
    sections = [
        html.Section("Pareto front" if len(search.objectives) > 1 else "Best trial", _headline(search)),
        html.Section("Trials", trials.trials(search)),
        html.Section("Curves", trials.state_curves(search)),
        html.Section("Settings and result", _parallel(search)),
        html.Section("Importance", _importance(search)),
        *([] if shown is None else _sections_of(search, shown)),
        html.Section("Cost", parts.cost(search)),
        html.Section("Configuration", _configuration(search)),
        html.Section("Provenance", _provenance(search, shown)),
    ]
    return html.page(f"{search.name}: report", lead=lead, sections=sections)


def _headline(search: SearchRecord) -> Markup:
    if not search.in_state("COMPLETE"):
        return html.paragraph("No trial is complete yet.")
    best = search.best
    if best is None:
        return _front(search)
    return (
        _cards(search, best)
        + _rerun(search, best)
        + html.paragraph(
            f"This is the best of {count(len(search.trials), 'trial')}, each trained on one seed and judged "
            "on the validation images: expect less of the same settings on other seeds. Compare it with the "
            "baseline on several seeds before you rely on the difference.",
            kind="note",
        )
    )


def _cards(search: SearchRecord, best: TrialRecord) -> Markup:
    cards = [_objective_card(search, best)]
    baseline = search.baseline
    if baseline is None:
        cards.append(("Baseline", NOTHING, "no complete trial has the experiment's own values"))
    elif baseline is best:
        cards.append(("Baseline", "the same", "the experiment's own values are the best so far"))
    else:
        change = points((best.miou or 0.0) - (baseline.miou or 0.0))
        remark = f"{baseline.run}, the experiment's own values; the difference is {change} points"
        cards.append(("Baseline mIoU", f"{percent(baseline.miou)} %", remark))
    return html.cards([*cards, *_cost_cards(search)], accent=True)


def _objective_card(search: SearchRecord, best: TrialRecord) -> tuple[str, str, str]:
    where = f"{best.run}, after its {count(best.summary.get('steps', 0), 'step')}"
    if search.objectives[0] == "miou":
        return "Best mIoU", f"{percent(best.values[0])} %", where
    return "Fewest seconds per step", f"{best.values[0]:.3g} s", f"{where}: mIoU {percent(best.miou)} %"


def _cost_cards(search: SearchRecord) -> list[tuple[str, str, str]]:
    return [
        ("Trials", str(len(search.trials)), parts.states(search.trials)),
        ("Worker time", parts.worker_time(search), "over all trials"),
    ]


def _rerun(search: SearchRecord, trial: TrialRecord) -> Markup:
    own = {key: value for key, value in search.settings.items() if key != "run.name"}
    every = command(["python", search.program], {**own, **trial.overrides}, name=_name(search, trial))
    return (
        html.heading(f"Train {trial.run} again")
        + html.command_line(_command(search, trial))
        + html.paragraph(
            "It reads what the trial was trained with, the options of the search among it. The long form "
            "needs the experiment's file, and nothing of this folder.",
            kind="note",
        )
        + html.folded("The command with every setting", html.command_line(every))
    )


def _command(search: SearchRecord, trial: TrialRecord) -> str:
    """Trains the settings in the trial's folder as a run beside the search."""
    file = (search.storage / trial.run / EXPERIMENT).location
    place = {"run.storage": search.settings["run.storage"]}
    return command(["pixelcontrast", "train", file], place, name=_name(search, trial))


def _name(search: SearchRecord, trial: TrialRecord) -> str:
    return f"{search.settings['run.name']}-{trial.run}"


def _front(search: SearchRecord) -> Markup:
    front = sorted(search.front, key=lambda trial: -(trial.miou or 0.0))
    places = [
        figures.Point(trial.run, trial.values, on_front=trial in front)
        for trial in search.in_state("COMPLETE")
    ]
    rows = [
        [
            html.Cell(content=trial.run, sort=trial.number),
            html.number(percent(trial.miou), trial.miou),
            html.number(f"{trial.summary['seconds_per_step']:.3g}", trial.summary["seconds_per_step"]),
            html.Cell(content=html.command_line(_command(search, trial))),
        ]
        for trial in front
    ]
    heads = ("trial", "mIoU, %", "s per step", "command")
    return html.join(
        html.cards(_cost_cards(search)),
        html.paragraph(
            f"{len(front)} of {count(len(places), 'complete trial')}: no other is at least as good in "
            "both objectives and better in one."
        ),
        html.figure(figures.pareto(places, search.objectives), name="pareto", label="Pareto front"),
        html.table(heads, rows, label="Trials of the Pareto front", sortable=True),
    )


def _parallel(search: SearchRecord) -> Markup:
    """Every trial that was evaluated; one that was stopped early with the mIoU it had then."""
    shown = [trial for trial in search.trials if trial.miou is not None and trial.overrides]
    if len(shown) < 2:
        return html.paragraph("Fewer than two trials have been evaluated: there is nothing to compare yet.")
    axes = [
        parallel.axis_of(key, dimension, [trial.overrides.get(key) for trial in shown])
        for key, dimension in search.space.items()
    ]
    axes.append(parallel.objective_axis("mIoU, %", [trial.miou for trial in shown], scale=100))
    best = None if search.best is None else shown.index(search.best)
    plot = parallel.parallel(axes, [escape(trial.run) for trial in shown], best=best)
    words = (
        "A line per evaluated trial, stronger with a larger mIoU. Trials that are not complete stand at the "
        "mIoU they had last." + ("" if best is None else " The best complete one is orange.")
    )
    return html.paragraph(words, kind="note") + html.figure(
        plot, name="parallel", label="Settings and mIoU of each trial", min_width=parallel.width(axes)
    )


def _importance(search: SearchRecord) -> Markup:
    complete = [trial.frozen for trial in search.in_state("COMPLETE")]
    if len(complete) < FEWEST:
        return html.paragraph(
            f"Too few complete trials to say which settings matter: {len(complete)}, and at least {FEWEST} "
            "are needed."
        )
    objective = search.objectives[0]
    found = importances(complete, maximize=objective in MAXIMIZED)
    words = (
        f"How much each setting decides whether a trial is among the best {100 * TOP_SHARE:.0f} % by "
        f"{OBJECTIVES[objective]} (PED-ANOVA; shares add up to 100 %). Dot: the mean over {RESAMPLES} "
        f"bootstrap resamples of the {len(complete)} complete trials. Line: the range of 95 % of the "
        "resamples, which is about how far the estimate would move with other trials of the same search. "
        "Settings whose lines overlap widely cannot be ranked."
    )
    return html.paragraph(words, kind="note") + html.figure(
        figures.importance(found), name="importance", label="Importance of each setting"
    )


def _sections_of(search: SearchRecord, trial: TrialRecord) -> list[html.Section]:
    """What the best trial, or the first of the Pareto front, came to."""
    run = search.storage / trial.run
    label = f"Validation images, truth and prediction of {trial.run}"
    return [
        html.Section("Classes", _classes(search, trial)),
        html.Section(
            "Predictions",
            _named(
                f"Of {trial.run}, after its last step.",
                parts.overlays(run, trial.summary.get("overlays"), label=label),
            ),
        ),
        html.Section("Confusion", _named(f"Of {trial.run}.", parts.confusion(run))),
    ]


def _named(words: str, content: Markup) -> Markup:
    return html.paragraph(words, kind="note") + content if content else html.NOTHING_TO_SHOW


def _classes(search: SearchRecord, trial: TrialRecord) -> Markup:
    if not trial.iou:
        return html.NOTHING_TO_SHOW
    baseline = search.baseline
    if baseline is None:
        words = f"IoU of {trial.run}. No complete trial has the experiment's own values to compare with."
    elif baseline is trial:
        words, baseline = f"IoU of {trial.run}, which has the experiment's own values.", None
    else:
        words = f"IoU of {trial.run} against {baseline.run}, which has the experiment's own values."
    plot = (
        figures.class_bars(trial.iou)
        if baseline is None
        else figures.class_dots(trial.iou, baseline.iou, names=(trial.run, f"{baseline.run}, baseline"))
    )
    words += " Classes that neither occur nor are predicted are left out."
    return html.paragraph(words, kind="note") + html.figure(plot, name="classes", label="IoU per class")


def _configuration(search: SearchRecord) -> Markup:
    dimensions = {key: _describe(dimension) for key, dimension in search.space.items()}
    return (
        html.paragraph("Searched; all else is the experiment's.", kind="note")
        + html.facts(dimensions)
        + parts.configuration(search.settings, title="All settings of the experiment")
    )


def _describe(dimension: Mapping[str, Any]) -> str:
    if "values" in dimension:
        return "one of " + ", ".join(map(setting, dimension["values"]))
    scale = ", logarithmic" if dimension["log"] else ""
    return f"{dimension['low']:g} to {dimension['high']:g}{scale}"


def _provenance(search: SearchRecord, trial: TrialRecord | None) -> Markup:
    attempts = [other.attempt for other in search.trials if other.attempt]
    if not attempts:
        return html.NOTHING_TO_SHOW
    chosen = trial if trial is not None and trial.attempt else None
    name = chosen.run if chosen else next(other.run for other in search.trials if other.attempt)
    attempt = chosen.attempt if chosen else attempts[0]
    return html.paragraph(f"The last attempt of {name}.", kind="note") + parts.provenance(attempt, attempts)
