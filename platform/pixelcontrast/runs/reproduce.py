"""The commands that train again what a checkpoint or a result records."""

import json
import os
import shlex
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from pixelcontrast import config
from pixelcontrast.config import Data, Experiment, Run
from pixelcontrast.runs import checkpoint, provenance
from pixelcontrast.runs.run_folder import (
    EXPERIMENT,
    RESULT,
    Row,
    parse_experiment,
    read_attempts,
    read_experiment,
    read_result,
)
from pixelcontrast.storage import Storage

_PROVENANCE, _WEIGHTS = "provenance.json", "model.safetensors"
_ALWAYS = ("data.root", "run.name", "run.storage", "run.workers", "run.cpus_per_worker", "run.device")
"""What the command says in any case: it is what another machine may have to change."""
_BAD_SAMPLES = "data.on_bad_sample"
_NEEDED = ("git", "versions", "machine", "threads", "world_size", "seed", "data")
"""What the commands say of a provenance in any case."""


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """What is known of a checkpoint's origin.

    Attributes:
        file: its experiment.json: an absolute path or a URI.
        experiment: as in that file.
        placement: by key, where another one of the run counts.
        provenance: of the attempt that wrote it.
        attempts: of the run up to that one; empty where the run's folder has lost them.
        step: of the checkpoint.
        weights: sha256 of its network's file; None where the checkpoint is gone.
    """

    file: str
    experiment: Experiment
    placement: Mapping[str, Any]
    provenance: Mapping[str, Any]
    attempts: list[Row]
    step: int
    weights: str | None


def reproduce(result: str | os.PathLike[str]) -> str:
    """Lines for a POSIX shell that train again what is recorded: commands, and what to know as comments.

    Args:
        result: a run's folder or its result.json, or a checkpoint's folder: local, or a URI that
            ``pyarrow.fs`` reads. An unfinished run stands for its newest valid checkpoint.

    Raises:
        ValueError: nothing of the kind lies there, or it is damaged; the text names the file.
    """
    recipe = read_recipe(result)
    return "\n".join([*_origin(recipe), *_code(recipe), *_training(recipe)])


def read_recipe(result: str | os.PathLike[str]) -> Recipe:
    """Find what is recorded; arguments and errors as of ``reproduce``."""
    location = os.fspath(result)
    folder = Storage(config.absolute_path(location), option="RUN_OR_CHECKPOINT")
    folder = folder.parent if folder.name == RESULT else folder
    location = folder.location
    if folder.exists(checkpoint.MANIFEST):
        return _of_checkpoint(folder.parent.parent, f"{folder.parent.name}/{folder.name}")
    if not folder.exists(EXPERIMENT):
        raise ValueError(f"{location}: neither a run nor a checkpoint, as {EXPERIMENT} is missing")
    finished = read_result(folder)
    name = finished["checkpoint"] if finished else checkpoint.newest_valid(folder)[0]
    if name is None:
        raise ValueError(f"{location}: there is no checkpoint yet")
    if finished and not folder.exists(name):  # deleted to save space
        return _of_result(folder, finished)
    return _of_checkpoint(folder, name)


def _of_checkpoint(run: Storage, name: str) -> Recipe:
    try:
        manifest = checkpoint.read_manifest(run, name)
        parts = checkpoint.load(run, name, only=[EXPERIMENT, _PROVENANCE])
        content, found = parts[EXPERIMENT], _whole(json.loads(parts[_PROVENANCE]))
        weights = manifest.files[_WEIGHTS].sha256
    except (ValueError, KeyError) as error:
        reason = str(error) if isinstance(error, ValueError) else f"{error} is missing"
        raise ValueError(f"{run.location}/{name}: {reason}") from error
    file = (run / name / EXPERIMENT).location
    return Recipe(
        file=file,
        experiment=parse_experiment(content, where=file),
        placement={},
        provenance=found,
        attempts=read_attempts(run)[: found.get("attempt")],
        step=manifest.step,
        weights=weights,
    )


def _of_result(run: Storage, result: Row) -> Recipe:
    attempts = read_attempts(run)[: result["attempts"]]
    try:
        found = _whole(result["provenance"])
    except ValueError as error:
        raise ValueError(f"{(run / RESULT).location}: {error}") from error
    return Recipe(
        file=(run / EXPERIMENT).location,
        experiment=read_experiment(run),
        placement=attempts[-1].get("placement", {}) if attempts else {},
        provenance=found,
        attempts=attempts,
        step=result["step"],
        weights=None,
    )


def _whole(found: Mapping[str, Any]) -> Mapping[str, Any]:
    """A provenance that has what the commands say; raises ``ValueError`` where it lacks some of it."""
    missing = [key for key in _NEEDED if key not in found]
    if missing:
        raise ValueError(f"the provenance lacks {', '.join(missing)}. Restore the file")
    return found


def _origin(recipe: Recipe) -> list[str]:
    """What was trained, on what; and why the same bits cannot be had, where that is so."""
    found, optim = recipe.provenance, recipe.experiment.optim
    lines = [
        f"# {recipe.experiment.run.name}, step {recipe.step} of {optim.steps}, seed {found['seed']}; on "
        f"{found['machine']}; workers: {found['world_size']}, threads of each: {found['threads']}"
        + (", compiled" if found.get("compile") else ""),
        f"# configuration {found.get('configuration', 'of unknown hash')}, other than the defaults here are",
    ]
    lines += [f"#   {key} {json.dumps(value)}" for key, value in _not_defaults(recipe.experiment).items()]
    images = found.get("images", {})
    lines += [
        f"# {split} images: {images.get(split, '')} of fingerprint {fingerprint}"
        for split, fingerprint in found["data"].items()
    ]
    for attempt in recipe.attempts:
        changes = [f"{name} was {old}, then {new}" for name, (old, new) in attempt.get("changed", {}).items()]
        if changes:
            lines.append(
                f"# WARNING: attempt {attempt['attempt']} resumed from step {attempt['from_step']} under "
                f"other conditions ({'; '.join(changes)}): no single training gives the same bits"
            )
    return lines


def _not_defaults(experiment: Experiment) -> dict[str, Any]:
    """What decides what is trained, and is not this version's default."""
    data = Data(layout=experiment.data.layout, root=experiment.data.root)
    defaults = config.flatten(Experiment(data=data, run=Run(name=experiment.run.name)))
    settings = config.flatten(experiment)
    return {
        key: value
        for key, value in settings.items()
        if key == "data.layout" or (key not in config.PLACEMENT and value != defaults[key])
    }


def _code(recipe: Recipe) -> list[str]:
    """How to get the code and what it was run with."""
    found = recipe.provenance
    commit, source = found["git"].removesuffix("-dirty"), found.get("source", "unknown")
    installed = (
        "is the code installed here" if source == provenance.source_hash() else "is not installed here"
    )
    lines = [f"# the code, of source hash {source}, {installed}"]
    if found["git"] == "unknown":
        lines.append("# WARNING: its commit is unknown; look for the one whose files have that hash")
    else:
        if commit != found["git"]:
            lines.append("# WARNING: its files differed from this commit, in what way was not recorded")
        lines.append(f"git checkout {shlex.quote(commit)}")
    versions = dict(found["versions"])
    lines.append(f"# with Python {versions.pop('python')}:")
    pinned = [
        f"{package}=={version}"
        for package, version in versions.items()
        if version != "not installed" and package != "pixelcontrast"
    ]
    return [*lines, shlex.join(["pip", "install", "-e", ".[platform]", *pinned])]


def _training(recipe: Recipe) -> list[str]:
    """The command, and how to see that it gave the same."""
    recorded, found, run = config.flatten(recipe.experiment), recipe.provenance, recipe.experiment.run
    wanted = {
        **recipe.placement,
        "run.name": f"{run.name}-again",
        "run.workers": str(found["world_size"]),
        "run.cpus_per_worker": found["threads"],
        "run.device": found.get("device", run.device),
    }
    if "compile" in found:
        wanted["run.compile"] = found["compile"]
    if any(attempt.get("placement", {}).get(_BAD_SAMPLES) == "skip" for attempt in recipe.attempts):
        wanted[_BAD_SAMPLES] = "skip"
    left = recipe.experiment.optim.steps - recipe.step
    if left:  # or the checkpoint would not be written, if a stop wrote it, or be deleted for newer ones
        is_due = recipe.step % run.checkpoint_interval == 0
        interval = wanted["run.checkpoint_interval"] = run.checkpoint_interval if is_due else recipe.step
        wanted["run.keep_checkpoints"] = left // interval + left // run.eval_interval + 2
    changed = {
        key: wanted.get(key, value)
        for key, value in recorded.items()
        if key in _ALWAYS or wanted.get(key, value) != value
    }
    lines = [shlex.join(["pixelcontrast", "train", recipe.file, *config.arguments(changed)])]
    if recipe.weights is not None:
        manifest = f"{checkpoint.folder_of(recipe.step)}/{checkpoint.MANIFEST}"
        if wanted["run.device"] == "cpu":
            compiler = ", with the same C++ compiler," if found.get("compile") else ""
            lines.append(
                f"# On such a machine{compiler} it gives the same bits: {_WEIGHTS} in the new run's "
                f"{manifest} has then sha256 {recipe.weights}"
            )
        else:
            lines.append(
                "# A GPU does not sum in the same order every time, so not the same bits: in this run's "
                f"{manifest} {_WEIGHTS} has sha256 {recipe.weights}"
            )
    return lines
