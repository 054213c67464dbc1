"""Paths that every process of a run can reach: in a job never relative."""

from pathlib import Path

from pixelcontrast.cluster.ray_internals import in_a_job
from pixelcontrast.config import Experiment, absolute_paths, expand_home


def reachable_paths(experiment: Experiment) -> Experiment:
    """The experiment with absolute paths; URIs are unchanged.

    Raises:
        ValueError: ``run.storage``, ``data.root`` or a file in ``model.weights`` is relative in a job.
    """
    check_job_path("run.storage", experiment.run.storage, "a URI (s3://bucket/runs) or an absolute path")
    check_job_path("data.root", experiment.data.root, "an absolute path")
    if (weights := experiment.model.weights) not in ("none", "timm"):
        check_job_path("model.weights", weights, "none, timm, or the absolute path of a file")
    return absolute_paths(experiment)


def check_job_path(key: str, path: str, allowed: str) -> None:
    """Refuse a relative path in a job: it would lead into a copy that Ray deletes when the job ends.

    Raises:
        ValueError: ``path`` is relative, and this process is a job's driver.
    """
    if in_a_job() and "://" not in path and not Path(expand_home(path)).is_absolute():
        raise ValueError(
            f"{key} is {path!r}, a relative path. This is a job: its working folder is a copy of yours, "
            f"which Ray deletes. Give {allowed} that every node of the cluster reaches."
        )
