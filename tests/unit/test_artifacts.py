"""What is attached to a study and its trials, as Optuna reads it back."""

import json
from io import BytesIO
from pathlib import Path

import optuna
import pytest
from optuna.artifacts import FileSystemArtifactStore, get_all_artifact_meta
from PIL import Image

from pixelcontrast import Search
from pixelcontrast.search.artifacts import attach, attach_report
from pixelcontrast.search.folder import SearchFolder
from searches import experiment


@pytest.fixture
def folder(tmp_path: Path) -> SearchFolder:
    folder = SearchFolder(experiment(tmp_path, tmp_path / "runs"), Search(trials=1), None)
    run = folder.run("trial-0000")
    run.write("overlays/step-00000002.png", b"old")
    run.write("overlays/step-00000010.png", b"new")
    counts = {"step": 10, "classes": ["road", "sky"], "pixels": [[9, 1], [0, 5]]}
    run.write("confusion.json", json.dumps(counts).encode())
    return folder


@pytest.fixture
def study(folder: SearchFolder) -> optuna.Study:
    study = optuna.create_study(study_name=folder.name)
    study.ask().set_user_attr("run", "trial-0000")
    return study


def attached(study: optuna.Study, owner, folder: SearchFolder) -> dict[str, tuple[str, bytes]]:
    store = FileSystemArtifactStore(folder.local / "artifacts")
    found = get_all_artifact_meta(owner, storage=study._storage)
    contents = {}
    for meta in found:
        with store.open_reader(meta.artifact_id) as file:
            contents[meta.filename] = meta.mimetype, file.read()
    assert len(contents) == len(found), "two of one name"
    return contents


def test_a_trial_gets_its_last_overlays_and_its_confusion_matrix(study, folder):
    attach(study, 0, folder)
    contents = attached(study, study.trials[0], folder)
    assert set(contents) == {"overlays.png", "confusion.png"}
    assert contents["overlays.png"] == ("image/png", b"new")
    assert Image.open(BytesIO(contents["confusion.png"][1])).format == "PNG"


def test_attached_again_it_is_replaced_also_when_the_trial_has_ended(study, folder):
    attach(study, 0, folder)
    study.tell(0, 0.5)
    folder.run("trial-0000").write("overlays/step-00000012.png", b"newer")
    attach(study, 0, folder)
    assert attached(study, study.trials[0], folder)["overlays.png"] == ("image/png", b"newer")


def test_nothing_new_is_attached_to_a_trial_that_has_ended(study, folder):
    study.tell(0, 0.5)
    with pytest.raises(ValueError, match=r"overlays\.png cannot be attached to a trial that has ended"):
        attach(study, 0, folder)


def test_a_run_that_was_not_evaluated_has_nothing_to_attach(study, folder):
    study.ask().set_user_attr("run", "trial-0001")
    attach(study, 1, folder)
    assert attached(study, study.trials[1], folder) == {}


def test_a_report_replaces_the_one_before(study, folder, tmp_path):
    report = tmp_path / "report.html"
    for text in (b"<p>one</p>", b"<p>two</p>"):
        report.write_bytes(text)
        attach_report(study, report, folder)
    assert attached(study, study, folder) == {"report.html": ("text/html", b"<p>two</p>")}
