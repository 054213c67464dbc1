"""Runs of real processes that are killed together: to the bit, and every sample once."""

from pathlib import Path

import pytest

from pixelcontrast import Experiment, replace
from pixelcontrast.datasets.stream import SampleStream
from resuming import STEPS, committed, draw_kills, experiment, train_ranks
from same_run import assert_same_run, differing_parts

pytestmark = pytest.mark.timeout(300)
SHARDED = {"contrast.memory_sharded": True}


@pytest.fixture(scope="module")
def finished(scenes: Path, tmp_path_factory: pytest.TempPathFactory) -> Experiment:
    """A run of two processes that was never interrupted, its memory shared between them."""
    storage = tmp_path_factory.mktemp("uninterrupted")
    settings = replace(experiment(scenes, str(storage)), SHARDED)
    train_ranks(settings, 2)
    return settings


def test_two_processes_killed_together_three_times_end_as_if_never_interrupted(
    finished: Experiment, tmp_path: Path
) -> None:
    settings = replace(finished, {"run.storage": str(tmp_path)})
    for step, wait in draw_kills():
        train_ranks(settings, 2, until=step, wait=wait)
    train_ranks(settings, 2)
    assert_same_run(settings, finished)


def test_two_processes_that_forget_their_memory_are_noticed(finished: Experiment, tmp_path: Path) -> None:
    """The negative control of the test above."""
    settings = replace(finished, {"run.storage": str(tmp_path)})
    train_ranks(settings, 2, until=7)
    train_ranks(settings, 2, forget=True)
    assert "model.safetensors" in differing_parts(settings, finished)


def test_every_sample_is_taken_once_through_kills_and_other_numbers_of_workers(
    scenes: Path, tmp_path: Path
) -> None:
    """Two processes, then one, then three; ten images, three to a step: more than three epochs."""
    (tmp_path / "ledger").mkdir()
    settings = replace(experiment(scenes, str(tmp_path / "runs")), SHARDED)
    kills = draw_kills()
    for world_size, until in ((2, next(kills)), (1, next(kills)), (3, None)):
        step, wait = until or (None, 0.0)
        train_ranks(settings, world_size, until=step, wait=wait, ledger=tmp_path / "ledger")
    taken = committed(settings, tmp_path / "ledger")
    assert [(step, position) for step, position, _ in taken] == [(p // 3, p) for p in range(3 * STEPS)]
    images = [image for _, _, image in taken]
    epochs = [images[first : first + 10] for first in range(0, len(images), 10)]
    for epoch in epochs[:-1]:
        assert sorted(epoch) == list(range(10))
    assert len(set(epochs[-1])) == len(epochs[-1]) == 6
    assert len({tuple(epoch) for epoch in epochs[:-1]}) == 3
    stream = SampleStream(10, settings.run.seed)
    assert images == [stream.sample_at(position) for position in range(3 * STEPS)]
