"""What needs more than torch and numpy, which come with the package: the extra ``platform``."""

import importlib
import sys
from types import ModuleType


def import_platform(module: str, *, what: str) -> ModuleType:
    """Import a module of the platform.

    Args:
        module: its full name.
        what: the name that the user asked for.

    Raises:
        ImportError: a package of the extra is not installed; one line with the command that installs it.
        SystemExit: on Ctrl-C, with status 130, but not in an interactive shell. These imports take the first
            seconds of every experiment's file, before ``main`` can handle it.
    """
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as error:
        if error.name is None or error.name.partition(".")[0] == "pixelcontrast":
            raise
        raise ImportError(
            f'{what} needs {error.name}, which is not installed: pip install "pixelcontrast[platform]"'
        ) from error
    except KeyboardInterrupt:
        if hasattr(sys, "ps1") or "IPython" in sys.modules:
            raise
        print("Stopped before anything was started.", file=sys.stderr)
        raise SystemExit(130) from None
