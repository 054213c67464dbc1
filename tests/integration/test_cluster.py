"""The launcher on a real local Ray instance, one for the whole module: starting it takes ten seconds."""

import contextlib
import errno
import os
import re
import signal
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import cluster_loops
import psutil
import pytest
from cluster_processes import PATHS, WORKER, names_of, tiny_experiment, workers_of

from pixelcontrast.cluster.connect import Connection, connect
from pixelcontrast.cluster.errors import LaunchError, NoPlaceError
from pixelcontrast.cluster.signals import Interrupted
from pixelcontrast.cluster.train.launch import launch
from pixelcontrast.cluster.train.watch import Bounds
from pixelcontrast.cluster.tune.stop_request import StopRequest
from pixelcontrast.config import Experiment, Workers, replace
from pixelcontrast.runs import lock
from pixelcontrast.runs.run_folder import open_storage

DEFAULT_TOKEN = Path.home() / ".ray" / "auth_token"


@pytest.fixture(scope="module")
def cluster() -> Iterator[Connection]:
    """The instance; when the module is done, nothing of it may be left."""
    environment, token = dict(os.environ), DEFAULT_TOKEN.exists()
    with pytest.MonkeyPatch.context() as patch:
        patch.delenv("RAY_ADDRESS", raising=False)
        # Ray's processes import the loops too.
        patch.setenv("PYTHONPATH", PATHS)
        before = set(psutil.Process().children(recursive=True))
        with connect(min_cpus=2) as connection:
            started = set(psutil.Process().children(recursive=True)) - before
            yield connection
        assert len(started) > 4
        assert not [process for process in started if process.is_running()]
        assert not set(psutil.Process().children(recursive=True)) - before
    assert connection.folder is not None
    assert not connection.folder.exists()
    assert DEFAULT_TOKEN.exists() == token
    changed = {
        name
        for name in environment.keys() | os.environ.keys()
        if environment.get(name) != os.environ.get(name)
    }
    assert not {name for name in changed if "RAY" in name} - {"RAY_CLIENT_MODE"}


@pytest.fixture
def experiment(tmp_path: Path) -> Experiment:
    return tiny_experiment(tmp_path, workers=2)


@pytest.fixture(params=[1, pytest.param(2, marks=pytest.mark.slow)], ids=["one", "two"])
def alone_or_not(experiment: Experiment, request: pytest.FixtureRequest) -> Experiment:
    """The experiment on one worker, which Ray's trainer has no part in, and on two."""
    return replace(experiment, {"run.workers": Workers(request.param)})


def last_worker(experiment: Experiment) -> str:
    return f"worker {experiment.run.workers.max - 1}"


def listening() -> list[tuple[str, str]]:
    """Address and process name of every listening TCP socket of this process's children."""
    sockets = []
    for process in psutil.Process().children(recursive=True):
        with contextlib.suppress(psutil.NoSuchProcess):
            sockets += [
                (found.laddr.ip, process.name())
                for found in process.net_connections("tcp")
                if found.status == psutil.CONN_LISTEN
            ]
    return sockets


@pytest.mark.parametrize("workers", [pytest.param(1, marks=pytest.mark.slow), 2])
def test_workers_report_in_order_exactly_once_and_listen_on_loopback_only(
    cluster, experiment, monkeypatch, workers
):
    rows, sockets, names, started = [], [], [], []
    monkeypatch.setenv("PIXELCONTRAST_COMMIT", "0123abc")  # after Ray's start: the driver hands it on

    def on_row(row: dict) -> None:
        rows.append(row)
        if row["step"] == 1:
            sockets.extend(listening())
            processes = psutil.Process().children(recursive=True)
            names.extend(names_of(processes))
            started.extend(workers_of(processes))
            (Path(experiment.run.storage) / cluster_loops.LOOKED).touch()

    experiment = replace(experiment, {"run.workers": Workers(workers)})
    launch(experiment, on_row=on_row, loop=cluster_loops.counting_until_looked_at)
    assert [row["step"] for row in rows] == [1, 2, 3, 4, 5, 6, 7]
    assert {row["sum"] for row in rows} == {workers * (workers + 1) / 2}
    assert {row["pid"] for row in rows} != {os.getpid()}
    seen = ("threads", "omp", "address", "commit", "device")
    assert tuple(rows[0][name] for name in seen) == (1, "1", cluster.address, "0123abc", "cpu")
    assert rows[0]["root"] == experiment.data.root
    assert len([name for _, name in sockets if WORKER.search(name)]) >= workers
    assert {address.removeprefix("::ffff:") for address, _ in sockets} == {"127.0.0.1"}
    assert any("TrainController" in name for name in names) == (workers > 1)
    assert not psutil.wait_procs(started, timeout=5)[1]
    assert (Path(experiment.run.storage) / "tiny").is_dir()


def test_ray_s_own_files_lie_in_the_instance_s_folder(cluster):
    from pixelcontrast.cluster.nodes import session_folder

    assert (session_folder() / "logs").is_dir()
    assert session_folder().parent == cluster.folder / "r"


def test_the_token_is_for_the_owner_alone(cluster):
    assert stat.S_IMODE((cluster.folder / "token").stat().st_mode) == 0o600
    assert stat.S_IMODE(cluster.folder.stat().st_mode) == 0o700


def test_a_killed_worker_is_started_again_and_the_failure_that_ends_the_run_is_named(
    cluster, alone_or_not, caplog
):
    rows = []
    with pytest.raises(LaunchError) as caught:
        launch(alone_or_not, on_row=rows.append, loop=cluster_loops.killed_then_buggy)
    assert [(row["attempt"], row["step"]) for row in rows] == [(1, 1), (1, 2), (2, 1), (2, 2)]
    worker = last_worker(alone_or_not)
    assert f"{worker} died: its process was killed" in caplog.text
    assert caplog.text.count("retry 1 of 1") == 1
    assert str(caught.value).startswith(f"{worker} died: its process was killed")
    assert f"(of 2 attempts the first; the last: {worker} failed: _UnpicklableError: " in str(caught.value)
    assert "_UnpicklableError" in (caught.value.worker_traceback or "")
    assert cluster.folder.exists()


@pytest.mark.slow
@pytest.mark.usefixtures("cluster")
@pytest.mark.parametrize(
    ("killed", "finding"),
    [
        ("TrainController", "Ray's controller of the workers ended"),
        ("RayTrainer", "the process that runs the training ended"),
    ],
)
def test_what_runs_the_workers_is_killed_and_the_run_ends_with_one_line(killed, finding, experiment):
    def on_row(row: dict) -> None:
        if row["step"] == 3:
            processes = psutil.Process().children(recursive=True)
            [found] = [process for process in processes if killed in "".join(names_of([process]))]
            found.kill()

    with pytest.raises(LaunchError) as caught:
        launch(experiment, on_row=on_row, loop=cluster_loops.endless)
    assert str(caught.value) == (
        f"{finding}: its process was killed (the kernel does so when memory runs out) or crashed. "
        "Rerun the command to resume."
    )


@pytest.mark.slow
@pytest.mark.usefixtures("cluster")
def test_a_worker_that_always_fails_is_tried_so_often_and_the_first_error_is_shown(alone_or_not):
    with pytest.raises(LaunchError) as caught:
        launch(alone_or_not, on_row=print, loop=cluster_loops.always_buggy)
    worker = last_worker(alone_or_not)
    first, last = (f"{worker} failed: RuntimeError: attempt {attempt} went wrong" for attempt in (1, 2))
    assert str(caught.value) == f"{first} (of 2 attempts the first; the last: {last})"
    assert "attempt 1 went wrong" in (caught.value.worker_traceback or "")


@pytest.mark.slow
@pytest.mark.usefixtures("cluster")
def test_a_stopped_worker_is_named_and_ended_and_all_start_again(alone_or_not, caplog):
    rows = []
    bounds = Bounds(silent_s=12)
    launch(alone_or_not, on_row=rows.append, loop=cluster_loops.frozen_once, bounds=bounds)
    assert [(row["attempt"], row["step"]) for row in rows] == [(1, 1), (2, 1), (2, 2)]
    silent = f"{last_worker(alone_or_not)} gave no sign of life for 1\\d seconds; it was at .*; retry 1 of 1"
    assert re.search(silent, caplog.text)


@pytest.mark.slow
@pytest.mark.usefixtures("cluster")
def test_a_worker_that_stands_still_is_named_with_its_place(alone_or_not, caplog):
    rows = []
    bounds = Bounds(still_s=8, alone_s=8)
    launch(alone_or_not, on_row=rows.append, loop=cluster_loops.astray_once, bounds=bounds)
    assert [(row["attempt"], row["step"]) for row in rows] == [(2, 1)]
    others = "; worker 0 waits at .*" if alone_or_not.run.workers.max > 1 else ""
    still = f"{last_worker(alone_or_not)} is at .*for \\d+ seconds{others}; retry 1 of 1"
    assert re.search(still, caplog.text)


def test_wrong_data_ends_the_run_at_once_with_its_message(cluster, alone_or_not, caplog):
    rows = []
    with pytest.raises(LaunchError) as caught:
        launch(alone_or_not, on_row=rows.append, loop=cluster_loops.bad_file)
    assert str(caught.value) == f"{last_worker(alone_or_not)} failed: ValueError: frames/17.png: not an image"
    assert [row["step"] for row in rows] == [1]
    assert (caught.value.worker_traceback or "").count("Traceback") == 1
    assert "bad_file" in (caught.value.worker_traceback or "")
    assert "worker 0: a warning for the user" in caplog.text
    assert "; retry " not in caplog.text
    assert cluster.folder.exists()


@pytest.mark.slow
def test_workers_whose_storage_is_another_folder_end_the_run_before_its_first_step(
    cluster, alone_or_not, tmp_path, caplog
):
    """Where the driver's folder was, the workers find another one; here they are on its own host."""
    storage, rows = tmp_path / "runs", []
    for disk in ("driver's", "workers'"):
        (tmp_path / disk).mkdir()
    storage.symlink_to(tmp_path / "driver's")

    def change_disks(stage: str) -> None:
        if stage.startswith("waiting for Ray to start the workers"):
            storage.unlink()
            storage.symlink_to(tmp_path / "workers'")

    gone = rf"^worker \d failed: ValueError: {storage}/.* was deleted or replaced while the run trained\."
    with pytest.raises(LaunchError, match=gone) as caught:
        launch(alone_or_not, on_row=rows.append, on_stage=change_disks, loop=cluster_loops.counting)
    assert caught.value.final
    assert "; retry " not in caplog.text
    assert rows == []
    assert cluster.folder.exists()


@pytest.mark.slow
@pytest.mark.usefixtures("cluster")
def test_a_driver_whose_run_was_taken_over_ends_without_a_checkpoint(alone_or_not, monkeypatch):
    monkeypatch.setattr(lock, "_locked", Mock(side_effect=OSError(errno.ENOLCK, "no locks")))
    monkeypatch.setattr(lock, "_RENEW_S", 0.5)
    run, claims = open_storage(alone_or_not), []

    def take_over(row: dict) -> None:
        if row["step"] < 2:
            claims.extend(f".claims/{name}" for name in run.names(".claims") if name[0] != ".")
            run.write(".claims/other.json", b'{"host": "node7", "process": 12, "since": "now"}')
        with contextlib.suppress(FileNotFoundError):  # it comes back where it was just being renewed
            run.delete(claims[0])

    with pytest.raises(LaunchError, match="another driver, on node7, process 12, took this one for dead"):
        launch(alone_or_not, on_row=take_over, loop=cluster_loops.endless)
    left = workers_of(psutil.Process().children(recursive=True))
    assert [worker for worker in left if worker.status() != psutil.STATUS_ZOMBIE] == []


@pytest.mark.slow
@pytest.mark.usefixtures("cluster")
def test_workers_that_do_not_stop_when_asked_are_ended(alone_or_not):
    workers = []

    def on_row(row: dict) -> None:
        if row["step"] == 2:
            workers.extend(workers_of(psutil.Process().children(recursive=True)))
            os.kill(os.getpid(), signal.SIGTERM)

    before = signal.getsignal(signal.SIGTERM)
    with pytest.raises(KeyboardInterrupt) as caught:
        launch(alone_or_not, on_row=on_row, loop=cluster_loops.endless, bounds=Bounds(stop_s=5))
    assert isinstance(caught.value, Interrupted)
    assert caught.value.signal == signal.SIGTERM
    assert caught.value.message == " without a new checkpoint: it took more than 5 seconds"
    assert len(workers) == alone_or_not.run.workers.max
    assert not psutil.wait_procs(workers, timeout=5)[1]
    assert signal.getsignal(signal.SIGTERM) == before


@pytest.mark.usefixtures("cluster")
def test_a_request_to_stop_reaches_other_processes_until_it_is_withdrawn():
    import ray

    request = StopRequest("of-a-test")

    @ray.remote(num_cpus=0)
    def heard() -> tuple[int | None, int | None]:
        return StopRequest("of-a-test").signal(), StopRequest("of-another").signal()

    assert ray.get(heard.remote()) == (None, None)
    request.ask(signal.SIGTERM)
    assert ray.get(heard.remote()) == (signal.SIGTERM, None)
    request.withdraw()
    assert ray.get(heard.remote()) == (None, None)


@pytest.mark.usefixtures("cluster")
def test_a_memory_that_does_not_fit_is_refused_before_any_worker_starts(experiment):
    with pytest.raises(ValueError, match=r"contrast.memory: 1e\+06 GB .* node that takes 2 workers"):
        launch(experiment, on_row=print, loop=cluster_loops.counting, memory=10**15)


@contextlib.contextmanager
def occupied_but_for(cpus: int) -> Iterator[None]:
    """Somebody else's actor holds the other CPUs."""
    import ray

    class Occupant:
        def ready(self) -> None: ...

    actor: Any = ray.remote(Occupant)
    occupant = actor.options(num_cpus=int(ray.cluster_resources()["CPU"]) - cpus).remote()
    ray.get(occupant.ready.remote())
    try:
        yield
    finally:
        ray.kill(occupant)


@pytest.mark.slow
@pytest.mark.usefixtures("cluster")
def test_an_elastic_run_starts_with_the_workers_that_others_leave_room_for(experiment):
    rows: list[dict[str, Any]] = []
    elastic = replace(experiment, {"run.workers": Workers(1, 2)})
    with occupied_but_for(1):
        launch(elastic, on_row=rows.append, loop=cluster_loops.counting, bounds=Bounds(placement_s=400))
    assert [row["sum"] for row in rows] == [1.0] * 7  # of the ranks: one worker


@pytest.mark.slow
@pytest.mark.usefixtures("cluster")
def test_workers_without_a_place_end_in_bounded_time(alone_or_not):
    left = alone_or_not.run.workers.max - 1
    with occupied_but_for(left):
        asked = rf"run.workers is {left + 1}.*no place in 6 seconds.*has {left} CPUs free"
        with pytest.raises(NoPlaceError, match=asked):
            launch(
                alone_or_not,
                on_row=print,
                loop=cluster_loops.counting,
                bounds=Bounds(placement_s=6, placement_attempt_s=6),
            )
