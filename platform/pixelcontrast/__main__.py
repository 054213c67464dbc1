"""The command ``pixelcontrast``; in a job, where its script is not installed, ``python -m pixelcontrast``."""

import sys

from pixelcontrast.extras import import_platform


def command() -> None:
    """Run the command; without the extra ``platform``, say in one line how to install it."""
    try:
        cli = import_platform("pixelcontrast.cli", what="the command pixelcontrast")
    except ImportError as error:
        sys.exit(str(error))
    cli.command()


if __name__ == "__main__":
    command()
