"""What happens between steps: reports, evaluations, checkpoints, and taking a run up again."""

import json
import logging
import time
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Self

import torch

from pixelcontrast import config, distributed
from pixelcontrast.config import Experiment
from pixelcontrast.datasets.segmentation import SegmentationSet
from pixelcontrast.runs import checkpoint, provenance
from pixelcontrast.runs.run_folder import Row, open_storage, read_attempts
from pixelcontrast.training import checkpointing, origin
from pixelcontrast.training.evaluate import draw_overlays, evaluate
from pixelcontrast.training.health import EmbeddingWatch
from pixelcontrast.training.meter import Meter
from pixelcontrast.training.run_log import RunLog
from pixelcontrast.training.state import TrainState
from pixelcontrast.training.step import Losses

logger = logging.getLogger(__name__)


class Recorder:
    """Restores ``state`` from the run's newest valid checkpoint, and then keeps the run's folder.

    Every rank has one and calls it alike; only rank 0 writes, but for other ranks' parts of a checkpoint.

    Raises:
        ValueError: the checkpoint was trained on another list of images.
        CheckpointError: checkpoints exist and all are damaged.
    """

    def __init__(
        self,
        experiment: Experiment,
        state: TrainState,
        train_set: SegmentationSet,
        val_set: SegmentationSet,
        *,
        device: torch.device,
        autocast: torch.dtype | None,
        report: Callable[[Row], None],
    ):
        self._experiment, self._state, self._val_set = experiment, state, val_set
        self._device, self._autocast, self._report_row = device, autocast, report
        self._provenance = origin.collect(experiment, device=device)
        self._provenance["data"] = {"train": train_set.fingerprint, "val": val_set.fingerprint}
        self._provenance["images"] = {"train": len(train_set), "val": len(val_set)}
        self._changed: dict[str, tuple[object, object]] = {}
        self._run = open_storage(experiment)
        skipped = self._restore()
        self._saved = state.step
        self._attempt = distributed.broadcast_object(len(read_attempts(self._run)) + 1)
        self._provenance["attempt"] = self._attempt
        self._log: RunLog | None = None
        if distributed.rank() == 0:
            self._log = RunLog(
                self._run, experiment, step=state.step, attempt=self._describe_attempt(skipped)
            )
        earlier = distributed.broadcast_object(self._log.rows if self._log else None)
        self._watch = EmbeddingWatch(experiment, earlier)
        self._meter = Meter(experiment, state, train_set)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if self._log:
            self._log.close()

    def after_step(self, losses: Losses, rate: float) -> None:
        """Do what is due after a step; call it on every rank after every step.

        The training row comes first, so that a checkpoint never cuts an average in two, and nothing is
        evaluated or saved after numbers that are not finite.

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
            self._evaluate()
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
        if self._log:
            evaluation = self._log.last("eval")
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
            self._log.finish(result)
        distributed.barrier()

    def _restore(self) -> list[str]:
        """Take the newest valid checkpoint, as rank 0 sees it; returns why newer ones were skipped."""
        found: tuple[str | None, list[str]] = (None, [])
        if distributed.rank() == 0:
            found = checkpoint.newest_valid(self._run)
            for reason in found[1]:
                logger.warning("skipped a checkpoint: %s", reason)
        name, skipped = distributed.broadcast_object(found)
        if name is not None:
            parts = checkpoint.load(self._run, name)
            before = json.loads(parts["provenance.json"])
            self._check_same_data(before["data"])
            self._state.restore(parts)
            self._changed = provenance.differences(before, self._provenance)
            if distributed.rank() == 0:
                logger.info("resuming from %s", name)
                self._warn_of_changes()
        return skipped

    def _warn_of_changes(self) -> None:
        changes = [f"{name} was {old} and is now {new}" for name, (old, new) in self._changed.items()]
        if changes:
            logger.warning(
                "the checkpoint was written under other conditions: %s. The run continues, but may not "
                "end with the bits of one that was never interrupted",
                "; ".join(changes),
            )

    def _check_same_data(self, fingerprints: dict[str, str]) -> None:
        """``data.root`` may have moved, but positions in the sample stream must mean the same images."""
        for split, fingerprint in self._provenance["data"].items():
            if fingerprint != fingerprints[split]:
                data, run = self._experiment.data, self._experiment.run
                raise ValueError(
                    f"data.root {data.root}: the {split} images are not those that run {run.name} began "
                    "with; restore them, or choose another --run.name"
                )

    def _describe_attempt(self, skipped: list[str]) -> Row:
        settings = config.flatten(self._experiment)
        return {
            "attempt": self._attempt,
            "started": datetime.now(UTC).isoformat(timespec="seconds"),
            "from_step": self._state.step,
            "skipped_checkpoints": skipped,
            "changed": self._changed,
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
        row: Row = contrast.diagnostics.read()
        row["class_gap"] = dict(zip(self._val_set.labels.names, row["class_gap"], strict=True))
        return row | {"memory_age": contrast.memory.mean_age(int(contrast.steps))}

    def _warnings(self, row: Row) -> Row:
        """What is wrong with the embedding and was not reported before; rank 0 also logs it."""
        found = self._watch.look(row)
        if distributed.rank() == 0:
            for line in found.values():
                logger.warning("%s", line)
        return {"warnings": found} if found else {}

    def _evaluate(self) -> None:
        self._state.check_finite()
        scores, confusion = evaluate(
            self._state.model,
            self._val_set,
            device=self._device,
            loader_processes=self._experiment.data.loader_processes,
            autocast=self._autocast,
        )
        if scores["miou"] > self._state.best_miou:
            self._state.best_step, self._state.best_miou = self._state.step, scores["miou"]
        if distributed.rank() == 0:
            picture = draw_overlays(self._state.model, self._val_set, device=self._device)
            self._run.write(f"overlays/step-{self._state.step:08d}.png", picture)
            self._run.write("confusion.json", json.dumps({"step": self._state.step} | confusion).encode())
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
        row |= {"attempt": self._attempt, "time": time.time()}
        if self._log:
            self._log.add(row)
        self._report_row(row)

    def _save(self) -> None:
        self._state.check_finite()
        checkpointing.save(self._run, self._state.step, self._parts())
        self._saved = self._state.step
        if distributed.rank() == 0:
            checkpoint.prune(
                self._run,
                step=self._state.step,
                best_step=self._state.best_step,
                keep_newest=self._experiment.run.keep_checkpoints,
            )

    def _parts(self) -> dict[str, bytes]:
        """What this rank writes into a checkpoint: rank 0 all that is equal on every rank."""
        parts = self._state.to_parts()
        if distributed.rank() != 0:
            return parts
        return parts | {
            "experiment.json": config.to_json(self._experiment).encode(),
            "provenance.json": json.dumps(self._provenance, indent=2).encode(),
        }


def _or_none(value: float) -> float | None:
    """JSON has no NaN."""
    return None if value != value else value
