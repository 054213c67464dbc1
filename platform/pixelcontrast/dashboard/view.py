"""What the servers read: links to the runs' curves, and copies of what is not on this machine."""

import logging
import tempfile
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path, PurePosixPath

from pixelcontrast.search.folder import ARTIFACTS, JOURNAL, local_folder
from pixelcontrast.storage import Storage

REFRESH_LINKS_S, REFRESH_COPIES_S = 2.0, 15.0
_JOIN_TIMEOUT_S = 5.0

logger = logging.getLogger(__name__)


class View:
    """A folder with ``curves/<run>/``, and the study's where it is copied.

    Args:
        storage: of a search or a run.
        folder: an empty one of our own.

    Attributes:
        curves: TensorBoard's; it would show a run's own folder as ``<run>/tensorboard``.
        study: has a search's journal and artifacts.
        copies_study: whether they are copies: the search runs on another machine.
    """

    def __init__(self, storage: Storage, folder: Path, *, is_search: bool):
        self._storage, self._is_search = storage, is_search
        self.folder, self.curves = folder, folder / "curves"
        self.copies_study = is_search and not _has_study(storage)
        self.study = folder / "study" if self.copies_study else local_folder(storage)
        self.curves.mkdir()
        if self.copies_study:
            self.study.mkdir()

    def refresh(self) -> None:
        """Bring it up to date; raises ``OSError`` where an object store does not answer."""
        if self._storage.is_local:
            self._link()
            return
        for name, size in sorted(self._storage.sizes().items()):
            target = self._target(PurePosixPath(name))
            if target and (not target.exists() or target.stat().st_size != size):
                _fetch(self._storage, name, target)

    def _link(self) -> None:
        folder = Path(self._storage.path())
        for run in folder.iterdir() if self._is_search else [folder]:
            link = self.curves / run.name
            if (run / "tensorboard").is_dir() and not link.is_symlink():
                link.symlink_to(run / "tensorboard")

    def _target(self, name: PurePosixPath) -> Path | None:
        """Where a file of the storage belongs; None if nothing shows it."""
        if name.parent.name == "tensorboard":
            run = name.parent.parent.name or PurePosixPath(self._storage.path()).name
            return self.curves / run / name.name
        if self.copies_study and (str(name) == JOURNAL or name.parts[0] == ARTIFACTS):
            return self.study / name
        return None


@contextmanager
def shown(storage: Storage, *, is_search: bool) -> Iterator[View]:
    """A view in a temporary folder, kept up to date by a thread."""
    prefix = "pixelcontrast-dashboard-"
    with tempfile.TemporaryDirectory(prefix=prefix, ignore_cleanup_errors=True) as folder:
        view = View(storage, Path(folder), is_search=is_search)
        view.refresh()
        with _repeated(view.refresh, REFRESH_LINKS_S if storage.is_local else REFRESH_COPIES_S):
            yield view


@contextmanager
def _repeated(call: Callable[[], None], seconds: float) -> Iterator[None]:
    over = threading.Event()

    def repeat() -> None:
        while not over.wait(seconds):
            try:
                call()
            except OSError as error:
                logger.warning("the pages are not up to date: %s", error)

    thread = threading.Thread(target=repeat, daemon=True)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join(_JOIN_TIMEOUT_S)


def _has_study(storage: Storage) -> bool:
    """Whether this machine runs the search, or was the last to: its journal has all of the store's."""
    if storage.is_local:
        return True
    journal = local_folder(storage) / JOURNAL
    if not (journal.exists() and journal.with_name(".lock").exists()):
        return False
    return not storage.exists(JOURNAL) or journal.read_bytes().startswith(storage.read(JOURNAL))


def _fetch(storage: Storage, name: str, target: Path) -> None:
    """Journals and events only grow: what is new is appended, as their readers continue where they were."""
    target.parent.mkdir(parents=True, exist_ok=True)
    content = storage.read(name)
    there = target.stat().st_size if target.exists() else 0
    if ARTIFACTS not in target.parts and len(content) > there:
        with target.open("ab") as file:
            file.write(content[there:])
    else:
        target.write_bytes(content)
