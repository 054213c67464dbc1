"""Where a result comes from: its code and versions, and in what two attempts differ."""

import hashlib
import importlib.metadata
import os
import platform
import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pixelcontrast import config

_PACKAGES = ("pixelcontrast", "torch", "torchvision", "timm", "numpy", "pillow", "ray")
_DECIDING = ("torch", "torchvision", "timm", "numpy", "pillow")
"""Packages whose other version may give other bits."""
_CONDITIONS = ("source", "machine", "threads", "world_size", "compile")
"""What else may: of the settings that may change between attempts, all whose other value gives other bits."""
_PACKAGE = Path(__file__).parents[1]


def differences(before: Mapping[str, Any], now: Mapping[str, Any]) -> dict[str, tuple[Any, Any]]:
    """What the same bits depend on, besides configuration and data, and differs: name → (before, now).

    What an older version did not record is left out.
    """
    old, new = _deciding(before), _deciding(now)
    return {name: (old[name], new[name]) for name in old if name in new and old[name] != new[name]}


def versions() -> dict[str, str]:
    """Versions of Python and the packages that matter; one that came with a job is ``not installed``, too."""
    return {"python": platform.python_version()} | {name: _version(name) for name in _PACKAGES}


def source_hash() -> str:
    """Identifies the code, also without git: sha256 of names and contents of the package's Python files."""
    digest = hashlib.sha256()
    for path in sorted(_PACKAGE.rglob("*.py"), key=Path.as_posix):
        content = path.read_bytes()
        digest.update(f"{path.relative_to(_PACKAGE).as_posix()} {len(content)}\n".encode() + content)
    return digest.hexdigest()


def git_state() -> str:
    """The commit, ``-dirty`` where files differ from it; ``unknown`` where the code came without one."""
    # Of the package's own repository, not of one that an installation happens to lie in.
    if _git("ls-files", "--error-unmatch", "runs/provenance.py") is not None:
        found = _git("describe", "--always", "--dirty", "--abbrev=40", "--exclude=*")
        if found:
            return found
    return os.environ.get(config.COMMIT_VARIABLE, "").strip() or "unknown"


def _deciding(provenance: Mapping[str, Any]) -> dict[str, Any]:
    found = {key: provenance[key] for key in _CONDITIONS if key in provenance}
    installed = provenance.get("versions", {})
    return found | {name: installed[name] for name in _DECIDING if name in installed}


def _version(package: str) -> str:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return "not installed"


def _git(*arguments: str) -> str | None:
    """What git prints; None where it fails or is not there."""
    try:
        done = subprocess.run(["git", *arguments], cwd=_PACKAGE, capture_output=True, text=True, timeout=10)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout.strip() if done.returncode == 0 else None
