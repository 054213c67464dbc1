"""Trainings of eight steps without Ray: in this process, broken off anywhere, or on every rank of a group."""

import json
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch

from pixelcontrast import Contrast, Data, Experiment, Model, Optim, Run, config, replace, training
from pixelcontrast.runs.run_folder import open_storage
from pixelcontrast.training import loop

CPU = torch.device("cpu")
STEPS = 8


def experiment(scenes: Path, storage: Path, **overrides: Any) -> Experiment:
    """Eight steps: reported every two, saved every three, evaluated every four.

    Args:
        overrides: by key, with ``__`` in place of the dots."""
    small = Experiment(
        data=Data(layout="cityscapes", root=str(scenes), crop_size=(64, 64)),
        model=Model(backbone="test_resnet", embedding_dim=32, dropout=0.1),
        contrast=Contrast(
            temperature=0.2,
            memory="both",
            pixel_queue_size=20,
            num_positives=15,
            num_negatives=60,
            warmup=0.3,
        ),
        optim=Optim(steps=STEPS, batch_size=3),
        run=Run(
            name="small", storage=str(storage), report_interval=2, eval_interval=4, checkpoint_interval=3
        ),
    )
    return replace(small, {key.replace("__", "."): value for key, value in overrides.items()})


def fit(settings: Experiment) -> list[dict[str, Any]]:
    """Train on the CPU; the rows as reported."""
    rows: list[dict[str, Any]] = []
    training.fit(settings, device=CPU, report=rows.append)
    return rows


def metrics(settings: Experiment) -> list[dict[str, Any]]:
    """The rows as written."""
    return [json.loads(line) for line in open_storage(settings).read("metrics.jsonl").splitlines()]


class FinishedRun(NamedTuple):
    """A run that has ended, and the rows that it reported."""

    settings: Experiment
    reported: list[dict[str, Any]]


class InterruptedRunError(Exception):
    """What ``fit_until`` breaks a training off with."""


def fit_until(step: int, settings: Experiment, monkeypatch: pytest.MonkeyPatch) -> None:
    """Train, and break off when the step after ``step`` begins."""
    original, calls = loop.train_step, iter(range(STEPS))

    def interrupted(*args: Any, **kwargs: Any) -> Any:
        if next(calls) == step:
            raise InterruptedRunError
        return original(*args, **kwargs)

    with monkeypatch.context() as patched:
        patched.setattr(loop, "train_step", interrupted)
        with pytest.raises(InterruptedRunError):
            fit(settings)


def fit_ranks(_rank: int, _world_size: int, text: str) -> list[dict[str, Any]]:
    """``fit``, for ``run_ranks``; ``text`` is the experiment as JSON."""
    return fit(config.from_json(text))
