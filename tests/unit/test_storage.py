"""Where a run lives: locations with options, and what is said of those that cannot be used."""

import socket
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from object_store import ObjectStore
from pixelcontrast import Data, Experiment, Run, load_model, training
from pixelcontrast.cluster.doctor.diagnose import Wanted, diagnose
from pixelcontrast.reports import write_report
from pixelcontrast.runs import reproduce
from pixelcontrast.storage import Storage

SECRET = "wJalrXUtnFEMI/K7MDENG"


def refused(location: str, camvid: Path) -> str:
    """What ``check`` says, before anything starts."""
    with pytest.raises(ValueError) as caught:
        training.check(
            Experiment(data=Data(layout="camvid", root=str(camvid)), run=Run(name="a", storage=location))
        )
    return str(caught.value)


def test_a_location_s_options_stay_behind_the_path(object_store: ObjectStore) -> None:
    storage = Storage(object_store.uri("options/")) / "run" / "checkpoints/step-1"
    assert storage.location == object_store.uri("options/run/checkpoints/step-1")
    assert storage.path("a") == "bucket/options/run/checkpoints/step-1/a"
    storage.write("a", b"content")
    assert Storage(storage.location).read("a") == b"content"
    assert (Storage(object_store.uri("options")) / "run").sizes() == {"checkpoints/step-1/a": 7}
    assert (Storage("a?b") / "c").location == "a?b/c"  # a folder's own name


@pytest.mark.parametrize(
    "location",
    [
        f"s3://AKIAIOSFODNN7:{SECRET}@bucket/runs",
        f"s3://AKIAIOSFODNN7:{SECRET.replace('/', '%2F')}@bucket/runs?region=eu-west-1",
        f"abfss://container@account.dfs.core.windows.net/runs?client_secret={SECRET}",
        f"s3://bucket/runs?secret_key={SECRET}",
    ],
)
def test_a_secret_in_a_location_is_refused_and_not_repeated(location: str, tmp_path: Path) -> None:
    said = refused(location, tmp_path)
    assert "stands in the location, which is written into the run's files" in said
    assert "AWS_SECRET_ACCESS_KEY" in said
    assert SECRET[:6] not in said


def test_a_bucket_that_does_not_exist_is_named(object_store: ObjectStore) -> None:
    storage = Storage(object_store.uri("runs", bucket="nowhere")) / "a"
    with pytest.raises(
        ValueError, match=r"run\.storage: s3://nowhere/runs/a\?.* cannot be written: .*NO_SUCH"
    ):
        storage.check_writable()


def test_wrong_credentials_are_said(
    object_store: ObjectStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(object_store, "refused", lambda _method, _path: True)
    said = refused(object_store.uri("runs"), tmp_path)
    assert said.startswith("run.storage: s3://bucket/runs/a?")
    assert "cannot be read: " in said
    assert "ACCESS_DENIED" in said


@pytest.mark.timeout(60)
def test_an_endpoint_that_does_not_answer_is_said_in_seconds(tmp_path: Path) -> None:
    start = time.monotonic()
    said = refused("s3://bucket/runs?endpoint_override=127.0.0.1:9&scheme=http&region=us-east-1", tmp_path)
    assert "cannot be read: " in said
    assert "Could not connect to server" in said
    assert time.monotonic() - start < 30


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["s3", "gs"])
def test_a_silent_endpoint_is_given_up_in_two_minutes(kind: str, tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        accepted: list[socket.socket] = []

        def accept() -> None:
            while True:
                accepted.append(server.accept()[0])

        port = server.getsockname()[1] if kind == "s3" else 9  # of Google's, one that refuses
        threading.Thread(target=accept, daemon=True).start()
        start, options = time.monotonic(), f"endpoint_override=127.0.0.1:{port}&scheme=http"
        user = "anonymous@" if kind == "gs" else ""
        said = refused(f"{kind}://{user}bucket/runs?{options}", tmp_path)
        assert "Timeout was reached" in said or "Retry policy exhausted" in said
        assert time.monotonic() - start < 180


def doctor(location: str) -> object:
    return diagnose(Wanted(storage=location, data=None, layout=None, run=Run(name="doctor")))


@pytest.mark.parametrize(
    ("use", "option"),
    [
        (reproduce, "RUN_OR_CHECKPOINT"),
        (write_report, "RUN_OR_SEARCH"),
        (load_model, "RUN_OR_FILE"),
        (lambda location: list(training.verify(location)), "RUN"),
        (doctor, "--storage"),
    ],
)
@pytest.mark.parametrize("location", ["ftp://host/runs", "hdfs://host/runs"])
def test_a_location_that_cannot_be_opened_is_one_line_that_names_the_argument(
    use: Callable[[str], object], option: str, location: str
) -> None:
    with pytest.raises(ValueError, match=f"^{option} {location}: pyarrow cannot open it: ") as caught:
        use(location)
    assert "\n" not in str(caught.value)
