"""The study as a journal: a file to which one process appends, and which others read meanwhile."""

import logging
import os
from pathlib import Path
from typing import Any

from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend

logger = logging.getLogger(__name__)


def open_journal(path: Path) -> JournalStorage:
    """The study's storage; a last line that is cut off is left out.

    Raises:
        ValueError: another line is damaged.
    """
    try:
        return JournalStorage(_WholeLines(str(path)))
    except ValueError as error:
        raise ValueError(
            f"{path} is damaged: {error}. Restore it from a copy, or delete that line"
        ) from error


def cut_torn_tail(path: Path) -> None:
    """Remove a last line that an append did not finish, and say so; only the sole writer may.

    What is appended later would become a part of that line, and no reader could read the journal again.
    """
    content = path.read_bytes() if path.exists() else b""
    whole = content.rfind(b"\n") + 1
    if whole < len(content):
        os.truncate(path, whole)
        logger.warning(
            "%s: the last line was cut off by a full disk or a kill, and its %d bytes were removed",
            path,
            len(content) - whole,
        )


class _WholeLines(JournalFileBackend):
    """Takes back what an append has written that fails, as on a full disk."""

    def __init__(self, path: str):
        super().__init__(path)
        self._path = Path(path)

    def append_logs(self, logs: list[dict[str, Any]]) -> None:
        before = self._path.stat().st_size
        try:
            super().append_logs(logs)
        except BaseException:
            os.truncate(self._path, before)
            raise
