"""``python -m pixelcontrast``: the command where its script is not installed, as in a job on a cluster."""

from pixelcontrast.cli import command

if __name__ == "__main__":
    command()
