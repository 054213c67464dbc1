"""The command ``pixelcontrast data show``."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import tyro

from pixelcontrast.cli.terminal import check_file, check_least, failures_told
from pixelcontrast.config import ClassOrder, Data, Layout
from pixelcontrast.words import count

if TYPE_CHECKING:
    from pixelcontrast.datasets.loading import TrainStream

_Root = Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="ROOT")]


def show(
    root: _Root,
    num: int = 16,
    layout: Layout | None = None,
    class_order: ClassOrder | None = None,
    crop_size: tuple[int, int] = Data.crop_size,
    scale_range: tuple[float, float] = Data.scale_range,
    flip_probability: float = Data.flip_probability,
    color_jitter: float = Data.color_jitter,
    max_class_share: float | None = None,
    balanced_sampling: bool = False,
    seed: int = 0,
    out: str = "samples.png",
) -> None:
    """Draw what a training sees: its first crops, each with its label laid over it, and a legend.

    Args:
        root: the data set's folder, or a pack: a folder, or a URI that pyarrow reads.
        num: number of crops.
        layout: layout of the data set; unset: the pack's, or folder: your own images, described by
            ROOT/dataset.toml.
        class_order: order of PASCAL-Context's classes.
        crop_size: height and width of a crop in pixels.
        scale_range: as the training's --data.scale-range.
        flip_probability: as the training's --data.flip-probability.
        color_jitter: as the training's --data.color-jitter.
        max_class_share: as the training's --data.max-class-share.
        balanced_sampling: as the training's --data.balanced-sampling.
        seed: the training's seed, which decides images and crops.
        out: PNG file for the sheet.
    """
    from pixelcontrast.datasets.loading import TrainStream
    from pixelcontrast.datasets.packing.manifest import layout_of
    from pixelcontrast.datasets.packing.staging import stage_pack
    from pixelcontrast.datasets.segmentation import build_dataset
    from pixelcontrast.datasets.stream import build_stream

    check_least("--num", num)
    check_file("--out", out)
    with failures_told(resume="Nothing was written."):
        asked = Data(
            layout=layout or layout_of(root),
            root=root,
            class_order=class_order,
            crop_size=crop_size,
            scale_range=scale_range,
            flip_probability=flip_probability,
            color_jitter=color_jitter,
            max_class_share=max_class_share,
            balanced_sampling=balanced_sampling,
        )
        data = stage_pack(asked)
        dataset = build_dataset(data, "train")
        sheet = _sheet(TrainStream(dataset, data, seed, build_stream(dataset, data, seed)), num)
    Path(out).write_bytes(sheet)
    print(f"{out}: {count(num, 'crop')} of {count(len(dataset), 'training image')}")


def _sheet(stream: "TrainStream", num: int) -> bytes:
    """The crops at the first positions of a stream, as a PNG."""
    from pixelcontrast.datasets.transforms import denormalize
    from pixelcontrast.evaluation import samples_sheet

    labels, samples = stream.dataset.labels, (stream[position] for position in range(num))
    crops = [
        (denormalize(sample.image, stream.normalization).permute(1, 2, 0).numpy(), sample.label.numpy())
        for sample in samples
    ]
    return samples_sheet(crops, names=labels.names, colors=labels.colors)
