"""Data behind a URI, copied once per node: one process copies and verifies, the others wait for it.

The copies lie below the folder of temporary files (``TMPDIR``), are the user's alone, and are kept for the
next run.
"""

import fcntl
import hashlib
import os
import shutil
import tempfile
from collections.abc import Callable, Container, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

from pixelcontrast.config import Data
from pixelcontrast.datasets.packing.manifest import MANIFEST, read_manifest
from pixelcontrast.storage import Storage, one_line

_CONNECTIONS = 8
_BLOCK = 1 << 24
_RESERVE = 1 << 30
"""Bytes of the disk that are left free."""


def stage_pack(data: Data) -> Data:
    """The data with a root on this machine: unchanged where it is, else a verified copy of the pack.

    Every process of a node may call it at the same time.

    Raises:
        ValueError: the pack cannot be read, a shard is not what the manifest says, or the disk has no room.
    """
    if "://" not in data.root:
        return data
    remote = Storage(data.root, option="data.root")
    with _failures_named(data.root):
        content = remote.read(MANIFEST)
        manifest = read_manifest(content, where=f"{data.root}/{MANIFEST}")
        folder = _folder(data.root, content)
        shards = {shard.file: shard for shards in manifest.splits.values() for shard in shards}
        with _alone(folder):
            missing = {
                file: shard.size
                for file, shard in shards.items()
                if not _is_there(folder / file, shard.size)  # those that are were whole when they appeared
            }
            _copy_all(folder, missing, lambda file: _copy(remote, file, folder, sha256=shards[file].sha256))
            staged = Storage(str(folder))
            if not staged.exists(MANIFEST) or staged.read(MANIFEST) != content:
                staged.write(MANIFEST, content)  # whole, and once: others read it without waiting for us
    return replace(data, root=str(folder))


def stage_files(root: str) -> str:
    """The folder on this machine with all files of an unpacked data set: itself, or a copy of a URI's.

    An earlier copy is brought up to date: files that have gone are deleted, and those with another size or
    time of change are copied again. A copy has its original's time of change.

    Raises:
        ValueError: it cannot be read, or the disk has no room.
    """
    if "://" not in root:
        return root
    remote = Storage(root, option="ROOT")
    with _failures_named(root):
        folder = _folder(root, b"")
        with _alone(folder):
            stamps = remote.stamps()
            if not stamps:
                raise ValueError(f"{root}: no files there; allowed is the folder of a data set")
            _delete_others(folder, stamps)
            stale = {
                file: stamp.size
                for file, stamp in stamps.items()
                if not _is_there(folder / file, stamp.size, changed_ns=stamp.changed_ns)
            }
            _copy_all(
                folder, stale, lambda file: _copy(remote, file, folder, changed_ns=stamps[file].changed_ns)
            )
    return str(folder)


@contextmanager
def _failures_named(location: str) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise ValueError(f"{location}: cannot be copied to this machine: {one_line(error)}") from error


def _folder(location: str, content: bytes) -> Path:
    """Where the copy of a location lies whose manifest has this content."""
    base = Path(tempfile.gettempdir()) / f"pixelcontrast-data-{os.getuid()}"
    base.mkdir(mode=0o700, exist_ok=True)
    if base.stat().st_uid != os.getuid() or base.is_symlink():
        raise ValueError(f"{base}: belongs to somebody else; set TMPDIR to a folder of your own")
    key = hashlib.sha256(location.encode() + b"\0" + content).hexdigest()[:16]
    folder = base / key
    folder.mkdir(exist_ok=True)
    return folder


@contextmanager
def _alone(folder: Path) -> Iterator[None]:
    """Wait until no other process of this machine is inside; a process that dies has left."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


def _delete_others(folder: Path, files: Container[str]) -> None:
    """Delete what the original has no longer, and what a copying that was killed has left."""
    for parent, folders, names in os.walk(folder, topdown=False):
        for path in (Path(parent) / name for name in names):
            if path.relative_to(folder).as_posix() not in files:
                path.unlink()
        for path in (Path(parent) / name for name in folders):
            if not any(path.iterdir()):
                path.rmdir()


def _copy_all(folder: Path, sizes: Mapping[str, int], copy: Callable[[str], None]) -> None:
    """Copy files of these sizes in bytes, if there is room for them."""
    needed, free = sum(sizes.values()), shutil.disk_usage(folder).free
    if needed + _RESERVE > free:
        raise ValueError(
            f"{folder}: the data take {needed / 1e9:.1f} GB more and {free / 1e9:.1f} GB are free; make "
            "room, or set TMPDIR to a larger local disk"
        )
    with ThreadPoolExecutor(_CONNECTIONS) as threads:
        for _ in threads.map(copy, sizes):
            pass


def _is_there(path: Path, size: int, *, changed_ns: int | None = None) -> bool:
    """Whether a file has this size and, where it is known, this time of change."""
    if not path.is_file():
        return False
    status = path.stat()
    return status.st_size == size and changed_ns in (None, status.st_mtime_ns)


def _copy(
    remote: Storage, file: str, folder: Path, *, sha256: str | None = None, changed_ns: int | None = None
) -> None:
    """Copy a file, which appears whole, with its original's time of change where that is given.

    Raises:
        ValueError: it has not the ``sha256`` that is given.
    """
    path = folder / file
    path.parent.mkdir(parents=True, exist_ok=True)
    partial, found = path.with_name(f".{path.name}.partial"), hashlib.sha256()
    with remote.fs.open_input_stream(remote.path(file)) as source, partial.open("wb") as copy:
        while block := source.read(_BLOCK):
            found.update(block)
            copy.write(block)
    if sha256 not in (None, found.hexdigest()):
        partial.unlink()
        raise ValueError(
            f"{remote.location}: {file} is damaged: its sha256 is not the manifest's; copy it there again, "
            "or pack the data again"
        )
    if changed_ns is not None:
        os.utime(partial, ns=(changed_ns, changed_ns))
    partial.replace(path)
