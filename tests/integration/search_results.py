"""What a search has written: its trials, their rows, and what must hold of them."""

import json
from collections import Counter
from pathlib import Path
from typing import Any

import optuna
from small_search import EXPERIMENT

from pixelcontrast.search.folder import open_study_storage
from pixelcontrast.search.trials import handed_out

STEPS = EXPERIMENT.optim.steps


def trials_of(search: Path) -> list[optuna.trial.FrozenTrial]:
    return handed_out(optuna.load_study(study_name=search.name, storage=open_study_storage(search, None)))


def rows_of(run: Path) -> list[dict[str, Any]]:
    path = run / "metrics.jsonl"
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


def trained_steps(run: Path) -> list[int]:
    return [row["step"] for row in rows_of(run) if row["kind"] == "train"]


def check_the_promise(search: Path, kept: dict[str, bytes], *, trials: int) -> None:
    """What holds of a search after any number of deaths of its driver."""
    found = trials_of(search)
    assert len(found) == trials
    assert not [trial for trial in found if trial.state.name == "RUNNING"]
    for name, content in kept.items():
        assert (search / name / "metrics.jsonl").read_bytes() == content
    for trial in found:
        rows = rows_of(search / trial.user_attrs["run"])
        assert max(Counter((row["kind"], row["step"]) for row in rows).values(), default=0) <= 1
        evaluated = {row["step"]: row["miou"] for row in rows if row["kind"] == "eval"}
        reported = trial.intermediate_values
        if trial.state.name == "PRUNED":  # the training may go on for a moment
            evaluated = {step: miou for step, miou in evaluated.items() if step <= max(reported)}
        assert reported == evaluated, trial.user_attrs["run"]
        if trial.state.name == "COMPLETE":
            assert (search / trial.user_attrs["run"] / "result.json").is_file()
            assert max(evaluated) == STEPS
