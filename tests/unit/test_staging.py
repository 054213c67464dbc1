"""Files behind a URI are copied to this machine as they are there now, whatever was copied before."""

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from packs import write_folder
from pixelcontrast.config import Data
from pixelcontrast.datasets.packing import staging
from pixelcontrast.datasets.packing.staging import stage_files, stage_pack
from pixelcontrast.datasets.packing.write import pack


@pytest.fixture
def remote(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder that is also a URI, and a machine of its own."""
    monkeypatch.setattr(staging.tempfile, "gettempdir", lambda: str(tmp_path / "node"))
    (tmp_path / "node").mkdir()
    for name in ("images/a.jpg", "images/b.jpg", "masks/deep/a.png"):
        path = tmp_path / "there" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(name.encode())
    return tmp_path / "there"


def contents(folder: Path) -> dict[str, bytes]:
    files = (path for path in folder.rglob("*") if path.is_file())
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in files}


def staged(remote: Path) -> dict[str, bytes]:
    return contents(Path(stage_files(f"file://{remote}")))


def replaced(remote: Path) -> None:
    path = remote / "images/a.jpg"
    changed = path.stat().st_mtime_ns - 10**9  # older than the copy: put there by a tool that keeps times
    path.write_bytes(path.read_bytes()[::-1])
    os.utime(path, ns=(changed, changed))


def folder_to_file(remote: Path) -> None:
    (remote / "masks/deep/a.png").unlink()
    (remote / "masks/deep").rmdir()
    (remote / "masks").rmdir()
    (remote / "masks").write_bytes(b"a file")


CHANGES: dict[str, Callable[[Path], object]] = {
    "none": lambda _remote: None,
    "a new file": lambda remote: (remote / "images/c.jpg").write_bytes(b"c"),
    "deleted": lambda remote: (remote / "images/b.jpg").unlink(),
    "other bytes of the same size": replaced,
    "a file where a folder was": folder_to_file,
}


@pytest.mark.parametrize("change", CHANGES)
def test_a_copy_is_brought_up_to_date(remote: Path, change: str) -> None:
    assert staged(remote) == contents(remote)
    CHANGES[change](remote)
    assert staged(remote) == contents(remote)


def test_files_that_have_not_changed_are_copied_once_and_keep_their_time(
    remote: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = Path(stage_files(f"file://{remote}"))
    (remote / "images/b.jpg").write_bytes(b"changed")
    copied: list[str] = []
    copy = staging._copy

    def watch(storage: staging.Storage, file: str, *rest: Path, **options: int) -> None:
        copied.append(file)
        copy(storage, file, *rest, **options)

    monkeypatch.setattr(staging, "_copy", watch)
    stage_files(f"file://{remote}")
    assert copied == ["images/b.jpg"]
    for name in contents(remote):
        assert (folder / name).stat().st_mtime_ns == (remote / name).stat().st_mtime_ns


def test_what_a_copying_that_was_killed_has_left_is_deleted(remote: Path) -> None:
    left = Path(stage_files(f"file://{remote}")) / "images/.a.jpg.partial"
    left.write_bytes(b"half")
    stage_files(f"file://{remote}")
    assert not left.exists()


def test_staging_again_leaves_the_manifest_to_those_who_read_it(remote: Path, tmp_path: Path) -> None:
    """Every worker of a node stages when it starts, and reads while the others stage."""
    write_folder(tmp_path / "photos")
    pack(Data(layout="folder", root=str(tmp_path / "photos")), str(remote / "packed"))
    data = Data(layout="folder", root=f"file://{remote}/packed")
    manifest = Path(stage_pack(data).root) / "manifest.json"
    before = manifest.stat()
    with manifest.open("rb") as reader:
        stage_pack(data)
        assert reader.read() == (remote / "packed/manifest.json").read_bytes()
    after = manifest.stat()
    assert (after.st_ino, after.st_mtime_ns) == (before.st_ino, before.st_mtime_ns)
    manifest.write_bytes(b"{")  # as an earlier version left it when it was killed
    stage_pack(data)
    assert manifest.read_bytes() == (remote / "packed/manifest.json").read_bytes()
