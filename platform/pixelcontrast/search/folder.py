"""A search's folder: what is searched, the study, a lock, and the folders of its runs."""

import hashlib
import json
import sys
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import optuna
from optuna.storages import BaseStorage, RDBStorage
from optuna.trial import FrozenTrial, TrialState

from pixelcontrast import config
from pixelcontrast.config import Experiment
from pixelcontrast.runs import checkpoint
from pixelcontrast.runs.lock import held
from pixelcontrast.runs.record import SEARCH
from pixelcontrast.runs.run_folder import EXPERIMENT, Row, read_rows
from pixelcontrast.runs.search_record import read_content, read_description
from pixelcontrast.search.journal import cut_torn_tail, open_journal
from pixelcontrast.search.retrying import retrying
from pixelcontrast.search.settings import Search, deciding_placement, describe
from pixelcontrast.search.trials import OWNER, Trials, find_study, handed_out, place
from pixelcontrast.storage import Storage, secret_in

JOURNAL, ARTIFACTS = "study.journal", "artifacts"
_SQLITE = "sqlite:///"
"""Before the path of a database's file, as sqlalchemy writes it."""

Arms = Mapping[str, Mapping[str, Any]]


class SearchFolder:
    """``<run.storage>/<search.name>/``, in which the runs lie beside ``search.json`` and the study.

    A journal cannot be appended to in an object store: there the study is kept on this machine, in
    ``~/.cache/pixelcontrast``, and ``sync`` copies it.
    """

    def __init__(self, experiment: Experiment, search: Search, arms: Arms | None):
        suffix = "search" if arms is None else "arms"
        self.name = search.name or f"{experiment.run.name}-{suffix}"
        self.storage = Storage(experiment.run.storage) / self.name
        if search.study is not None:
            search = replace(search, study=absolute_study(search.study))
        self._experiment, self._search, self._arms = experiment, search, arms
        self.local = local_folder(self.storage)

    def check(self) -> None:
        """Raise ``ValueError`` where another search, or something else, has this name; names each difference.

        The number of trials and seeds may grow, and what decides no result may change; ``held`` looks at the
        arms. A password in ``search.study`` is refused too.
        """
        if secret := secret_in(self._search.study or ""):
            raise ValueError(
                f"--study: {secret} stands in the URL, which is written into {SEARCH}. Give it by the "
                "driver's own means (PGPASSWORD or ~/.pgpass; ?read_default_file=~/.my.cnf)"
            )
        self.storage.check_writable()
        if not self.storage.exists(SEARCH):
            if self.storage.exists(EXPERIMENT):
                raise ValueError(f"{self.storage.location} is a run's folder; choose another --name")
            return
        described, written = read_description(self.storage), read_content(self.storage)["search"]
        if described.study is not None:
            written["study"] = absolute_study(described.study)
        placement = deciding_placement(self._search) if self._arms is None else ()
        before, after = described.settings, config.flatten(self._experiment)
        self._refuse(
            config.differences(described.experiment, self._experiment)
            | {key: (before[key], after[key]) for key in placement if before[key] != after[key]}
            | _differences("search", written, self._content()["search"])
        )

    def _refuse(self, changed: Mapping[str, tuple[Any, Any]]) -> None:
        what = f"search {self.name} in {self._experiment.run.storage}"
        config.refuse_changes(what, changed, option="--name")

    @contextmanager
    def held(self) -> Iterator[BaseStorage]:
        """The study's storage, for this process alone; also written: ``search.json``.

        Raises:
            ValueError: another process has it, ``search.study`` cannot be opened, its study of this name is
                that of a search in another folder, or an arm has changed of which not every run has failed.
        """
        what = f"search {self.name}"
        _make(self.local)
        with ExitStack() as stack:
            stack.enter_context(held(self.storage, what=what))
            if not self.storage.is_local:
                # Also the copy of the study here; the dashboard knows by this lock whose study is newer.
                stack.enter_context(held(Storage(str(self.local)), what=what))
            cut_torn_tail(self.local / JOURNAL)
            self._fetch_study()
            storage = open_study_storage(self.local, self._search.study, new=True)
            if isinstance(storage, RDBStorage):
                storage = retrying(storage)
            self._check_owner(storage)
            self._restore_description(storage)
            self._write_description(self._handed_out(storage))
            try:
                yield storage
            except (Exception, KeyboardInterrupt):
                with suppress(Exception):  # what stopped the search is what its user needs to read
                    self._forget_unbegun(storage)
                raise
            self.sync()

    def trials(self, storage: BaseStorage) -> Trials:
        """Its trials in ``held``'s storage, where a copy of ``search.json`` is kept with them."""
        trials = Trials(self._search, self._experiment, name=self.name, storage=storage, arms=self._arms)
        study, content = trials.study._study_id, self.storage.read(SEARCH).decode()
        # An attribute of the file's name: what the file held when the search was last begun or resumed.
        if storage.get_study_system_attrs(study).get(SEARCH) != content:
            storage.set_study_system_attr(study, SEARCH, content)
        return trials

    def begun(self, storage: BaseStorage) -> list[Experiment]:
        """The experiments of its runs that have ended by themselves, or would resume from a checkpoint."""
        found = []
        for trial in self._handed_out(storage):
            run = trial.user_attrs.get("run", "")
            if trial.state in (TrialState.COMPLETE, TrialState.PRUNED) or (
                run and checkpoint.names(self.run(run))
            ):
                places = {"run.name": run, "run.storage": self.storage.location}
                found.append(config.replace(self._experiment, trial.user_attrs["overrides"] | places))
        return found

    def run(self, name: str) -> Storage:
        """The folder of one of its runs."""
        return self.storage / name

    def load(self) -> optuna.Study:
        """The study, to read; raises ``KeyError`` before the search has begun."""
        storage = open_study_storage(self.local, self._search.study)
        return optuna.load_study(study_name=find_study(storage, self.name) or self.name, storage=storage)

    def evaluations(self, name: str) -> list[Row]:
        """What one of its runs has evaluated so far."""
        return [row for row in read_rows(self.run(name)) if row["kind"] == "eval"]

    def sync(self) -> None:
        """Copy the study and its artifacts to a storage that is not on this machine."""
        if self.storage.is_local:
            return
        if (self.local / JOURNAL).exists():
            self.storage.write(JOURNAL, (self.local / JOURNAL).read_bytes())
        if (self.local / ARTIFACTS).exists():
            self.storage.upload(self.local / ARTIFACTS, ARTIFACTS)

    def _content(self) -> dict[str, Any]:
        arms = self._arms
        return {
            "kind": "space" if arms is None else "arms",
            "program": sys.argv[0],
            "experiment": json.loads(config.to_json(self._experiment)),
            "search": describe(self._search) if arms is None else {"study": self._search.study},
            "arms": json.loads(json.dumps(arms or {})),
        }

    def _write_description(self, trials: list[FrozenTrial]) -> None:
        """Arms of earlier calls stay where they have runs, and may change where all of these have failed."""
        content = self._content()
        written = read_content(self.storage)["arms"] if self.storage.exists(SEARCH) else {}
        lasting = {trial.user_attrs.get("arm") for trial in trials if trial.state != TrialState.FAIL}
        kept = {name: written[name] for name in written if name in lasting}
        self._refuse(
            {
                f"search.arms.{name}": (kept[name], arm)
                for name, arm in content["arms"].items()
                if kept.get(name, arm) != arm
            }
        )
        tried = {trial.user_attrs.get("arm") for trial in trials}
        arms = {name: written[name] for name in written if name in tried} | content["arms"]
        order = [*(name for name in self._search.arms if name in arms), *arms]
        content["arms"] = {name: arms[name] for name in order}
        self.storage.write(SEARCH, json.dumps(content, indent=2).encode())

    def _handed_out(self, storage: BaseStorage) -> list[FrozenTrial]:
        name = find_study(storage, self.name)
        return [] if name is None else handed_out(optuna.load_study(study_name=name, storage=storage))

    def _check_owner(self, storage: BaseStorage) -> None:
        """Refuse another folder's study: its running trials would be taken for those of a dead driver."""
        if (name := find_study(storage, self.name)) is None:
            return
        here = place(self.storage)
        owner = optuna.load_study(study_name=name, storage=storage).user_attrs.get(OWNER, here)
        if owner != here:
            raise ValueError(
                f"--study {self._search.study} has a study {self.name} already, of the search in {owner}; "
                f"this one's folder is {here}. Choose another --name, or resume that search with its own "
                "--run.storage; where its folder was moved, that place needs a link to it"
            )

    def _restore_description(self, storage: BaseStorage) -> None:
        """Write ``search.json`` again where it was deleted, as what trials were begun with must not change.

        Raises:
            ValueError: the study has no copy of it, or this is not the folder of its runs; or, as ``check``,
                another search has this name.
        """
        name, trials = find_study(storage, self.name), self._handed_out(storage)
        if name is None or not trials or self.storage.exists(SEARCH):
            return
        study, here = self._search.study, place(self.storage)
        copy = storage.get_study_system_attrs(storage.get_study_id_from_name(name)).get(SEARCH)
        runs = [trial.user_attrs["run"] for trial in trials if "run" in trial.user_attrs]
        if copy is None or (study and not any(self.run(run).exists(EXPERIMENT) for run in runs)):
            where = f"--study {study}" if study else str(self.local / JOURNAL)
            raise ValueError(
                f"{where} has trials of a study {name}, and {here} has no {SEARCH}: it is that of such a "
                "folder on another machine, or the file is lost. Choose another --name, or put the file back"
            )
        self.storage.write(SEARCH, copy.encode())
        self.check()

    def _forget_unbegun(self, storage: BaseStorage) -> None:
        """Let a start that failed before its first trial leave nothing that another one must agree with."""
        if self._handed_out(storage):
            return
        if (name := find_study(storage, self.name)) is not None:
            optuna.delete_study(study_name=name, storage=storage)
        self.storage.delete(SEARCH)

    def _fetch_study(self) -> None:
        """Fetch the journal if it goes on from the one here, as lines are only ever added, and the artifacts.

        Raises:
            ValueError: each of the two has lines that the other has not.
        """
        if self.storage.is_local or not self.storage.exists(JOURNAL):
            return
        path, there = self.local / JOURNAL, self.storage.read(JOURNAL)
        here = path.read_bytes() if path.exists() else b""
        is_newer = not here.startswith(there)
        if is_newer and not there.startswith(here):
            raise ValueError(
                f"search {self.name} has gone on in two places: {path} and "
                f"{(self.storage / JOURNAL).location} each have what the other has not. Delete the one that "
                "shall not count"
            )
        for name in self.storage.names(ARTIFACTS):
            artifact = self.local / ARTIFACTS / name
            if is_newer or not artifact.exists():  # another machine may have replaced some
                artifact.parent.mkdir(exist_ok=True)
                artifact.write_bytes(self.storage.read(f"{ARTIFACTS}/{name}"))
        if is_newer:
            path.write_bytes(there)


def local_folder(search: Storage) -> Path:
    """Where this machine keeps a search's study and artifacts."""
    if search.is_local:
        return Path(search.path())
    digest = hashlib.sha256(search.location.encode()).hexdigest()[:16]
    return Path(config.expand_home("~")) / ".cache" / "pixelcontrast" / digest


def _make(folder: Path) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ValueError(
            f"{folder} cannot be made, where this machine keeps the search's study: {error.strerror}. Set "
            "HOME to a folder that you may write to, or choose another --run.storage"
        ) from error


def sqlite_file(url: str) -> str | None:
    """The file of an SQLite database, as its URL has it; None of another database."""
    path = url.removeprefix(_SQLITE).partition("?")[0]
    return path if url.startswith(_SQLITE) else None


def absolute_study(url: str) -> str:
    """A database's URL that means the same in every working directory."""
    path = sqlite_file(url)
    return _SQLITE + config.absolute_path(path) + url.removeprefix(_SQLITE + path) if path else url


def open_study_storage(folder: Path, url: str | None, *, new: bool = False) -> BaseStorage:
    """The journal in ``folder``, or the database at ``url``.

    Args:
        new: an SQLite database may have no file yet.

    Raises:
        ValueError: it does not open.
    """
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    if url is None:
        return open_journal(folder / JOURNAL)
    path = sqlite_file(url)
    if path and not new and not Path(path).exists():
        raise ValueError(f"--study {url}: {path} does not exist; is it a file on another machine?")
    try:
        return RDBStorage(url)
    except Exception as error:  # drivers raise what they like, ImportError among it
        raise ValueError(f"--study {url} cannot be opened: {error}") from error


def _differences(where: str, old: Mapping[str, Any], new: Mapping[str, Any]) -> dict[str, tuple[Any, Any]]:
    """Key → (old, new) of JSON values that differ, as 1 and 1.0 do: ends of whole and of real numbers."""
    pairs = {f"{where}.{key}": (old.get(key), new.get(key)) for key in dict.fromkeys([*old, *new])}
    return {key: pair for key, pair in pairs.items() if _text(pair[0]) != _text(pair[1])}


def _text(value: Any) -> str:
    return json.dumps(value, sort_keys=True)
