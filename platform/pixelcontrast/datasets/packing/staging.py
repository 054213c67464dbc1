"""Data behind a URI, copied once per node: one process copies and verifies, the others wait for it.

The copies lie below the folder of temporary files (``TMPDIR``), are the user's alone, and are kept for the
next run.
"""

import fcntl
import hashlib
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator, Mapping
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
            _copy_all(
                folder,
                {file: shard.size for file, shard in shards.items()},
                lambda file: _copy(remote, file, folder, shards[file].sha256),
            )
            (folder / MANIFEST).write_bytes(content)
    return replace(data, root=str(folder))


def stage_files(root: str) -> str:
    """The folder on this machine with all files of an unpacked data set: itself, or a copy of a URI's.

    Raises:
        ValueError: it cannot be read, or the disk has no room.
    """
    if "://" not in root:
        return root
    remote = Storage(root, option="ROOT")
    with _failures_named(root):
        folder, sizes = _folder(root, b""), remote.sizes()
        if not sizes:
            raise ValueError(f"{root}: no files there; allowed is the folder of a data set")
        with _alone(folder):
            _copy_all(folder, sizes, lambda file: _copy(remote, file, folder))
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


def _copy_all(folder: Path, sizes: Mapping[str, int], copy: Callable[[str], None]) -> None:
    """Copy the files that are not there; those that are were whole when they appeared."""
    missing = [file for file, size in sizes.items() if not _is_there(folder / file, size)]
    needed, free = sum(sizes[file] for file in missing), shutil.disk_usage(folder).free
    if needed + _RESERVE > free:
        raise ValueError(
            f"{folder}: the data take {needed / 1e9:.1f} GB more and {free / 1e9:.1f} GB are free; make "
            "room, or set TMPDIR to a larger local disk"
        )
    with ThreadPoolExecutor(_CONNECTIONS) as threads:
        for _ in threads.map(copy, missing):
            pass


def _is_there(path: Path, size: int) -> bool:
    return path.is_file() and path.stat().st_size == size


def _copy(remote: Storage, file: str, folder: Path, sha256: str | None = None) -> None:
    """Copy a file, which appears whole; raises ``ValueError`` if it has not the ``sha256`` that is given."""
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
    partial.replace(path)
