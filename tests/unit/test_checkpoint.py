"""Storage and checkpoints: on a local disk, and where nothing can be renamed; by one rank and by many."""

import json
import resource
import uuid
from pathlib import Path

import pytest

from object_store import ObjectStore
from pixelcontrast.runs import checkpoint
from pixelcontrast.runs.checkpoint import CheckpointError, folder_of
from pixelcontrast.storage import Storage
from pixelcontrast.training.checkpointing import save
from processes import run_ranks

PARTS = {"model.safetensors": b"weights" * 100, "optimizer.pt": b"momentum" * 50}


@pytest.fixture(params=["local", "S3"])
def run(request: pytest.FixtureRequest, tmp_path: Path, object_store: ObjectStore) -> Storage:
    if request.param == "S3":
        return Storage(object_store.uri(uuid.uuid4().hex)) / "run"
    return Storage(str(tmp_path / "run"))


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
    name = save(run, 100, PARTS)
    assert checkpoint.load(run, name) == PARTS
    assert checkpoint.newest_valid(run)[0] == name == "checkpoints/step-00000100"


@pytest.mark.parametrize("how", ["flipped bit", "truncated", "missing"])
@pytest.mark.parametrize("part", ["model.safetensors", "optimizer.pt", "manifest.json"])
def test_damage_is_named_and_the_one_before_is_used(run: Storage, part: str, how: str) -> None:
    save(run, 100, PARTS)
    save(run, 200, PARTS)
    damage(run, f"{folder_of(200)}/{part}", how)
    name, skipped = checkpoint.newest_valid(run)
    assert name == folder_of(100)
    assert any(f"{folder_of(200)}/{part}" in reason for reason in skipped.values())


def test_all_damaged_is_an_error_not_a_restart(run: Storage) -> None:
    save(run, 100, PARTS)
    damage(run, f"{folder_of(100)}/optimizer.pt", "truncated")
    with pytest.raises(CheckpointError, match=r"step-00000100/optimizer\.pt has 399 bytes instead of 400"):
        checkpoint.newest_valid(run)


@pytest.mark.parametrize("run", ["S3"], indirect=True)
def test_interrupted_first_writing_does_not_count_on_an_object_store(run: Storage) -> None:
    run.write(f"{folder_of(100)}/model.safetensors", b"half")
    name, skipped = checkpoint.newest_valid(run)
    assert name is None
    assert "manifest.json is missing" in skipped[folder_of(100)]


def test_interrupted_writing_on_a_disk_is_invisible_and_collected(tmp_path: Path) -> None:
    run = Storage(str(tmp_path))
    partial = tmp_path / "checkpoints" / ".step-00000100.partial"
    partial.mkdir(parents=True)
    (partial / "model.safetensors").write_bytes(b"half")
    assert checkpoint.newest_valid(run) == (None, {})
    save(run, 100, PARTS)
    (tmp_path / "checkpoints" / ".step-00000200.partial").mkdir()
    checkpoint.prune(run, step=100, best_step=100, keep_newest=1)
    assert run.names("checkpoints") == ["step-00000100"]


def test_prune_keeps_the_newest_the_best_and_nothing_of_lost_work(run: Storage) -> None:
    for step in (100, 200, 300, 400, 500):
        save(run, step, PARTS)
    checkpoint.prune(run, step=400, best_step=100, keep_newest=2)
    assert run.names("checkpoints") == ["step-00000100", "step-00000300", "step-00000400"]


def test_a_user_s_copies_and_files_are_neither_used_nor_removed(run: Storage) -> None:
    save(run, 400, PARTS)
    save(run, 600, PARTS)
    strange = [".DS_Store", ".step-mine.partial", "notes.txt", "step-00000400.bak", "step-mine"]
    for name in strange:
        if "step" in name:
            for file in (*PARTS, "manifest.json"):
                run.write(f"checkpoints/{name}/{file}", run.read(f"{folder_of(400)}/{file}"))
        else:
            run.write(f"checkpoints/{name}", b"x")
    before = {name: run.read(name) for name in run.sizes() if Path(name).parts[1] in strange}
    assert checkpoint.newest_valid(run) == (folder_of(600), {})
    assert checkpoint.names(run) == [folder_of(400), folder_of(600)]
    checkpoint.prune(run, step=600, best_step=600, keep_newest=1)
    assert run.names("checkpoints") == sorted([*strange, "step-00000600"])
    assert {name: run.read(name) for name in before} == before


@pytest.mark.parametrize("how", ["begun", "no manifest", "truncated", "flipped bit"])
def test_what_cannot_be_resumed_from_takes_no_sound_checkpoint_s_place(run: Storage, how: str) -> None:
    """Killed while it saved step 437, the run resumes from step 400 and saves step 500."""
    for step in (100, 300, 400):
        save(run, step, PARTS)
    if how == "begun":
        checkpoint.stage(run, 437, {"model.safetensors": b"half"})
    else:
        save(run, 437, PARTS)
        file = "manifest.json" if how == "no manifest" else "optimizer.pt"
        damage(run, f"{folder_of(437)}/{file}", "missing" if how == "no manifest" else how)
    resumed_from, skipped = checkpoint.newest_valid(run)
    assert resumed_from == folder_of(400)
    save(run, 500, PARTS)
    checkpoint.prune(run, step=500, best_step=100, keep_newest=2, damaged=skipped)
    assert run.names("checkpoints") == ["step-00000100", "step-00000400", "step-00000500"]


def test_saving_again_replaces_a_damaged_folder(run: Storage) -> None:
    save(run, 100, PARTS)
    damage(run, f"{folder_of(100)}/model.safetensors", "flipped bit")
    save(run, 100, PARTS)
    assert checkpoint.load(run, folder_of(100)) == PARTS


def test_a_damaged_folder_does_not_become_valid_before_it_is_saved_again(run: Storage) -> None:
    """Interrupted before the manifest: on an object store the old one must not vouch for the new parts."""
    save(run, 100, PARTS)
    damage(run, f"{folder_of(100)}/optimizer.pt", "missing")
    run.start_folder(folder_of(100), last=checkpoint.MANIFEST)
    for file, part in PARTS.items():
        run.write(f"{run.staging(folder_of(100))}/{file}", part)
    with pytest.raises(ValueError, match=r"step-00000100/(manifest\.json|optimizer\.pt) is missing"):
        checkpoint.load(run, folder_of(100))


def shard(rank: int, world_size: int) -> dict[str, bytes]:
    """A rank's own part, of another size on every rank; rank 0 has the common ones too, as in a run."""
    own = {f"memory-{rank}-of-{world_size}.safetensors": bytes([rank]) * (1000 + rank)}
    return own | PARTS if rank == 0 else own


def save_shards(rank: int, world_size: int, run: Storage, step: int) -> str:
    name = save(run, step, shard(rank, world_size))
    assert run.exists(f"{name}/manifest.json")  # on every rank, as soon as it goes on
    return name


@pytest.mark.parametrize("world_size", [1, 2, 3])
def test_every_rank_s_part_comes_back_and_its_damage_is_named(run: Storage, world_size: int) -> None:
    save(run, 100, PARTS)
    one = world_size == 1  # without a process group
    names = [save_shards(0, 1, run, 200)] if one else run_ranks(world_size, save_shards, run, 200)
    assert names == [folder_of(200)] * world_size
    parts = {file: part for rank in range(world_size) for file, part in shard(rank, world_size).items()}
    assert checkpoint.load(run, folder_of(200)) == parts
    assert run.names(folder_of(200)) == sorted([*parts, "manifest.json"])
    manifest = json.loads(run.read(f"{folder_of(200)}/manifest.json"))
    last = f"memory-{world_size - 1}-of-{world_size}.safetensors"
    assert manifest["files"][last]["size"] == 1000 + world_size - 1

    damage(run, f"{folder_of(200)}/{last}", "flipped bit")
    name, skipped = checkpoint.newest_valid(run)
    assert name == folder_of(100)
    assert skipped[folder_of(200)] == f"{folder_of(200)}/{last} was altered: its sha256 is not the manifest's"


def test_a_rank_without_parts_takes_part(run: Storage) -> None:
    run_ranks(2, save_on_rank_1, run)
    assert checkpoint.load(run, folder_of(100)) == PARTS


def save_on_rank_1(rank: int, _world_size: int, run: Storage) -> None:
    save(run, 100, PARTS if rank == 1 else {})


def fail_to_save(rank: int, world_size: int, run: Storage, failing: dict[int, int]) -> str:
    """Save with the system refusing, on some ranks, to let a file grow beyond a size; the error's text."""
    unlimited = resource.getrlimit(resource.RLIMIT_FSIZE)
    if rank in failing:
        resource.setrlimit(resource.RLIMIT_FSIZE, (failing[rank], unlimited[1]))
    try:
        save(run, 200, {} if rank == 0 else shard(rank, world_size))
    except OSError as error:
        return str(error)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, unlimited)
    return ""


@pytest.mark.timeout(60)
@pytest.mark.parametrize("run", ["local"], indirect=True)
@pytest.mark.parametrize(
    ("failing", "file"),
    [
        ({2: 500}, "memory-2-of-3.safetensors"),
        ({1: 500, 2: 500}, "memory-1-of-3.safetensors"),
        ({0: 100}, "manifest.json"),
    ],
)
def test_a_rank_that_cannot_write_stops_all_and_the_checkpoint_before_stays(
    run: Storage, failing: dict[int, int], file: str
) -> None:
    save(run, 100, PARTS)
    errors = run_ranks(3, fail_to_save, run, failing)
    assert len(set(errors)) == 1
    assert errors[0].startswith(f"rank {min(failing)}: ")
    assert f"step-00000200.partial/{file} cannot be written: " in errors[0]
    assert "File too large" in errors[0]
    assert checkpoint.newest_valid(run)[0] == folder_of(100)
    assert run.names("checkpoints") == ["step-00000100"]  # the room that the parts took is free again
    run_ranks(3, save_shards, run, 200)  # and what is left does not hinder the next attempt
    assert checkpoint.newest_valid(run)[0] == folder_of(200)


@pytest.mark.timeout(60)
@pytest.mark.parametrize("run", ["S3"], indirect=True)
@pytest.mark.parametrize("file", ["memory-2-of-3.safetensors", "manifest.json"])
def test_a_rank_whose_part_the_store_refuses_stops_all(
    run: Storage, file: str, object_store: ObjectStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    save(run, 100, PARTS)
    refused = f"{folder_of(200)}/{file}"
    with monkeypatch.context() as patched:
        patched.setattr(object_store, "refused", lambda method, path: method != "HEAD" and refused in path)
        errors = run_ranks(3, fail_to_save, run, {})
    assert len(set(errors)) == 1
    assert errors[0].startswith(f"rank {2 if 'memory' in file else 0}: ")
    assert f"{refused} cannot be written: " in errors[0]
    assert "no room for this" in errors[0]
    assert checkpoint.newest_valid(run)[0] == folder_of(100)
    run_ranks(3, save_shards, run, 200)
    assert checkpoint.newest_valid(run)[0] == folder_of(200)


def save_what_all_have(rank: int, _world_size: int, run: Storage) -> str:
    parts = {f"own-{rank}.pt": b"mine"} | ({"memory.safetensors": b"the same"} if rank > 0 else {})
    with pytest.raises(ValueError) as caught:
        save(run, 100, parts)
    return str(caught.value)


@pytest.mark.timeout(60)
def test_a_name_that_two_ranks_have_is_refused_on_all(run: Storage) -> None:
    message = "checkpoint part memory.safetensors: rank 1 and rank 2 both have it"
    assert run_ranks(3, save_what_all_have, run) == [message] * 3
    assert checkpoint.newest_valid(run)[0] is None


def save_on_own_disk(rank: int, world_size: int, folder: str) -> str:
    with pytest.raises(ValueError) as caught:  # which is final
        save(Storage(f"{folder}/{rank}"), 100, shard(rank, world_size))
    return str(caught.value)


def test_ranks_that_do_not_share_the_storage_are_told(tmp_path: Path) -> None:
    """Each machine's own disk: the checkpoint would lack the other machines' parts."""
    first, second = run_ranks(2, save_on_own_disk, str(tmp_path))
    assert first == second
    assert "memory-1-of-2.safetensors, which rank 1 wrote, is not whole in rank 0's" in first
    assert "run.storage must be a file system that all workers share" in first
    assert Storage(str(tmp_path / "0")).names("checkpoints") == []


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
