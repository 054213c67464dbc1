"""Values as people read them, at the terminal and in reports: shares in percent, times, settings."""

import math
from datetime import UTC, datetime
from typing import Any

NOTHING = "–"
STATES = {
    "COMPLETE": "complete",
    "PRUNED": "stopped early",
    "FAIL": "failed",
    "RUNNING": "running",
}
OBJECTIVES = {"miou": "mIoU", "seconds_per_step": "seconds per step"}


def percent(share: float | None, digits: int = 1) -> str:
    """``0.4231`` → ``42.3``; the unit stands in the heading."""
    return NOTHING if share is None or math.isnan(share) else f"{100 * share:.{digits}f}".replace("-", "−")


def points(share: float | None) -> str:
    """A difference of shares in percentage points, with its sign."""
    if share is None or math.isnan(share):
        return NOTHING
    text = f"{100 * share:+.1f}".replace("-", "−")
    return "0.0" if text in ("+0.0", "−0.0") else text


def signed(value: float | None) -> str:
    """A difference of cosines: ``+0.21``."""
    return NOTHING if value is None or math.isnan(value) else f"{value:+.2f}".replace("-", "−")


def duration(seconds: float | None) -> str:
    """``4210`` → ``1 h 10 min``."""
    if seconds is None:
        return NOTHING
    if seconds < 60:
        return f"{seconds:.1f} s" if seconds < 10 else f"{seconds:.0f} s"
    minutes, rest = divmod(round(seconds), 60)
    if minutes < 60:
        return f"{minutes} min {rest} s"
    hours, minutes = divmod(minutes, 60)
    if hours < 48:
        return f"{hours} h {minutes} min"
    return f"{hours // 24} d {hours % 24} h"


def moment(seconds: float) -> str:
    """Seconds since the epoch → ``2026-11-23 02:19 UTC``."""
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%d %H:%M UTC")


def setting(value: Any) -> str:
    """A setting's value, numbers with four significant digits."""
    if value is None:
        return "unset"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return f"{value:.4g}"
    if isinstance(value, list | tuple):
        return " × ".join(map(setting, value))
    return str(value)


def count(number: int, noun: str) -> str:
    """``1 trial``, ``2 trials``."""
    return f"{number:,} {noun}" + ("" if number == 1 else "s")


def opening(text: str, sentences: int) -> str:
    """The first sentences of the first line, without the last full stop."""
    line = next(iter(text.strip().splitlines()), "")
    return ". ".join(line.split(". ")[:sentences]).rstrip(".")
