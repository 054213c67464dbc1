"""What runs on a worker: the training's loop, whose rows and exceptions are sent to the driver."""

import errno
import logging
import time
import traceback
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Protocol

from pixelcontrast.cluster.errors import WorkerError
from pixelcontrast.cluster.train.events import Message, Metrics, Row, Started, Stopped
from pixelcontrast.cluster.train.heartbeat import Heartbeat
from pixelcontrast.config import Experiment, from_json
from pixelcontrast.runs.launch_mark import Mark, check_shared
from pixelcontrast.runs.run_folder import open_storage
from pixelcontrast.storage import one_line
from pixelcontrast.words import opening

if TYPE_CHECKING:
    import torch

Report = Callable[[Row], None]
_FLUSH_TIMEOUT_S = 10.0

_LASTING = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS})
"""Errors of a full or read-only disk, which a retry meets again until somebody has made room."""


class Loop(Protocol):
    """The training itself: plain torch in an initialised process group, the same call on every rank.

    It calls ``stop()`` before every step and after every image that it evaluates: this is how its progress
    is seen. Returns None at its end, or the step of the checkpoint that it wrote as ``stop()`` was true on a
    rank.
    """

    def __call__(
        self, experiment: Experiment, /, *, device: "torch.device", report: Report, stop: Callable[[], bool]
    ) -> int | None: ...


def train(
    experiment: Experiment,
    /,
    *,
    device: "torch.device",
    report: Report,
    stop: Callable[[], bool],
    mark: Mark | None = None,
) -> int | None:
    """The loop that the platform runs; imported on the workers alone, as it brings timm and torchvision."""
    from pixelcontrast.training import fit

    return fit(experiment, device=device, report=report, stop=stop, mark=mark)


def run_worker(config: dict[str, Any], *, launcher: Any, loop: Loop, mark: Mark) -> None:
    """Run the loop on one worker of Ray Train.

    Args:
        config: ``experiment``, as JSON; Ray shows it as the run's configuration.
        launcher: handle of the actor that collects events for the driver.
        loop: the training.
        mark: what the driver has left in the run's folder.

    Raises:
        WorkerError: as of ``run_loop``.
    """
    import ray.train
    import ray.train.torch

    run_loop(
        from_json(config["experiment"]),
        loop,
        launcher=launcher,
        rank=ray.train.get_context().get_world_rank(),
        mark=mark,
        find_device=ray.train.torch.get_device,
    )


def run_loop(
    experiment: Experiment,
    loop: Loop,
    *,
    launcher: Any,
    rank: int,
    mark: Mark,
    find_device: "Callable[[], torch.device]",
) -> None:
    """Run the loop in this process, an actor of Ray's; its events go to the launcher.

    Raises:
        WorkerError: whatever the loop raised, as text; or, before it begins, that this machine does not share
            the run's folder with the driver, or that another driver has it, which is final.
    """
    import ray
    import torch

    torch.set_num_threads(experiment.run.cpus_per_worker)
    context = ray.get_runtime_context()
    actor = context.get_actor_id() or ""
    launcher.put.remote(Started(rank, context.current_actor, actor, context.get_node_id()))
    rows = _Rows(launcher, first=rank == 0)
    messages = _Messages(launcher, rank)
    platform_logger = logging.getLogger("pixelcontrast")
    platform_logger.addHandler(messages)
    platform_logger.setLevel(logging.INFO)
    try:
        with Heartbeat(launcher, rank=rank, worker=actor) as heart:
            check_shared(open_storage(experiment), mark)
            stopped_at = loop(experiment, device=checked(find_device()), report=rows, stop=heart.ask)
        rows.flush()
        if rank == 0 and stopped_at is not None:
            ray.get(launcher.put.remote(Stopped(stopped_at)))
    except Exception as error:
        rows.flush()
        reason, final = reason_of(error, experiment)
        raise WorkerError(rank, reason, traceback.format_exc(), time.time(), final) from error
    finally:
        platform_logger.removeHandler(messages)
        messages.flush()


def checked(device: "torch.device") -> "torch.device":
    """The device; raises ``ValueError``, which is final, for a GPU that Ray sees and torch cannot use."""
    import torch

    if device.type == "cuda" and not torch.cuda.is_available():
        raise ValueError(
            "run.device: this worker has a GPU that torch cannot use: the machine's driver is missing or too "
            f"old for CUDA {torch.version.cuda}, for which torch was built; update the driver, or train with "
            "--run.device cpu"
        )
    return device


def reason_of(error: Exception, experiment: Experiment) -> tuple[str, bool]:
    """What the driver is told of a loop's exception, and whether a retry would meet it again."""
    import torch

    text = one_line(error) if isinstance(error, OSError) else str(error)
    if isinstance(error, torch.OutOfMemoryError):
        evaluated = "; ".join(getattr(error, "__notes__", ()))
        remedy = _less_memory_of(evaluated, experiment) if evaluated else _less_memory(experiment)
        text = f"{opening(text, 3)}. {remedy}"
    final = isinstance(error, ValueError | torch.OutOfMemoryError)
    return f"{type(error).__name__}: {text}", final or getattr(error, "errno", None) in _LASTING


def _less_memory(experiment: Experiment) -> str:
    """The settings by which a training takes less of a GPU's memory."""
    crop, contrast = experiment.data.crop_size, experiment.contrast
    ways = [f"optim.batch_size (it is {experiment.optim.batch_size})", f"data.crop_size (it is {crop})"]
    if contrast.weight > 0 and contrast.uses_memory:
        if contrast.memory in ("pixel", "both"):
            ways.append("contrast.pixel_queue_size")
        if contrast.memory in ("region", "both"):
            ways.append("contrast.region_memory_size")
    lower = f"Lower {', '.join(ways[:-1])} or {ways[-1]}"
    return lower if experiment.run.precision == "bfloat16" else f"{lower}, or set run.precision to bfloat16"


def _less_memory_of(evaluated: str, experiment: Experiment) -> str:
    """What helps where an evaluation took a GPU's memory: batches and crops have no part in it."""
    precision = "" if experiment.run.precision == "bfloat16" else "set run.precision to bfloat16, "
    return f"{evaluated}: {precision}shrink the validation images as files, or take a GPU with more memory"


class _Rows:
    """Sends rank 0's rows to the driver, in order and each once.

    Not by ``ray.train.report``: its queue of one row is emptied every two seconds by the controller's poll,
    so a run that reports more often would wait for it.
    """

    def __init__(self, launcher: Any, *, first: bool):
        self._launcher, self._first, self._sent = launcher, first, None

    def __call__(self, row: Row) -> None:
        if self._first:
            # The launcher has several threads and keeps no order between calls: one at a time does.
            self.flush()
            self._sent = self._launcher.put.remote(Metrics(row))

    def flush(self) -> None:
        """Wait until the last row has arrived."""
        import ray

        if self._sent is not None:
            ray.get(self._sent)
            self._sent = None


class _Messages(logging.Handler):
    """Sends what the platform's loggers say to the driver: Ray deletes its log files with the instance."""

    def __init__(self, launcher: Any, rank: int):
        super().__init__(logging.INFO)
        self._launcher, self._rank = launcher, rank
        self._sent: list[Any] = []

    def emit(self, record: logging.LogRecord) -> None:
        import ray

        message = Message(self._rank, record.name, record.levelno, record.getMessage(), str(record.msg))
        if self._sent:  # Ray keeps what is referred to
            _, self._sent = ray.wait(self._sent, num_returns=len(self._sent), timeout=0)
        self._sent.append(self._launcher.put.remote(message))

    def flush(self) -> None:
        """Wait until all messages have arrived, but not for a launcher that does not answer."""
        import ray

        if self._sent:
            ray.wait(self._sent, num_returns=len(self._sent), timeout=_FLUSH_TIMEOUT_S)
            self._sent = []
