"""Which workers hang, by heartbeats that are given here with their times."""

import contextlib
import os
import re
import threading
import time
from collections.abc import Callable
from pathlib import Path
from types import FunctionType, SimpleNamespace
from typing import Any

import pytest
from torch.nn.modules import _functions

from pixelcontrast import distributed
from pixelcontrast.cluster.train.events import Beat
from pixelcontrast.cluster.train.heartbeat import Heartbeat
from pixelcontrast.cluster.train.trainer import COLLECTIVE_TIMEOUT_S
from pixelcontrast.cluster.train.watch import Bounds, Watch
from pixelcontrast.runs import checkpoint
from pixelcontrast.storage import Storage

BOUNDS = Bounds(silent_s=60, still_s=300)


def beat(
    place: str = "training/step.py:60 train_step",
    *,
    waiting: bool = False,
    since_s: float = 0,
    idle_s: float = 1000,
) -> Beat:
    """A worker's that makes no progress, unless said otherwise."""
    return Beat("worker", place, waiting, since_s, idle_s)


def watched(*beats: Beat, now: float = 0.0) -> Watch:
    watch = Watch(BOUNDS)
    for rank, each in enumerate(beats):
        watch.beat(rank, each, now)
    return watch


def look_often(watch: Watch, until: float) -> dict[int, str]:
    for now in range(0, int(until), 5):
        assert watch.hanging(now) == {}
    return watch.hanging(until)


def test_a_worker_without_a_heartbeat_is_named_with_its_last_place() -> None:
    watch = watched(beat(), beat("contrast/mining.py:12 choose"))
    for now in range(0, 61, 5):
        watch.beat(0, beat(waiting=True), now)
        assert watch.hanging(now) == {}
    watch.beat(0, beat(waiting=True), 62)
    message = "worker 1 gave no sign of life for 62 seconds; it was at contrast/mining.py:12 choose"
    assert watch.hanging(62) == {1: message}


def test_a_worker_whose_loop_has_ended_is_not_missed() -> None:
    watch = watched(beat(), beat())
    watch.left(1)
    watch.left(0)
    assert look_often(watch, 100) == {}


def test_nothing_is_missed_while_nobody_listened() -> None:
    """A laptop that slept: its workers did too."""
    watch = watched(beat(), beat())
    assert watch.hanging(1) == {}
    assert watch.hanging(5000) == {}
    assert set(look_later(watch, 5000, 62)) == {0, 1}


def look_later(watch: Watch, since: float, seconds: int) -> dict[int, str]:
    for passed in range(5, seconds, 5):
        watch.hanging(since + passed)
    return watch.hanging(since + seconds)


def test_who_keeps_the_others_waiting_is_to_blame() -> None:
    """Moving or not: a loop that goes round without end moves too."""
    waits = beat("distributed.py:85 all_reduce", waiting=True, since_s=301)
    for since_s in (0.0, 301.0):
        found = watched(waits, beat("data.py:3 read", since_s=since_s), waits).hanging(0)
        assert found == {
            1: "worker 1 is at data.py:3 read for 301 seconds"
            "; worker 0 waits at distributed.py:85 all_reduce; worker 2 waits at distributed.py:85 all_reduce"
        }


def test_who_makes_progress_is_not_to_blame_for_the_others_waiting() -> None:
    """As in an evaluation, where one worker's images take longer; it may itself be seen to wait for a GPU."""
    waits = beat("distributed.py:85 all_reduce", waiting=True, since_s=900, idle_s=900)
    for waiting in (False, True):
        evaluates = beat("evaluate.py:55 evaluate", waiting=waiting, idle_s=2)
        assert watched(waits, evaluates).hanging(0) == {}
        hangs = beat("data.py:3 read", since_s=301, idle_s=301)
        assert list(watched(waits, evaluates, hangs).hanging(0)) == [2]
    last = beat("evaluate.py:55 evaluate", since_s=301, idle_s=301)
    assert list(watched(waits, last).hanging(0)) == [1], "300 seconds after its last image"


def test_a_lone_worker_may_take_an_hour_for_a_step() -> None:
    place = "training/step.py:152 backward (in autograd/graph.py:829 _engine_run_backward)"
    for waiting in (True, False):
        assert watched(beat(place, waiting=waiting, since_s=3599, idle_s=3599)).hanging(0) == {}
        found = watched(beat(place, waiting=waiting, since_s=3601, idle_s=3601)).hanging(0)
        assert found == {0: f"worker 0 is at {place} for 3601 seconds"}


def test_a_worker_whose_fellow_has_ended_is_not_a_lone_one() -> None:
    watch = watched(beat(), beat("distributed.py:40 barrier", waiting=True, since_s=301))
    watch.left(0)
    assert list(watch.hanging(0)) == [1]


def test_when_all_wait_for_each_other_all_are_named() -> None:
    one = beat("distributed.py:85 all_reduce", waiting=True, since_s=301)
    other = beat("distributed.py:40 barrier", waiting=True, since_s=305)
    assert set(watched(one, other).hanging(0)) == {0, 1}


def test_waiting_within_the_bound_is_no_fault() -> None:
    assert watched(beat(waiting=True, since_s=299), beat(since_s=20)).hanging(0) == {}


def test_a_heartbeat_tells_where_the_loop_is_and_for_how_long() -> None:
    made: list[Heartbeat] = []
    go_on = threading.Event()

    def loop() -> None:
        made.append(Heartbeat(None, rank=0, worker="actor"))
        go_on.wait()

    thread = threading.Thread(target=loop)
    thread.start()
    while not made:
        time.sleep(0.01)
    time.sleep(0.2)
    first = made[0]._look()
    time.sleep(0.3)
    second = made[0]._look()
    go_on.set()
    thread.join()
    assert re.fullmatch(r"python3\.\d+/threading\.py:\d+ wait", first.place)
    assert (second.worker, second.place, second.waiting) == ("actor", first.place, False)
    assert second.since_s >= 0.3 > first.since_s
    assert made[0]._look().place == "its end"


def seen(loop: Callable[[Heartbeat], None]) -> Beat:
    """What a heartbeat sees of a loop at the last of many looks."""
    made: list[Heartbeat] = []
    ended = threading.Event()

    def run() -> None:
        made.append(Heartbeat(None, rank=0, worker="actor"))
        while not ended.is_set():
            loop(made[0])

    thread = threading.Thread(target=run)
    thread.start()
    time.sleep(0.1)
    found = [(made[0]._look(), time.sleep(0.02))[0] for _ in range(20)]
    ended.set()
    thread.join()
    return found[-1]


def test_a_loop_that_mostly_waits_at_one_line_is_seen_to_advance() -> None:
    """A slow loader: every look sees the loop at the same line, though it takes step after step."""

    def step(heart: Heartbeat) -> None:
        heart.ask()
        time.sleep(0.05)

    def astray(_: Heartbeat) -> None:
        time.sleep(0.05)

    found = seen(step)
    assert found.idle_s < 0.3
    assert found.since_s < 0.3
    assert seen(astray).idle_s > 0.3


READING = distributed.on_host
# As in torch's SyncBatchNorm on a GPU, whose forward pass reads a mask that a collective gives.
NORMALISING = FunctionType(READING.__code__.replace(co_filename=_functions.__file__), {})


@pytest.mark.parametrize("read", [READING, NORMALISING])
def test_a_worker_that_reads_what_a_collective_gives_waits(read: Callable[[Any], Any]) -> None:
    made: list[Heartbeat] = []
    lock = threading.Lock()

    def loop() -> None:
        made.append(Heartbeat(None, rank=0, worker="actor"))
        read(SimpleNamespace(cpu=lock.acquire))  # stands in a function of C's, as a read from a GPU does

    with lock:
        thread = threading.Thread(target=loop)
        thread.start()
        until = time.monotonic() + 60
        while not (made and made[0]._look().waiting) and time.monotonic() < until:
            time.sleep(0.01)
        assert made[0]._look().waiting
    thread.join()


def storing(seconds: float) -> Beat:
    return Beat("worker", "pixelcontrast/storage.py:162 _write", False, seconds, seconds, storing=True)


def test_nobody_is_ended_while_a_checkpoint_is_written_to_a_slow_store() -> None:
    waiting = beat(waiting=True, since_s=1800, idle_s=1800)
    watch = watched(storing(1800), waiting)
    assert watch.hanging(1.0) == {}
    watch.beat(0, beat("checkpoint.py:120 _digest", since_s=1, idle_s=1801), 2.0)
    watch.beat(1, waiting, 2.0)
    assert watch.hanging(2.0) == {}, "between two files"


def test_a_store_that_never_answers_is_named_with_the_worker_that_waits_for_it() -> None:
    waiting = beat("distributed.py:55 gather_objects", waiting=True, since_s=3601, idle_s=3601)
    assert watched(storing(3601), waiting).hanging(0) == {
        0: "worker 0 is at pixelcontrast/storage.py:162 _write for 3601 seconds"
        "; worker 1 waits at distributed.py:55 gather_objects"
    }
    assert list(watched(storing(3601)).hanging(0)) == [0]


def test_a_collective_waits_longer_than_any_worker_may_write() -> None:
    assert min(COLLECTIVE_TIMEOUT_S, distributed._VOTE_TIMEOUT.total_seconds()) > 2 * Bounds().storage_s


def test_a_save_is_seen_as_one_as_long_as_its_store_takes(tmp_path: Path) -> None:
    """The store: a pipe in the place of the first file, which blocks its writer until somebody reads."""
    folder = tmp_path / "checkpoints" / ".step-00000003.partial"
    folder.mkdir(parents=True)
    pipe = folder / ".model.safetensors.partial"
    os.mkfifo(pipe)
    made: list[Heartbeat] = []

    def loop() -> None:
        made.append(Heartbeat(None, rank=0, worker="actor"))
        with contextlib.suppress(OSError):  # a pipe cannot be synced
            checkpoint.stage(Storage(str(tmp_path)), 3, {"model.safetensors": b"weights"})

    thread = threading.Thread(target=loop)
    thread.start()
    until = time.monotonic() + 60
    while not (made and made[0]._look().storing) and time.monotonic() < until:
        time.sleep(0.01)
    found = made[0]._look()
    with pipe.open("rb") as reader:
        assert reader.read() == b"weights"
    thread.join()
    assert found.storing
    assert "storage.py" in found.place
    assert not made[0]._look().storing


def test_nobody_is_ended_while_data_are_staged_and_a_while_after() -> None:
    """The others wait in a collective; the one that has staged then still builds its network."""
    waiting = beat(waiting=True, since_s=1000)
    staging = Beat("worker", "packing/staging.py:90 _alone", False, 1000, 1000, staging=True)
    watch = watched(waiting, staging)
    assert watch.hanging(1.0) == {}
    for rank, each in enumerate((waiting, beat(since_s=5))):
        watch.beat(rank, each, 2.0)
    assert watch.hanging(2.0) == {}
    for rank, each in enumerate((waiting, beat(since_s=400))):
        watch.beat(rank, each, 305.0)
    watch.hanging(300.0)
    assert list(watch.hanging(305.0)) == [1]
