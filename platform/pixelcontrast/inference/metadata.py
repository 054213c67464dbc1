"""What a network needs to be used away from its run: classes, colours, normalisation, origin."""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from pydantic import TypeAdapter, ValidationError

from pixelcontrast import config
from pixelcontrast.config import ClassOrder, Layout

Color = tuple[int, int, int]
"""Red, green and blue, 0 … 255."""


@dataclass(frozen=True, kw_only=True)
class Source:
    """The checkpoint that a network comes from."""

    run: str
    """The run's absolute path or URI at that time."""
    step: int
    commit: str
    """The commit that it was trained with, or ``unknown``."""

    @property
    def name(self) -> str:
        """The run's name, by its location's text: what lies there need not be in reach."""
        return PurePosixPath(self.run.partition("?")[0] if "://" in self.run else self.run).name


@dataclass(frozen=True, kw_only=True)
class Metadata:
    """A trained network's description, as exported files carry it."""

    model: config.Model
    """The network's settings, from which it is built again."""
    classes: tuple[str, ...]
    """Class names, by the network's class number."""
    palette: tuple[Color, ...]
    """RGB of each class for pictures."""
    mean: tuple[float, float, float]
    """Mean of red, green and blue in [0, 1], by which images are normalised."""
    std: tuple[float, float, float]
    """Their standard deviation."""
    layout: Layout
    """Layout of the data set that it was trained on."""
    root: str
    """The data set's folder on the machine that trained it."""
    class_order: ClassOrder | None
    """Order of PASCAL-Context's classes, where the run's configuration names it."""
    source: Source

    def root_here(self, *, option: str) -> str:
        """``root``, if the data are there on this machine, too.

        Raises:
            ValueError: they are not; names the ``option`` that says where they are.
        """
        if "://" not in self.root and not Path(self.root).exists():
            raise ValueError(
                f"{self.root}: the network was trained on the data there, and they are not on this machine; "
                f"say where they are with {option}"
            )
        return self.root

    def to_strings(self) -> dict[str, str]:
        """Field → JSON text, as safetensors and ONNX files take it."""
        return {key: json.dumps(value) for key, value in asdict(self).items()}

    @classmethod
    def from_strings(cls, strings: Mapping[str, str], *, file: str) -> "Metadata":
        """Read what ``to_strings`` wrote.

        Raises:
            ValueError: naming the file, and a field that is missing or wrong.
        """
        fields: dict[str, Any] = {}
        missing = [key for key in cls.__dataclass_fields__ if key not in strings]
        if missing:
            raise ValueError(
                f"{file}: not a file of `pixelcontrast export`: its metadata lacks {', '.join(missing)}; "
                "give an exported file, a run's folder or a checkpoint's folder"
            )
        try:
            fields = {key: json.loads(strings[key]) for key in cls.__dataclass_fields__}
            return _adapter.validate_json(json.dumps(fields))
        except ValidationError as error:
            raise ValueError(f"{file}: its metadata is damaged: {config.explain(error)}") from error
        except ValueError as error:
            raise ValueError(f"{file}: its metadata is damaged: {error}") from error


_adapter = TypeAdapter(Metadata)
