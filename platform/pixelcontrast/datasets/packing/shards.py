"""The files of a pack: Arrow IPC, a record batch per sample, uncompressed, so that pixels can be mapped."""

import hashlib
import io
import mmap
from collections.abc import Iterable
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import torch
from PIL import Image
from torch import Tensor

from pixelcontrast.datasets.files import FileError, decode_image, decode_label
from pixelcontrast.datasets.packing.manifest import Encoding, Entry

_SCHEMA = pa.schema([("name", pa.large_binary()), ("image", pa.large_binary()), ("label", pa.large_binary())])
_MOST_OPEN = 4096
"""Shards that a process keeps mapped; COCO-Stuff has 1,850."""
_REMEDY = "copy the shard again, or pack the data again to another folder"


class Stored(NamedTuple):
    """A sample's bytes as they lie in a shard."""

    image: bytes
    label: bytes


def encode(image: Tensor, label: Tensor, source: Path, encoding: Encoding) -> Stored:
    """A sample as it is stored.

    Args:
        image: uint8 [3, H, W].
        label: uint8 [H, W], train ids.
        source: the image's file, whose bytes are kept with the encoding ``source``.
        encoding: of the pack.
    """
    if encoding == "raw":
        return Stored(image.permute(1, 2, 0).contiguous().numpy().tobytes(), label.numpy().tobytes())
    png = io.BytesIO()
    Image.fromarray(label.numpy()).save(png, "PNG")
    return Stored(source.read_bytes(), png.getvalue())


def digest(stored: Stored | tuple[memoryview, memoryview]) -> str:
    """A sample's sha256."""
    found = hashlib.sha256(stored[0])
    found.update(stored[1])
    return found.hexdigest()


def write_shard(path: Path, samples: Iterable[tuple[str, Stored]]) -> None:
    """Write a file of samples, each given by its image's name; one of them is in memory at a time."""
    with path.open("wb") as file, pa.ipc.new_file(file, _SCHEMA) as writer:
        for name, stored in samples:
            columns = [_single(value) for value in (name.encode(), stored.image, stored.label)]
            writer.write_batch(pa.RecordBatch.from_arrays(columns, schema=_SCHEMA))


def _single(value: bytes) -> pa.LargeBinaryArray:
    """A column of one row, without the copy that ``pa.array`` makes, nor its import of pandas."""
    offsets = np.array([0, len(value)], np.int64)
    return pa.LargeBinaryArray.from_buffers(
        pa.large_binary(), 1, [None, pa.py_buffer(offsets), pa.py_buffer(value)]
    )


def file_sha256(path: Path) -> str:
    """A file's sha256."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def read_sample(path: Path, place: int, entry: Entry, encoding: Encoding) -> tuple[Tensor, Tensor]:
    """A sample of a shard, as ``SegmentationSet.read`` gives it.

    With the encoding ``raw`` both tensors are views of the mapped file, of which only what is looked at is
    read; changing them changes a private copy. With ``source`` the checksum is compared.

    Args:
        path: the shard.
        place: the sample's in it.
        entry: what the manifest says of it.
        encoding: of the pack.

    Raises:
        FileError: it is not what the manifest says; names the shard and the sample.
    """
    mapped = _mapped(path)
    name, image, label = mapped.sample(place)
    if name != entry.image:
        raise FileError(f"{path}, sample {place}: holds {name} instead of {entry.image}", remedy=_REMEDY)
    if encoding == "raw":
        size = entry.height, entry.width
        if (len(image), len(label)) != (3 * size[0] * size[1], size[0] * size[1]):
            raise FileError(f"{path}: {name} does not have {size[1]}×{size[0]} pixels", remedy=_REMEDY)
        pixels, ids = (torch.frombuffer(part, dtype=torch.uint8) for part in (image, label))
        return pixels.view(*size, 3).permute(2, 0, 1), ids.view(size)
    check_sample(path, entry, image, label)
    where = f"{path}: {name}"
    # A copy, since Pillow's arrays are read-only.
    return decode_image(bytes(image), where), torch.from_numpy(np.array(decode_label(bytes(label), where)))


def stored_sample(path: Path, place: int) -> tuple[memoryview, memoryview]:
    """The bytes of a sample's image and label; raises ``FileError`` where the shard cannot be read."""
    _, image, label = _mapped(path).sample(place)
    return image, label


def check_sample(path: Path, entry: Entry, image: memoryview, label: memoryview) -> None:
    """Raise ``FileError`` if a sample's bytes are not those that were packed."""
    if digest((image, label)) != entry.sha256:
        raise FileError(f"{path}: {entry.image} is damaged: its sha256 is not the manifest's", remedy=_REMEDY)


@dataclass(frozen=True)
class _Mapped:
    """A shard in memory."""

    path: Path
    pages: mmap.mmap
    start: int
    """The map's address."""
    reader: pa.RecordBatchFileReader

    def sample(self, place: int) -> tuple[str, memoryview, memoryview]:
        """Name, and image and label as writable views."""
        try:
            batch = self.reader.get_batch(place)
            # Validity, offsets, values: of a single row the last are the row. A scalar's as_buffer copies.
            buffers = [batch.column(column).buffers()[2] for column in (1, 2)]
        except (pa.ArrowException, OSError, ValueError, IndexError) as error:
            raise FileError(
                f"{self.path}, sample {place}: cannot be read: {error}", remedy=_REMEDY
            ) from error
        # Arrow's own buffers are read-only, which torch does not take.
        view = memoryview(self.pages)
        image, label = (view[b.address - self.start : b.address - self.start + b.size] for b in buffers)
        return batch.column(0)[0].as_py().decode(errors="replace"), image, label


@lru_cache(maxsize=_MOST_OPEN)
def _mapped(path: Path) -> _Mapped:
    try:
        with path.open("rb") as file:
            # A private map: who writes into a sample's pixels does not change the file.
            pages = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_COPY)
        whole = pa.py_buffer(pages)
        return _Mapped(path, pages, whole.address, pa.ipc.open_file(whole))
    except (pa.ArrowException, OSError, ValueError) as error:
        raise FileError(f"{path}: cannot be read as a shard: {error}", remedy=_REMEDY) from error
