"""The command ``pixelcontrast evaluate``: a trained network's scores on a split of a data set."""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Literal

import tyro
from rich.table import Table

from pixelcontrast.cli.progress import progress
from pixelcontrast.cli.terminal import check_least, failures_told, refuse
from pixelcontrast.config import ClassOrder, Data, Layout, absolute_path
from pixelcontrast.console import PlainConsole
from pixelcontrast.words import count, percent

if TYPE_CHECKING:
    from pixelcontrast.inference.evaluate import Evaluation, Job
    from pixelcontrast.inference.metadata import Metadata

_Run = Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="RUN_OR_FILE")]


@dataclass(frozen=True, kw_only=True)
class DataOptions:
    """The data set; what is unset is as in training."""

    layout: Layout | None = None
    """How its files and labels are laid out."""
    root: str | None = None
    """The data set's folder."""
    class_order: ClassOrder | None = None
    """PASCAL-Context only: the order of its classes."""


@dataclass(frozen=True, kw_only=True)
class ProtocolOptions:
    """How the network sees an image; unless changed whole, once."""

    window: tuple[int, int] | None = None
    """Height and width of a sliding window; unset: the whole image."""
    stride: tuple[int, int] | None = None
    """Rows and columns from one window to the next; unset: two thirds of the window. The last window ends
    with the image; logits are averaged where windows overlap."""
    scales: tuple[float, ...] = (1.0,)
    """Factors to resize the image by; the results are averaged. mmsegmentation has 0.5 0.75 1.0 1.25 1.5
    1.75."""
    flip: bool = False
    """Average each scale with the mirrored image."""
    average: Literal["logits", "probabilities"] = "probabilities"
    """What is averaged over scales and flip: probabilities as in mmsegmentation, or logits as in the method's
    reference. It can change which class wins: name it beside the result."""


def evaluate(
    run: _Run,
    data: DataOptions = DataOptions(),
    protocol: ProtocolOptions = ProtocolOptions(),
    split: Literal["train", "val", "test"] = "val",
    boundary_ratio: float = 0.02,
    official: bool = False,
    out: str | None = None,
    step: int | None = None,
    processes: int = 1,
    device: Literal["auto", "cpu", "cuda"] = "auto",
) -> None:
    """Score a trained network on a data set: IoU of every class, boundary IoU, accuracies, confusion matrix.

    mIoU is the mean over the classes that occur or are predicted; every IoU is taken once, from the pixels of
    all images that are not ignored.

    Args:
        run: A run's or a checkpoint's folder, a file of pixelcontrast export (.safetensors, .pt), or a URI.
        data: The data set; what is unset is as in training.
        protocol: How the network sees an image; unless changed whole, once.
        split: Which images of the data set; test needs labels, which few data sets publish.
        boundary_ratio: Width of a boundary as a share of the image's diagonal: 0.02 as for COCO; the official
            tools have 0.005 for Cityscapes.
        official: Also write each image's prediction as the data set's own scripts read it, to OUT/results.
        out: Folder or URI to write evaluation.json, confusion.png and confusion.parquet to; unset:
            evaluations/<run's name>-<split>. What lies there of another network, protocol or data set is not
            overwritten.
        step: Take the checkpoint of this step; unset: the best of a finished run, else the newest.
        processes: Processes that share the images on a CPU, each with a copy of the network.
        device: Where the network runs; auto takes a GPU where there is one.
    """
    from pixelcontrast.evaluation import Protocol
    from pixelcontrast.inference import load_model
    from pixelcontrast.inference.device import choose_device
    from pixelcontrast.inference.evaluate import Job, held_out, results_folder
    from pixelcontrast.inference.found import choose_step

    check_least("--processes", processes)
    with failures_told(resume="Run the command again to start over."):
        step = choose_step(run, step)  # once: a run that is training has a newer checkpoint soon
        metadata = load_model(run, step).metadata
        out = out or f"evaluations/{metadata.source.name}-{split}"
        job = Job(
            location=run,
            step=step,
            data=_data(data, metadata),
            split=split,
            protocol=Protocol(**vars(protocol)),
            boundary_ratio=boundary_ratio,
            results=results_folder(out) if official else None,
            device=choose_device(device),
            threads=1 if processes > 1 else None,
        )
        with held_out(out, job, metadata):
            found = _score(job, out, processes)
    _show(found)
    print(f"written  {out}")


def _score(job: "Job", out: str, processes: int) -> "Evaluation":
    from pixelcontrast.inference.evaluate import evaluate as score

    try:
        with progress("images") as tell:
            found = score(job, processes=processes, on_progress=tell)
        found.write(out)
    except OSError as error:
        refuse(str(error))
    return found


def _data(options: DataOptions, metadata: "Metadata") -> Data:
    layout = options.layout or metadata.layout
    same = layout == metadata.layout
    return Data(
        layout=layout,
        root=absolute_path(options.root or metadata.root_here(option="--data.root")),
        class_order=options.class_order or (metadata.class_order if same else None),
    )


def _show(found: "Evaluation") -> None:
    scores, source = found.summary(), found.metadata.source
    console = PlainConsole()
    table = Table(box=None, pad_edge=False, show_footer=True, header_style="", footer_style="")
    table.add_column("class", footer="mean")
    means = {"IoU %": "miou", "accuracy %": "mean_accuracy", "boundary IoU %": "boundary_iou"}
    for title, key in means.items():
        table.add_column(title, justify="right", footer=percent(scores[key]))
    for name, row in scores["classes"].items():
        table.add_row(name, *(percent(row[key]) for key in ("iou", "accuracy", "boundary_iou")))
    console.print(table)
    others = {"frequency-weighted IoU": "frequency_weighted_iou", "pixel accuracy": "pixel_accuracy"}
    text = ", ".join(f"{name} {percent(scores[key])} %" for name, key in others.items())
    for line in (
        text,
        f"{source.run}, step {source.step}, on {count(found.num_images, 'image')} of {found.job.split}",
        f"{found.job.protocol}; boundary ratio {found.job.boundary_ratio:g}",
    ):
        console.say(line)
