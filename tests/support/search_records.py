"""Records of searches that nobody has run."""

from typing import Any

from pixelcontrast import Experiment
from pixelcontrast.runs.search_record import SearchRecord, TrialRecord
from pixelcontrast.storage import Storage

ARMS = {"ce": {"contrast.weight": 0.0}, "cool": {"contrast.temperature": 0.07}}


def trial(number: int, values: tuple[float, ...], miou: float, **more: Any) -> TrialRecord:
    """A complete one."""
    summary = {"last_miou": miou, "seconds_per_step": 0.5, "checkpoint": "checkpoints/step-00000004"}
    given: dict[str, Any] = {"arm": None, "seed": None, "iou": {}, "overrides": {}, "curve": ()} | more
    return TrialRecord(
        number=number,
        run=f"trial-{number:04}",
        state="COMPLETE",
        is_baseline=False,
        values=values,
        summary=summary,
        ended=None,
        attempt={},
        error="",
        frozen=None,
        **given,
    )


def record(experiment: Experiment, trials: list[TrialRecord], objectives: tuple[str, ...]) -> SearchRecord:
    return SearchRecord(
        name="street-search",
        storage=Storage("/runs/street-search"),
        kind="arms" if trials[0].arm else "space",
        program="streets.py",
        experiment=experiment,
        space={},
        arms=ARMS if trials[0].arm else {},
        objectives=objectives,
        study=None,
        trials=tuple(trials),
    )
