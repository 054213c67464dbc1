"""A clean clone of this repository: the tracked files, as they are now."""

import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


def tracked_files() -> list[str]:
    """Paths, from the root, of the files that git tracks; skips the test where this is no checkout."""
    try:
        listed = subprocess.run(
            ["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True, check=True
        )
    except (OSError, subprocess.CalledProcessError) as error:
        pytest.skip(f"needs git and a checkout: {error}")
    return [name for name in listed.stdout.split("\0") if name and (ROOT / name).exists()]


def copy_to(folder: Path) -> list[str]:
    """Copy the tracked files there; returns their paths."""
    names = tracked_files()
    for name in names:
        target = folder / name
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT / name, target)
    return names
