"""Where a search's study lies: in a database, or in an object store that several machines use in turn."""

import shutil
from pathlib import Path

import optuna
import pytest
from pyarrow import fs

from pixelcontrast import Experiment, Search, config
from pixelcontrast.dashboard.view import _has_study
from pixelcontrast.runs import lock
from pixelcontrast.search.reading import read_search
from pixelcontrast.search.trials import handed_out
from pixelcontrast.storage import Storage
from studies import SPACE, Driver, states


def test_a_database_is_taken_instead_of_the_journal(experiment: Experiment, tmp_path: Path) -> None:
    search = Search(space=SPACE, trials=1, study=f"sqlite:///{tmp_path}/study.db")
    driver = Driver(experiment, search)
    driver.trials.next()
    driver.end(0, 0.5)
    driver.die()
    assert states(handed_out(driver.folder.load())) == ["COMPLETE"]
    assert not (tmp_path / "street-search" / "study.journal").exists()
    with pytest.raises(ValueError, match=r"--study nosuch://x cannot be opened"):
        Driver(config.replace(experiment, {"run.name": "b"}), Search(space=SPACE, study="nosuch://x"))


def test_searches_of_two_folders_are_not_mixed_in_one_database(
    experiment: Experiment, tmp_path: Path
) -> None:
    """Neither while the first has not begun, when a start that fails would delete its study, nor later."""
    search = Search(space=SPACE, trials=2, study=f"sqlite:///{tmp_path}/study.db")
    here, other = tmp_path / "street-search", tmp_path / "other" / "street-search"
    elsewhere = config.replace(experiment, {"run.storage": str(tmp_path / "other")})
    first = Driver(experiment, search)
    for _ in range(2):
        with pytest.raises(ValueError, match=rf"a study street-search already, .* {here}; .* is {other}\. "):
            Driver(elsewhere, search)
        assert not (other / "search.json").exists()
        first.trials.next()
    assert states(first.trials.all()) == ["RUNNING", "RUNNING"]
    first.die()
    again = config.replace(experiment, {"run.storage": f"{tmp_path}/other/.."})
    assert Driver(again, search).trials.remaining == 2


def test_a_renamed_folder_resumes_its_own_study(experiment: Experiment, tmp_path: Path) -> None:
    first = Driver(experiment, Search(space=SPACE, trials=2))
    first.trials.next()
    first.end(0, 0.5)
    first.die()
    (tmp_path / "street-search").rename(tmp_path / "renamed")
    second = Driver(experiment, Search(space=SPACE, trials=2, name="renamed"))
    assert states(second.trials.all()) == ["COMPLETE"]
    assert second.trials.remaining == 1
    assert states(handed_out(second.folder.load())) == ["COMPLETE"]
    second.die()
    assert [trial.state for trial in read_search(second.folder.storage).trials] == ["COMPLETE"]


def test_a_folder_of_the_same_path_on_another_machine_is_another_one(
    experiment: Experiment, tmp_path: Path
) -> None:
    search = Search(space=SPACE, trials=2, study=f"sqlite:///{tmp_path}/study.db")
    first = Driver(experiment, search)
    first.trials.next()
    first.die()
    Path(first.folder.storage.path()).rename(tmp_path / "elsewhere")
    with pytest.raises(ValueError, match=r"trials of a study street-search, and .* has no search\.json"):
        Driver(experiment, search)


def test_a_study_that_names_no_folder_is_taken_and_names_it_then(
    experiment: Experiment, tmp_path: Path
) -> None:
    """As earlier versions made them."""
    search = Search(space=SPACE, trials=2, study=f"sqlite:///{tmp_path}/study.db")
    optuna.create_study(study_name="street-search", storage=search.study, direction="maximize")
    driver = Driver(experiment, search)
    assert driver.trials.study.user_attrs == {"folder": str(tmp_path / "street-search")}


def test_a_database_that_lacks_the_search_is_an_error_and_shows_no_other_one(
    experiment: Experiment, tmp_path: Path
) -> None:
    search = Search(space=SPACE, trials=2, study=f"sqlite:///{tmp_path}/study.db")
    driver = Driver(experiment, search)
    driver.trials.next()
    driver.die()
    renamed = Path(driver.folder.storage.path()).rename(tmp_path / "renamed")
    with pytest.raises(ValueError, match=r"renamed: --study sqlite:.*study\.db has no study renamed"):
        read_search(Storage(str(renamed)))
    (tmp_path / "study.db").unlink()
    with pytest.raises(ValueError, match=rf"{tmp_path}/study\.db does not exist"):
        read_search(Storage(str(renamed)))
    assert not (tmp_path / "study.db").exists()


def test_a_database_s_relative_path_is_that_of_the_search_s_working_directory(
    experiment: Experiment, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path)
    search = Search(space=SPACE, trials=2, study="sqlite:///study.db?timeout=30")
    driver = Driver(experiment, search)
    driver.trials.next()
    driver.die()
    monkeypatch.chdir(tmp_path / "elsewhere")
    found = read_search(driver.folder.storage)
    assert found.study == f"sqlite:///{tmp_path}/study.db?timeout=30"
    assert len(found.trials) == 1
    monkeypatch.chdir(tmp_path)
    Driver(experiment, search).die()


@pytest.fixture
def remote(experiment: Experiment, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Experiment:
    """In an object store, where a driver that dies is known to be dead at once."""
    bucket = fs.SubTreeFileSystem(str(tmp_path), fs.LocalFileSystem())
    (tmp_path / "bucket" / "street-search" / ".claims").mkdir(parents=True)

    class Buckets:
        @staticmethod
        def from_uri(uri: str) -> tuple[fs.FileSystem, str]:
            return bucket, uri.partition("://")[2]

    monkeypatch.setattr(fs, "FileSystem", Buckets)
    monkeypatch.setattr(lock, "_RENEW_S", 600.0)
    monkeypatch.setattr(lock, "_LEASE_S", 0.1)
    return config.replace(experiment, {"run.storage": "mock://bucket"})


def test_a_study_in_an_object_store_is_taken_up_on_another_machine_and_back(
    remote: Experiment, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    search = Search(space=SPACE, trials=5)
    for machine, there in (("first", 0), ("second", 1), ("first", 2)):
        monkeypatch.setenv("HOME", str(tmp_path / machine))
        driver = Driver(remote, search)
        assert states(driver.trials.all()) == ["COMPLETE"] * there
        driver.trials.next()
        driver.end(there, 0.5)
        driver.folder.sync()  # as after each trial
    assert (tmp_path / "bucket" / "street-search" / "study.journal").exists()


def test_the_pictures_of_another_machine_s_trials_are_fetched_with_the_study(
    remote: Experiment, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The dashboard then shows this machine's. Older versions fetched the study alone."""
    search, store = Search(space=SPACE, trials=5), tmp_path / "bucket" / "street-search"

    def upload(_: Storage, source: Path, name: str) -> None:
        """pyarrow would not take this bucket for a file system."""
        shutil.copytree(source, store / name, dirs_exist_ok=True)

    monkeypatch.setattr(Storage, "upload", upload)

    def take_up(machine: str) -> Path:
        monkeypatch.setenv("HOME", str(tmp_path / machine))
        driver = Driver(remote, search)
        driver.trials.next()
        driver.die()
        return driver.folder.local / "artifacts"

    def contents(folder: Path) -> dict[str, bytes]:
        return {path.name: path.read_bytes() for path in folder.iterdir()}

    first = take_up("first")
    first.mkdir()
    (first / "overlays").write_bytes(b"old")
    take_up("first")
    second = take_up("second")
    assert contents(second) == {"overlays": b"old"}
    (second / "overlays").write_bytes(b"new")
    take_up("second")
    assert contents(take_up("first")) == {"overlays": b"new"}
    (first / "overlays").unlink()
    assert contents(take_up("first")) == {"overlays": b"new"}


def test_a_study_that_went_on_in_two_places_is_refused_and_no_trial_is_lost(
    remote: Experiment, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The first machine is gone with trials of its own; when it is back, its journal is the longer one."""
    search = Search(space=SPACE, trials=9)
    monkeypatch.setenv("HOME", str(tmp_path / "first"))
    first = Driver(remote, search)
    first.trials.next()
    first.end(0, 0.5)
    first.folder.sync()
    for _ in range(4):
        first.trials.next()
    assert _has_study(first.folder.storage)
    monkeypatch.setattr(first.folder, "sync", lambda: None)
    first.die()

    monkeypatch.setenv("HOME", str(tmp_path / "second"))
    second = Driver(remote, search)
    second.trials.next()
    second.end(1, 0.9)
    second.folder.sync()

    monkeypatch.setenv("HOME", str(tmp_path / "first"))
    stored = second.folder.storage.read("study.journal")
    journal = first.folder.local / "study.journal"
    assert journal.stat().st_size > len(stored)
    assert not _has_study(first.folder.storage)
    with pytest.raises(ValueError, match=rf"{journal} and mock://bucket/.*/study\.journal each have"):
        Driver(remote, search)
    assert second.folder.storage.read("study.journal") == stored
    journal.unlink()
    assert states(Driver(remote, search).trials.all()) == ["COMPLETE", "COMPLETE"]
