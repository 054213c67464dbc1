"""Paths as every process of a run sees them: absolute, and in a job never relative."""

from dataclasses import replace
from pathlib import Path

from pixelcontrast.cluster.ray_internals import in_a_job
from pixelcontrast.config import Experiment


def check_job_paths(experiment: Experiment) -> None:
    """Check ``run.storage`` and ``data.root`` with ``check_job_path``."""
    check_job_path("run.storage", experiment.run.storage, "a URI (s3://bucket/runs) or an absolute path")
    check_job_path("data.root", experiment.data.root, "an absolute path")


def check_job_path(key: str, path: str, allowed: str) -> None:
    """Refuse a relative path in a job: it would lead into a copy that Ray deletes when the job ends.

    Raises:
        ValueError: ``path`` is relative, and this process is a job's driver.
    """
    if in_a_job() and "://" not in path and not Path(path).expanduser().is_absolute():
        raise ValueError(
            f"{key} is {path!r}, a relative path. This is a job: its working folder is a copy of yours, "
            f"which Ray deletes. Give {allowed} that every node of the cluster reaches."
        )


def absolute_paths(experiment: Experiment) -> Experiment:
    """The experiment with absolute paths, as workers run in a folder of Ray's; URIs are unchanged.

    Raises:
        ValueError: relative paths in a job.
    """
    check_job_paths(experiment)
    data, run, model = experiment.data, experiment.run, experiment.model
    weights = model.weights if model.weights in ("none", "timm") else absolute_path(model.weights)
    return replace(
        experiment,
        data=replace(data, root=absolute_path(data.root)),
        run=replace(run, storage=absolute_path(run.storage)),
        model=replace(model, weights=weights),
    )


def absolute_path(path: str) -> str:
    """The absolute path of a folder; a URI is unchanged."""
    return path if "://" in path else str(Path(path).expanduser().absolute())
