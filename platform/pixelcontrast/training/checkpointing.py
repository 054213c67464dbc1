"""What all ranks do together to save a checkpoint, in the format of ``runs.checkpoint``, and to resume."""

import json
import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from pixelcontrast import distributed
from pixelcontrast.config import Experiment
from pixelcontrast.runs import checkpoint, provenance
from pixelcontrast.runs.launch_mark import unchecked
from pixelcontrast.runs.resume import check_nothing_lost
from pixelcontrast.storage import Storage
from pixelcontrast.training.origin import check_same_data
from pixelcontrast.training.state import TrainState

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Resumed:
    """How an attempt began: at the newest valid checkpoint, or, where there is none, at step 0.

    Attributes:
        skipped: the newer checkpoints, by name, and why each was not used.
        changed: what the same bits depend on and was different then: name → (then, now).
    """

    skipped: Mapping[str, str]
    changed: Mapping[str, tuple[Any, Any]] = field(default_factory=dict)


def save(
    run: Storage, step: int, parts: dict[str, bytes], *, check_ours: Callable[[], None] = unchecked
) -> str:
    """Write a checkpoint of every rank's ``parts``; returns its folder's name in the run.

    Collective: every rank calls it with what it alone writes, possibly nothing. The checkpoint exists once
    rank 0 has written the manifest, and that happens before any rank returns.

    Args:
        check_ours: called on rank 0 before the manifest is written; raises ``ValueError`` where the run is
            another driver's by now.

    Raises, alike on every rank, and then older checkpoints are as they were:
        ValueError: two ranks have a part of the same name, or do not share ``run``, or of ``check_ours``.
        OSError: a rank could not write; names the first such rank and its file, with the system's ``errno``.
    """

    def commit() -> None:
        check_ours()
        checkpoint.commit(run, step, entries)

    def clean() -> None:
        check_ours()  # in an object store another driver's checkpoint may lie in the same place
        checkpoint.start(run, step)

    _check_distinct(distributed.gather_objects(list(parts)))
    try:
        on_every_rank(lambda: _on_rank_0(lambda: checkpoint.start(run, step)))
        entries = on_every_rank(lambda: checkpoint.stage(run, step, parts))
        on_every_rank(lambda: _on_rank_0(commit))
    except (OSError, ValueError):
        # A full disk has no room for what cannot become a checkpoint.
        _on_rank_0(clean)
        raise
    return checkpoint.folder_of(step)


def restore_newest(
    run: Storage, experiment: Experiment, state: TrainState, origin: Mapping[str, Any]
) -> Resumed:
    """Let ``state`` become what the newest valid checkpoint holds; it stays as it is where there is none.

    Collective: every rank reads the checkpoint that rank 0 sees as the newest.

    Args:
        origin: of this attempt, as of ``training.origin``.

    Raises:
        ValueError: the checkpoint was trained on another list of images, or holds what could run code.
        CheckpointError: checkpoints existed, and all are damaged or gone.
    """
    found: tuple[str | None, dict[str, str]] = (None, {})
    if distributed.rank() == 0:
        found = checkpoint.newest_valid(run)
        for reason in found[1].values():
            logger.warning("skipped a checkpoint: %s", reason)
        check_nothing_lost(run, found[0])
    name, skipped = distributed.broadcast_object(found)
    if name is None:
        return Resumed(skipped)
    parts = checkpoint.load(run, name)
    before = json.loads(parts["provenance.json"])
    check_same_data(experiment, before["data"], origin["data"])
    state.restore(parts)
    changed = provenance.differences(before, origin)
    if distributed.rank() == 0:
        logger.info("resuming from %s", name)
        _warn_of_changes(changed)
    return Resumed(skipped, changed)


def _warn_of_changes(changed: Mapping[str, tuple[Any, Any]]) -> None:
    if changed:
        logger.warning(
            "the checkpoint was written under other conditions: %s. The run continues, but may not end with "
            "the bits of one that was never interrupted",
            "; ".join(f"{name} was {old} and is now {new}" for name, (old, new) in changed.items()),
        )


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


def on_every_rank(work: Callable[[], Any]) -> list[Any]:
    """Every rank's result of its ``work``, in rank order; where one failed, no rank waits for it.

    Raises, alike on every rank, for the first that failed:
        ValueError: it raised one, which a retry would meet again.
        OSError: it raised anything else; with the system's ``errno``.
    """
    result, failure = None, None
    try:
        result = work()
    except Exception as error:
        failure = error
    reason = failure and (
        str(failure) or repr(failure),
        isinstance(failure, ValueError),
        getattr(failure, "errno", None),
    )
    outcomes = distributed.gather_objects((result, reason))
    for rank, (_, reason) in enumerate(outcomes):
        if reason:
            text, lasts, number = reason
            if lasts:
                raise ValueError(f"rank {rank}: {text}") from failure
            error = OSError(f"rank {rank}: {text}")
            error.errno = number
            raise error from failure
    return [result for result, _ in outcomes]
