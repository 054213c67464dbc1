"""The house's rules about imports, read from the source and from a fresh interpreter."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import pixelcontrast

PACKAGE = Path(pixelcontrast.__file__).parent
BASE = {"config", "draws", "distributed"}
ROOMS = {"contrast", "models", "datasets", "scenes", "evaluation"}
ALLOWED = {
    "config": set(),
    "draws": set(),
    "distributed": set(),
    "contrast": {"draws", "distributed"},
    "scenes": {"config", "draws"},
    **dict.fromkeys(ROOMS - {"contrast", "scenes"}, BASE),
    "training": BASE | ROOMS,
    "search": BASE | {"evaluation", "training"},
    "dashboard": BASE | {"search", "training"},
    "reports": BASE | {"evaluation", "search", "training"},
    "cluster": BASE | ROOMS | {"search", "training"},
    "cli": BASE | ROOMS | {"cluster", "dashboard", "reports", "search", "training"},
    "__main__": {"cli"},
    "__init__": {"cli", "config", "contrast", "search", "training"},
}


def imported(path: Path) -> set[str]:
    """Full names of everything a file imports, also inside functions."""
    names = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            names |= {f"{node.module}.{alias.name}" for alias in node.names}
    return names


def sources() -> list[tuple[str, Path]]:
    """(room, file): the room is the first name below the package."""
    return [(path.relative_to(PACKAGE).parts[0].removesuffix(".py"), path) for path in PACKAGE.rglob("*.py")]


def test_imports_run_one_way() -> None:
    seen = set()
    for room, path in sources():
        ours = {name.split(".")[1] for name in imported(path) if name.startswith("pixelcontrast.")}
        assert ours <= ALLOWED[room] | {room}, f"{path} imports {ours - ALLOWED[room] - {room}}"
        seen.add(room)
    assert seen == set(ALLOWED)


@pytest.mark.parametrize(
    ("library", "rooms"),
    [
        ("ray", {"cluster"}),
        ("tyro", {"cli"}),
        ("timm", {"models"}),
        ("torchvision", {"datasets"}),
        ("optuna", {"dashboard", "reports", "search"}),
        ("optuna_dashboard", {"dashboard"}),
        ("plotly", {"reports"}),
    ],
)
def test_a_library_is_used_in_one_room(library: str, rooms: set[str]) -> None:
    users = {
        room for room, path in sources() if any(name.split(".")[0] == library for name in imported(path))
    }
    assert users == rooms


@pytest.mark.parametrize(
    ("statement", "unwanted"),
    [
        ("import pixelcontrast.contrast", {"ray", "timm", "torchvision", "tyro", "pydantic"}),
        ("import pixelcontrast", {"torch", "ray", "timm", "torchvision", "tyro", "pydantic"}),
        (
            "from pixelcontrast import Experiment, Search, parse",
            {"torch", "ray", "timm", "torchvision", "optuna"},
        ),
        ("from pixelcontrast.scenes import streets", {"torch", "ray", "timm", "torchvision", "tyro"}),
        ("import pixelcontrast.training", {"ray", "tyro"}),
    ],
)
def test_imports_are_lazy(statement: str, unwanted: set[str]) -> None:
    code = f"{statement}\nimport sys\nprint(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert not unwanted & set(done.stdout.split())


def test_platform_is_still_the_standard_library_s() -> None:
    assert not (PACKAGE.parent / "__init__.py").exists()
