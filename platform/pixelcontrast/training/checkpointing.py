"""What all ranks do together to save a checkpoint, in the format of ``runs.checkpoint``."""

from collections.abc import Callable
from typing import Any

from pixelcontrast import distributed
from pixelcontrast.runs import checkpoint
from pixelcontrast.runs.storage import Storage


def save(run: Storage, step: int, parts: dict[str, bytes]) -> str:
    """Write a checkpoint of every rank's ``parts``; returns its folder's name in the run.

    Collective: every rank calls it with what it alone writes, possibly nothing. The checkpoint exists once
    rank 0 has written the manifest, and that happens before any rank returns.

    Raises, alike on every rank, and then older checkpoints are as they were:
        ValueError: two ranks have a part of the same name.
        OSError: a rank could not write; names the first such rank and its file, with the system's ``errno``.
    """
    _check_distinct(distributed.gather_objects(list(parts)))
    try:
        _on_every_rank(lambda: _on_rank_0(lambda: checkpoint.start(run, step)))
        entries = _on_every_rank(lambda: checkpoint.stage(run, step, parts))
        _on_every_rank(lambda: _on_rank_0(lambda: checkpoint.commit(run, step, entries)))
    except OSError:
        # A full disk has no room for what cannot become a checkpoint.
        _on_rank_0(lambda: checkpoint.start(run, step))
        raise
    return checkpoint.folder_of(step)


def _check_distinct(names: list[list[str]]) -> None:
    owners: dict[str, int] = {}
    for rank, files in enumerate(names):
        for file in files:
            if file in owners:
                raise ValueError(f"checkpoint part {file}: rank {owners[file]} and rank {rank} both have it")
            owners[file] = rank


def _on_rank_0(work: Callable[[], None]) -> None:
    if distributed.rank() == 0:
        work()


def _on_every_rank(work: Callable[[], Any]) -> list[Any]:
    """Every rank's result of its ``work``, in rank order; where one failed, no rank waits for it."""
    result, failure = None, None
    try:
        result = work()
    except Exception as error:
        failure = error
    reason = failure and (str(failure) or repr(failure), getattr(failure, "errno", None))
    outcomes = distributed.gather_objects((result, reason))
    for rank, (_, reason) in enumerate(outcomes):
        if reason:
            error = OSError(f"rank {rank}: {reason[0]}")
            error.errno = reason[1]
            raise error from failure
    return [result for result, _ in outcomes]
