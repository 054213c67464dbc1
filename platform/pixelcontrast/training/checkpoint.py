"""Checkpoints: folders of named parts, valid only with a manifest that matches every byte."""

import hashlib
import json
from collections.abc import Callable, Collection
from typing import Any

from pixelcontrast import distributed
from pixelcontrast.training.storage import Storage

FOLDER = "checkpoints"
MANIFEST = "manifest.json"


class CheckpointError(ValueError):
    """Checkpoints exist, and none of them is valid: resuming would silently restart from nothing."""


def folder_of(step: int) -> str:
    """``checkpoints/step-00000500``"""
    return f"{FOLDER}/step-{step:08d}"


def save(run: Storage, step: int, parts: dict[str, bytes]) -> str:
    """Write a checkpoint of every rank's ``parts``; returns its folder's name in the run.

    Every rank calls it with what it alone writes, possibly nothing. The checkpoint exists once rank 0 has
    written the manifest, and that happens before any rank returns.

    Raises, alike on every rank, and then older checkpoints are as they were:
        ValueError: two ranks have a part of the same name.
        OSError: a rank could not write; names the first such rank and its file, with the system's ``errno``.
    """
    name = folder_of(step)
    _check_distinct(distributed.gather_objects(list(parts)))
    try:
        _on_every_rank(lambda: _start(run, name))
        entries = _on_every_rank(
            lambda: {file: _write(run, f"{run.staging(name)}/{file}", part) for file, part in parts.items()}
        )
        _on_every_rank(lambda: _commit(run, step, entries))
    except OSError:
        _start(run, name)  # a full disk has no room for what cannot become a checkpoint
        raise
    return name


def load(run: Storage, name: str, *, only: Collection[str] | None = None) -> dict[str, bytes]:
    """Read and verify a checkpoint's parts: all, or those named in ``only``.

    Raises:
        ValueError: a file is missing, too short, or not the one written; the message names it.
    """
    try:
        manifest = json.loads(run.read(f"{name}/{MANIFEST}"))
        files = manifest["files"].items()
    except (FileNotFoundError, ValueError, KeyError, AttributeError) as error:
        raise ValueError(f"{name}/{MANIFEST} is missing or damaged") from error
    parts = {}
    for file, entry in files:
        if only is not None and file not in only:
            continue
        try:
            part = run.read(f"{name}/{file}")
        except FileNotFoundError as error:
            raise ValueError(f"{name}/{file} is missing") from error
        if len(part) != entry["size"]:
            raise ValueError(f"{name}/{file} has {len(part)} bytes instead of {entry['size']}")
        if _digest(part) != entry["sha256"]:
            raise ValueError(f"{name}/{file} was altered: its sha256 is not the manifest's")
        parts[file] = part
    return parts


def newest_valid(run: Storage) -> tuple[str | None, list[str]]:
    """The newest valid checkpoint's name, and why each newer one was skipped.

    On an object store a folder without manifest is an interrupted writing and does not count; on a local
    disk, where folders appear complete, it is damage.

    Raises:
        CheckpointError: there are checkpoints, but every one is damaged.
    """
    names = [name for name in run.names(FOLDER) if name.startswith("step-")]
    skipped = []
    for name in reversed(names):
        try:
            load(run, f"{FOLDER}/{name}")
        except ValueError as error:
            skipped.append(str(error))
        else:
            return f"{FOLDER}/{name}", skipped
    if any(run.is_local or run.exists(f"{FOLDER}/{name}/{MANIFEST}") for name in names):
        reasons = "; ".join(skipped)
        raise CheckpointError(
            f"{run.location}: no checkpoint is valid ({reasons}). Delete the folder to restart"
        )
    return None, skipped


def prune(run: Storage, *, step: int, best_step: int, keep_newest: int) -> None:
    """Delete all but the newest checkpoints up to ``step`` and the best one.

    Also deleted are what interrupted writing left, and later steps: they belong to work that was lost.
    """
    names = run.names(FOLDER)
    reached = [name for name in names if name.startswith("step-") and f"{FOLDER}/{name}" <= folder_of(step)]
    kept = {f"{FOLDER}/{name}" for name in reached[-keep_newest:]} | {folder_of(best_step)}
    for name in names:
        if f"{FOLDER}/{name}" not in kept:
            run.delete_folder(f"{FOLDER}/{name}", first=MANIFEST)


def _check_distinct(names: list[list[str]]) -> None:
    owners: dict[str, int] = {}
    for rank, files in enumerate(names):
        for file in files:
            if file in owners:
                raise ValueError(f"checkpoint part {file}: rank {owners[file]} and rank {rank} both have it")
            owners[file] = rank


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


def _start(run: Storage, name: str) -> None:
    if distributed.rank() == 0:
        run.start_folder(name, last=MANIFEST)


def _write(run: Storage, path: str, part: bytes) -> dict[str, Any]:
    """Write a part; returns its entry in the manifest."""
    run.write(path, part)
    return {"size": len(part), "sha256": _digest(part)}


def _commit(run: Storage, step: int, entries: list[dict[str, Any]]) -> None:
    """Rank 0 makes a checkpoint of what all ranks wrote, if it lies where rank 0 sees it."""
    if distributed.rank() != 0:
        return
    folder = run.staging(folder_of(step))
    for rank, files in enumerate(entries):
        for file, entry in files.items():
            if run.size(f"{folder}/{file}") != entry["size"]:
                raise ValueError(
                    f"{folder}/{file}, which rank {rank} wrote, is not whole in rank 0's {run.location}: "
                    "run.storage must be a file system that all workers share"
                )
    merged = {file: entry for files in entries for file, entry in files.items()}
    manifest = json.dumps({"step": step, "files": merged}, indent=2).encode()
    _write(run, f"{folder}/{MANIFEST}", manifest)
    run.finish_folder(folder_of(step), last=MANIFEST)


def _digest(part: bytes) -> str:
    return hashlib.sha256(part).hexdigest()
