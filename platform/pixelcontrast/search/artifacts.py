"""Pictures and reports attached to a study and its trials, for optuna-dashboard to show."""

import tempfile
from pathlib import Path

import optuna
from optuna.artifacts import FileSystemArtifactStore, get_all_artifact_meta, upload_artifact
from optuna.trial import FrozenTrial

from pixelcontrast.runs.run_folder import read_confusion
from pixelcontrast.search.folder import ARTIFACTS, SearchFolder
from pixelcontrast.storage import Storage

OVERLAYS, CONFUSION = "overlays.png", "confusion.png"


def attach(study: optuna.Study, trial_number: int, folder: SearchFolder) -> None:
    """Attach the last overlays and confusion matrix of a trial's run, those of them that there are.

    Call it before the trial is told to have ended: Optuna adds nothing to a finished one. Called again, it
    replaces what is attached already.

    Raises:
        ValueError: the trial has ended, and a picture was not attached before.
    """
    trial = study.get_trials(deepcopy=False)[trial_number]
    for name, picture in _pictures(folder.run(trial.user_attrs["run"])).items():
        _put(study, trial, name, picture, folder)


def attach_report(study: optuna.Study, path: Path, folder: SearchFolder) -> None:
    """Attach a file to the study, in place of one of this name that is attached already."""
    _put(study, study, path.name, path.read_bytes(), folder)


def _pictures(run: Storage) -> dict[str, bytes]:
    from pixelcontrast.evaluation import confusion_picture  # loads torch, which a search's reader needs not

    found = {}
    if overlays := run.names("overlays"):
        found[OVERLAYS] = run.read(f"overlays/{overlays[-1]}")
    if counts := read_confusion(run):
        title = f"step {counts['step']}"
        found[CONFUSION] = confusion_picture(counts["pixels"], counts["classes"], title=title)
    return found


def _put(
    study: optuna.Study, owner: optuna.Study | FrozenTrial, name: str, content: bytes, folder: SearchFolder
) -> None:
    path = folder.local / ARTIFACTS
    path.mkdir(parents=True, exist_ok=True)
    for known in get_all_artifact_meta(owner, storage=study._storage):
        if known.filename == name:
            (path / known.artifact_id).write_bytes(content)
            return
    with tempfile.TemporaryDirectory() as temporary:
        file = Path(temporary) / name
        file.write_bytes(content)
        try:
            upload_artifact(
                artifact_store=FileSystemArtifactStore(path),
                file_path=str(file),
                study_or_trial=owner,
                storage=study._storage,
            )
        except optuna.exceptions.UpdateFinishedTrialError as error:
            raise ValueError(f"{name} cannot be attached to a trial that has ended: {error}") from error
