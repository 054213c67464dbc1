"""The watch over the embedding, by rows that are given here: when it warns, how often, and of what."""

import re
from typing import Any

import pytest

from health_rows import Row, evaluation, row
from pixelcontrast import Contrast, Data, Experiment, Optim, Run, config
from pixelcontrast.training.health import STREAK, YOUNG, EmbeddingWatch

EXPERIMENT = Experiment(
    data=Data(layout="camvid", root="unused"),
    contrast=Contrast(memory="both", warmup=0.1),
    optim=Optim(steps=1000),  # warm-up: 100 steps
    run=Run(name="x"),
)
HARD = {
    "contrast.positive_mining": "semi-hard",
    "contrast.negative_mining": "hardest",
    "contrast.memory_term": "joint",
}


def warnings(rows: list[Row], watch: EmbeddingWatch | None = None) -> list[tuple[int, str, str]]:
    """(step, cause, line) of all that is said about the rows."""
    watch = watch or EmbeddingWatch(EXPERIMENT)
    return [(each["step"], cause, line) for each in rows for cause, line in watch.look(each).items()]


def rows(begin: int = 20, end: int = 1000, **values: Any) -> list[Row]:
    return [row(step, **values) for step in range(begin, end + 1, 20)]


def test_a_healthy_run_gets_no_warning() -> None:
    assert warnings(rows()) == []


@pytest.mark.parametrize(
    ("cause", "values", "words"),
    [
        ("collapsed", {"norm": 0.97}, "the embedding has collapsed: .*0.970 at step 180"),
        ("inverted_gap", {"gap": -0.05}, "does not separate the classes: .*gap -0.050 at step 180"),
        (
            "stale_memory",
            {"memory_negative_similarity": 0.45, "memory_age": 400.0},
            "the memory is stale: .*400 steps old",
        ),
    ],
)
def test_each_cause_is_warned_of_once_after_warm_up(cause: str, values: Row, words: str) -> None:
    ((step, found, line),) = warnings(rows(**values))
    assert (step, found) == (100 + YOUNG + STREAK * 20, cause)
    assert re.search(words, line)
    assert "\n" not in line


def test_embeddings_that_are_not_finite_are_warned_of_at_the_first_report() -> None:
    ((step, cause, line),) = warnings(
        [row(100), row(120, refused_rows=0), row(140, refused_rows=12), *rows(160)]
    )
    assert (step, cause) == (140, "refused_rows")
    assert line == (
        "the memory refused 12 rows up to step 140, whose embeddings are not finite (inf or nan). "
        "In a new run, try optim.lr below 0.01 or optim.clip_norm 1."
    )


def test_several_causes_at_once_get_a_line_each() -> None:
    assert [cause for _, cause, _ in warnings(rows(norm=0.97, gap=-0.05))] == ["collapsed", "inverted_gap"]


def test_nothing_is_said_in_warm_up() -> None:
    bad: Row = {"norm": 0.97, "gap": -0.05}
    assert warnings(rows(end=160, **bad) + rows(begin=180)) == []  # two that count, a third is needed
    longer = EmbeddingWatch(config.replace(EXPERIMENT, {"contrast.warmup": 0.99}))
    assert warnings(rows(**bad), longer) == []


def test_a_young_embedding_is_not_called_collapsed() -> None:
    watch = EmbeddingWatch(config.replace(EXPERIMENT, {"contrast.warmup": 0.0}))
    steps = range(1, YOUNG + STREAK + 1)
    assert [step for step, _, _ in warnings([row(step, norm=0.92) for step in steps], watch)] == [steps[-1]]


def test_a_better_report_in_between_starts_the_count_anew() -> None:
    assert warnings([row(20 * n, gap=0.1 if n % STREAK == 0 else -0.1) for n in range(1, 40)]) == []


def test_reports_without_values_neither_count_nor_end_the_count() -> None:
    values = [-0.1, None, -0.1, None, -0.1]
    steps = [row(140 + 20 * n, gap=value, norm=None) for n, value in enumerate(values)]
    assert [step for step, _, _ in warnings([row(120), *steps])] == [220]


def test_rows_of_a_run_without_contrast_are_passed_over() -> None:
    plain = {"kind": "train", "loss": 1.0, "ce": 1.0, "contrast": None}
    assert warnings([plain | {"step": step} for step in range(20, 1000, 20)]) == []


@pytest.mark.parametrize("interrupted_at", [60, 120, 140, 160, 180, 200, 500])
def test_interrupted_runs_warn_as_uninterrupted_ones_do(interrupted_at: int) -> None:
    def run(todo: list[Row], earlier: list[Row]) -> list[Row]:
        watch = EmbeddingWatch(EXPERIMENT, earlier)
        return earlier + [
            each | ({"warnings": found} if (found := watch.look(each)) else {}) for each in todo
        ]

    made = rows(norm=0.97, gap=-0.05)
    whole = run(made, [])
    number = interrupted_at // 20
    first = [*run(made[:number], []), evaluation(interrupted_at)]
    second = run(made[number:], first)
    assert [each for each in second if each["kind"] == "train"] == whole
    assert sum("warnings" in each for each in whole) == 1


@pytest.mark.parametrize(
    ("overrides", "named", "not_named"),
    [
        (
            HARD,
            ["positive_mining random", "negative_mining random", "memory_term separate"],
            ["warmup"],  # no more than three
        ),
        ({}, ["warmup above 0.1", "weight below 1"], ["mining", "memory_term"]),
        (HARD | {"contrast.memory": "none"}, ["warmup above 0.1", "weight below 1"], ["mining", "memory"]),
        (
            {"contrast.memory_term": "joint", "contrast.warmup": 0.6, "contrast.weight": 0.5},
            ["memory_term separate", "weight below 0.5"],
            ["warmup"],
        ),
    ],
)
def test_only_settings_that_the_run_does_not_have_are_named(
    overrides: Row, named: list[str], not_named: list[str]
) -> None:
    watch = EmbeddingWatch(config.replace(EXPERIMENT, overrides))
    ((_, _, line),) = warnings(rows(norm=0.97), watch)
    advice = line.partition("In a new run, try ")[2]
    assert [f"contrast.{name}" in advice for name in named] == [True] * len(named), advice
    assert [name in advice for name in not_named] == [False] * len(not_named), advice


@pytest.mark.parametrize(
    ("overrides", "advice"),
    [
        ({}, "contrast.memory_max_age 100, contrast.memory_weight below 1 or contrast.weight below 1."),
        (
            {"contrast.memory_max_age": 300, "contrast.memory_term": "joint"},
            "contrast.memory_max_age 100, contrast.memory_term separate or contrast.weight below 1.",
        ),
    ],
)
def test_a_stale_memory_is_answered_by_a_younger_one(overrides: Row, advice: str) -> None:
    watch = EmbeddingWatch(config.replace(EXPERIMENT, overrides))
    ((_, _, line),) = warnings(rows(memory_negative_similarity=0.45, memory_age=200.0), watch)
    assert line.endswith(f"In a new run, try {advice}")


def test_a_young_memory_or_a_closed_batch_is_not_called_stale() -> None:
    assert warnings(rows(memory_negative_similarity=0.45, memory_age=60.0)) == []
    closed = warnings(rows(memory_negative_similarity=0.45, memory_age=200.0, gap=-0.01))
    assert [cause for _, cause, _ in closed] == ["inverted_gap"]
