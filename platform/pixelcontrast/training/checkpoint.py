"""Checkpoints: folders of named parts, valid only with a manifest that matches every byte."""

import hashlib
import json
from collections.abc import Collection

from pixelcontrast.training.storage import Storage

FOLDER = "checkpoints"
MANIFEST = "manifest.json"


class CheckpointError(ValueError):
    """Checkpoints exist, and none of them is valid: going on would silently restart from nothing."""


def folder_of(step: int) -> str:
    """``checkpoints/step-00000500``"""
    return f"{FOLDER}/step-{step:08d}"


def save(run: Storage, step: int, parts: dict[str, bytes]) -> str:
    """Write a checkpoint; it exists once its manifest does. Returns its folder's name in the run."""
    entries = {name: {"size": len(part), "sha256": _digest(part)} for name, part in parts.items()}
    manifest = json.dumps({"step": step, "files": entries}, indent=2).encode()
    run.write_folder(folder_of(step), parts | {MANIFEST: manifest})
    return folder_of(step)


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


def _digest(part: bytes) -> str:
    return hashlib.sha256(part).hexdigest()
