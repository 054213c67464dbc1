"""The one reader of runs and searches; and what every command says of those that another version wrote."""

import hashlib
import io
import json
import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from pixelcontrast import load_model, training
from pixelcontrast.config import replace
from pixelcontrast.dashboard import serve
from pixelcontrast.reports import write_report
from pixelcontrast.runs import reproduce
from pixelcontrast.runs.record import kind_of, read_run, read_summary
from pixelcontrast.runs.run_folder import read_experiment_file
from pixelcontrast.search import Search
from pixelcontrast.search.folder import SearchFolder
from pixelcontrast.storage import Storage
from small_runs import EXPERIMENT, STEPS, write_finished_run


@pytest.fixture
def run(tmp_path: Path) -> Storage:
    return write_finished_run(Storage(str(tmp_path / "a")))


def test_a_run_is_one_record(run: Storage) -> None:
    record = read_run(run)
    assert (record.name, record.experiment, record.finished) == ("a", EXPERIMENT, True)
    assert record.settings["optim.steps"] == STEPS
    assert [row["kind"] for row in (*record.trained, *record.evaluations)] == ["train", "eval"]
    assert record.attempts[0]["git"] == "0123abc"
    assert record.summary["seconds_per_step"] == 0.5
    assert record.summary == read_summary(run)
    assert kind_of(run) == "run"


def test_a_run_that_failed_before_its_first_file_has_a_summary(tmp_path: Path) -> None:
    assert read_summary(Storage(str(tmp_path / "missing"))) == {"attempts": 0}


def rename_key(tree: dict[str, Any]) -> None:
    """As if this version had another name for ``contrast.temperature``, and asked for ``data.root``."""
    tree["contrast"]["warmth"] = tree["contrast"].pop("temperature")
    del tree["data"]["root"]


def rewrite(path: Path, change: Callable[[dict[str, Any]], None], section: str | None = None) -> None:
    content = json.loads(path.read_text())
    change(content[section] if section else content)
    path.write_text(json.dumps(content))


REASON = "cannot be read by this version: contrast.warmth: no such setting (got 0.1); data.root: missing. Use"
"""One line that names both keys."""


def resume(run: Storage) -> object:
    return training.check(replace(EXPERIMENT, {"run.storage": run.parent.location}))


def train_file(run: Storage) -> object:
    return read_experiment_file(f"{run.location}/experiment.json")


def load(run: Storage) -> object:
    return load_model(run.location)


def report(run: Storage) -> object:
    return write_report(run.location)


@pytest.mark.parametrize("read", [resume, train_file, load, report])
def test_a_run_of_another_version_is_one_line_with_file_and_keys(
    run: Storage, read: Callable[[Storage], object]
) -> None:
    path = Path(run.path("experiment.json"))
    rewrite(path, rename_key)
    with pytest.raises(ValueError) as caught:
        read(run)
    assert str(caught.value).startswith(f"{path} {REASON}")
    assert "\n" not in str(caught.value)


def test_a_checkpoint_of_another_version_is_one_line_with_file_and_keys(run: Storage) -> None:
    old = Storage(f"{run.location}-old")
    for name in run.sizes():
        old.write(name, run.read(name))
    folder = Path(old.path("checkpoints/step-00000002"))
    rewrite(folder / "experiment.json", rename_key)
    vouch(folder)
    with pytest.raises(ValueError) as caught:
        reproduce(old.location)
    assert str(caught.value).startswith(f"{folder}/experiment.json {REASON}")
    assert "\n" not in str(caught.value)


def vouch(folder: Path) -> None:
    """Make the manifest agree with the experiment.json that lies there."""
    content = (folder / "experiment.json").read_bytes()
    entry = {"size": len(content), "sha256": hashlib.sha256(content).hexdigest()}
    rewrite(folder / "manifest.json", lambda manifest: manifest["files"].update({"experiment.json": entry}))


def test_verify_names_the_keys_of_another_version(run: Storage) -> None:
    rewrite(Path(run.path("experiment.json")), rename_key)
    lines = {line.name: line for line in training.verify(run.location)}
    found = lines["experiment.json"]
    assert (found.state, found.text[: len(REASON)]) == ("DAMAGED", REASON)
    assert "\n" not in found.text


def sheet() -> bytes:
    buffer = io.BytesIO()
    Image.effect_noise((64, 32), 100).save(buffer, "PNG")
    return buffer.getvalue()


def flipped(picture: bytes) -> bytes:
    middle = len(picture) // 2
    return picture[:middle] + bytes([picture[middle] ^ 1]) + picture[middle + 1 :]


@pytest.mark.parametrize(
    ("change", "state", "text"),
    [
        (lambda picture: picture, "ok", "64×32"),
        (flipped, "DAMAGED", "is cut off or altered from byte "),
        (lambda picture: picture[:-1], "DAMAGED", "is cut off or altered from byte "),
        (lambda picture: picture[:-12], "DAMAGED", "is cut off or altered from byte "),
        (lambda _: b"", "DAMAGED", "is no PNG"),
    ],
)
def test_a_damaged_picture_is_named(
    run: Storage, change: Callable[[bytes], bytes], state: str, text: str
) -> None:
    run.write("overlays/step-00000002.png", change(sheet()))
    lines = {line.name: line for line in training.verify(run.location)}
    found = lines["overlays/step-00000002.png"]
    assert (found.state, found.text[: len(text)]) == (state, text)


def test_the_dashboard_shows_a_run_of_another_version_and_says_so(
    run: Storage, caplog: pytest.LogCaptureFixture
) -> None:
    path = Path(run.path("experiment.json"))
    rewrite(path, rename_key)
    with caplog.at_level(logging.WARNING), serve(run.location) as pages:
        assert pages.curves
    assert f"{path} {REASON}" in caplog.text


def test_a_search_of_another_version_is_one_line_with_file_and_keys(tmp_path: Path) -> None:
    experiment = replace(EXPERIMENT, {"run.storage": str(tmp_path)})
    folder = SearchFolder(experiment, Search(trials=1, name="s"), None)
    with folder.held():
        pass
    rewrite(tmp_path / "s" / "search.json", rename_key, "experiment")
    for read in (folder.check, lambda: write_report(str(tmp_path / "s"))):
        with pytest.raises(ValueError) as caught:
            read()
        assert str(caught.value).startswith(f"{tmp_path}/s/search.json {REASON}")
        assert "\n" not in str(caught.value)


def test_a_cut_off_configuration_is_said_to_be_damaged(run: Storage) -> None:
    path = Path(run.path("experiment.json"))
    path.write_text(path.read_text()[:50])
    with pytest.raises(ValueError, match=rf"^{path} is damaged: it is no valid JSON$"):
        read_run(run)
