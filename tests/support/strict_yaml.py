"""YAML as the tests read it: plain values only, and a key given twice is an error."""

from pathlib import Path
from typing import Any

import yaml


def load(path: Path) -> Any:
    """A file's one document; raises ``yaml.YAMLError``."""
    (document,) = load_all(path.read_text())
    return document


def load_all(text: str) -> list[Any]:
    """All documents of a text; raises ``yaml.YAMLError``."""
    return list(yaml.load_all(text, Loader=_Loader))


class _Loader(yaml.SafeLoader):
    """PyYAML's safe loader keeps the last of two equal keys without a word."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        keys = [self.construct_object(key, deep=True) for key, _ in node.value]
        for number, key in enumerate(keys):
            if key in keys[:number]:
                raise yaml.constructor.ConstructorError(
                    None, None, f"the key {key!r} is there twice", node.value[number][0].start_mark
                )
        return super().construct_mapping(node, deep)
