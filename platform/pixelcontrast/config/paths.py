"""Where things lie: a folder or file on this machine, or a URI."""

import os
from pathlib import Path
from typing import Annotated

from pydantic import AfterValidator, Field


def expand_home(path: str) -> str:
    """``~/runs`` → ``/home/ada/runs``; anything else as it is.

    Raises:
        ValueError: there is no such user, or the user has no home folder.
    """
    if not path.startswith("~"):
        return path
    try:
        return str(Path(path).expanduser())
    except RuntimeError as error:
        raise ValueError(
            f"there is no home folder for {path.partition('/')[0]}; write the whole path, or ./{path} for a "
            "name that begins with ~"
        ) from error


def absolute_path(path: str) -> str:
    """The absolute path of a folder or file, ``~`` expanded and without ``..``; a URI is unchanged.

    One place has one path, from wherever it is named: what is recorded is compared by it. Links stay as they
    are, but those that ``..`` leads out of.
    """
    if "://" in path:
        return path
    parts = Path(expand_home(path)).absolute().parts
    upwards = max((place for place, part in enumerate(parts, start=1) if part == ".."), default=0)
    return str(Path(os.path.realpath(Path(*parts[:upwards])) if upwards else "", *parts[upwards:]))


Location = Annotated[str, Field(min_length=1), AfterValidator(expand_home)]
"""A setting that names a place: never empty, and ``~`` expanded when the setting is made."""
