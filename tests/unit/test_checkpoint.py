"""Storage and checkpoints: on a local disk, and where nothing can be renamed."""

from pathlib import Path

import pytest
from pyarrow import fs

from pixelcontrast.training import checkpoint
from pixelcontrast.training.checkpoint import CheckpointError, folder_of
from pixelcontrast.training.storage import Storage

PARTS = {"model.safetensors": b"weights" * 100, "optimizer.pt": b"momentum" * 50}


@pytest.fixture(params=["local", "object store"])
def run(request: pytest.FixtureRequest, tmp_path: Path) -> Storage:
    storage = Storage(str(tmp_path / "run"))
    if request.param == "object store":
        # A file system of pyarrow's that is not the local one, on real files.
        storage.fs, storage.root = fs.SubTreeFileSystem(str(tmp_path), fs.LocalFileSystem()), "run"
        for step in (100, 200, 300, 400, 500):  # an object store needs no folders
            (tmp_path / "run" / folder_of(step)).mkdir(parents=True)
    return storage


def damage(run: Storage, name: str, how: str) -> None:
    content = bytearray(run.read(name))
    if how == "flipped bit":
        content[3] ^= 4
    elif how == "truncated":
        content = content[:-1]
    elif how == "missing":
        return run.fs.delete_file(run.path(name))
    return run.write(name, bytes(content))


def test_round_trip(run: Storage) -> None:
    assert checkpoint.newest_valid(run)[0] is None
    name = checkpoint.save(run, 100, PARTS)
    assert checkpoint.load(run, name) == PARTS
    assert checkpoint.newest_valid(run)[0] == name == "checkpoints/step-00000100"


@pytest.mark.parametrize("how", ["flipped bit", "truncated", "missing"])
@pytest.mark.parametrize("part", ["model.safetensors", "optimizer.pt", "manifest.json"])
def test_damage_is_named_and_the_one_before_is_used(run: Storage, part: str, how: str) -> None:
    checkpoint.save(run, 100, PARTS)
    checkpoint.save(run, 200, PARTS)
    damage(run, f"{folder_of(200)}/{part}", how)
    name, skipped = checkpoint.newest_valid(run)
    assert name == folder_of(100)
    assert any(f"{folder_of(200)}/{part}" in reason for reason in skipped)


def test_all_damaged_is_an_error_not_a_restart(run: Storage) -> None:
    checkpoint.save(run, 100, PARTS)
    damage(run, f"{folder_of(100)}/optimizer.pt", "truncated")
    with pytest.raises(CheckpointError, match=r"step-00000100/optimizer\.pt has 399 bytes instead of 400"):
        checkpoint.newest_valid(run)


def test_interrupted_first_writing_does_not_count_on_an_object_store(tmp_path: Path) -> None:
    storage = Storage(str(tmp_path))
    storage.fs, storage.root = fs.SubTreeFileSystem(str(tmp_path), fs.LocalFileSystem()), "run"
    (tmp_path / "run" / folder_of(100)).mkdir(parents=True)
    storage.write(f"{folder_of(100)}/model.safetensors", b"half")
    name, skipped = checkpoint.newest_valid(storage)
    assert name is None
    assert "manifest.json is missing" in skipped[0]


def test_interrupted_writing_on_a_disk_is_invisible_and_collected(tmp_path: Path) -> None:
    run = Storage(str(tmp_path))
    partial = tmp_path / "checkpoints" / ".step-00000100.partial"
    partial.mkdir(parents=True)
    (partial / "model.safetensors").write_bytes(b"half")
    assert checkpoint.newest_valid(run) == (None, [])
    checkpoint.save(run, 100, PARTS)
    (tmp_path / "checkpoints" / ".step-00000200.partial").mkdir()
    checkpoint.prune(run, step=100, best_step=100, keep_newest=1)
    assert run.names("checkpoints") == ["step-00000100"]


def test_prune_keeps_the_newest_the_best_and_nothing_of_lost_work(run: Storage) -> None:
    for step in (100, 200, 300, 400, 500):
        checkpoint.save(run, step, PARTS)
    checkpoint.prune(run, step=400, best_step=100, keep_newest=2)
    assert run.names("checkpoints") == ["step-00000100", "step-00000300", "step-00000400"]


def test_saving_again_replaces_a_damaged_folder(run: Storage) -> None:
    checkpoint.save(run, 100, PARTS)
    damage(run, f"{folder_of(100)}/model.safetensors", "flipped bit")
    checkpoint.save(run, 100, PARTS)
    assert checkpoint.load(run, folder_of(100)) == PARTS


def test_storage_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(ValueError, match=r"run\.storage: .*file/run cannot be written"):
        (Storage(str(tmp_path / "file")) / "run").check_writable()
    run = Storage(str(tmp_path / "runs")) / "run"
    run.check_writable()
    assert run.names() == []


def test_unknown_uri_is_named() -> None:
    with pytest.raises(ValueError, match=r"run\.storage nosuch://bucket/runs: pyarrow cannot open it"):
        Storage("nosuch://bucket/runs")
