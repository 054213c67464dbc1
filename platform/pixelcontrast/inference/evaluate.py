"""A trained network's scores on a split of a data set, by any protocol, in one or several processes."""

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, replace
from functools import lru_cache, partial
from pathlib import PurePosixPath
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from pixelcontrast.config import Data
from pixelcontrast.datasets.official import result_ids, result_name
from pixelcontrast.datasets.packing.staging import stage_pack
from pixelcontrast.datasets.parallel import in_processes
from pixelcontrast.datasets.segmentation import SegmentationSet, Split, build_dataset
from pixelcontrast.datasets.transforms import Normalization, eval_transform
from pixelcontrast.evaluation import (
    BoundaryIoU,
    ConfusionMatrix,
    Protocol,
    confusion_picture,
    result_file,
    scores,
)
from pixelcontrast.evaluation.summary import confusion_table, summarize
from pixelcontrast.inference.classes import check_classes
from pixelcontrast.inference.earlier import REMEDY, refuse_others
from pixelcontrast.inference.found import choose_step
from pixelcontrast.inference.metadata import Metadata
from pixelcontrast.inference.trained import TrainedModel, load_model
from pixelcontrast.storage import Storage

_RECORD = "evaluation.json"


@dataclass(frozen=True, kw_only=True)
class Job:
    """What is evaluated, and how."""

    location: str
    """As ``load_model``."""
    step: int | None = None
    data: Data
    split: Split = "val"
    protocol: Protocol = field(default_factory=Protocol)
    boundary_ratio: float = 0.02
    results: str | None = None
    """A folder or URI for a result file of every image; None: none are written."""
    device: str = "cpu"
    threads: int | None = None
    """That the operators use in each process; None: torch's own choice."""


@dataclass(frozen=True, kw_only=True)
class Evaluation:
    """What was counted."""

    job: Job
    metadata: Metadata
    num_images: int
    confusion: ConfusionMatrix
    boundary: BoundaryIoU

    def summary(self) -> dict[str, Any]:
        """Scores, and what they are of, as plain JSON values."""
        return {
            **summarize(self.metadata.classes, self.confusion, self.boundary),
            **origin(self.job, self.metadata),
            "images": self.num_images,
        }

    def write(self, folder: str) -> None:
        """Write evaluation.json, confusion.png and confusion.parquet; ``folder`` may be a URI."""
        storage, names, found = Storage(folder, option="--out"), self.metadata.classes, self.summary()
        miou = "no pixels" if found["miou"] is None else f"mIoU {100 * found['miou']:.1f} %"
        source = self.metadata.source
        title = f"{source.name}, step {source.step}, {self.job.split}: {miou}"
        storage.write(_RECORD, json.dumps(found, indent=2).encode())
        storage.write("confusion.png", confusion_picture(self.confusion.matrix.numpy(), names, title=title))
        storage.write("confusion.parquet", confusion_table(names, self.confusion))


def evaluate(
    job: Job, *, processes: int = 1, on_progress: Callable[[int, int], object] = lambda _done, _total: None
) -> Evaluation:
    """Evaluate a network; each image counts once, one image per process is in memory.

    The counts, and so the scores, do not depend on the number of processes.

    Args:
        job: what, and how.
        processes: that each load the network and take the next image; several on the CPU only.
        on_progress: called after every image with the images done and their number.

    Raises:
        ValueError: no such network or data, classes that are not the network's, a damaged file, or several
            processes on a GPU.
    """
    if processes > 1 and job.device != "cpu":
        raise ValueError(f"processes {processes}: allowed on the CPU; on a GPU give --processes 1")
    # Every process loads the network, and the run may be training: they must not each take its newest.
    job = replace(job, step=choose_step(job.location, job.step))
    try:
        loaded = _load(job)
        names, num_images = loaded.model.classes, len(loaded.dataset)
        check_classes(names, loaded.dataset.labels.names, job.data)
        confusion, boundary = ConfusionMatrix(len(names)), BoundaryIoU(len(names), job.boundary_ratio)
        work = partial(_evaluate_image, job)
        for done, counts in enumerate(in_processes(work, range(num_images), processes=processes), start=1):
            confusion.matrix += torch.from_numpy(counts.confusion)
            boundary.counts += torch.from_numpy(counts.boundary)
            on_progress(done, num_images)
    finally:
        _load.cache_clear()
    return Evaluation(
        job=job,
        metadata=loaded.model.metadata,
        num_images=num_images,
        confusion=confusion,
        boundary=boundary,
    )


def origin(job: Job, metadata: Metadata) -> dict[str, Any]:
    """What an evaluation is of, as plain JSON values: network, data and protocol."""
    return {
        "network": asdict(metadata.source),
        "data": {"layout": job.data.layout, "root": job.data.root, "split": job.split},
        "protocol": {"text": str(job.protocol), **asdict(job.protocol)},
        "boundary_ratio": job.boundary_ratio,
    }


@contextmanager
def held_out(out: str, job: Job, metadata: Metadata) -> Iterator[None]:
    """Hold the folder or URI that an evaluation inside writes to; the same one may be repeated.

    ``evaluation.json`` says from the start what is evaluated, so that of two at once the other is refused; if
    the evaluation fails, it is removed again.

    Raises:
        ValueError: another network's, protocol's or data's evaluation lies there or is running, or result
            files that would stay beside the new scores; names what differs. Or nothing can be written there,
            which would otherwise be found when all images are evaluated.
    """
    folder, mine = Storage(out, option="--out"), origin(job, metadata)
    folder.check_writable()
    refuse_others(folder, _RECORD, mine | {"protocol": asdict(job.protocol)})
    _refuse_stale_results(out, job)
    begun = not folder.exists(_RECORD)
    if begun:
        folder.write(_RECORD, json.dumps(mine, indent=2).encode())
    try:
        yield
    except BaseException:
        if begun:
            folder.delete(_RECORD)
        raise


def _refuse_stale_results(out: str, job: Job) -> None:
    results = Storage(results_folder(out), option="--out")
    stale = {name for name in results.sizes() if not PurePosixPath(name).name.startswith(".")}
    if stale and job.results is not None:
        dataset = build_dataset(stage_pack(job.data), job.split)
        stale -= {result_name(job.data.layout, dataset.name(index)) for index in range(len(dataset))}
    if stale:
        raise ValueError(
            f"--out {out}: {results.location} holds result files that this evaluation does not write, such "
            f"as {min(stale)}; repeat it with --official, {REMEDY}"
        )


def results_folder(out: str) -> str:
    """Where result files go when an evaluation is written to ``out``; a URI keeps its options."""
    return (Storage(out, option="--out") / "results").location


class _Loaded(NamedTuple):
    model: TrainedModel
    dataset: SegmentationSet


class _Counts(NamedTuple):
    """Counts of one image; arrays, since tensors between processes go through shared memory files."""

    confusion: NDArray[np.int64]
    boundary: NDArray[np.int64]


@lru_cache(maxsize=1)  # once in each process
def _load(job: Job) -> _Loaded:
    if job.threads is not None:
        torch.set_num_threads(job.threads)
    model = load_model(job.location, job.step).to(job.device)
    return _Loaded(model, build_dataset(stage_pack(job.data), job.split))


@torch.inference_mode()
def _evaluate_image(job: Job, index: int) -> _Counts:
    model, dataset = _load(job)
    image, label = eval_transform(*dataset.read(index), Normalization(model.mean, model.std))
    averaged = scores(lambda images: model(images).logits, image[None].to(job.device), job.protocol)
    prediction = averaged.argmax(dim=1)[0].cpu()
    if job.results is not None:
        _write_result(job, dataset, index, prediction)
    confusion = ConfusionMatrix(dataset.labels.num_classes)
    confusion.update(prediction, label)
    boundary = BoundaryIoU(dataset.labels.num_classes, job.boundary_ratio)
    boundary.update(prediction, label)
    return _Counts(confusion.matrix.numpy(), boundary.counts.numpy())


def _write_result(job: Job, dataset: SegmentationSet, index: int, prediction: Tensor) -> None:
    assert job.results is not None
    content = result_file(prediction, result_ids(job.data.layout, dataset))
    Storage(job.results).write(result_name(job.data.layout, dataset.name(index)), content)
