"""Two drivers of one run or search: the second is refused, and what a dead one left is taken over."""

import logging
import os
import signal
import socket
import threading
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest

from object_store import ObjectStore
from pixelcontrast.cluster.signals import signals_noted
from pixelcontrast.runs import lock
from pixelcontrast.runs.lock import AlreadyRunning, held
from pixelcontrast.storage import Storage
from processes import FORKING

RENEW_S, LEASE_S = 0.5, 3.0


@pytest.fixture(autouse=True)
def short_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    """A lease of seconds, so that tests need not wait for a minute."""
    monkeypatch.setattr(lock, "_PATIENCE_S", 0.5)
    monkeypatch.setattr(lock, "_HOST_PATIENCE_S", 2.0)
    monkeypatch.setattr(lock, "_RENEW_S", RENEW_S)
    monkeypatch.setattr(lock, "_LEASE_S", LEASE_S)
    monkeypatch.setattr(lock, "_POLL_S", 0.1)


def hold(location: str, host: str, holding: Any, over: Any) -> None:
    """What a driver does, perhaps one on another machine."""
    lock._RENEW_S, lock._LEASE_S = RENEW_S, LEASE_S
    socket.gethostname = lambda: host
    with held(Storage(location), what="run a"):
        holding.set()
        over.wait()


@contextmanager
def driver(folder: Storage, *, host: str = "") -> Iterator[Any]:
    """Another process that holds the folder."""
    holding, over = FORKING.Event(), FORKING.Event()
    arguments = (folder.location, host or socket.gethostname(), holding, over)
    process = FORKING.Process(target=hold, args=arguments)
    process.start()
    assert holding.wait(300)
    try:
        yield process
    finally:
        if process.is_alive():
            over.set()
        process.join(30)


def kill(process: Any) -> None:
    os.kill(process.pid, signal.SIGKILL)
    process.join()


@pytest.fixture(params=["a file system", "an object store"])
def folder(request: pytest.FixtureRequest, tmp_path: Path, object_store: ObjectStore) -> Storage:
    local = request.param == "a file system"
    return Storage(str(tmp_path) if local else object_store.uri(uuid.uuid4().hex)) / "a"


def test_a_second_driver_is_refused_by_name_of_host_and_process(folder: Storage) -> None:
    with driver(folder, host="node7") as first:
        text = (
            rf"run a is running already, on node7, process {first.pid}, since 20.* in {folder.location[:5]}"
        )
        with pytest.raises(ValueError, match=text), held(folder, what="run a"):
            pass
    with held(folder, what="run a"):  # the refused one left nothing, and the first has ended
        pass


def test_a_killed_driver_s_folder_is_taken_over(folder: Storage, caplog: pytest.LogCaptureFixture) -> None:
    with driver(folder) as first:
        kill(first)
        start = time.monotonic()
        with caplog.at_level(logging.WARNING), held(folder, what="run a"):
            assert time.monotonic() - start < LEASE_S  # the process is known to be gone
        assert f"process {first.pid}, died; this one takes over" in caplog.text


def test_another_machine_s_lock_is_waited_for_and_told_of_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """A server keeps the lock of a node that crashed, here one that is killed somewhat later."""
    monkeypatch.setattr(lock, "_HOST_PATIENCE_S", 60.0)
    folder = Storage(str(tmp_path)) / "a"
    with driver(folder, host="node7") as first:
        released = threading.Timer(2, kill, (first,))
        released.start()
        with held(folder, what="run a"):
            released.join()
    told = [record.getMessage() for record in caplog.records if "waiting" in record.getMessage()]
    assert told == [
        "run a is running on node7, or was when that crashed: waiting up to 60 seconds for its lock"
    ]
    with driver(folder):
        start = time.monotonic()
        with pytest.raises(AlreadyRunning), held(folder, what="run a"):
            pass
        assert time.monotonic() - start < 30, "the lock of a driver on this machine is right at once"


def test_a_driver_that_died_on_another_machine_is_waited_for(object_store: ObjectStore) -> None:
    folder = Storage(object_store.uri(uuid.uuid4().hex)) / "a"
    with driver(folder, host="node7") as first:
        kill(first)
        start = time.monotonic()
        with held(folder, what="run a"):
            assert time.monotonic() - start >= LEASE_S
        assert folder.names(".claims") == []


def test_of_drivers_that_start_together_one_holds_the_folder(object_store: ObjectStore) -> None:
    folder = Storage(object_store.uri(uuid.uuid4().hex)) / "a"
    together, inside, outcomes = threading.Barrier(3), [0], []
    end = time.monotonic() + 60

    def drive() -> None:
        together.wait()
        try:
            with held(folder, what="run a"):
                inside[0] += 1
                assert inside[0] == 1
                while len(outcomes) < 2 and time.monotonic() < end:
                    time.sleep(0.1)
                inside[0] -= 1
        except ValueError as error:
            outcomes.append(str(error))
        else:
            outcomes.append("held")

    threads = [threading.Thread(target=drive) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert outcomes.count("held") == 1
    assert sum("running already" in outcome for outcome in outcomes) == 2


def test_a_driver_whose_claim_was_taken_over_is_asked_to_stop(object_store: ObjectStore) -> None:
    folder = Storage(object_store.uri(uuid.uuid4().hex)) / "a"
    with driver(folder) as first:
        os.kill(first.pid, signal.SIGSTOP)  # as a machine that sleeps
        folder.delete(f".claims/{folder.names('.claims')[0]}")
        os.kill(first.pid, signal.SIGCONT)
        first.join(30)
        assert first.exitcode == -signal.SIGTERM


def test_a_driver_that_lost_its_folder_knows_to_whom(object_store: ObjectStore) -> None:
    folder = Storage(object_store.uri(uuid.uuid4().hex)) / "a"
    with signals_noted() as noted, held(folder, what="run a") as hold:
        [mine] = folder.names(".claims")
        folder.write(".claims/other.json", b'{"host": "node7", "process": 12, "since": "now"}')
        assert hold.lost is None
        end = time.monotonic() + 60
        while noted.signal is None and time.monotonic() < end:
            with suppress(FileNotFoundError):  # it comes back where it was just being renewed
                folder.delete(f".claims/{mine}")
            time.sleep(0.1)
    assert noted.signal == signal.SIGTERM
    assert hold.lost == (
        "run a: another driver, on node7, process 12, took this one for dead, as its claim was not renewed "
        "for 3 seconds, and took over"
    )


def test_a_folder_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("no folder")
    with (
        pytest.raises(ValueError, match=r"run\.storage: .*/file/a cannot be written: "),
        held(Storage(str(tmp_path / "file")) / "a", what="run a"),
    ):
        pass
