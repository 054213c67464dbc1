"""Seconds, peak memory, and the rows that a benchmark writes.

Seconds are CPU time of the whole process (``time.process_time``) with one thread, so that neighbours on the
machine count as little as can be; on a GPU they are time between CUDA events. Forms that are compared run in
turn, round after round, and each is given by its median.

Peak memory is measured in a fresh process for every form: the form runs once at a small size so that
libraries are loaded, the inputs are made, freed memory is given back to the system, the kernel's record of
the peak is reset (/proc/self/clear_refs), and the form runs once. The figure is that peak (VmHWM) over the
resident size before it (VmRSS). malloc's threshold is fixed at 1 MiB: left to adapt, it keeps larger blocks
that were freed, and how many differs from run to run. On a GPU it is ``torch.cuda.max_memory_allocated`` over
what was allocated before.
"""

import argparse
import ctypes
import json
import multiprocessing
import platform
import re
import statistics
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from pathlib import Path

import torch

_M_MMAP_THRESHOLD = -3  # of mallopt(3)
Form = Callable[[], object]
"""One way to compute something, its inputs already made."""


@dataclass(frozen=True)
class Row:
    """A line of the table."""

    name: str
    value: float
    unit: str
    target: str | None
    """``<= 1.2``, ``>= 5`` or ``= 1``; None where none is set."""
    met: bool | None
    machine: str
    date: str


def row(
    name: str,
    value: float,
    unit: str,
    *,
    at_most: float | None = None,
    at_least: float | None = None,
    equal: float | None = None,
    device: str = "cpu",
) -> Row:
    """A row, with a target or none; ``equal`` allows 2 %."""
    target, met = None, None
    if at_most is not None:
        target, met = f"<= {at_most:g}", value <= at_most
    elif at_least is not None:
        target, met = f">= {at_least:g}", value >= at_least
    elif equal is not None:
        target, met = f"= {equal:g}", abs(value / equal - 1) <= 0.02
    return Row(name, value, unit, target, met, machine(device), datetime.now(UTC).date().isoformat())


def machine(device: str) -> str:
    """The processor's or the GPU's name."""
    if device == "cuda":
        return torch.cuda.get_device_name()
    cpuinfo = Path("/proc/cpuinfo")
    found = re.search(r"model name\s*: (.*)", cpuinfo.read_text()) if cpuinfo.exists() else None
    return f"{found[1] if found else platform.processor()}, one thread"


def seconds(forms: Mapping[str, Form], *, rounds: int, device: str = "cpu") -> dict[str, float]:
    """Median seconds of each form; they take turns."""
    clock = _cuda_seconds if device == "cuda" else _cpu_seconds
    taken = [{name: clock(form) for name, form in forms.items()} for _ in range(rounds)]
    return {name: statistics.median(turn[name] for turn in taken) for name in forms}


def _cpu_seconds(form: Form) -> float:
    begin = time.process_time()
    form()
    return time.process_time() - begin


def _cuda_seconds(form: Form) -> float:
    begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    begin.record()
    form()
    end.record()
    torch.cuda.synchronize()
    return begin.elapsed_time(end) / 1000


def peak_bytes(make: Callable[..., Form], *args: object, small: Sequence[object], device: str = "cpu") -> int:
    """Peak memory of the form ``make(*args)`` beyond its inputs; ``make(*small)`` is the same form, small."""
    if device == "cuda":
        return _cuda_peak(make, args)
    with multiprocessing.get_context("forkserver").Pool(1) as pool:
        return pool.apply(_cpu_peak, (make, args, small))


def _cpu_peak(make: Callable[..., Form], args: Sequence[object], small: Sequence[object]) -> int:
    torch.set_num_threads(1)
    fix_malloc()
    make(*small)()
    return peak_of(make(*args))


def fix_malloc() -> None:
    """What is freed from now on in blocks of 1 MiB or more is given back at once."""
    ctypes.CDLL(None).mallopt(_M_MMAP_THRESHOLD, 2**20)


def peak_of(form: Form) -> int:
    """Peak bytes of this process while the form runs, beyond what it has now."""
    ctypes.CDLL(None).malloc_trim(0)
    before = _status_bytes("VmRSS")
    Path("/proc/self/clear_refs").write_text("5")
    form()
    return _status_bytes("VmHWM") - before


def _status_bytes(key: str) -> int:
    found = re.search(rf"{key}:\s*(\d+) kB", Path("/proc/self/status").read_text())
    assert found is not None
    return int(found[1]) * 1024


def _cuda_peak(make: Callable[..., Form], args: Sequence[object]) -> int:
    form = make(*args)
    torch.cuda.synchronize()
    before = torch.cuda.memory_allocated()
    torch.cuda.reset_peak_memory_stats()
    form()
    torch.cuda.synchronize()
    return torch.cuda.max_memory_allocated() - before


def command(description: str | None, measured: Callable[[bool], Iterable[Row]]) -> None:
    """What a benchmark's file ends with: measure in one thread, print each row as it comes, save them all.

    Args:
        measured: the rows; called with whether they are to be quick, and so small that no target counts.
    """
    parser = argparse.ArgumentParser(
        description=description, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--out", type=Path, help="where the rows go, as JSON")
    parser.add_argument("--quick", action="store_true", help="smaller, in under a minute, without targets")
    options = parser.parse_args()
    torch.set_num_threads(1)
    rows: list[Row] = []
    for each in measured(options.quick):
        rows.append(replace(each, target=None, met=None) if options.quick else each)
        show(rows[-1])
    if options.out is not None:
        save(rows, options.out)


def show(row: Row) -> None:
    """Print a row as it comes."""
    verdict = "" if row.met is None else f"{row.target}  {'met' if row.met else 'MISSED'}"
    print(f"{row.name:<64}{row.value:>11.4g} {row.unit:<6} {verdict}", flush=True)


def save(rows: Sequence[Row], path: Path) -> None:
    """Write the rows as a JSON list."""
    path.write_text(json.dumps([asdict(row) for row in rows], indent=1) + "\n")
