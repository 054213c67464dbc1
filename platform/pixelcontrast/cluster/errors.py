"""What goes wrong around a training: on the cluster, or on a worker."""

from pixelcontrast.cluster.ray_internals import cause_of_death


class LaunchError(RuntimeError):
    """A training that could not start or go on; its text is one paragraph for the user.

    Attributes:
        worker_traceback: the traceback of the worker that failed first, if one raised. An uncaught error
            shows it below the message; who prints ``str(error)`` may print it too.
        final: the same would happen again.
    """

    def __init__(self, message: str, worker_traceback: str | None = None, *, final: bool = False):
        super().__init__(message)
        self.worker_traceback, self.final = worker_traceback, final
        if worker_traceback:
            self.add_note(worker_traceback.rstrip())


class WorkerError(Exception):
    """An exception of one worker as text: it crosses processes even if the exception itself could not.

    Attributes:
        rank: the worker's rank.
        reason: type and message of the exception.
        trace: its traceback.
        at: when it was raised, in seconds since the epoch; of several, the earliest is the cause.
        final: the same would happen again (wrong data, wrong values): another attempt has no point.
    """

    def __init__(self, rank: int, reason: str, trace: str, at: float, final: bool):
        super().__init__(rank, reason, trace, at, final)
        self.rank, self.reason, self.trace, self.at, self.final = rank, reason, trace, at, final

    def __str__(self) -> str:
        return f"worker {self.rank} failed: {self.reason}"


def first_cause(failures: dict[int, Exception]) -> LaunchError:
    """The failure that made the others, of Ray's ``rank → exception``.

    A worker that died said nothing itself, and what the others say then (a closed connection) follows from
    it; so a death comes first, then the earliest exception.
    """
    raised = []
    for rank, failure in sorted(failures.items()):
        if not isinstance(failure, WorkerError):
            return LaunchError(f"worker {rank} died: {cause_of_death(failure)}")
        raised.append(failure)
    earliest = min(raised, key=lambda failure: failure.at)
    return LaunchError(str(earliest), earliest.trace, final=earliest.final)
