"""What a run came to, from its rows: of a finished run, one stopped early, or one that failed."""

import statistics
from datetime import datetime
from typing import Any

from pixelcontrast.runs.run_folder import Row

_EMBEDDING = ("gap", "mean_embedding_norm")


def summarize(rows: list[Row], attempts: list[Row], *, batch_size: int) -> dict[str, Any]:
    """Plain JSON values; those that a run has no rows for yet are missing.

    ``steps`` trained; ``last_miou``; ``best_miou`` with its ``best_step`` and, of each class that has one,
    ``iou/<class>``; ``seconds_per_step``, the median over the training rows; ``seconds`` from the workers'
    starts to their last rows; ``worker_seconds``, these times the workers; ``started``, seconds since the
    epoch; ``checkpoint``, the best; ``overlays``, the last; ``attempts``; with contrast, ``gap`` and
    ``mean_embedding_norm`` of the last training row that has them.
    """
    trained = [row for row in rows if row["kind"] == "train"]
    evaluated = [row for row in rows if row["kind"] == "eval"]
    found: dict[str, Any] = {"attempts": len(attempts), **_times(rows, attempts)}
    if trained:
        found["steps"] = trained[-1]["step"]
        found["seconds_per_step"] = batch_size / statistics.median(
            row["images_per_second"] for row in trained
        )
        found |= {key: row[key] for row in trained for key in _EMBEDDING if row.get(key) is not None}
    if evaluated:
        best = max(evaluated, key=lambda row: row["miou"])
        found |= {"best_miou": best["miou"], "best_step": best["step"]}
        found |= {f"iou/{name}": iou for name, iou in best["iou"].items() if iou is not None}
        found["last_miou"] = evaluated[-1]["miou"]
        found["overlays"] = f"overlays/step-{evaluated[-1]['step']:08d}.png"
        found["checkpoint"] = f"checkpoints/step-{best['step']:08d}"
    return found


def started_at(attempt: Row) -> float:
    """When an attempt began, in seconds since the epoch."""
    return datetime.fromisoformat(attempt["started"]).timestamp()


def _times(rows: list[Row], attempts: list[Row]) -> dict[str, float]:
    """Work that was lost has no rows any more, and is not counted."""
    seconds = worker_seconds = 0.0
    for attempt in attempts:
        last = max((row["time"] for row in rows if row["attempt"] == attempt["attempt"]), default=None)
        if last is not None:
            took = max(last - started_at(attempt), 0.0)
            seconds += took
            worker_seconds += took * attempt["world_size"]
    if not attempts:
        return {}
    return {"seconds": seconds, "worker_seconds": worker_seconds, "started": started_at(attempts[0])}
