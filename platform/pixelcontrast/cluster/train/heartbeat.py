"""A worker's sign of life: it tells the launcher where its loop is, and learns whether to stop."""

import sys
import threading
import time
from pathlib import Path
from types import FrameType
from typing import Any, Self

from pixelcontrast.cluster.train.events import Beat, LoopEnded

INTERVAL_S = 1.0
_ANSWER_TIMEOUT_S = 30.0
_PACKAGE = str(Path(__file__).parents[2])
_WAITING = (
    *("torch/distributed/", "torch/autograd/graph.py", "pixelcontrast/distributed.py"),
    "torch/nn/modules/_functions.py",
)
"""Files in which a loop waits for other ranks: in a collective, in DDP's within the backward pass, in torch's
SyncBatchNorm, or, on a GPU, where a value is read that a collective gives."""
_STAGING = "pixelcontrast/datasets/packing/staging.py"
"""Where data are copied to this machine, or a worker beside it is waited for that copies them."""

_STORING = "pixelcontrast/storage.py"
"""Where files of the run are read and written."""


class Heartbeat:
    """Sends a beat per second from its own thread while inside; construct it in the thread of the loop.

    Attributes:
        stop: the driver wants the training to stop.
    """

    stop = False

    def __init__(self, launcher: Any, *, rank: int, worker: str):
        self._launcher, self._rank, self._worker = launcher, rank, worker
        self._loop, self._ended = threading.get_ident(), threading.Event()
        self._stack: tuple[Any, ...] = ()
        self._since = self._advanced = time.monotonic()
        self._thread = threading.Thread(target=self._run, name="heartbeat", daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        self._launcher.put.remote(LoopEnded(self._rank, self._worker))

    def ask(self) -> bool:
        """Whether to stop. The loop asks before every step and after every image that it evaluates: that
        it asks is how its progress is seen, as a loop that waits mostly at one line is seen only there."""
        self._advanced = time.monotonic()
        return self.stop

    def _run(self) -> None:
        import ray
        from ray.exceptions import GetTimeoutError, RayError

        while not self._ended.wait(INTERVAL_S):
            try:
                answer = self._launcher.beat.remote(self._rank, self._look())
                self.stop = bool(ray.get(answer, timeout=_ANSWER_TIMEOUT_S))
            except GetTimeoutError:
                continue
            except RayError:  # the launcher is gone, and so will be this process
                return

    def _look(self) -> Beat:
        frames = list(_frames(sys._current_frames().get(self._loop)))
        stack = tuple((frame.f_code, frame.f_lineno) for frame in frames)
        now = time.monotonic()
        if stack != self._stack:
            self._stack, self._since = stack, now
        advanced = self._advanced
        return Beat(
            self._worker,
            _place(frames),
            waiting=_waiting(frames),
            since_s=max(now - max(self._since, advanced), 0.0),
            idle_s=max(now - advanced, 0.0),
            staging=_within(_STAGING, frames),
            storing=_within(_STORING, frames),
        )


def _frames(frame: FrameType | None) -> Any:
    while frame is not None:
        yield frame
        frame = frame.f_back


def _place(frames: list[FrameType]) -> str:
    if not frames:
        return "its end"
    ours = next((frame for frame in frames if frame.f_code.co_filename.startswith(_PACKAGE)), frames[0])
    return _name(ours) if ours is frames[0] else f"{_name(ours)} (in {_name(frames[0])})"


def _name(frame: FrameType) -> str:
    file = "/".join(Path(frame.f_code.co_filename).parts[-2:])
    return f"{file}:{frame.f_lineno} {frame.f_code.co_name}"


def _within(file: str, frames: list[FrameType]) -> bool:
    return any(frame.f_code.co_filename.endswith(file) for frame in frames)


def _waiting(frames: list[FrameType]) -> bool:
    return bool(frames) and any(name in frames[0].f_code.co_filename for name in _WAITING)
