"""Whether two runs are one: in all that they reported, and in what they ended with, to the bit."""

from typing import Any

from pixelcontrast import Experiment
from pixelcontrast.runs import checkpoint
from pixelcontrast.runs.run_folder import open_storage, read_rows

_OF_THE_RUN = {"experiment.json", "provenance.json"}


def learnt(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Rows without what depends on the clock and on how often the run was started."""
    clock = ("images_per_second", "data_wait_share", "attempt", "time")
    return [{key: value for key, value in row.items() if key not in clock} for row in rows]


def differing_parts(settings: Experiment, reference: Experiment, *, step: int | None = None) -> list[str]:
    """Names of the last (or that step's) checkpoint's parts that are not the same bytes in both runs.

    Names only: pytest would spend minutes on showing how two files of weights differ.
    """
    name = checkpoint.folder_of(settings.optim.steps if step is None else step)
    ours, theirs = (checkpoint.load(open_storage(which), name) for which in (settings, reference))
    parts = (ours.keys() | theirs.keys()) - _OF_THE_RUN
    return sorted(part for part in parts if ours.get(part) != theirs.get(part))


def assert_same_run(settings: Experiment, reference: Experiment) -> None:
    """All reported at any step, and weights, BatchNorm, optimiser and memory at the end, to the bit."""
    rows, expected = (learnt(read_rows(open_storage(which))) for which in (settings, reference))
    assert rows == expected
    assert differing_parts(settings, reference) == []
