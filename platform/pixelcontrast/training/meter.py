"""The losses of the steps since the last row, and what is said where they are not finite."""

import logging
import math
import time
from collections import Counter

import torch
from torch import Tensor

from pixelcontrast import distributed
from pixelcontrast.config import Experiment
from pixelcontrast.runs.run_folder import Row
from pixelcontrast.training.batches import Batches
from pixelcontrast.training.state import TrainState
from pixelcontrast.training.step import Losses

MOST_SKIPPED = 10
"""Steps left out in a row that end the run."""

logger = logging.getLogger(__name__)


class Meter:
    """Every rank has one and calls it alike. Of a step that was kept nothing is looked at until ``read``."""

    def __init__(self, experiment: Experiment, state: TrainState, batches: Batches):
        self._optim = experiment.optim
        self._remedy = f"lower optim.lr (it is {self._optim.lr:g}) or set optim.clip_norm"
        self._state, self._batches = state, batches
        self._names: list[str] = []
        self.begin()

    def begin(self) -> None:
        """Forget the steps so far, and start the clock."""
        self._kept: dict[int, Tensor] = {}
        self._skipped, self._rate, self._since = 0, 0.0, time.perf_counter()
        self._gradients: Tensor | None = None
        self._batches.begin()

    @property
    def steps(self) -> int:
        """Added so far, also those that were left out."""
        return len(self._kept) + self._skipped

    def add(self, losses: Losses, rate: float) -> None:
        """Add the step that ``state.step`` counts as the last.

        Raises:
            ValueError: it was left out, as ``MOST_SKIPPED`` in a row now.
        """
        parts = {"loss": losses.total, "ce": losses.ce, "contrast": losses.contrast}
        parts |= {"auxiliary": losses.auxiliary, "gradient_norm": losses.gradient_norm}
        found = {name: part for name, part in parts.items() if part is not None}
        self._names = list(found)
        numbers = torch.stack(list(found.values())).to(torch.float64)
        self._rate = rate
        if losses.kept and losses.feature_gradients is not None:
            self._gradients = losses.feature_gradients
        if losses.kept:
            self._kept[self._state.step], self._state.skipped_in_row = numbers, 0
        else:
            self._skip(numbers)

    def read(self) -> Row:
        """Means over all ranks and the steps that were kept, None if none was; the last rate, the pace, and
        what loading cost.

        Raises:
            ValueError: a number is not finite; names the first such step.
        """
        means: list[float] | list[None] = [None] * len(self._names)
        if self._kept:
            steps = distributed.on_host(self._mean_over_ranks(torch.stack(list(self._kept.values()))))
            for step, numbers in zip(self._kept, steps.tolist(), strict=True):
                self._check_finite(step, numbers)
            means = steps.mean(dim=0).tolist()
        row: Row = dict(zip(self._names, means, strict=True))
        if self._optim.non_finite == "skip":
            row["skipped"] = self._skipped
        seconds = time.perf_counter() - self._since
        pace = self.steps * self._optim.batch_size / seconds
        row |= self._gradient_row() | {"lr": self._rate, "images_per_second": pace}
        return row | self._loading_row(seconds)

    def _loading_row(self, seconds: float) -> Row:
        """The share of the time in which the rank that waited most had no batch; replaced images."""
        ranks = distributed.gather_objects((self._batches.seconds_waited, self._batches.replaced))
        row: Row = {"data_wait_share": max(waited for waited, _ in ranks) / seconds}
        bad = sum((replaced for _, replaced in ranks), Counter[str]())
        return row | {"bad_samples": dict(bad)} if bad else row

    def _gradient_row(self) -> Row:
        """How the contrast's gradient on the features compares with the other losses', at the last step."""
        if self._gradients is None:
            return {}
        contrast, others, product = distributed.on_host(distributed.all_reduce(self._gradients)).tolist()
        norms = math.sqrt(contrast), math.sqrt(others)
        return {
            "gradient_ratio": norms[0] / norms[1] if norms[1] else None,
            "gradient_cosine": product / (norms[0] * norms[1]) if norms[0] * norms[1] else None,
        }

    def _mean_over_ranks(self, numbers: Tensor) -> Tensor:
        return distributed.all_reduce(numbers) / distributed.world_size()

    def _check_finite(self, step: int, numbers: list[float]) -> None:
        """From such weights no training comes back, and the same would happen again: no checkpoint of it."""
        if not all(map(math.isfinite, numbers)):
            raise ValueError(
                f"{self._describe(step, numbers)}: if these images are sound, the steps before were too "
                f"large, so {self._remedy}"
            )

    def _skip(self, numbers: Tensor) -> None:
        state = self._state
        self._skipped += 1
        state.skipped_in_row += 1
        what = self._describe(state.step, distributed.on_host(self._mean_over_ranks(numbers)).tolist())
        if state.skipped_in_row == MOST_SKIPPED:
            raise ValueError(
                f"{MOST_SKIPPED} steps in a row were left out, at last as {what}: if such images are sound, "
                f"{self._remedy}"
            )
        if distributed.rank() == 0:
            logger.warning("left out a step: %s", what)

    def _describe(self, step: int, numbers: list[float]) -> str:
        """What is not finite in a step counted from 1, and on which images."""
        found = dict(zip(self._names, numbers, strict=True))
        what = f"the loss of step {step} is {found['loss']:g}"
        if math.isfinite(found["loss"]):
            what += f" but the norm of its gradients {found['gradient_norm']:g}"
        return f"{what}, on {', '.join(self._batches.images_of(step - 1))}"
