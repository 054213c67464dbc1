"""What goes wrong around a training: on the cluster, or on a worker."""

from pixelcontrast.cluster.ray_internals import cause_of_death, is_out_of_memory

RERUN = "Rerun the command to resume."
"""The remedy where nothing was wrong with the run itself."""
_LESS_MEMORY = (
    "Lower data.loader_processes, raise run.cpus_per_worker so that fewer workers share a node, or take "
    "nodes with more memory; a new run may also have a smaller optim.batch_size or data.crop_size."
)


class LaunchError(RuntimeError):
    """A training that could not start or resume; as text, one paragraph for the user.

    Attributes:
        finding: what is wrong, without a full stop at its end.
        remedy: what to do about it, in whole sentences; empty if nothing is known.
        worker_traceback: the traceback of the worker that failed first, if one raised. An uncaught error
            shows it below the message; who prints ``str(error)`` may print it too.
        final: a retry would fail in the same way.
    """

    def __init__(
        self, finding: str, remedy: str = "", *, worker_traceback: str | None = None, final: bool = False
    ):
        super().__init__(finding, remedy)
        self.finding, self.remedy = finding, remedy
        self.worker_traceback, self.final = worker_traceback, final
        if worker_traceback:
            self.add_note(worker_traceback.rstrip())

    def __str__(self) -> str:
        return f"{self.finding}. {self.remedy}" if self.remedy else self.finding


class NoPlaceError(LaunchError):
    """The workers have no place on the cluster now: others hold it, or nodes are gone.

    Nothing of the training failed, so it may wait.
    """


class WorkerError(Exception):
    """An exception of one worker as text: it crosses processes even if the exception itself cannot.

    Attributes:
        rank: the worker's rank.
        reason: type and message of the exception.
        trace: its traceback.
        at: when it was raised, in seconds since the epoch; the earliest of several is the cause.
        final: a retry would fail in the same way (wrong data, wrong values).
    """

    def __init__(self, rank: int, reason: str, trace: str, at: float, final: bool):
        super().__init__(rank, reason, trace, at, final)
        self.rank, self.reason, self.trace, self.at, self.final = rank, reason, trace, at, final

    def __str__(self) -> str:
        return f"worker {self.rank} failed: {self.reason}"


def ended(what: str, error: Exception, remedy: str = "") -> LaunchError:
    """What to tell of a process that has ended: Ray's account, and where memory ran out, what takes less."""
    remedies = (_LESS_MEMORY if is_out_of_memory(error) else "", remedy)
    return LaunchError(f"{what}: {cause_of_death(error)}", " ".join(filter(None, remedies)))


def first_cause(failures: dict[int, Exception]) -> LaunchError:
    """The failure that caused the others, from Ray's ``rank → exception``.

    A worker that died reported nothing itself, and what the others report then (a closed connection) follows
    from its death. So a death comes first, then the earliest exception.
    """
    raised = []
    for rank, failure in sorted(failures.items()):
        if not isinstance(failure, WorkerError):
            return ended(f"worker {rank} died", failure)
        raised.append(failure)
    earliest = min(raised, key=lambda failure: failure.at)
    return LaunchError(str(earliest), worker_traceback=earliest.trace, final=earliest.final)
