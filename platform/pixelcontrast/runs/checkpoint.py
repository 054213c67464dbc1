"""A checkpoint's file format: a folder of named parts, valid only with a manifest that matches every byte.

``stage`` the parts, then ``commit`` them; several processes may stage, one commits. ``load`` reads only what
was committed whole.
"""

import hashlib
import json
import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import islice

from pixelcontrast.storage import Storage

FOLDER = "checkpoints"
MANIFEST = "manifest.json"
_NAME = re.compile(r"step-\d{8,}")
_LEFT_OVER = re.compile(rf"\.{_NAME.pattern}\.(partial|deleted)")


class CheckpointError(ValueError):
    """A run had checkpoints, and none of them is valid: resuming would silently restart from nothing."""


@dataclass(frozen=True)
class Entry:
    """What a manifest says of one part.

    Attributes:
        size: in bytes.
        sha256: of its content, in hexadecimal.
    """

    size: int
    sha256: str


@dataclass(frozen=True)
class Manifest:
    """The file that makes a checkpoint valid.

    Attributes:
        step: steps done when it was written.
        files: part → its size and hash.
    """

    step: int
    files: Mapping[str, Entry]


def folder_of(step: int) -> str:
    """``checkpoints/step-00000500``"""
    return f"{FOLDER}/step-{step:08d}"


def is_checkpoint(name: str) -> bool:
    """Whether an entry of ``checkpoints/`` is called as ``folder_of`` calls a checkpoint.

    All other entries belong to others, such as a user's copy or a file that a file manager left: they are
    neither read nor deleted.
    """
    return _NAME.fullmatch(name) is not None


def is_left_over(name: str) -> bool:
    """Whether it is what an interrupted writing or deletion of a checkpoint leaves on a local disk."""
    return _LEFT_OVER.fullmatch(name) is not None


def start(run: Storage, step: int) -> None:
    """Remove what an interrupted or failed writing of this step's checkpoint left; one process does."""
    run.start_folder(folder_of(step), last=MANIFEST)


def stage(run: Storage, step: int, parts: Mapping[str, bytes]) -> dict[str, Entry]:
    """Write parts of a checkpoint that does not exist yet; returns their entries in the manifest.

    Raises:
        OSError: naming the file, with the system's ``errno`` where it gave one.
    """
    entries = {}
    for file, part in parts.items():
        run.write(f"{run.staging(folder_of(step))}/{file}", part)
        entries[file] = Entry(len(part), _digest(part))
    return entries


def commit(run: Storage, step: int, entries: Sequence[Mapping[str, Entry]]) -> None:
    """Make a checkpoint of what was staged, if all of it lies where this process sees it.

    Args:
        entries: what ``stage`` returned, by the rank that called it.

    Raises:
        ValueError: a rank's part is not here: the ranks do not share ``run.storage``.
    """
    folder = run.staging(folder_of(step))
    for rank, files in enumerate(entries):
        for file, entry in files.items():
            if run.size(f"{folder}/{file}") != entry.size:
                raise ValueError(
                    f"{folder}/{file}, which rank {rank} wrote, is not whole in rank 0's {run.location}: "
                    "run.storage must be a file system that all workers share"
                )
    merged = {file: asdict(entry) for files in entries for file, entry in files.items()}
    manifest = json.dumps({"step": step, "files": merged}, indent=2).encode()
    run.write(f"{folder}/{MANIFEST}", manifest)
    run.finish_folder(folder_of(step), last=MANIFEST)


def read_manifest(run: Storage, name: str) -> Manifest:
    """The manifest of the checkpoint in the folder ``name``; raises ``ValueError`` where it has none."""
    try:
        content = json.loads(run.read(f"{name}/{MANIFEST}"))
        files = {file: Entry(entry["size"], entry["sha256"]) for file, entry in content["files"].items()}
        return Manifest(content["step"], files)
    except (FileNotFoundError, ValueError, LookupError, TypeError, AttributeError) as error:
        raise ValueError(f"{name}/{MANIFEST} is missing or damaged") from error


def load(run: Storage, name: str, *, only: Collection[str] | None = None) -> dict[str, bytes]:
    """Read and verify a checkpoint's parts: all, or those named in ``only``.

    Raises:
        ValueError: a file is missing, too short, or not the one written; the message names it.
    """
    files = read_manifest(run, name).files
    return {
        file: _load_part(run, f"{name}/{file}", entry)
        for file, entry in files.items()
        if only is None or file in only
    }


def names(run: Storage) -> list[str]:
    """The folders of all checkpoints that were once complete, valid or not, in the order of their steps."""
    return [name for name in _begun(run) if run.is_local or run.exists(f"{name}/{MANIFEST}")]


def newest_valid(run: Storage) -> tuple[str | None, dict[str, str]]:
    """The newest valid checkpoint's name, and each newer one that was skipped: name → why.

    On an object store a folder without manifest is an interrupted writing and does not count; on a local
    disk, where folders appear complete, it is damage.

    Raises:
        CheckpointError: there are checkpoints, but every one is damaged.
    """
    skipped = {}
    for name in reversed(_begun(run)):
        try:
            load(run, name)
        except ValueError as error:
            skipped[name] = str(error)
        else:
            return name, skipped
    if names(run):
        reasons = "; ".join(skipped.values())
        raise CheckpointError(
            f"{run.location}: no checkpoint is valid ({reasons}). Delete the folder to restart"
        )
    return None, skipped


def prune(
    run: Storage, *, step: int, best_step: int, keep_newest: int, damaged: Collection[str] = ()
) -> None:
    """Delete all but the newest checkpoints up to ``step``, which was just saved, and the best one.

    Only what can be resumed from counts as one of the newest: it has a manifest, and files of the sizes that
    the manifest gives. Also deleted are what interrupted writing left, and later steps: they belong to work
    that was lost. What is no checkpoint stays.

    Args:
        damaged: names of checkpoints that a hash has shown to be damaged, and that were not saved again.
    """
    reached = (name for name in reversed(_begun(run)) if name <= folder_of(step) and name not in damaged)
    newest = islice((name for name in reached if _is_complete(run, name)), keep_newest)
    kept = {*newest, folder_of(step), folder_of(best_step)}
    for name in run.names(FOLDER):
        ours = is_checkpoint(name) or is_left_over(name)
        if ours and f"{FOLDER}/{name}" not in kept:
            run.delete_folder(f"{FOLDER}/{name}", first=MANIFEST)


def _begun(run: Storage) -> list[str]:
    return [f"{FOLDER}/{name}" for name in run.names(FOLDER) if is_checkpoint(name)]


def _is_complete(run: Storage, name: str) -> bool:
    """Whether every file of the manifest has its size; the content is not read."""
    try:
        files = read_manifest(run, name).files
    except ValueError:
        return False
    sizes = (run / name).sizes()
    return all(sizes.get(file) == entry.size for file, entry in files.items())


def _load_part(run: Storage, path: str, entry: Entry) -> bytes:
    try:
        part = run.read(path)
    except FileNotFoundError as error:
        raise ValueError(f"{path} is missing") from error
    if len(part) != entry.size:
        raise ValueError(f"{path} has {len(part)} bytes instead of {entry.size}")
    if _digest(part) != entry.sha256:
        raise ValueError(f"{path} was altered: its sha256 is not the manifest's")
    return part


def _digest(part: bytes) -> str:
    return hashlib.sha256(part).hexdigest()
