"""A folder of files, on a local disk or in an object store, through ``pyarrow.fs``."""

import copy
import errno
import os
import re
import secrets
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path, PurePosixPath
from typing import NamedTuple
from urllib.parse import parse_qsl, urlsplit

from pyarrow import fs

from pixelcontrast.config import absolute_path, expand_home

_PASSWORD = re.compile(r"://[^@?]*:[^?]*@")
_SECRET_KEY = re.compile(r"secret|password|token|(^|_)key", re.IGNORECASE)
_CANNOT_SYNC = frozenset({errno.EINVAL, errno.ENOSYS, errno.ENOTSUP})
"""What ``fsync`` of a folder ends with where a file system has no such thing."""
_GCS_RETRIES = "retry_limit_seconds"
RENAME = (
    "rename it; `convmv -f latin1 -t utf8 -r --notest FOLDER` renames all names of Latin-1 below a folder"
)
"""The remedy where a file's name is not UTF-8, as archives of other systems have them."""


class Stamp(NamedTuple):
    """What a listing says of a file."""

    size: int
    """In bytes."""
    changed_ns: int | None
    """When it was written, in nanoseconds since 1970; None where a store does not say."""


class StorageError(ValueError):
    """A folder cannot be read or written, whatever is to be read or written there."""


class Storage:
    """A folder of files that are each written whole or not at all.

    Args:
        location: a local folder, or a URI that ``pyarrow.fs`` reads (``s3://bucket/runs``), perhaps with its
            options (``s3://bucket/runs?endpoint_override=minio:9000&scheme=http``).
        option: the setting that names the location, for errors.

    Raises:
        ValueError: a URI that pyarrow does not know, or one with a password or key in it, or a path that is
            not UTF-8.
    """

    def __init__(self, location: str, *, option: str = "run.storage"):
        self.location, self._option = location, option
        if "://" not in location:
            self.location = expand_home(location)
            self.fs, self.root = fs.LocalFileSystem(), absolute_path(location)
            if not is_utf8(self.root):
                raise ValueError(f"{option}: {not_utf8(os.fsencode(self.root))}; {RENAME}")
            return
        _refuse_secrets(location, option)
        try:
            self.fs, self.root = fs.FileSystem.from_uri(_bounded(location))
        except (ValueError, OSError) as error:
            reason = str(error).partition("\n")[0]  # one of HDFS's has 80 lines
            raise ValueError(f"{option} {location}: pyarrow cannot open it: {reason}") from error

    def __truediv__(self, name: str) -> "Storage":
        folder = copy.copy(self)
        uri = "://" in self.location
        path, mark, options = self.location.partition("?") if uri else (self.location, "", "")
        folder.location = f"{path.rstrip('/')}/{name}{mark}{options}"
        folder.root = f"{self.root.rstrip('/')}/{name}"
        return folder

    @property
    def name(self) -> str:
        """The folder's own name."""
        return self.root.rstrip("/").rpartition("/")[2]

    @property
    def parent(self) -> "Storage":
        """The folder that this one lies in."""
        folder = copy.copy(self)
        folder.root = self.root.rstrip("/").rpartition("/")[0]
        path, mark, options = self.location.partition("?")
        inside = "://" in path
        folder.location = f"{path.rstrip('/').rpartition('/')[0]}{mark}{options}" if inside else folder.root
        return folder

    @property
    def is_local(self) -> bool:
        """Whether files lie on this machine's file system, where a rename is atomic."""
        return isinstance(self.fs, fs.LocalFileSystem)

    @property
    def is_folder(self) -> bool:
        """Whether a folder lies here, and not a file or nothing."""
        return self.fs.get_file_info(self.root).type == fs.FileType.Directory

    def path(self, name: str = "") -> str:
        """Where pyarrow finds the file ``name``; on a local disk its absolute path."""
        return f"{self.root}/{name}" if name else self.root

    def exists(self, name: str = "") -> bool:
        return self.fs.get_file_info(self.path(name)).type != fs.FileType.NotFound

    def size(self, name: str) -> int | None:
        """The file's size in bytes; None if it does not exist."""
        return self.fs.get_file_info(self.path(name)).size

    def read(self, name: str) -> bytes:
        """The file's bytes; raises ``FileNotFoundError``."""
        with self.fs.open_input_stream(self.path(name)) as stream:
            return stream.read()

    def names(self, folder: str = "") -> list[str]:
        """Names, sorted, of the files and folders directly in ``folder``; none if it does not exist.

        Raises:
            ValueError: a name that is not UTF-8.
        """
        selector = fs.FileSelector(self.path(folder), allow_not_found=True)
        with _names_decoded():
            return sorted(info.base_name for info in self.fs.get_file_info(selector))

    def sizes(self) -> dict[str, int]:
        """The size in bytes of every file below; as ``stamps``."""
        return {name: stamp.size for name, stamp in self.stamps().items()}

    def stamps(self) -> dict[str, Stamp]:
        """Size and time of change of every file below, by its path from here; none if this does not exist.

        Raises:
            ValueError: a name that is not UTF-8.
        """
        selector = fs.FileSelector(self.root, recursive=True, allow_not_found=True)
        with _names_decoded():
            return {
                info.path.removeprefix(self.root).lstrip("/"): Stamp(info.size, info.mtime_ns)
                for info in self.fs.get_file_info(selector)
                if info.is_file
            }

    def write(self, name: str, content: bytes) -> None:
        """Write a file; whoever reads meanwhile sees the old one or the new one.

        Raises:
            OSError: naming the file, with the system's ``errno`` where it gave one.
        """
        with self._naming(name):
            self._write(name, content)

    def _write(self, name: str, content: bytes) -> None:
        if self.is_local:
            _write_synced(Path(self.path(name)), content)
            return
        with self.fs.open_output_stream(self.path(name)) as stream:
            stream.write(content)

    def append(self, name: str, content: bytes) -> None:
        """Write on at the end of a local file, all of it or nothing; it is on disk when this returns.

        Raises:
            OSError: as ``write``.
        """
        assert self.is_local, "object stores cannot"
        with self._naming(name), Path(self.path(name)).open("ab", buffering=0) as file:
            end = file.tell()
            try:
                if file.write(content) < len(content):
                    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
                os.fsync(file.fileno())
            except OSError:
                file.truncate(end)
                raise

    @contextmanager
    def _naming(self, name: str) -> Iterator[None]:
        """Errors of writing name the file."""
        try:
            yield
        except OSError as error:
            named = OSError(f"{self.path(name)} cannot be written: {error}")
            named.errno = error.errno
            raise named from error

    def delete(self, name: str) -> None:
        """Delete a file; raises ``FileNotFoundError``."""
        self.fs.delete_file(self.path(name))

    def adopt(self, file: Path, name: str) -> None:
        """Move a finished local file here; whoever reads meanwhile sees the old one, the new one or none.

        Args:
            file: on a local disk it must lie on the same file system as this folder.
            name: the file's path from here.
        """
        if not self.is_local:
            fs.copy_files(str(file), self.path(name), destination_filesystem=self.fs)
            file.unlink()
            return
        final = Path(self.path(name))
        final.parent.mkdir(parents=True, exist_ok=True)
        with file.open("rb") as written:
            os.fsync(written.fileno())
        file.replace(final)
        _sync_folder(final.parent)

    def check_writable(self) -> None:
        """Write and delete a file; raises ``StorageError`` where that is not possible."""
        probe = f".probe-{secrets.token_hex(4)}"  # its own, as another driver may look at the same time
        try:
            self._write(probe, b"probe")
            self.delete(probe)
        except OSError as error:
            raise StorageError(
                f"{self._option}: {self.location} cannot be written: {one_line(error)}"
            ) from error

    def staging(self, folder: str) -> str:
        """The folder to write a new folder's files into; several processes may.

        On a local disk one beside it, which ``finish_folder`` renames; on an object store, where nothing can
        be renamed, the folder itself, and the file written last is what makes it valid.
        """
        path = PurePosixPath(folder)
        return str(path.with_name(f".{path.name}.partial")) if self.is_local else folder

    def start_folder(self, folder: str, *, last: str) -> None:
        """Before anything is staged, one process removes what an interrupted writing left to mix with it."""
        if self.is_local:
            shutil.rmtree(self.path(self.staging(folder)), ignore_errors=True)
        elif self.exists(f"{folder}/{last}"):
            self.fs.delete_file(self.path(f"{folder}/{last}"))

    def finish_folder(self, folder: str, *, last: str) -> None:
        """When everything is staged, ``last`` last, one process lets the folder appear complete."""
        if not self.is_local:
            return
        final = Path(self.path(folder))
        if final.exists():  # left behind by an earlier attempt that was cut off or damaged
            self.delete_folder(folder, first=last)
        Path(self.path(self.staging(folder))).rename(final)
        _sync_folder(final.parent)

    def delete_folder(self, name: str, *, first: str) -> None:
        """Delete a folder, so that a part of it is never taken for the whole.

        On a local disk it first gets a hidden name, on an object store ``first`` goes first: the file without
        which the rest is not valid.
        """
        path = Path(self.path(name))
        if self.is_local and not path.name.startswith("."):
            hidden = path.with_name(f".{path.name}.deleted")
            shutil.rmtree(hidden, ignore_errors=True)  # of a deletion that was cut off
            path.rename(hidden)
            self.fs.delete_dir(str(hidden))
            return
        if self.exists(f"{name}/{first}"):
            self.fs.delete_file(self.path(f"{name}/{first}"))
        self.fs.delete_dir(self.path(name))

    def upload(self, source: str | Path, name: str) -> None:
        """Copy a local file to ``name``, or a local folder's files into it."""
        fs.copy_files(str(source), self.path(name), destination_filesystem=self.fs)


def is_utf8(name: str) -> bool:
    """Whether a file's name, as Python gives it, is UTF-8 on the disk."""
    return not any("\ud800" <= character <= "\udfff" for character in name)


def not_utf8(name: bytes) -> str:
    """What is wrong with a name that is not UTF-8, as bytes on the disk."""
    return f"the name {name!r} is not UTF-8; allowed are names in UTF-8"


@contextmanager
def _names_decoded() -> Iterator[None]:
    """An error over a name of pyarrow's names it."""
    try:
        yield
    except UnicodeDecodeError as error:
        raise ValueError(f"{not_utf8(error.object)}; {RENAME}") from error


def one_line(error: OSError) -> str:
    """The file, what is wrong with it, and what to do where that is known."""
    reason = str(error).partition("\n")[0]
    if error.filename is not None and error.strerror is not None:
        reason = f"{error.filename}: {error.strerror}"
    if isinstance(error, PermissionError):
        return f"{reason}; ask its owner for access (ls -ld shows who that is), or run as that user"
    if error.errno == errno.ENOSPC:
        return f"{reason}; free some space (df -h shows where), then rerun the command"
    return reason


def _write_synced(path: Path, content: bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.partial")
    try:
        with temporary.open("wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    except OSError:
        temporary.unlink(missing_ok=True)  # on a full disk its part of the content would stay
        raise
    _sync_folder(path.parent)


def _sync_folder(path: Path) -> None:
    """Some file systems (CIFS, FUSE) cannot: there a rename is on disk when they write it."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    except OSError as error:
        if error.errno not in _CANNOT_SYNC:
            raise
    finally:
        os.close(descriptor)


def _bounded(uri: str) -> str:
    """With a bound on the retries of a request to Google's store: a minute or two, as to S3, and not 15."""
    if uri.partition("://")[0] not in ("gs", "gcs") or _GCS_RETRIES in uri:
        return uri
    return f"{uri}{'&' if '?' in uri else '?'}{_GCS_RETRIES}=60"


def secret_in(uri: str) -> str | None:
    """What in a URI others must not read: ``a password``, or the names of options; None where nothing is."""
    options = [key for key, _ in parse_qsl(urlsplit(uri).query, keep_blank_values=True)]
    secret = [key for key in options if _SECRET_KEY.search(key)]
    return "a password" if _PASSWORD.search(uri) else ", ".join(secret) or None


def _refuse_secrets(uri: str, option: str) -> None:
    if secret := secret_in(uri):
        raise ValueError(
            f"{option} {uri.partition('://')[0]}://…: {secret} stands in the location, which is written "
            "into the run's files. Give it in the environment (for S3 AWS_ACCESS_KEY_ID and "
            "AWS_SECRET_ACCESS_KEY), in the store's own credentials file, or by the machine's role"
        )
