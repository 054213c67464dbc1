"""A storage that a worker does not share with the driver ends the run before its first step."""

import os
import socket
import time
import uuid
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any, NoReturn

import pytest
import ray

from object_store import ObjectStore
from pixelcontrast import cli, config, training
from pixelcontrast.cluster.errors import WorkerError
from pixelcontrast.cluster.train import launch as launching
from pixelcontrast.cluster.train.launcher import _cpu
from pixelcontrast.cluster.train.worker import run_loop
from pixelcontrast.runs import launch_mark
from pixelcontrast.runs.launch_mark import check_ours, check_shared, marked, why_lost
from pixelcontrast.runs.run_folder import open_storage
from pixelcontrast.storage import Storage
from small_runs import EXPERIMENT

ALLOWED = "Allowed are a folder that all nodes share, and a URI such as s3://bucket/runs"


@pytest.fixture(autouse=True)
def short_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(launch_mark, "_PATIENCE_S", 0.3)
    monkeypatch.setattr(launch_mark, "_POLL_S", 0.05)


@pytest.fixture(params=["local", "S3"])
def run(request: pytest.FixtureRequest, tmp_path: Path, object_store: ObjectStore) -> Storage:
    if request.param == "S3":
        return Storage(object_store.uri(uuid.uuid4().hex)) / "a"
    return Storage(str(tmp_path / "runs")) / "a"


def marks(run: Storage) -> list[str]:
    return [name for name in run.names() if "launch" in name]


def test_workers_find_the_mark_of_their_own_launch_only(run: Storage) -> None:
    with marked(run) as first:
        check_shared(run, first)
        check_shared(Storage(run.location), first)  # as another process opens it
    assert marks(run) == []
    with marked(run) as second:
        check_shared(run, second)
    with pytest.raises(ValueError) as caught:
        check_shared(run, replace(second, host="node7"))
    assert str(caught.value) == (
        f"run.storage is {run.parent.location}, which host {socket.gethostname()} does not share with the "
        f"driver's host node7: {run.location} has no {second.name} here. {ALLOWED}"
    )


def test_a_mark_that_is_gone_says_who_has_the_run_or_that_its_folder_is_gone(run: Storage) -> None:
    ended = "This training has ended without another checkpoint"
    with marked(run) as first:
        run.write("experiment.json", b"{}")
        assert why_lost(run, first) is None
        with marked(run):
            here = f"{socket.gethostname()}, process {os.getpid()}, since 20"
            taken_over = f"another driver has taken the run over: {here}"
            for look in (check_ours, check_shared):
                with pytest.raises(ValueError, match=f"^{taken_over}.* {ended}$"):
                    look(run, first)
        assert f"{run.location} has no {first.name} any more" in str(why_lost(run, first))
        run.delete("experiment.json")
        deleted = f"{run.location} was deleted or replaced while the run trained. {ended}"
        assert why_lost(run, first) == deleted
        with pytest.raises(ValueError) as caught:
            check_shared(run, first)
        assert str(caught.value) == deleted


def test_an_earlier_driver_s_mark_on_a_node_s_own_disk_is_no_takeover(run: Storage) -> None:
    with marked(run) as mine:
        pass
    run.write(".launch-0123", b"nodeB, process 5, since 2026-01-02T03:04:05+00:00")
    for elsewhere in (replace(mine, host="node7"), replace(mine, boot="another machine of this name")):
        with pytest.raises(ValueError, match="does not share with the driver's host"):
            check_shared(run, elsewhere)


def test_a_mark_that_a_killed_driver_left_is_deleted_and_other_files_stay(run: Storage) -> None:
    for name in (".launch-0123", "..launch-0123.partial", "result.json", "my.launch-notes"):
        run.write(name, b"x")
    with marked(run) as mark:
        assert marks(run) == sorted([mark.name, "my.launch-notes"])
    assert run.names() == ["my.launch-notes", "result.json"]


def test_a_mark_that_a_client_s_cache_hides_for_a_while_is_waited_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(launch_mark, "_PATIENCE_S", 30)
    run, appears = Storage(str(tmp_path)), time.monotonic() + 0.3
    seen = Storage.exists
    monkeypatch.setattr(Storage, "exists", lambda *args: time.monotonic() > appears and seen(*args))
    with marked(run) as mark:
        check_shared(run, mark)
    assert time.monotonic() > appears


def test_a_folder_that_takes_no_mark_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    run = Storage(str(tmp_path / "file")) / "a"
    with pytest.raises(ValueError, match=r"run\.storage: .*file/a cannot be written"), marked(run):
        pass


@pytest.fixture
def launcher(monkeypatch: pytest.MonkeyPatch) -> Any:
    """A launcher that hears nothing, and the context of an actor of Ray's."""
    context = SimpleNamespace(get_actor_id=str, current_actor=None, get_node_id=str)
    monkeypatch.setattr(ray, "get_runtime_context", lambda: context)
    unheard = SimpleNamespace(remote=lambda *_: None)
    return SimpleNamespace(put=unheard, beat=unheard)


def unreached(*_: Any, **__: Any) -> NoReturn:
    raise AssertionError("the loop has begun")


def test_a_worker_with_a_disk_of_its_own_does_not_begin_and_is_not_retried(
    launcher: Any, tmp_path: Path
) -> None:
    driver, own = (config.replace(EXPERIMENT, {"run.storage": str(tmp_path / at)}) for at in ("a", "b"))
    with marked(open_storage(driver)) as here:
        mark = replace(here, host="node7")
        with pytest.raises(WorkerError) as caught:
            run_loop(own, unreached, launcher=launcher, rank=1, mark=mark, find_device=_cpu)
    assert caught.value.final
    assert str(caught.value).startswith(f"worker 1 failed: ValueError: run.storage is {tmp_path}/b, which ")
    assert not (tmp_path / "b").exists()


def test_a_worker_that_shares_the_storage_begins(launcher: Any, tmp_path: Path) -> None:
    settings, begun = config.replace(EXPERIMENT, {"run.storage": str(tmp_path)}), []
    with marked(open_storage(settings)) as mark:
        for rank in (0, 1):
            run_loop(
                settings,
                lambda experiment, **_: begun.append(experiment),
                launcher=launcher,
                rank=rank,
                mark=mark,
                find_device=_cpu,
            )
    assert begun == [settings, settings]


def test_a_training_whose_result_is_not_there_ends_with_a_clear_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = config.replace(EXPERIMENT, {"run.storage": str(tmp_path)})
    monkeypatch.setattr(training, "check", lambda _: None)
    monkeypatch.setattr(training, "memory_bytes", lambda _: 0)
    monkeypatch.setattr(launching, "launch", lambda *_, **__: None)
    with pytest.raises(SystemExit) as end:
        cli.run(settings)
    said = str(end.value.code)
    assert f"the training ended without an error, but {tmp_path}/a has no result.json: " in said
    assert "run.storage must be a folder that all nodes share, or a URI" in said
