"""What workers and the launcher report to the driver. Imports neither Ray nor torch."""

from dataclasses import dataclass
from typing import Any

from pixelcontrast.cluster.errors import LaunchError
from pixelcontrast.config import Experiment

Row = dict[str, Any]
"""A row of metrics, as it is written to metrics.jsonl."""


def steps_to_first_row(experiment: Experiment) -> int:
    """Steps after which a start of the workers has its first row of metrics, at most."""
    run = experiment.run
    return min(run.report_interval, run.eval_interval, run.checkpoint_interval, experiment.optim.steps)


@dataclass(frozen=True)
class Started:
    """A worker's process is ready to run the loop.

    Attributes:
        handle: of Ray's actor.
        worker: id of the actor: after a restart another one has the same rank.
        node: id of the node.
    """

    rank: int
    handle: Any
    worker: str
    node: str


@dataclass(frozen=True)
class Beat:
    """Where a worker's loop is.

    Attributes:
        worker: id of Ray's actor.
        place: file, line and function: the innermost of the platform's own, and the innermost of all.
        waiting: the innermost place is one where a rank waits for others.
        since_s: how long the loop has neither moved from there nor made progress, in seconds.
        idle_s: since it last made progress, in seconds: began a step, or evaluated an image. Since its start
            where it has not yet.
        staging: data are being copied to its machine, which takes as long as it takes.
        storing: it is within a call of ``storage``, such as the upload of a checkpoint's file.
    """

    worker: str
    place: str
    waiting: bool
    since_s: float
    idle_s: float
    staging: bool = False
    storing: bool = False


@dataclass(frozen=True)
class Alive:
    """A worker has given its sign of life, once a second."""

    rank: int
    beat: Beat


@dataclass(frozen=True)
class LoopEnded:
    """A worker's loop has ended, whatever the reason."""

    rank: int
    worker: str


@dataclass(frozen=True)
class Metrics:
    """Rank 0 reports a row of metrics."""

    row: Row


@dataclass(frozen=True)
class Message:
    """The platform's code on a worker has logged something.

    Attributes:
        template: the text before its values were put in.
    """

    rank: int
    logger: str
    level: int
    text: str
    template: str = ""


@dataclass(frozen=True)
class Retry:
    """Workers failed, and Ray's trainer starts all of them again."""

    cause: LaunchError


@dataclass(frozen=True)
class Stopped:
    """The workers wrote a checkpoint and ended, as they were asked to."""

    step: int


@dataclass(frozen=True)
class Finished:
    """The last event of a launcher; ``failure`` is None if the training reached its end."""

    failure: LaunchError | None


Event = Started | Alive | LoopEnded | Metrics | Message | Retry | Stopped | Finished
