"""What happens between steps: reports, evaluations, checkpoints."""

import json
import logging
import time
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Self

import torch

from pixelcontrast import config, distributed
from pixelcontrast.config import Experiment
from pixelcontrast.datasets.segmentation import SegmentationSet
from pixelcontrast.runs import checkpoint
from pixelcontrast.runs.launch_mark import Mark, check_ours, why_lost
from pixelcontrast.runs.run_folder import CONFUSION, Row, next_attempt, open_storage
from pixelcontrast.training.batches import Batches
from pixelcontrast.training.checkpointing import Resumed, on_every_rank, save
from pixelcontrast.training.evaluate import draw_overlays, evaluate
from pixelcontrast.training.health import EmbeddingWatch
from pixelcontrast.training.meter import Meter
from pixelcontrast.training.run_log import RunLog
from pixelcontrast.training.state import TrainState
from pixelcontrast.training.step import Losses, autocast_dtype

logger = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class Attempt:
    """A start of the workers.

    Attributes:
        origin: what ``training.origin`` says of it.
        resumed: from where.
        device: of this rank.
        mark: what the run's driver has left in its folder; None where nobody else can take the run.
    """

    origin: Mapping[str, Any]
    resumed: Resumed
    device: torch.device
    mark: Mark | None = None


class Recorder:
    """Keeps the folder of a run that begins, or was resumed, at ``state.step``.

    Every rank has one and calls it alike; only rank 0 writes, but for other ranks' parts of a checkpoint.
    Where another driver has taken the run over, every rank raises ``ValueError`` and nothing more is written.

    Args:
        batches: the training's.
        attempt: that this is.
        report: called on every rank with every row of metrics.
    """

    def __init__(
        self,
        experiment: Experiment,
        state: TrainState,
        batches: Batches,
        val_set: SegmentationSet,
        *,
        attempt: Attempt,
        report: Callable[[Row], None],
    ):
        self._experiment, self._state, self._val_set = experiment, state, val_set
        self._device, self._report_row = attempt.device, report
        self._run, self._saved = open_storage(experiment), state.step
        self._damaged, self._mark = set(attempt.resumed.skipped), attempt.mark
        self._check_ours()
        self._attempt = distributed.broadcast_object(next_attempt(self._run))
        self._provenance = {**attempt.origin, "attempt": self._attempt}
        self._log: RunLog | None = None
        if distributed.rank() == 0:
            row = self._describe_attempt(attempt.resumed)
            self._log = RunLog(
                self._run, experiment, step=state.step, attempt=row, check_ours=self._check_mark
            )
        earlier = distributed.broadcast_object(self._log.rows if self._log else None)
        self._watch = EmbeddingWatch(experiment, earlier)
        self._meter = Meter(experiment, state, batches)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if self._log:
            self._log.close()

    def after_step(self, losses: Losses, rate: float, *, on_image: Callable[[], object]) -> None:
        """Do what is due after a step; call it on every rank after every step.

        The training row comes first, so that a checkpoint never cuts an average in two, and nothing is
        evaluated or saved after numbers that are not finite.

        Args:
            losses: of the step.
            rate: the step's learning rate.
            on_image: called after every image that this rank evaluates.

        Raises:
            ValueError: numbers that are not finite, naming the first such step and its images.
        """
        step, run = self._state.step, self._experiment.run
        self._meter.add(losses, rate)
        last = step == self._experiment.optim.steps
        evaluating = last or step % run.eval_interval == 0
        saving = last or step % run.checkpoint_interval == 0
        reporting = evaluating or saving or step % run.report_interval == 0
        if reporting:
            self._record(self._training_row())
        if evaluating:
            self._evaluate(on_image)
            saving |= self._state.best_step == step
        if saving:
            self._save()
        if reporting:
            self._meter.begin()  # last, so that its clock leaves out evaluation and saving

    def stop(self) -> None:
        """Leave a checkpoint of the last step, so that no step is lost; call it on every rank."""
        if self._meter.steps:
            self._record(self._training_row())
        if self._saved != self._state.step:
            self._save()

    def finish(self) -> None:
        """After the last step, also of an earlier attempt: write the table of metrics and the result, which
        marks the run as finished. Call it on every rank."""
        state = self._state
        self._check_ours()
        if self._log:
            evaluation = self._log.evaluation(state.step)
            result = {
                "name": self._experiment.run.name,
                "step": state.step,
                **{key: evaluation[key] for key in ("miou", "pixel_accuracy", "iou")},
                "best": {"step": state.best_step, "miou": state.best_miou},
                "checkpoint": checkpoint.folder_of(state.step),
                "best_checkpoint": checkpoint.folder_of(state.best_step),
                "overlays": f"overlays/step-{state.step:08d}.png",
                "attempts": self._attempt,
                "provenance": self._provenance,
            }
            bad = _bad_samples(self._log.rows)  # also of an attempt that skipped them before this one
            if bad or self._experiment.data.on_bad_sample == "skip":
                result["bad_samples"] = bad
            self._log.finish(result)
        distributed.barrier()

    def _describe_attempt(self, resumed: Resumed) -> Row:
        settings = config.flatten(self._experiment)
        return {
            "attempt": self._attempt,
            "started": datetime.now(UTC).isoformat(timespec="seconds"),
            "from_step": self._state.step,
            "skipped_checkpoints": list(resumed.skipped.values()),
            "changed": resumed.changed,
            "placement": {key: settings[key] for key in sorted(config.PLACEMENT)},
            **self._provenance,
        }

    def _training_row(self) -> Row:
        """The means since the last row."""
        steps = {"step": self._state.step, "steps": self._experiment.optim.steps}
        row = {"kind": "train", **steps, **self._meter.read(), **self._embedding_row()}
        return row | self._warnings(row)

    def _embedding_row(self) -> Row:
        """The health of the embedding since the last row, and the memory's age in steps."""
        contrast = self._state.contrast
        if contrast is None:
            return {}
        row: Row = contrast.diagnostics.read(contrast.memory, int(contrast.steps))
        row["class_gap"] = dict(zip(self._val_set.labels.names, row["class_gap"], strict=True))
        return row | {"memory_age": contrast.memory.mean_age(int(contrast.steps))}

    def _warnings(self, row: Row) -> Row:
        """What is wrong with the embedding and was not reported before; rank 0 also logs it."""
        found = self._watch.look(row)
        if distributed.rank() == 0:
            for line in found.values():
                logger.warning("%s", line)
        return {"warnings": found} if found else {}

    def _evaluate(self, on_image: Callable[[], object]) -> None:
        self._state.check_finite()
        model, device, autocast = self._state.model, self._device, autocast_dtype(self._experiment.run)
        processes = self._experiment.data.loader_processes
        scores, confusion = evaluate(
            model,
            self._val_set,
            device=device,
            loader_processes=processes,
            autocast=autocast,
            on_image=on_image,
        )
        self._check_ours()
        if scores["miou"] > self._state.best_miou:
            self._state.best_step, self._state.best_miou = self._state.step, scores["miou"]
        if distributed.rank() == 0:
            picture = draw_overlays(model, self._val_set, device=device, autocast=autocast)
            self._run.write(f"overlays/step-{self._state.step:08d}.png", picture)
            if self._log:
                self._log.add_picture("overlays", picture, self._state.step)
            self._run.write(CONFUSION, json.dumps({"step": self._state.step} | confusion).encode())
        row = {"kind": "eval", "step": self._state.step, "steps": self._experiment.optim.steps}
        self._record(row | scores | self._memory_row())

    def _memory_row(self) -> Row:
        """What the memory holds of every class, by the class's name."""
        if self._state.contrast is None:
            return {}
        contrast, names = self._state.contrast, self._val_set.labels.names
        state = contrast.memory.state_of_classes(int(contrast.steps))
        return {
            key: {name: _or_none(value) for name, value in zip(names, values, strict=True)}
            for key, values in state.items()
        }

    def _record(self, row: Row) -> None:
        self._check_ours()
        row |= {"attempt": self._attempt, "time": time.time()}
        if self._log:
            self._log.add(row)
        self._report_row(row)

    def _save(self) -> None:
        self._state.check_finite()
        self._check_ours()
        if self._log:
            self._log.upload()
        save(self._run, self._state.step, self._parts(), check_ours=self._check_mark)
        self._saved = self._state.step
        self._damaged.discard(checkpoint.folder_of(self._saved))  # it has just been replaced
        self._check_ours()
        if distributed.rank() == 0:
            checkpoint.prune(
                self._run,
                step=self._state.step,
                best_step=self._state.best_step,
                keep_newest=self._experiment.run.keep_checkpoints,
                damaged=self._damaged,
            )

    def _check_ours(self) -> None:
        """End the training, on every rank alike, where another driver has taken the run over."""
        if (mark := self._mark) is not None:
            looks = distributed.rank() == 0
            if lost := on_every_rank(lambda: why_lost(self._run, mark) if looks else None)[0]:
                raise ValueError(lost)

    def _check_mark(self) -> None:
        """Likewise on rank 0 alone, in what it does while the others wait."""
        if self._mark is not None:
            check_ours(self._run, self._mark)

    def _parts(self) -> dict[str, bytes]:
        """What this rank writes into a checkpoint: rank 0 all that is equal on every rank."""
        parts = self._state.to_parts()
        if distributed.rank() != 0:
            return parts
        return parts | {
            "experiment.json": config.to_json(self._experiment).encode(),
            "provenance.json": json.dumps(self._provenance, indent=2).encode(),
        }


def _bad_samples(rows: list[Row]) -> dict[str, int]:
    """Image that could not be read → times that another took its place."""
    return dict(sum((Counter(row.get("bad_samples", {})) for row in rows), Counter[str]()))


def _or_none(value: float) -> float | None:
    """JSON has no NaN."""
    return None if value != value else value
