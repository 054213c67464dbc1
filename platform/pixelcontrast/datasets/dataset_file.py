"""``dataset.toml``: what the folder layout must be told of a user's own images.

    images = "images/{split}"    # a folder, or a pattern with * (part of a name) and ** (any folders)
    masks = "masks/{split}"      # likewise; what the stars stand for must be the same as in the image's name;
                                 # ** is a whole part of the path: "images/{split}/**/*.png"
    lists = "{split}.txt"        # optional: one image name per line
    split_names = { train = "train", val = "val", test = "test" }
    mask_values = "ids"          # or "colors"
    reduce_zero_label = false    # true: 0 is ignored, and the classes are numbered from 1
    ignored_ids = [255]

    [[classes]]                  # in the order of training: class 0, class 1, …
    name = "road"
    color = [128, 64, 128]       # for pictures; with mask_values = "colors" also the colour in the masks
    ids = [0]                    # optional: the ids in the masks

Required are ``images``, ``masks`` and ``classes``; a split's name stands for ``{split}``. Train has a name
that no other split has.
"""

import json
import re
import shlex
import tomllib
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import ConfigDict, Field, TypeAdapter, ValidationError, model_validator
from pydantic.dataclasses import dataclass

from pixelcontrast.config import explain
from pixelcontrast.datasets.files import ColorLabels, FileError
from pixelcontrast.datasets.labels import IGNORE_INDEX, Color, LabelSpace, voc_color
from pixelcontrast.datasets.listing import Split, escapes

FILE_NAME = "dataset.toml"
MAX_CLASSES = 254
_STRICT = ConfigDict(strict=True, extra="forbid")
_Byte = Annotated[int, Field(ge=0, le=255)]
_Color = tuple[_Byte, _Byte, _Byte]


@dataclass(frozen=True, kw_only=True, config=_STRICT)
class ClassEntry:
    """A class of the user's."""

    name: Annotated[str, Field(min_length=1)]
    color: _Color | None = None
    """RGB for pictures; unset: PASCAL VOC's colour map."""
    ids: Annotated[tuple[_Byte, ...], Field(min_length=1)] | None = None
    """Ids in the masks; unset: the class's place, counted from 1 with reduce_zero_label and else from 0."""
    mask_colors: Annotated[tuple[_Color, ...], Field(min_length=1)] | None = None
    """Colours in the masks, with mask_values = "colors"; unset: ``color`` alone."""


@dataclass(frozen=True, kw_only=True, config=_STRICT)
class SplitNames:
    """What stands for {split}."""

    train: Annotated[str, Field(min_length=1)] = "train"
    val: Annotated[str, Field(min_length=1)] = "val"
    test: Annotated[str, Field(min_length=1)] = "test"

    @model_validator(mode="after")
    def _train_is_apart(self) -> "SplitNames":
        for split in ("val", "test"):  # which may be the same images
            if getattr(self, split) == self.train:
                raise ValueError(
                    f"train and {split} are both {self.train!r}, so that images trained on would be scored; "
                    "allowed is a name for train that no other split has"
                )
        return self


@dataclass(frozen=True, kw_only=True, config=_STRICT)
class DatasetFile:
    """A ``dataset.toml``, checked."""

    images: str
    masks: str
    classes: Annotated[tuple[ClassEntry, ...], Field(min_length=1, max_length=MAX_CLASSES)]
    lists: str | None = None
    split_names: SplitNames = Field(default_factory=SplitNames)
    mask_values: Literal["ids", "colors"] = "ids"
    reduce_zero_label: bool = False
    ignored_ids: tuple[_Byte, ...] = ()
    ignored_colors: tuple[_Color, ...] = ()

    @model_validator(mode="after")
    def _paths_stay_inside(self) -> "DatasetFile":
        names = {"images": self.images, "masks": self.masks, "lists": self.lists or ""}
        for key, name in names.items():
            check_pattern(key, name)
        if "{split}" not in self.images + (self.lists or ""):
            raise ValueError(
                "images: neither images nor lists has {split} in it, so that train and val would be one; "
                'write images = "images/{split}", or lists = "{split}.txt"'
            )
        if len({entry.name for entry in self.classes}) < len(self.classes):
            raise ValueError("classes: two have the same name; allowed are different ones")
        return self

    @model_validator(mode="after")
    def _masks_are_of_one_kind(self) -> "DatasetFile":
        if self.mask_values == "ids" and (self.ignored_colors or any(c.mask_colors for c in self.classes)):
            raise ValueError('mask_colors, ignored_colors: only with mask_values = "colors"')
        if self.mask_values == "colors":
            if self.ignored_ids or self.reduce_zero_label or any(c.ids is not None for c in self.classes):
                raise ValueError('ids, ignored_ids, reduce_zero_label: only with mask_values = "ids"')
            for entry in self.classes:
                if entry.color is None and not entry.mask_colors:
                    raise ValueError(f"classes: {entry.name} has no color, which its masks are told by")
        self.raw_ids()
        return self

    def mask_colors(self) -> tuple[Color, ...]:
        """The colours in the masks, each at the place that is its raw id."""
        ours = [color for entry in self.classes for color in _colors_of(entry)]
        return (*ours, *self.ignored_colors)

    def raw_ids(self) -> dict[int, int]:
        """Raw id → train id; raises ``ValueError`` where an id or colour has two meanings."""
        meanings: list[tuple[int, int]] = []
        if self.mask_values == "colors":
            owners = [train_id for train_id, entry in enumerate(self.classes) for _ in _colors_of(entry)]
            owners += [IGNORE_INDEX] * len(self.ignored_colors)
            colors = self.mask_colors()
            if len(set(colors)) < len(colors) or len(colors) > 255:
                raise ValueError(
                    "classes: a colour in the masks has two meanings, or there are more than 255"
                )
            return dict(enumerate(owners))
        first = 1 if self.reduce_zero_label else 0
        for train_id, entry in enumerate(self.classes):
            ids = (train_id + first,) if entry.ids is None else entry.ids
            meanings += [(raw_id, train_id) for raw_id in ids]
        ignored = {*self.ignored_ids, *([0] if self.reduce_zero_label else [])}
        meanings += [(raw_id, IGNORE_INDEX) for raw_id in sorted(ignored)]
        found: dict[int, int] = {}
        for raw_id, train_id in meanings:
            if raw_id in found:
                raise ValueError(
                    f"classes: id {raw_id} has two meanings; allowed is one class, or to be ignored"
                )
            found[raw_id] = train_id
        return found

    def label_space(self) -> LabelSpace:
        """The classes in the order of the file."""
        return LabelSpace(
            names=tuple(entry.name for entry in self.classes),
            colors=tuple(entry.color or voc_color(1 + place) for place, entry in enumerate(self.classes)),
            train_ids=self.raw_ids(),
        )

    def color_reader(self) -> ColorLabels:
        """Reads the masks, with ``mask_values`` of colors."""
        return ColorLabels(self.mask_colors())

    def split_name(self, split: Split) -> str:
        """What stands for {split}."""
        return getattr(self.split_names, split)


def check_pattern(key: str, pattern: str) -> None:
    """Raise ``ValueError`` if a pattern leaves the data set's folder, or has ``**`` as a part of a name."""
    if escapes(pattern):
        raise ValueError(f"{key}: {pattern!r} leaves the data set's folder; allowed are names in it")
    for part in pattern.split("/"):
        if "**" in part and part != "**":
            whole = re.sub(r"\*{2,}", "**/*", part)
            raise ValueError(
                f"{key}: {pattern!r} has ** within {part!r}; allowed is ** as a whole part of the path, as "
                f"in {pattern.replace(part, whole)!r} for any folders, or a single *"
            )


def read_dataset_file(root: Path) -> DatasetFile:
    """Read ``dataset.toml`` in a data set's folder.

    Raises:
        ValueError: there is none, it is no TOML, or a key or value is not allowed; the message names them.
    """
    path = root / FILE_NAME
    if not path.is_file():
        remedy = f"`pixelcontrast data init {shlex.quote(str(root))}` writes one from what is in the folder"
        raise FileError(f"{path}: no such file", remedy=remedy)
    try:
        # A byte order mark is what some editors put first.
        tree: Any = tomllib.loads(path.read_text(encoding="utf-8-sig"))
        return _adapter.validate_json(json.dumps(tree, default=str))
    except ValidationError as error:
        remedy = "correct the key; platform/pixelcontrast/datasets/dataset_file.py has all of them"
        raise FileError(f"{path}: {explain(error)}", remedy=remedy) from error
    except ValueError as error:
        raise FileError(
            f"{path}: cannot be read as TOML in UTF-8: {error}", remedy="correct what stands there"
        ) from error


def _colors_of(entry: ClassEntry) -> tuple[Color, ...]:
    """A class's colours in the masks."""
    if entry.mask_colors:
        return entry.mask_colors
    return () if entry.color is None else (entry.color,)


_adapter = TypeAdapter(DatasetFile)
