"""What a pack holds, as its ``manifest.json`` says: without that file there is no pack.

    manifest.json            classes, label map, and of every shard and sample its size and sha256
    train/shard-00000.arrow  an Arrow IPC file with a record batch per sample (``packing.shards``)
    val/…
    .packing/                while it is being written: a record per finished shard

Labels are stored as train ids: they were checked against the label map once, a crop of them needs no further
work, and a pack does not change its meaning when somebody edits a dataset.toml. The map itself is kept here,
so that result files can be written in the data set's own ids.
"""

from functools import lru_cache
from typing import Literal

from pydantic import ConfigDict, Field, TypeAdapter, ValidationError
from pydantic.dataclasses import dataclass

from pixelcontrast.config import ClassOrder, Data, Layout, explain
from pixelcontrast.datasets.labels import Color, LabelSpace
from pixelcontrast.datasets.listing import Split
from pixelcontrast.storage import Storage, one_line

MANIFEST, UNFINISHED = "manifest.json", ".packing"
PLAN = f"{UNFINISHED}/plan.json"
"""What an unfinished pack is of."""
PACKED_SPLITS: tuple[Split, ...] = ("train", "val")

Encoding = Literal["raw", "source"]
"""raw: pixels, to be memory-mapped; source: the image files' own bytes and labels as PNG, decoded at every
reading."""
_STRICT = ConfigDict(strict=True, extra="forbid")


@dataclass(frozen=True, kw_only=True, config=_STRICT)
class Entry:
    """A sample in a shard."""

    image: str
    """The file's path below the root that was packed."""
    image_size: int
    """That file's bytes."""
    label: str
    label_size: int
    height: int
    width: int
    sha256: str
    """Hash of the stored image's and label's bytes, one after the other."""
    pixels: dict[int, int]
    """Train id → pixels, of those that occur; without the ignored ones."""


@dataclass(frozen=True, kw_only=True, config=_STRICT)
class Shard:
    """A file of samples."""

    file: str
    """Its path below the pack."""
    size: int
    """In bytes."""
    sha256: str
    sources: str
    """Identifies the files that were packed: sha256 of their names, sizes and times of change."""
    samples: tuple[Entry, ...]


@dataclass(frozen=True, kw_only=True, config=_STRICT)
class Plan:
    """What a pack is of, and how it is written: equal for all starts that write the same pack."""

    format: Literal["pixelcontrast pack 1"] = "pixelcontrast pack 1"
    layout: Layout
    class_order: ClassOrder | None
    encoding: Encoding
    names: tuple[str, ...]
    """Names of the classes, by train id."""
    colors: tuple[Color, ...]
    """RGB of each class."""
    train_ids: dict[int, int]
    """Raw id in the label files that were packed → train id, or 255."""
    label_colors: tuple[Color, ...]
    """Where those files were of colours: the colour of each raw id; else empty."""
    settings: str
    """``Listing.settings``."""

    def label_space(self) -> LabelSpace:
        """The classes, with the map that the packed label files had."""
        return LabelSpace(names=self.names, colors=self.colors, train_ids=self.train_ids)


@dataclass(frozen=True, kw_only=True, config=_STRICT)
class Manifest:
    """A finished pack."""

    plan: Plan
    splits: dict[Split, tuple[Shard, ...]] = Field(min_length=1)


def find_pack(location: str) -> Manifest | None:
    """The manifest of the pack at a folder or URI; None where a local folder is no pack.

    Raises:
        ValueError: an unfinished pack, a manifest that this version cannot read, a shard that is missing or
            of another size, or a URI without a pack.
    """
    try:
        return _find(Storage(location, option="data.root"))
    except OSError as error:
        raise ValueError(f"data.root {location}: cannot be read: {one_line(error)}") from error


def layout_of(location: str) -> Layout:
    """The layout that a pack was made from; ``folder`` of what is no pack. Raises as ``find_pack``."""
    manifest = find_pack(location)
    return "folder" if manifest is None else manifest.plan.layout


def check_fits(manifest: Manifest, data: Data) -> None:
    """Refuse a pack that was made from another data set than the configured one.

    Raises:
        ValueError: layouts or class orders differ.
    """
    plan = manifest.plan
    if data.layout != plan.layout:
        raise ValueError(
            f"data.layout: {data.layout}, but {data.root} was packed from {plan.layout}; "
            f"allowed is --data.layout {plan.layout}, or another --data.root"
        )
    if data.class_order not in (None, plan.class_order):
        raise ValueError(
            f"data.class_order: {data.class_order}, but {data.root} was packed with {plan.class_order}; "
            "leave it unset, or pack the data set again in that order"
        )


def read_manifest(content: bytes, *, where: str) -> Manifest:
    """Parse a manifest; raises ``ValueError`` naming ``where``."""
    return _parse(where, content)


def _find(storage: Storage) -> Manifest | None:
    if not storage.exists(MANIFEST):
        if storage.exists(PLAN):
            raise ValueError(
                f"data.root {storage.location}: an unfinished pack; rerun the `pixelcontrast data pack` that "
                "writes it to resume"
            )
        if not storage.is_local:
            raise ValueError(
                f"data.root {storage.location}: no pack, as {MANIFEST} is missing; of URIs only packs are "
                "read: write one with `pixelcontrast data pack ROOT DEST`"
            )
        return None
    content = storage.read(MANIFEST)
    if b"pixelcontrast pack" not in content[:200]:
        return None  # somebody's own file of that name in a folder of images
    manifest = _parse(f"{storage.location}/{MANIFEST}", content)
    _check_shards(storage, manifest)
    return manifest


@lru_cache(maxsize=2)  # read for every split, and once more by all who only ask for the classes
def _parse(where: str, content: bytes) -> Manifest:
    try:
        return _manifest.validate_json(content)
    except ValidationError as error:
        reasons = "; ".join(explain(error).splitlines()[:3])
        raise ValueError(
            f"{where}: damaged, or of another version: {reasons}; pack the data again"
        ) from error


def _check_shards(storage: Storage, manifest: Manifest) -> None:
    sizes = storage.sizes()
    for shard in (shard for shards in manifest.splits.values() for shard in shards):
        found = sizes.get(shard.file)
        if found != shard.size:
            what = "is missing" if found is None else f"has {found:,} bytes instead of {shard.size:,}"
            raise ValueError(
                f"{storage.location}/{shard.file}: {what}; copy it again, or pack the data again to another "
                "folder"
            )


_manifest = TypeAdapter(Manifest)


def to_json(manifest: Manifest) -> bytes:
    """What ``read_manifest`` reads."""
    return _manifest.dump_json(manifest)
