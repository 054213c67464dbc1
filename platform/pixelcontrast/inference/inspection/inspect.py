"""A look at trained networks, side by side, on the images of one split."""

from collections.abc import Callable, Sequence
from typing import Literal

from pixelcontrast.config import Data
from pixelcontrast.datasets.packing.staging import stage_pack
from pixelcontrast.datasets.segmentation import Split, build_dataset
from pixelcontrast.inference.classes import check_classes
from pixelcontrast.inference.device import choose_device
from pixelcontrast.inference.inspection.draw import Looked, draw
from pixelcontrast.inference.inspection.observe import images_of, observe, pixels_per_class
from pixelcontrast.inference.metadata import Metadata
from pixelcontrast.inference.trained import load_with_head
from pixelcontrast.runs.pictures import Picture, write_pictures
from pixelcontrast.storage import Storage


def inspect(
    locations: Sequence[str],
    *,
    out: Storage,
    root: str | None = None,
    split: Split = "val",
    device: Literal["auto", "cpu", "cuda"] = "auto",
    on_progress: Callable[[int, int], object] = lambda _done, _total: None,
) -> list[Picture]:
    """Write pictures of the embeddings, class similarities, confused pixels and worst images of runs.

    All are shown the same images and the same pixels of them.

    Args:
        locations: of runs' or checkpoints' folders, trained on data sets of the same classes; one or more.
        out: the folder of the pictures and their list; is looked at before the networks run.
        root: the data set's folder; None: where the first run was trained.
        split: which images of the first run's data set.
        device: where the networks run.
        on_progress: called after every image with the images done, of all networks, and their number.

    Returns:
        The pictures, in the order of a report.

    Raises:
        ValueError: no run or data there, classes that differ, no GPU, a file that is damaged, or nothing can
            be written to ``out``.
    """
    models = [load_with_head(location) for location in locations]
    first = models[0].metadata
    data = _data(first, root)
    dataset = build_dataset(stage_pack(data), split)
    for model in models:
        check_classes(model.classes, dataset.labels.names, data)
    out.check_writable()
    images, done, where = images_of(dataset), 0, choose_device(device)

    def on_image() -> None:
        nonlocal done
        done += 1
        on_progress(done, len(images) * len(models))

    observations = []
    for model in models:
        observations.append(observe(model.to(where), dataset, images, on_image=on_image))
        model.cpu()
    per_class = pixels_per_class(dataset.labels.num_classes)
    looked = Looked(dataset=dataset, split=split, num_images=len(images), per_class=per_class)
    drawn = draw(observations, looked)
    write_pictures(out, drawn)
    return [picture for picture, _ in drawn]


def _data(trained: Metadata, root: str | None) -> Data:
    return Data(
        layout=trained.layout,
        root=root or trained.root_here(option="--root"),
        class_order=trained.class_order,
    )
