"""A trained network on pictures of any size: overlays, id masks and confidences as files."""

import json
from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import asdict
from io import BytesIO
from pathlib import Path, PurePosixPath
from typing import Literal, NamedTuple, NoReturn, get_args

import numpy as np
from PIL import Image
from torch import Tensor

from pixelcontrast.datasets.dataset_file import FILE_NAME
from pixelcontrast.datasets.files import IMAGE_ENDINGS, FileError, decode_image
from pixelcontrast.datasets.folder import image_names
from pixelcontrast.datasets.left_out import OTHER_PICTURES
from pixelcontrast.datasets.listing import check_name, names_below
from pixelcontrast.evaluation import blend, legend
from pixelcontrast.inference.classify import Prediction, classify
from pixelcontrast.inference.earlier import REMEDY, refuse_others
from pixelcontrast.inference.trained import TrainedModel
from pixelcontrast.runs.run_folder import read_json
from pixelcontrast.storage import Storage

Kind = Literal["overlays", "masks", "confidence"]
"""What is written of an image; the folder's name."""
KINDS: tuple[Kind, ...] = get_args(Kind)
_RECORD = "predictions.json"


class Picture(NamedTuple):
    """An image file, and what its predictions are called: a path without ending."""

    file: Storage
    name: str


def find_pictures(locations: Sequence[str], *, out: str) -> list[Picture]:
    """The images that are named, and all below the folders that are named, in order.

    Args:
        locations: files and folders, local or URIs that ``pyarrow.fs`` reads. A file that is not there is
            found missing when it is read. Of a local folder with a ``dataset.toml``, the images of that.
        out: where predictions go; what lies there is left out, as are the predictions in other folders.

    Raises:
        ValueError: no locations, a folder without images or with a wrong ``dataset.toml``, images where the
            predictions go, or two images whose predictions would have one name.
    """
    if not locations:
        raise ValueError("no images: give files or folders of images")
    found: dict[str, Picture] = {}
    for location in locations:
        for picture in _pictures_at(
            Storage(location, option="IMAGES_OR_FOLDER"), Storage(out, option="--out")
        ):
            other = found.setdefault(picture.name, picture)
            if _place(other.file) != _place(picture.file):
                _refuse_second(picture.file, other.file)
    return list(found.values())


def _refuse_second(file: Storage, other: Storage) -> NoReturn:
    """Raise the ``ValueError`` of two images whose predictions would have one name."""
    if file.parent.root == other.parent.root:  # as where masks lie among the images
        remedy = "give only one of them, by the names of the files instead of their folder, or move one away"
    else:
        remedy = "give their common folder, or predict them one after the other with different --out"
    raise ValueError(
        f"{file.location}: its predictions would have the same name as those of {other.location}; {remedy}"
    )


def predict_pictures(
    model: TrainedModel,
    pictures: Sequence[Picture],
    *,
    out: str,
    kinds: Collection[Kind] = KINDS,
    on_progress: Callable[[int, int], object] = lambda _done, _total: None,
) -> list[str]:
    """Write for each picture ``overlays/``, ``masks/`` and ``confidence/<name>.png``, and one ``legend.png``.

    ``predictions.json`` records the network and each picture's file. Predictions of other files may be added
    to those of the same network.

    A mask is a palette PNG of class numbers in 8 bits; a confidence is grey, 255 for a softmax probability of
    1. All have the picture's size; a photograph that lies on its side by its EXIF orientation is turned
    upright.

    Args:
        model: from ``load_model``.
        pictures: from ``find_pictures``.
        out: the folder or URI to write to.
        kinds: which pictures are written. Of the time for a large one, overlay and confidence take most.
        on_progress: called after every picture with the pictures done and their number.

    Returns:
        A line for each picture that could not be read, which is left out.

    Raises:
        ValueError: another network's predictions lie there, or those of another file by a picture's name.
        OSError: a prediction cannot be written.
    """
    folder, failures = Storage(out, option="--out"), []
    _record(folder, model, pictures)
    folder.write("legend.png", legend(model.classes, model.metadata.palette))
    for done, picture in enumerate(pictures, start=1):
        try:
            image = _read(picture.file)
        except FileError as error:
            failures.append(str(error))
        else:
            found = classify(model, image)
            for kind in kinds:
                folder.write(f"{kind}/{picture.name}.png", _png(_draw(kind, image, found, model)))
        on_progress(done, len(pictures))
    return failures


def _record(folder: Storage, model: TrainedModel, pictures: Sequence[Picture]) -> None:
    """Add to the record of what the folder's predictions are of; raises ``ValueError`` if it is another's."""
    earlier: dict[str, str] = {}
    if folder.exists(_RECORD):
        earlier = read_json(folder, _RECORD, needed=("images",), remedy=REMEDY.capitalize())["images"]
    elif folder.exists("legend.png"):
        raise ValueError(
            f"--out {folder.location}: holds predictions of an unknown network, as {_RECORD} is missing; "
            f"{REMEDY}"
        )
    network, images = asdict(model.metadata.source), {name: _place(file) for file, name in pictures}
    # One that could not be read has left nothing: another file may take its name.
    taken = {
        name: images[name]
        for name, place in earlier.items()
        if images.get(name, place) != place and any(folder.exists(f"{kind}/{name}.png") for kind in KINDS)
    }
    refuse_others(folder, _RECORD, {"network": network, "images": taken})
    folder.write(_RECORD, json.dumps({"network": network, "images": earlier | images}, indent=2).encode())


def _place(file: Storage) -> str:
    return file.path() if file.is_local else file.location


def _pictures_at(place: Storage, out: Storage) -> list[Picture]:
    if not place.is_folder:
        return [Picture(place, PurePosixPath(place.name).stem)]
    if _is_below(place.root, out.root):
        raise ValueError(
            f"--out {out.location}: the images lie there, in {place.location}; choose another --out"
        )
    described = place.is_local and place.exists(FILE_NAME)
    names = sorted(image_names(Path(place.path())) if described else _names(place))
    earlier = [place.path(name).removesuffix(_RECORD) for name in names if name.endswith(f"/{_RECORD}")]
    own = _RECORD in names  # the folder itself holds predictions, beside pictures
    found: list[Picture] = []
    for name in map(PurePosixPath, names):
        if any(part.startswith(".") for part in name.parts):
            continue
        if any(_is_below(place.path(str(name)), folder) for folder in (out.root, *earlier)):
            continue
        if own and (str(name) == "legend.png" or name.parts[0] in KINDS):
            continue
        if name.suffix.lower() in IMAGE_ENDINGS:
            found.append(Picture(place / str(name), str(name.with_suffix(""))))
        elif name.suffix.lower() in OTHER_PICTURES:  # whose reading says what is allowed
            found.append(Picture(place / str(name), str(name)))
    if not found:
        raise ValueError(
            f"{place.location}: no images in this folder; allowed are files that end with "
            f"{', '.join(IMAGE_ENDINGS)}"
        )
    return found


def _names(place: Storage) -> Iterable[str]:
    """All files below a folder."""
    if not place.is_local:
        return place.sizes()
    names = [*names_below(place.path())]  # pyarrow follows a link back to a folder above it, again and again
    for name in names:
        check_name(Path(place.path()), name)
    return names


def _is_below(path: str, folder: str) -> bool:
    return f"{path}/".startswith(f"{folder.rstrip('/')}/")


def _read(file: Storage) -> Tensor:
    """uint8 [3, H, W]; raises ``FileError``."""
    try:
        content = file.parent.read(file.name)
    except OSError as error:
        raise FileError(f"{file.location}: cannot be read: {error}", remedy="check its name") from error
    return decode_image(content, file.location)


def _draw(kind: Kind, image: Tensor, found: Prediction, model: TrainedModel) -> Image.Image:
    classes, palette = found.classes.numpy(), np.array(model.metadata.palette, np.uint8)
    match kind:
        case "overlays":
            return Image.fromarray(blend(image.permute(1, 2, 0).numpy(), classes, palette))
        case "masks":
            mask = Image.fromarray(classes)
            # Pillow packs a palette of up to 16 colours into 1, 2 or 4 bits, which torchvision decodes to
            # wrong ids.
            mask.putpalette(np.pad(palette, ((0, 256 - len(palette)), (0, 0))).flatten().tolist())
            return mask
        case "confidence":
            return Image.fromarray((255 * found.confidence.numpy()).round().astype(np.uint8))


def _png(picture: Image.Image) -> bytes:
    file = BytesIO()
    picture.save(file, "PNG")
    return file.getvalue()
