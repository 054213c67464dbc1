"""A training whose workers and nodes are killed, one after the other: what of its time was of use.

    python experiments/benchmarks/soak.py --out soak.json   # ten minutes, a kill every 60 s; twelve in all
    python experiments/benchmarks/soak.py --quick           # one kill, of a worker; one to two minutes

A real cluster on this machine: a head without CPUs and two nodes of one CPU each, with a token. The training
is the demo's step (scaling.py) on two workers, a checkpoint every ten steps, started by ``launch`` in a
process of its own. In turn, a worker is killed (SIGKILL), or one of the nodes with all on it; a node comes
back after ``--absence`` seconds. The clock begins with the first step.

A step is committed if it is in the run at the end: not lost to a kill, and not after the newest checkpoint.
"""

import argparse
import itertools
import json
import os
import secrets
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
from measure import Row, row, save, show
from scaling import experiment

from pixelcontrast import Experiment, Workers, config
from pixelcontrast.runs import checkpoint
from pixelcontrast.runs.run_folder import open_storage, read_rows
from pixelcontrast.scenes import streets

_RECOVERY_S = 300.0
"""The longest that a step may be waited for, at the start or after a kill."""
_POLL_S = 0.2


@dataclass(frozen=True)
class Kill:
    """What was killed, when, and during which attempt at the run."""

    what: str
    time: float
    attempt: int


@dataclass(frozen=True)
class Outcome:
    """What the training's driver saw, and what is left in the run."""

    kills: Sequence[Kill]
    seen: Sequence[dict[str, Any]]
    """Rows of all steps, in order, also of those that were lost."""
    committed: Sequence[dict[str, Any]]
    begin: float
    end: float


class Nodes:
    """Two nodes that come and go. Ray wants its nodes to be started in the main thread."""

    _SETTINGS = {"num_cpus": 1, "object_store_memory": 80 * 2**20, "dashboard_agent_listen_port": 0}  # noqa: RUF012

    def __init__(self, cluster: Any):
        self._cluster = cluster
        self._nodes = [self._add() for _ in range(2)]

    def _add(self) -> Any:
        return self._cluster.add_node(**self._SETTINGS)

    def kill_worker(self, number: int) -> None:
        """SIGKILL for one of the two workers."""
        found = psutil.Process().children(recursive=True)
        workers = sorted(process.pid for process in found if "RayTrainWorker" in process.name())
        os.kill(workers[number % len(workers)], signal.SIGKILL)

    def kill_node(self) -> None:
        """SIGKILL for all processes of the older node."""
        self._cluster.remove_node(self._nodes.pop(0), allow_graceful=False)

    def restore(self) -> None:
        """Start the node that is missing, if one is."""
        if len(self._nodes) < 2:
            self._nodes.append(self._add())


@contextmanager
def _cluster(folder: Path) -> Iterator[Nodes]:
    """Its processes, this one's children, are gone at the end."""
    token = folder / "token"
    token.touch(mode=0o600)
    token.write_text(secrets.token_hex(32))
    os.environ |= {
        "RAY_AUTH_MODE": "token",
        "RAY_AUTH_TOKEN_PATH": str(token),
        "RAY_TMPDIR": str(folder),  # Cluster notes its address in the default folder, whatever temp_dir is
        "RAY_USAGE_STATS_ENABLED": "0",
        "RAY_TRAIN_ENABLE_STATE_TRACKING": "1",
    }
    os.environ.pop("RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER", None)
    from ray.cluster_utils import Cluster

    head = {"num_cpus": 0, "object_store_memory": 80 * 2**20, "dashboard_agent_listen_port": 0}
    head |= {"include_dashboard": True, "dashboard_port": 0}
    cluster = Cluster(initialize_head=True, head_node_args=head)
    try:
        os.environ["RAY_ADDRESS"] = str(cluster.address)
        yield Nodes(cluster)
    finally:
        cluster.shutdown()


class Driver:
    """The process that called ``launch``."""

    def __init__(self, settings: Experiment, folder: Path):
        self._rows, self._log = folder / "rows.jsonl", folder / "driver.log"
        self._rows.touch()
        file = folder / "experiment.json"
        file.write_text(config.to_json(settings))
        command = [sys.executable, __file__, "--driver", str(file), str(self._rows)]
        with self._log.open("w") as log:
            self._process = subprocess.Popen(command, stdout=log, stderr=log)

    def rows(self) -> list[dict[str, Any]]:
        """The rows of all steps so far."""
        lines = self._rows.read_text().splitlines(keepends=True)
        return [json.loads(line) for line in lines if line.endswith("\n")]

    def check(self) -> None:
        """Raise ``RuntimeError`` if it has ended."""
        if self._process.poll() is not None:
            raise RuntimeError(f"the training ended by itself:\n{self._log.read_text()[-3000:]}")

    def wait_for(self, attempt: int) -> dict[str, Any]:
        """The first row of an attempt after ``attempt``."""
        give_up = time.time() + _RECOVERY_S
        while time.time() < give_up:
            self.check()
            for found in self.rows():
                if found["attempt"] > attempt:
                    return found
            time.sleep(_POLL_S)
        raise RuntimeError(f"no step in {_RECOVERY_S:g} s:\n{self._log.read_text()[-3000:]}")

    def stop(self) -> None:
        """By SIGTERM; it may take its time."""
        self._process.terminate()
        try:
            self._process.wait(120)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()


def _drive(file: Path, rows: Path) -> None:
    """What the driver's process does."""
    import logging

    from pixelcontrast.cluster.train.launch import launch

    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(name)s %(message)s")
    with rows.open("a") as out:

        def on_row(found: dict[str, Any]) -> None:
            if found["kind"] == "train":
                print(json.dumps(found), file=out, flush=True)

        launch(config.from_json(file.read_text()), on_row=on_row)


def soak(options: argparse.Namespace) -> Outcome:
    """Train and kill for the time asked, and at the end until the last kill is overcome."""
    # Ray's sockets need a short path.
    with tempfile.TemporaryDirectory(prefix="soak-", dir="/tmp", ignore_cleanup_errors=True) as name:
        folder = Path(name)
        changes = {"optim.steps": 10**6, "run.workers": options.workers, "run.max_failures": 10**6}
        changes |= {"run.report_interval": 1, "run.eval_interval": 10**6}
        changes |= {"run.checkpoint_interval": options.checkpoint_interval}
        settings = config.replace(experiment(folder), changes)
        streets.write(settings.data.root, num_train=24, num_val=2, size=(128, 256), seed=0)
        with _cluster(folder) as nodes:
            driver = Driver(settings, folder)
            try:
                begin = driver.wait_for(0)["time"]
                kills = _kill_in_turn(nodes, driver, begin, options)
                goal = driver.wait_for(kills[-1].attempt)["step"]
                while time.time() < begin + options.duration or _committed_step(settings) < goal:
                    driver.check()
                    time.sleep(_POLL_S)
                end = time.time()
            finally:
                driver.stop()
        reached = _committed_step(settings)
        rows = [found for found in read_rows(open_storage(settings)) if found["kind"] == "train"]
        committed = [found for found in rows if found["step"] <= reached]
        return Outcome(kills, driver.rows(), committed, begin, end)


def _committed_step(settings: Experiment) -> int:
    """Step of the newest checkpoint; 0 before the first."""
    found = filter(checkpoint.is_checkpoint, open_storage(settings).names(checkpoint.FOLDER))
    return max((int(name.removeprefix("step-")) for name in found), default=0)


def _kill_in_turn(nodes: Nodes, driver: Driver, begin: float, options: argparse.Namespace) -> list[Kill]:
    """A worker, a node, a worker, …; not before the training has resumed after the kill before."""
    kills: list[Kill] = []
    due = begin + options.every
    while due < begin + options.duration or not kills:
        if kills:
            driver.wait_for(kills[-1].attempt)
        time.sleep(max(0.0, due - time.time()))
        driver.check()
        what = ("worker", "node")[len(kills) % 2]
        kills.append(Kill(what, time.time(), driver.rows()[-1]["attempt"]))
        if what == "worker":
            nodes.kill_worker(len(kills) // 2)
        else:
            nodes.kill_node()
            time.sleep(options.absence)
            nodes.restore()
        due += options.every
    return kills


def rows_of(outcome: Outcome) -> list[Row]:
    """The figures."""
    steps = _step_seconds(outcome.committed)
    inside = [
        took for took, found in zip(steps, outcome.committed, strict=True) if found["time"] <= outcome.end
    ]
    wall = outcome.end - outcome.begin
    line = [found["step"] for found in outcome.committed]
    wrong = len(set(line) ^ set(range(1, len(line) + 1))) + len(line) - len(set(line))
    rows = [
        row("time between first step and end", wall, "s"),
        row("kills", len(outcome.kills), ""),
        row("committed steps", len(line), ""),
        row("committed steps that are twice or missing", wrong, "", at_most=0),
        row("a step, median", statistics.median(steps), "s"),
        row("share of the time in steps that were committed", sum(inside) / wall, "share"),
    ]
    for what in ("worker", "node"):
        kills = [kill for kill in outcome.kills if kill.what == what]
        if not kills:
            continue
        lost = [_lost(outcome, kill) for kill in kills]
        waits = [_wait(outcome, kill) for kill in kills]
        rows += [
            row(f"a {what} killed: steps lost, mean", statistics.fmean(lost), ""),
            row(f"a {what} killed: steps lost, most", max(lost), ""),
            row(f"a {what} killed: to the next committed step, median", statistics.median(waits), "s"),
            row(f"a {what} killed: to the next committed step, longest", max(waits), "s"),
        ]
    return rows


def _step_seconds(committed: Sequence[dict[str, Any]]) -> list[float]:
    """One time for every row; the first of an attempt, with the start of the loader, counts as the median."""
    size = experiment(Path()).optim.batch_size
    taken = [size / found["images_per_second"] for found in committed]
    attempts = [0, *(found["attempt"] for found in committed)]
    fresh = [now != before for before, now in itertools.pairwise(attempts)]
    middle = statistics.median(took for took, new in zip(taken, fresh, strict=True) if not new)
    return [middle if new else took for took, new in zip(taken, fresh, strict=True)]


def _lost(outcome: Outcome, kill: Kill) -> int:
    """Steps of the attempt that were done and had to be done again."""
    steps = {found["step"] for found in outcome.seen if found["attempt"] == kill.attempt}
    kept = {found["step"] for found in outcome.committed if found["attempt"] == kill.attempt}
    return len(steps - kept)


def _wait(outcome: Outcome, kill: Kill) -> float:
    """Seconds to the first committed step of a later attempt."""
    return min(found["time"] for found in outcome.committed if found["attempt"] > kill.attempt) - kill.time


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--out", type=Path)
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--duration", type=float, default=600, help="seconds of training")
    parser.add_argument("--every", type=float, default=60, help="seconds between two kills")
    parser.add_argument("--absence", type=float, default=5, help="seconds that a killed node is away")
    parser.add_argument("--checkpoint-interval", type=int, default=10, help="steps")
    parser.add_argument("--workers", type=Workers.parse, default=Workers(2), help="2, or 1:2 for elastic")
    parser.add_argument("--driver", type=Path, nargs=2, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.driver is not None:
        _drive(*options.driver)
        return
    if options.quick:
        options.duration, options.every = 40, 25
    rows = rows_of(soak(options))
    for line in rows:
        show(line)
    if options.out is not None:
        save(rows, options.out)


if __name__ == "__main__":
    main()
