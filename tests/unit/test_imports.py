"""The house's rules about imports, read from the source and from a fresh interpreter."""

import ast
import subprocess
import sys
from functools import cache
from pathlib import Path

import pytest

import pixelcontrast
from pixelcontrast.config import replace
from pixelcontrast.search import Search
from pixelcontrast.search.folder import SearchFolder
from pixelcontrast.search.trials import Trials
from pixelcontrast.storage import Storage
from small_runs import EXPERIMENT, write_finished_run

PACKAGE = Path(pixelcontrast.__file__).parent
BASE = {"config", "draws", "distributed", "typeface", "words"}
"""``config`` inherits the settings of the contrast, from a file without torch."""
ROOMS = {"contrast", "models", "datasets", "scenes", "evaluation", "runs"}
ALLOWED = {
    "config": {"contrast"},
    "draws": set(),
    "distributed": set(),
    "storage": {"config"},
    "typeface": set(),
    "words": set(),
    "console": set(),
    "contrast": {"draws", "distributed"},
    "scenes": {"config", "draws"},
    "runs": {"config", "storage", "words"},
    **dict.fromkeys(ROOMS - {"contrast", "runs", "scenes"}, BASE),
    "datasets": BASE | {"storage"},
    "models": BASE | {"contrast"},
    "training": BASE | ROOMS | {"storage"},
    "search": {"config", "datasets", "evaluation", "runs", "storage", "words"},
    "inference": BASE | {"contrast", "datasets", "evaluation", "models", "runs", "storage"},
    "dashboard": {"config", "runs", "search", "storage", "words"},
    "reports": {"config", "runs", "search", "storage", "words"},
    "cluster": BASE | ROOMS | {"console", "search", "storage", "training"},
    "cli": BASE
    | ROOMS
    | {"cluster", "console", "dashboard", "inference", "reports", "search", "storage", "training"},
    "extras": set(),
    "__main__": {"extras"},
    "__init__": {"cli", "config", "contrast", "extras", "inference", "search"},
}


@cache
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


NETWORKS = {"torch", "timm", "torchvision", "ray", "tyro"}
"""What takes seconds to import, and nobody needs who reads what a run wrote."""
INTERNALS = PACKAGE / "cluster" / "ray_internals.py"
NOT_PUBLIC = (
    "ray.autoscaler",
    "ray.core",
    "ray.experimental",
    "ray.tune.execution",
    "ray.train.torch.config",
)
"""Modules of Ray that are not documented for users, though their names do not begin with an underscore."""


def private_names_of_ray(tree: ast.AST) -> list[str]:
    """What a file imports, reads, passes or spells of Ray that is private, or not documented for users."""
    names: dict[str, str] = {}
    found = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names |= {alias.asname or alias.name.split(".")[0]: alias.name for alias in node.names}
            found += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            names |= {alias.asname or alias.name: f"{node.module}.{alias.name}" for alias in node.names}
            found += [f"{node.module}.{alias.name}" for alias in node.names]
        elif isinstance(node, ast.Constant) and isinstance(node.value, str) and "\n" not in node.value:
            found.append(node.value)
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute):
            root, _, rest = ast.unparse(node).partition(".")
            found.append(f"{names.get(root, root)}.{rest}")
        elif isinstance(node, ast.Call):
            function = ast.unparse(node.func)
            root = names.get(function.partition(".")[0], "")
            found += [f"{root}.{word.arg}" for word in node.keywords if word.arg]
    return [name for name in found if _is_private_in_ray(name)]


def _is_private_in_ray(name: str) -> bool:
    parts = name.split(".")
    hidden = any(part.startswith("_") and not part.startswith("__") for part in parts[1:])
    return parts[0] == "ray" and (hidden or name.startswith(NOT_PUBLIC))


def test_only_one_file_touches_the_private_names_of_ray() -> None:
    """Every other file would break unseen with the next version: ``test_ray_internals`` looks at that one."""
    users = {path: private_names_of_ray(ast.parse(path.read_text())) for _, path in sources()}
    assert {path: names for path, names in users.items() if names and path != INTERNALS} == {}
    assert len(set(users[INTERNALS])) > 10, "the search does not find what is there"
    for path in (PACKAGE / "cluster").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Attribute) and node.attr.startswith("_") and path != INTERNALS:
                owner, harmless = ast.unparse(node.value), node.attr.startswith(("__", "_replace"))
                assert harmless or owner in ("self", "cls", "sys"), f"{path}:{node.lineno}: {node.attr}"


@pytest.mark.parametrize(
    "line",
    [
        "import ray._private.worker as worker",
        "from ray._private.state import state",
        "from ray.train.torch import config",
        "from ray.train.v2._internal import constants",
        "from ray.experimental import internal_kv",
        "import ray\nray.init(_temp_dir='x')",
        "import ray\nray._private.worker.global_worker",
        "import sys\nsys.modules['ray._raylet']",
    ],
)
def test_a_private_name_of_ray_is_found_however_it_is_spelt(line: str) -> None:
    assert private_names_of_ray(ast.parse(line))


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
        ("sklearn", {"inference"}),
    ],
)
def test_a_library_is_used_in_one_room(library: str, rooms: set[str]) -> None:
    users = {
        room for room, path in sources() if any(name.split(".")[0] == library for name in imported(path))
    }
    assert users == rooms


@pytest.mark.parametrize(
    "steps",
    [
        [
            ("import pixelcontrast", {*NETWORKS, "optuna", "plotly", "pydantic"}),
            ("import pixelcontrast.config", {*NETWORKS, "optuna", "plotly"}),
            ("from pixelcontrast.scenes import streets", {*NETWORKS, "optuna", "plotly"}),
            ("import pixelcontrast.runs, pixelcontrast.runs.verify", {*NETWORKS, "optuna", "plotly"}),
            ("import pixelcontrast.search.reading, pixelcontrast.search.artifacts", NETWORKS),
            ("import pixelcontrast.reports", NETWORKS),
            ("import pixelcontrast.dashboard", NETWORKS),
        ],
        [("from pixelcontrast import Experiment, Search, parse", NETWORKS - {"tyro"} | {"optuna"})],
        [
            ("import pixelcontrast.contrast", NETWORKS - {"torch"} | {"pydantic"}),
            ("import pixelcontrast.training", {"ray", "tyro"}),
        ],
        [
            ("import pixelcontrast.cluster.tune.trial, ray.tune", NETWORKS - {"ray"}),
            ("import pixelcontrast.cluster.train.driver", NETWORKS - {"ray"}),
            (
                "from pixelcontrast.cluster import placement; from pixelcontrast.config import Run; "
                "placement.check_memory_fits(1, Run(name='a'), [{'CPU': 1, 'memory': 9}], gpu=False)",
                NETWORKS - {"ray"},
            ),
        ],
    ],
    ids=["without_torch", "an_experiment", "with_torch", "a_trial"],
)
def test_imports_are_lazy(steps: list[tuple[str, set[str]]]) -> None:
    """What a statement must not load is not loaded when it has run, after those before it."""
    code = "import sys\n" + "\n".join(f"{statement}\nprint(*sys.modules)" for statement, _ in steps)
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    for (statement, unwanted), modules in zip(steps, done.stdout.splitlines(), strict=True):
        assert not unwanted & set(modules.split()), statement


READING = """
import sys
from pixelcontrast.reports import write_report
from pixelcontrast.runs import reproduce
from pixelcontrast.search.reading import read

run, search = sys.argv[1:]
assert read(run).evaluations[-1]["miou"] == 0.5
assert [trial.run for trial in read(search).trials] == ["trial-0000"]
write_report(search)
print(write_report(run))
print(reproduce(run))
print(*sys.modules)
"""


def test_runs_and_searches_are_read_and_shown_without_what_trains_them(tmp_path: Path) -> None:
    run = write_finished_run(Storage(str(tmp_path / "a")))
    search, experiment = Search(trials=1, name="s"), replace(EXPERIMENT, {"run.storage": str(tmp_path)})
    with SearchFolder(experiment, search, None).held() as storage:
        Trials(search, experiment, name="s", storage=storage).next()
    command = [sys.executable, "-c", READING, run.location, str(tmp_path / "s")]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    report, *recipe, modules = done.stdout.splitlines()
    assert "50.0 %" in Path(report).read_text()
    assert recipe[-2].startswith(
        f"pixelcontrast train {run.location}/checkpoints/step-00000002/experiment.json"
    )
    assert not NETWORKS & set(modules.split())


def test_platform_is_still_the_standard_library_s() -> None:
    assert not (PACKAGE.parent / "__init__.py").exists()
