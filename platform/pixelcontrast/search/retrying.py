"""A study's database that may be away for a minute, as during a failover."""

import logging
import time
from collections.abc import Callable
from functools import wraps
from typing import Any

from optuna.exceptions import StorageInternalError
from optuna.storages import BaseStorage, RDBStorage, get_storage

PAUSES_S = (1.0, 4.0, 15.0, 40.0)
"""Between the attempts at one call."""

logger = logging.getLogger(__name__)


def retrying(database: RDBStorage) -> BaseStorage:
    """The database with Optuna's cache before it; a call that fails in it is repeated for a minute.

    A call that was carried out, but whose answer was lost, may be done twice: a trial is then made that
    nobody runs, which the next driver of the search takes up.
    """
    storage = get_storage(database)
    for name in BaseStorage.__abstractmethods__:
        setattr(storage, name, _repeated(getattr(storage, name)))
    return storage


def _repeated(call: Callable[..., Any]) -> Callable[..., Any]:
    @wraps(call)
    def repeated(*args: Any, **options: Any) -> Any:
        for pause in PAUSES_S:
            try:
                return call(*args, **options)
            except StorageInternalError as error:
                logger.warning("the study's database failed, next attempt in %g s: %s", pause, cause(error))
                time.sleep(pause)
        return call(*args, **options)

    return repeated


def cause(error: Exception) -> str:
    """Kind and first line of what lies behind an error; of one of Optuna's, what the database said."""
    behind = error.__cause__ or error
    return f"{type(behind).__name__}: {str(behind).partition(chr(10))[0]}"
