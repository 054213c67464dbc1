"""The progress of a training on the terminal, and the table of its evaluation. Imports no Ray."""

import time
from types import TracebackType

from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn
from rich.table import Table

from pixelcontrast.cluster.train.events import Row
from pixelcontrast.console import PlainConsole
from pixelcontrast.words import percent


class TrainingProgress:
    """Shows rows as they come: a live bar on a terminal, else one plain line per row.

    Used as a context manager. Train rows have step, steps, loss, ce, gradient_norm, lr, images_per_second and
    attempt; contrast with the contrastive term, auxiliary with an auxiliary head, skipped if steps may be
    left out (losses are None if all were). Eval rows have step, miou, pixel_accuracy and iou.
    """

    def __init__(self, console: PlainConsole | None = None):
        self._console = console or PlainConsole()
        self._live = self._console.is_terminal
        self._bar = Progress(
            TextColumn("step"),
            MofNCompleteColumn(),
            BarColumn(bar_width=12),
            TextColumn("{task.fields[numbers]}", markup=False),
            console=self._console,
            disable=not self._live,
        )
        self._task = self._bar.add_task("", total=None, numbers="starting")
        self._miou: float | None = None
        self._shown: Row | None = None
        """The train row that the bar shows."""
        self._pace = _Pace()

    def __enter__(self) -> "TrainingProgress":
        self._bar.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._bar.stop()

    def stage(self, words: str) -> None:
        """Show what is being waited for, until the next row."""
        self._bar.update(self._task, numbers=words, refresh=True)
        if not self._live:
            self._console.say(words)

    def row(self, row: Row) -> None:
        """Show a row of metrics."""
        if row["kind"] == "eval":
            self._evaluated(row)
            return
        self._shown = row
        numbers = self._numbers(row, self._pace.seconds_left(row))
        self._bar.update(self._task, completed=row["step"], total=row["steps"], numbers=numbers)
        if not self._live:
            self._console.say(f"step {row['step']}/{row['steps']}  {numbers}")

    def _evaluated(self, row: Row) -> None:
        self._miou = row["miou"]
        accuracy = f"pixel accuracy {percent(row['pixel_accuracy'])} %"
        self._console.say(f"step {row['step']}  mIoU {percent(self._miou)} %  {accuracy}")
        if self._shown is not None:  # else the bar would stay at the mIoU of the evaluation before
            self._bar.update(self._task, numbers=self._numbers(self._shown, None))

    def _numbers(self, row: Row, seconds_left: float | None) -> str:
        parts = []
        if row["ce"] is not None:
            parts.append(f"CE {row['ce']:.3f}")
        if row.get("skipped"):
            parts.append(f"skipped {row['skipped']}")
        if row.get("auxiliary") is not None:
            parts.append(f"aux {row['auxiliary']:.3f}")
        if row.get("contrast") is not None:
            parts.append(f"contrast {row['contrast']:.3f}")
        if self._miou is not None:
            parts.append(f"mIoU {percent(self._miou)} %")
        parts.append(f"{row['images_per_second']:.1f} img/s")
        if seconds_left is not None:
            parts.append(f"{_clock(seconds_left)} left")
        return "  ".join(parts)


def print_evaluation(row: Row, console: PlainConsole | None = None) -> None:
    """Print an evaluation in percent: IoU of every class ("–" if it never occurs), mIoU, pixel accuracy.

    Args:
        row: an eval row; ``iou`` maps class name to a share of 1, or None.
    """
    shown = Table(box=None, pad_edge=False, show_footer=True, header_style="", footer_style="")
    shown.add_column("class", footer="mIoU\npixel accuracy")
    means = f"{percent(row['miou'])}\n{percent(row['pixel_accuracy'])}"
    shown.add_column("IoU %", justify="right", footer=means)
    for name, iou in row["iou"].items():
        shown.add_row(name, percent(iou))
    (console or PlainConsole()).print(shown)


class _Pace:
    """Time left from the wall time of the rows so far, evaluations and checkpoints included."""

    def __init__(self) -> None:
        self._first: tuple[int | None, int, float] | None = None

    def seconds_left(self, row: Row) -> float | None:
        now, attempt = time.monotonic(), row.get("attempt")
        if self._first is None or self._first[0] != attempt or row["step"] <= self._first[1]:
            self._first = (attempt, row["step"], now)
            return None
        if row["step"] == row["steps"]:
            return None
        _, step, since = self._first
        return (row["steps"] - row["step"]) * (now - since) / (row["step"] - step)


def _clock(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"
