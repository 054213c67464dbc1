"""The study's journal, cut off and healed; and what a search leaves that fails before its first trial."""

import json
import resource
from pathlib import Path

import optuna
import pytest

from pixelcontrast import Data, Experiment, Run, Search, loguniform
from pixelcontrast.cluster.errors import LaunchError
from pixelcontrast.search.folder import SearchFolder
from pixelcontrast.search.journal import open_journal
from pixelcontrast.search.reading import read_search
from pixelcontrast.search.trials import Proposal, Trials, handed_out

SPACE = {"optim.lr": loguniform(0.001, 0.1), "contrast.temperature": loguniform(0.03, 0.5)}


@pytest.fixture
def experiment(tmp_path: Path) -> Experiment:
    return Experiment(
        data=Data(layout="camvid", root="camvid"), run=Run(name="street", storage=str(tmp_path))
    )


def propose(experiment: Experiment, search: Search) -> tuple[Proposal | None, SearchFolder]:
    """A driver that hands out a trial, or resumes one, and is gone."""
    folder = SearchFolder(experiment, search, None)
    folder.check()
    with folder.held() as storage:
        return Trials(search, experiment, name=folder.name, storage=storage).next(), folder


def fail_to_start(trials: Trials) -> None:
    raise LaunchError(f"Ray did not start for {trials.remaining} trials")


def test_a_search_that_fails_before_its_first_trial_pins_nothing(experiment: Experiment) -> None:
    search = Search(space=SPACE, trials=2, known=({},))
    folder = SearchFolder(experiment, search, None)
    with pytest.raises(LaunchError), folder.held() as storage:
        fail_to_start(Trials(search, experiment, name=folder.name, storage=storage))
    mended = Search(space={"contrast.temperature": loguniform(0.05, 0.5)}, trials=2)
    proposal, _ = propose(experiment, mended)
    assert proposal is not None
    assert proposal.overrides.keys() == {"contrast.temperature"}


def test_a_journal_cut_off_by_a_full_disk_is_read_and_healed(
    experiment: Experiment, caplog: pytest.LogCaptureFixture
) -> None:
    search = Search(space=SPACE, trials=2)
    _, folder = propose(experiment, search)
    path = folder.local / "study.journal"
    whole = path.read_bytes()
    path.write_bytes(whole + b'{"op_code":5,"worker_id":"')
    assert len(handed_out(folder.load())) == 1  # a reader
    assert len(read_search(folder.storage).trials) == 1
    proposal, _ = propose(experiment, search)
    assert f"{path}: the last line was cut off by a full disk or a kill, and its 26 bytes were" in caplog.text
    assert proposal is not None
    assert path.read_bytes().startswith(whole)
    assert all(json.loads(line) for line in path.read_bytes().splitlines())

    path.write_bytes(whole[:50] + whole)
    with pytest.raises(ValueError, match=rf"{path} is damaged: .*Restore it from a copy"):
        handed_out(folder.load())


def test_an_append_that_finds_the_disk_full_leaves_the_journal_as_it_was(tmp_path: Path) -> None:
    storage = open_journal(tmp_path / "study.journal")
    optuna.create_study(study_name="s", storage=storage)
    before = (tmp_path / "study.journal").read_bytes()
    # A limit of the file's size cuts the write off in mid-line, as a full disk does.
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (len(before) + 20, limits[1]))
    try:
        with pytest.raises(OSError, match="File too large"):
            optuna.create_study(study_name="t", storage=storage)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert (tmp_path / "study.journal").read_bytes() == before
    optuna.create_study(study_name="u", storage=storage)
    assert set(optuna.get_all_study_names(open_journal(tmp_path / "study.journal"))) == {"s", "u"}


def test_a_mistyped_study_may_be_corrected(experiment: Experiment) -> None:
    with pytest.raises(ValueError, match="--study nosuch://x cannot be opened"):
        propose(experiment, Search(space=SPACE, trials=1, study="nosuch://x"))
    assert propose(experiment, Search(space=SPACE, trials=1))[0] is not None
