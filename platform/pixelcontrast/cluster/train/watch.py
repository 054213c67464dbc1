"""Time limits of a launch, and which workers hang, judged by their heartbeats. Imports no Ray."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from pixelcontrast.cluster.train.events import Beat
from pixelcontrast.config import Run

_PAUSE_S = 10.0
"""If two looks are further apart than this, this process or the whole machine was paused."""


@dataclass(frozen=True, kw_only=True)
class Bounds:
    """Time limits of a launch, in seconds.

    Attributes:
        placement_s: until the workers have a place, at the start or after a failure.
        placement_attempt_s: of one attempt of Ray's to place them; an elastic run then starts with fewer.
        silent_s: without a heartbeat; then the worker is stopped, or its machine is out of reach.
        still_s: a worker without progress may keep the others waiting, or stay at one place.
        alone_s: the same for a worker without others. It keeps nobody waiting, so that a step may be as long
            as a large batch on a CPU takes. What hangs all the same, such as a loader on a dead network disk,
            would else hold its machine until somebody looks.
        storage_s: a call of the storage, such as the upload of a checkpoint's file, may keep others waiting.
        resize_s: between two looks for room for more workers.
        stop_s: until the workers have written the checkpoint that they are asked for.
    """

    placement_s: float = 600.0
    placement_attempt_s: float = 60.0
    silent_s: float = 60.0
    still_s: float = 300.0
    alone_s: float = 3600.0
    storage_s: float = 3600.0
    resize_s: float = 30.0
    stop_s: float = 120.0


def usual_bounds(run: Run) -> Bounds:
    """The limits of a run; it waits for a place as long as for nodes that an autoscaler starts."""
    return Bounds(placement_s=max(Bounds.placement_s, run.node_timeout))


class Watch:
    """Watches the workers of one start."""

    def __init__(self, bounds: Bounds):
        self._bounds = bounds
        self._beats: dict[int, tuple[float, Beat]] = {}
        self._ranks: set[int] = set()
        """All that ever gave a sign of life: who is left behind by the others is not without others."""
        self._looked_at: float | None = None
        self._excused_at: float | None = None
        """When a worker was last seen copying data to its machine, or reading or writing the run's files."""

    def beat(self, rank: int, beat: Beat, now: float) -> None:
        """Take a heartbeat; ``now`` is a monotonic time in seconds."""
        self._beats[rank] = (now, beat)
        self._ranks.add(rank)

    def left(self, rank: int) -> None:
        """The worker's loop has ended."""
        self._beats.pop(rank, None)

    def hanging(self, now: float) -> dict[int, str]:
        """Rank → what is wrong, for each worker that must be ended so that the others can continue."""
        self._forgive_pause(now)
        silent = {
            rank: f"worker {rank} gave no sign of life for {now - heard:.0f} seconds; it was at {beat.place}"
            for rank, (heard, beat) in self._beats.items()
            if now - heard > self._bounds.silent_s
        }
        return silent or self._still(now)

    def _still(self, now: float) -> dict[int, str]:
        beats = {rank: beat for rank, (_, beat) in sorted(self._beats.items())}
        storing = {rank: beat.since_s for rank, beat in beats.items() if beat.storing}
        overdue = [rank for rank, since_s in storing.items() if since_s > self._bounds.storage_s]
        if overdue:
            return _named(overdue, beats, max(storing.values()))
        if storing or any(beat.staging for beat in beats.values()):
            self._excused_at = now
        longest = max((beat.since_s for beat in beats.values()), default=0.0)
        if self._excused_at is not None:  # nobody is to blame for waiting until the files are there
            longest = min(longest, now - self._excused_at)
        bound = self._bounds.alone_s if len(self._ranks) == 1 else self._bounds.still_s
        if longest <= bound:
            return {}
        stuck = [rank for rank, beat in beats.items() if beat.idle_s > bound]
        # A worker that waits for others is not to blame, unless all wait and none makes progress.
        to_blame = [rank for rank in stuck if not beats[rank].waiting]
        if len(stuck) == len(beats):
            to_blame = to_blame or stuck
        return _named(to_blame, beats, longest)

    def _forgive_pause(self, now: float) -> None:
        """Move the last beats forward by a pause of this process, in which it heard nothing."""
        if self._looked_at is not None and now - self._looked_at > _PAUSE_S:
            pause = now - self._looked_at
            self._beats = {rank: (heard + pause, beat) for rank, (heard, beat) in self._beats.items()}
        self._looked_at = now


def _named(to_blame: Sequence[int], beats: Mapping[int, Beat], seconds: float) -> dict[int, str]:
    waiting = [f"; worker {rank} waits at {beats[rank].place}" for rank in beats if rank not in to_blame]
    return {
        rank: f"worker {rank} is at {beats[rank].place} for {seconds:.0f} seconds" + "".join(waiting)
        for rank in to_blame
    }
