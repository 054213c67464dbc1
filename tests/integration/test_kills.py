"""Processes killed at every single instant of writing into a run's folder: what was there stays usable."""

import json
import uuid
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from itertools import count
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from killing import CALLS, killed_before
from pixelcontrast import Data, Experiment, Run
from pixelcontrast.runs import checkpoint
from pixelcontrast.runs.checkpoint import folder_of
from pixelcontrast.runs.run_folder import read_attempts, read_rows
from pixelcontrast.storage import Storage
from pixelcontrast.training import checkpointing
from pixelcontrast.training.run_log import RunLog
from processes import FORKING
from small_runs import attempt_row, metrics_row

if TYPE_CHECKING:
    from object_store import ObjectStore  # many imports, which the killed processes need not wait for

traced = pytest.mark.skipif(not CALLS, reason="system calls are counted on Linux, on x86_64 and aarch64 only")


def parts_of(step: int) -> dict[str, bytes]:
    return {"model.safetensors": b"%d" % step * 5000, "optimizer.pt": b"%d" % -step * 3000}


def save(run: Storage, step: int) -> None:
    """As a run does it, with two checkpoints kept."""
    checkpointing.save(run, step, parts_of(step))
    checkpoint.prune(run, step=step, best_step=0, keep_newest=2)


def check_usable(run: Storage, step: int) -> None:
    """After ``save(run, step)`` was cut off: the newest is whole, and the next saving leaves no rest.

    A checkpoint that was half written or half deleted is hidden, so that ``verify`` calls it left over.
    """
    begun = [name for name in run.names("checkpoints") if name.startswith("step-")]
    if run.is_local:
        assert all(run.exists(f"checkpoints/{name}/manifest.json") for name in begun), begun
    name, _ = checkpoint.newest_valid(run)
    assert name in (folder_of(step - 1), folder_of(step)), name
    newest = int(name[-8:])
    assert checkpoint.load(run, name) == parts_of(newest)
    save(run, step)
    assert run.names("checkpoints") == [Path(folder_of(kept)).name for kept in (step - 1, step)]
    assert checkpoint.newest_valid(run) == (folder_of(step), {})


def break_every_save(folder: str) -> list[str]:
    """The calls before which a saving was killed, each in its turn."""
    run = Storage(folder)
    save(run, 1)
    save(run, 2)
    calls = []
    for number in count(1):
        step = number + 2
        call = killed_before(number, partial(save, run, step))
        if call is None:
            return calls
        calls.append(call)
        check_usable(run, step)
    raise AssertionError


def break_every_row(folder: str) -> list[str]:
    """Likewise for a log taken up, and a row added to it."""
    run, calls = Storage(folder), []
    experiment = Experiment(data=Data(layout="camvid", root="/nowhere"), run=Run(name="a", storage=folder))

    def log(row: dict[str, Any], attempt: dict[str, Any]) -> None:
        done = RunLog(run, experiment, step=row["step"] - 1, attempt=attempt)
        done.add(row)
        done.close()

    for number in count(1):
        row, attempt = metrics_row(number), attempt_row() | {"attempt": number}
        before = read_rows(run), read_attempts(run)
        call = killed_before(number, partial(log, row, attempt))
        if call is None:
            return calls
        calls.append(call)
        assert read_rows(run) in (before[0], [*before[0], row]), f"{number}: {call}"
        assert read_attempts(run) in (before[1], [*before[1], attempt]), f"{number}: {call}"
        log(row, attempt)
        assert [row["step"] for row in read_rows(run)] == list(range(1, number + 1))
    raise AssertionError


def in_one_thread(work: Callable[[str], list[str]], folder: Path) -> list[str]:
    with ProcessPoolExecutor(1, mp_context=FORKING) as process:
        return process.submit(work, str(folder)).result()


@traced
@pytest.mark.timeout(120)
def test_a_saving_killed_before_any_of_its_calls_leaves_a_whole_checkpoint(tmp_path: Path) -> None:
    calls = in_one_thread(break_every_save, tmp_path)
    assert {"openat", "write", "fsync"} <= set(calls)
    assert any(call.startswith("rename") for call in calls)
    assert any(call.startswith(("unlink", "rmdir")) for call in calls)


@traced
@pytest.mark.timeout(120)
def test_metrics_and_attempts_are_whole_after_a_kill_before_any_call(tmp_path: Path) -> None:
    calls = in_one_thread(break_every_row, tmp_path)
    assert calls.count("fsync") >= 3
    assert not [path for path in tmp_path.iterdir() if path.name.endswith(".partial")]


def save_when_told(uri: str, step: int, told: Any) -> None:
    run = Storage(uri)
    told.wait()
    save(run, step)


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_a_saving_to_an_object_store_killed_at_any_of_its_requests_leaves_a_whole_checkpoint(
    object_store: "ObjectStore",
) -> None:
    run = Storage(object_store.uri(uuid.uuid4().hex)) / "run"
    save(run, 1)
    save(run, 2)
    exits = []
    for instant in count(1):
        step, told = instant + 2, FORKING.Event()
        process = FORKING.Process(target=save_when_told, args=(run.location, step, told))
        process.start()
        assert process.pid is not None
        object_store.kill(process.pid, at=instant)
        told.set()
        process.join()
        object_store.let_live()
        exits.append(process.exitcode)
        if process.exitcode == 0:
            break
        check_usable(run, step)
    assert set(exits[:-1]) == {-9}
    assert len(exits) > 40
    assert json.loads(run.read(f"{folder_of(len(exits) + 2)}/manifest.json"))["step"] == len(exits) + 2
