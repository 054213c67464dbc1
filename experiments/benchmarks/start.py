"""How long a run takes to its first step, and CPU time of which processes: here and in another checkout.

    git worktree add /tmp/before 12ef1bf
    python experiments/benchmarks/start.py --before /tmp/before --out start.json

The demo with two images a step, on one worker and on two, from the command to the first row of numbers; its
scenes are there. Turns alternate. CPU time is that of the command and all its descendants, but for processes
that live for less than a fifth of a second. Nothing else should run beside it.
"""

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from pathlib import Path

import psutil
from measure import Row, row, save, show

from pixelcontrast.scenes import streets

HERE = Path(__file__).parents[2]
OPTIONS = {
    "optim.steps": "2",
    "optim.batch-size": "2",
    "run.report-interval": "1",
    "run.device": "cpu",
    "run.name": "start",
}


def main() -> None:
    """Compare the checkouts."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--before", type=Path, help="the other checkout")
    parser.add_argument("--turns", type=int, default=3)
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    checkouts = {"now": HERE} | ({"before": options.before} if options.before else {})
    rows: list[Row] = []
    with tempfile.TemporaryDirectory() as folder:
        streets.write(folder, num_train=120, num_val=20)
        for workers in (1, 2):
            turns = defaultdict(list)
            for _ in range(options.turns):
                for name, path in checkouts.items():
                    turns[name].append(start(path, workers, Path(folder)))
            rows += _rows(turns, workers)
    for line in rows:
        show(line)
    if options.out is not None:
        save(rows, options.out)


def start(checkout: Path, workers: int, scenes: Path) -> tuple[float, dict[str, float]]:
    """Wall seconds to the first step, and CPU seconds until then by process."""
    environment = os.environ | {"PYTHONPATH": str(checkout / "platform"), "OMP_NUM_THREADS": "1"}
    environment.pop("RAY_ADDRESS", None)
    with tempfile.TemporaryDirectory() as runs:
        places = {"data.root": str(scenes), "run.storage": runs, "run.workers": f"{workers}"}
        options = [text for key, value in (OPTIONS | places).items() for text in (f"--{key}", value)]
        command = [sys.executable, str(checkout / "experiments" / "streets.py"), *options]
        out = Path(runs) / "out"
        began, cpu = time.perf_counter(), {}
        with out.open("w") as file, subprocess.Popen(command, stdout=file, env=environment) as process:
            while "step 1/" not in out.read_text():
                assert process.poll() is None, f"{' '.join(command)} ended with {process.returncode}"
                cpu |= _cpu_seconds(process.pid)
                time.sleep(0.2)
            took = time.perf_counter() - began
    by_name: dict[str, float] = defaultdict(float)
    for name, seconds in cpu.values():
        by_name[name] += seconds
    return took, by_name


def _cpu_seconds(pid: int) -> dict[int, tuple[str, float]]:
    """CPU seconds so far of a process and its descendants, by pid, with what each is."""
    found = {}
    try:
        command = psutil.Process(pid)
        for process in [command, *command.children(recursive=True)]:
            times = process.cpu_times()
            found[process.pid] = (_kind(process, command), times.user + times.system)
    except psutil.NoSuchProcess:  # between the list and the look
        pass
    return found


def _kind(process: psutil.Process, command: psutil.Process) -> str:
    name = process.name().partition(".")[0]
    if process == command:
        return "the command"
    return "workers" if "RayTrainWorker" in name or "LoneWorker" in name else "Ray's processes and launcher"


def _rows(turns: dict[str, list[tuple[float, dict[str, float]]]], workers: int) -> list[Row]:
    on = "one worker" if workers == 1 else f"{workers} workers"
    rows, seconds = [], {}
    for name, found in turns.items():
        wall = statistics.median(took for took, _ in found)
        cpu = [sum(by_kind.values()) for _, by_kind in found]
        seconds[name] = (wall, statistics.median(cpu))
        rows.append(row(f"start, {on}, {name}: wall", wall, "s"))
        rows.append(row(f"start, {on}, {name}: CPU", seconds[name][1], "s"))
        for kind in found[0][1]:
            part = statistics.median(by_kind[kind] for _, by_kind in found)
            rows.append(row(f"start, {on}, {name}: CPU of {kind}", part, "s"))
    if "before" in seconds:
        for what, now, before in zip(("wall", "CPU"), seconds["now"], seconds["before"], strict=True):
            at_most = 0.5 if workers == 1 else None
            rows.append(row(f"start, {on}, now / before: {what}", now / before, "×", at_most=at_most))
    return rows


if __name__ == "__main__":
    main()
