"""When a run's rows and TensorBoard events are written: at once on a disk, seldom to an object store."""

import io
import json
import tempfile
import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest
from PIL import Image
from pyarrow import fs
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.summary.writer.event_file_writer import AtomicCounter

from object_store import ObjectStore
from pixelcontrast import replace
from pixelcontrast.runs.run_folder import Row, read_rows
from pixelcontrast.storage import Storage
from pixelcontrast.training import run_log
from pixelcontrast.training.run_log import RunLog
from small_fit import experiment, fit
from small_runs import EXPERIMENT, attempt_row, metrics_row


class Clock:
    """Stands still unless it is moved."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(run_log, "monotonic", clock)
    return clock


@pytest.fixture
def remote(object_store: ObjectStore) -> Storage:
    return Storage(object_store.uri(uuid.uuid4().hex)) / "run"


@pytest.fixture
def put(object_store: ObjectStore) -> Iterator[list[str]]:
    """The names of the files that are written to the object store, in order."""
    names: list[str] = []

    def note(method: str, path: str) -> bool:
        if method == "PUT":
            names.append(path.partition("/run/")[2] or path)
        return False

    object_store.refused = note
    yield names
    object_store.refused = lambda _method, _path: False


def row(step: int, kind: str = "train") -> Row:
    return metrics_row(step, kind) | {"loss": 1 / step}


def begin(run: Storage, step: int = 0) -> RunLog:
    return RunLog(run, EXPERIMENT, step=step, attempt=attempt_row())


def picture() -> bytes:
    png = io.BytesIO()
    Image.effect_noise((64, 64), 100.0).save(png, "PNG")
    return png.getvalue()


def steps(run: Storage) -> list[int]:
    return [row["step"] for row in read_rows(run)]


def events(run: Storage) -> EventAccumulator:
    """What TensorBoard reads from the run's folder."""
    with tempfile.TemporaryDirectory() as here:
        fs.copy_files(run.path("tensorboard"), here, source_filesystem=run.fs)
        return EventAccumulator(here, size_guidance={"images": 0}).Reload()


@pytest.mark.usefixtures("clock")
def test_on_a_local_disk_every_row_is_there_at_once(tmp_path: Path) -> None:
    run, log = Storage(str(tmp_path / "run")), begin(Storage(str(tmp_path / "run")))
    for step in (1, 2, 3):
        log.add(row(step))
        assert steps(run) == list(range(1, step + 1))
        assert [event.step for event in events(run).Scalars("train/loss")] == steps(run)
    log.close()


def test_an_object_store_gets_training_rows_once_a_minute(
    remote: Storage, clock: Clock, put: list[str]
) -> None:
    log = begin(remote)
    put.clear()
    for step in range(1, 61):  # five minutes
        clock.now += 5
        log.add(row(step))
    assert put.count("metrics.jsonl") == 5
    assert len(put) == 10
    log.add(row(61))
    assert steps(remote) == list(range(1, 61))
    log.close()
    assert steps(remote) == list(range(1, 62))
    assert [event.step for event in events(remote).Scalars("train/loss")] == steps(remote)


@pytest.mark.usefixtures("clock")
def test_an_object_store_gets_an_evaluation_at_once_and_the_rest_on_demand(
    remote: Storage, put: list[str]
) -> None:
    log = begin(remote)
    log.add(row(1))
    log.add(row(1, "eval"))
    assert steps(remote) == [1, 1]
    log.add(row(2))
    assert steps(remote) == [1, 1]
    log.upload()
    assert steps(remote) == [1, 1, 2]
    put.clear()
    log.upload()
    assert put == [], "nothing is new"
    log.add(row(3))
    log.finish({"step": 3})
    assert steps(remote) == [1, 1, 2, 3]
    log.close()


@pytest.mark.usefixtures("clock")
def test_a_picture_is_uploaded_once(remote: Storage, put: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """What follows goes into another file, and TensorBoard reads all of them as one run, in order."""
    monkeypatch.setattr("tensorboard.summary.writer.event_file_writer._global_uid", AtomicCounter(8))
    log = begin(remote)
    for step in (1, 2, 3):
        log.add(row(step))
        log.add_picture("overlays", picture(), step)
        put.clear()
        log.add(row(step, "eval"))
        files = [name for name in put if name.startswith("tensorboard/")]
        assert len(files) == 2, "the picture's file, and the new one"
    log.close()
    assert len(remote.names("tensorboard")) == 4
    shown = events(remote)
    assert [event.step for event in shown.Images("overlays")] == [1, 2, 3]
    for tag in ("train/loss", "eval/loss"):
        assert [event.step for event in shown.Scalars(tag)] == [1, 2, 3]


@pytest.mark.usefixtures("clock")
def test_a_resumed_run_drops_what_was_uploaded_beyond_its_checkpoint(remote: Storage) -> None:
    log = begin(remote)
    for step in (1, 2, 3):
        log.add(row(step))
    log.upload()  # as a minute had passed; then it crashes
    resumed = begin(remote, step=2)
    assert steps(remote) == [1, 2]
    resumed.add(row(3) | {"attempt": 2})
    resumed.close()
    assert [row["attempt"] for row in read_rows(remote)] == [1, 1, 2]
    assert [event.step for event in events(remote).Scalars("train/loss")] == [1, 2, 3]
    log.close()


@pytest.mark.usefixtures("clock")
def test_a_checkpoint_never_comes_before_its_rows(
    scenes: Path, tmp_path: Path, object_store: ObjectStore, put: list[str]
) -> None:
    """A crash after it must find them: the resumed run has no others of those steps."""
    settings = experiment(scenes, tmp_path, contrast__weight=0.0)
    settings = replace(settings, {"run.storage": object_store.uri(uuid.uuid4().hex), "run.name": "run"})
    reported = fit(settings)
    run = Storage(settings.run.storage) / "run"
    assert read_rows(run) == reported == [json.loads(line) for line in run.read("metrics.jsonl").splitlines()]
    before = put[: put.index("checkpoints/step-00000003/manifest.json")]
    assert before.count("metrics.jsonl") == 2, "at the start, and with the rows of steps 2 and 3"
    last = [name for name in put if name in ("metrics.jsonl", "checkpoints/step-00000008/manifest.json")]
    assert last[-2:] == ["metrics.jsonl", "checkpoints/step-00000008/manifest.json"]
