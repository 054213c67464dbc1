"""A training whose driver was suspended, taken for dead and replaced leaves the next driver's run alone."""

import json
import uuid
from pathlib import Path
from typing import Any

import pytest

from object_store import ObjectStore
from pixelcontrast import config, training
from pixelcontrast.config import Experiment
from pixelcontrast.runs.launch_mark import Mark, marked
from pixelcontrast.runs.run_folder import open_storage
from pixelcontrast.storage import Storage
from pixelcontrast.training import loop
from processes import run_ranks
from small_fit import CPU, experiment, fit, metrics

TAKEN_OVER = "another driver has taken the run over: .*, process .*, since .*ended without another checkpoint"


@pytest.fixture(params=["local", "S3"])
def settings(
    request: pytest.FixtureRequest, scenes: Path, tmp_path: Path, object_store: ObjectStore
) -> Experiment:
    storage = str(tmp_path) if request.param == "local" else object_store.uri(uuid.uuid4().hex)
    small = experiment(scenes, tmp_path, contrast__weight=0.0)
    return config.replace(small, {"run.storage": storage})


def content(run: Storage) -> dict[str, bytes]:
    """All but TensorBoard's events, to which each attempt adds a file of its own."""
    return {name: run.read(name) for name in run.sizes() if not name.startswith("tensorboard")}


@pytest.mark.parametrize("stopped", [False, True], ids=["goes on", "is asked to stop"])
def test_a_suspended_training_leaves_the_run_of_the_next_driver_as_it_is(
    settings: Experiment, monkeypatch: pytest.MonkeyPatch, stopped: bool
) -> None:
    run, original, done, after = open_storage(settings), loop.train_step, [0], {}

    def step(*args: Any, **kwargs: Any) -> Any:
        done[0] += 1
        if done[0] == 6:  # suspended here; another driver trains to the end, and is about to leave
            other.__enter__()
            fit(settings)
            after.update(content(run))
        return original(*args, **kwargs)

    monkeypatch.setattr(loop, "train_step", step)
    other = marked(run)
    with marked(run) as mark, pytest.raises(ValueError, match=TAKEN_OVER):
        training.fit(
            settings,
            device=CPU,
            report=lambda _: None,
            stop=lambda: stopped and bool(after),
            mark=mark,
        )
    assert content(run) == after
    assert json.loads(run.read("result.json"))["step"] == 8
    assert {line.name: line.text for line in training.verify(run.location) if line.state == "DAMAGED"} == {}
    other.__exit__(None, None, None)


def fit_taken_over(rank: int, _world_size: int, text: str, name: str) -> str:
    """On every rank the error of a training whose mark is deleted after the row of step 2."""
    settings = config.from_json(text)
    run = open_storage(settings)

    def report(row: dict[str, Any]) -> None:
        if rank == 0 and row["step"] == 2:
            run.delete(name)

    with pytest.raises(ValueError, match="was replaced while the run trained") as caught:
        training.fit(settings, device=CPU, report=report, mark=Mark(name, "node7"))
    return str(caught.value)


@pytest.mark.timeout(300)
def test_all_ranks_of_a_run_that_was_taken_over_end(scenes: Path, tmp_path: Path) -> None:
    settings = experiment(scenes, tmp_path, contrast__weight=0.0)
    with marked(open_storage(settings)) as mark:
        first, second = run_ranks(2, fit_taken_over, config.to_json(settings), mark.name)
    assert first == second
    assert [row["step"] for row in metrics(settings)] == [2]
    assert open_storage(settings).names("checkpoints") == []
