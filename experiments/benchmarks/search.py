"""What a search costs and saves: overhead per trial, early stopping, sampler.

    python experiments/benchmarks/search.py --out search.json   # replays, then the overhead
    python experiments/benchmarks/search.py --quick             # fewer replays only, under a minute
    python experiments/benchmarks/search.py --record            # completes search_table.json; half an hour

The replays take the place of trainings by a table of recorded ones: 64 real runs, one for every point of a
grid of three settings, each with its mIoU at every evaluation. So the same proposals can be judged with and
without early stopping, and many searches be made by each sampler.
"""

import argparse
import dataclasses
import heapq
import itertools
import json
import statistics
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import measure
import optuna
import torch

from pixelcontrast import Contrast, Data, Experiment, Model, Optim, Run, Search, choice, config, training
from pixelcontrast.runs.record import read_summary
from pixelcontrast.runs.run_folder import open_storage, read_rows
from pixelcontrast.scenes import streets
from pixelcontrast.search.trials import Proposal, Trials

TABLE = Path(__file__).with_name("search_table.json")
GRID: dict[str, tuple[float, ...]] = {
    "optim.lr": (0.01, 0.03, 0.1, 0.3),
    "contrast.weight": (0.1, 0.3, 1.0, 3.0),
    "contrast.temperature": (0.05, 0.1, 0.2, 0.5),
}
STEPS, EVERY = 80, 10
SEARCHES, TRIALS, WORKERS = 50, 16, 2
"""Replayed searches per sampler, trials in each, and trials at a time."""


def experiment(folder: Path) -> Experiment:
    """A small HRNet on generated scenes of 64×128 pixels."""
    return Experiment(
        data=Data(
            layout="cityscapes", root=str(folder / "scenes"), crop_size=(64, 128), scale_range=(0.5, 1.0)
        ),
        model=Model(backbone="hrnet_w18_small", embedding_dim=64),
        contrast=Contrast(
            memory="both",
            pixel_queue_size=100,
            positive_mining="random",
            negative_mining="random",
            num_positives=64,
        ),
        optim=Optim(steps=STEPS, batch_size=4, weight_decay=1e-4),
        run=Run(
            name="bare",
            storage=str(folder / "runs"),
            device="cpu",
            report_interval=1,
            eval_interval=EVERY,
            checkpoint_interval=STEPS,
        ),
    )


def prepared(folder: Path) -> Experiment:
    """The experiment with its scenes written."""
    streets.write(folder / "scenes", num_train=40, num_val=12, size=(64, 128), seed=0)
    return experiment(folder)


def key_of(overrides: Mapping[str, Any]) -> str:
    """How the table names a point of the grid."""
    return json.dumps([overrides[key] for key in GRID])


def record() -> None:
    """Train every point of the grid; what is in the table already is kept."""
    table = json.loads(TABLE.read_text()) if TABLE.exists() else {}
    with tempfile.TemporaryDirectory() as folder:
        base = prepared(Path(folder))
        for number, values in enumerate(itertools.product(*GRID.values())):
            overrides = dict(zip(GRID, values, strict=True))
            if key_of(overrides) in table:
                continue
            settings = config.replace(base, {**overrides, "run.name": f"point-{number}"})
            curve = _train(settings)
            table[key_of(overrides)] = curve
            TABLE.write_text(json.dumps(table, indent=1) + "\n")
            print(f"{len(table)} of {4**3}: {overrides} → {curve}", flush=True)


def _train(settings: Experiment) -> dict[str, float]:
    """mIoU by step; one that diverged has none from then on."""
    try:
        training.fit(settings, device=torch.device("cpu"), report=_ignored)
    except ValueError as error:
        print(error)
    rows = read_rows(open_storage(settings))
    return {str(row["step"]): row["miou"] for row in rows if row["kind"] == "eval"}


def _ignored(row: Mapping[str, Any]) -> None:
    """The run's folder has it."""


class Replay:
    """A search whose trainings are looked up; time is counted in steps of one worker."""

    def __init__(self, table: Mapping[str, Mapping[str, float]], search: Search):
        self._table = table
        storage = optuna.storages.InMemoryStorage()
        self._trials = Trials(search, experiment(Path("/nowhere")), name="replay", storage=storage)
        self.steps, self.best, self.best_point = 0, -1.0, ""
        self.best_after: list[float] = []
        """The best mIoU of a finished trial after each trial that ended."""

    def run(self) -> None:
        """``WORKERS`` trials at a time, each an event per evaluation."""
        events: list[tuple[int, int, Proposal, list[tuple[int, float]]]] = []
        for _ in range(WORKERS):
            self._start(events, 0)
        while events:
            clock, _, proposal, left = heapq.heappop(events)
            step, miou = left.pop(0)
            self.steps += EVERY
            stop = self._trials.report(proposal.number, step, miou)
            if left and not stop:
                heapq.heappush(events, (clock + EVERY, proposal.number, proposal, left))
                continue
            self._end(proposal, miou, stopped=stop and bool(left), diverged=step < STEPS and not stop)
            self._start(events, clock)

    def _start(self, events: list[Any], clock: int) -> None:
        proposal = self._trials.next()
        if proposal is not None:
            curve = self._table[key_of(proposal.overrides)]
            left = [(int(step), miou) for step, miou in curve.items()]
            heapq.heappush(events, (clock + EVERY, proposal.number, proposal, left))

    def _end(self, proposal: Proposal, miou: float, *, stopped: bool, diverged: bool) -> None:
        if stopped:
            self._trials.prune(proposal.number)
        elif diverged:
            self._trials.fail(proposal.number, "the loss is nan")
        else:
            self._trials.complete(proposal.number, {"miou": miou, "seconds_per_step": 1.0})
            if miou > self.best:
                self.best, self.best_point = miou, key_of(proposal.overrides)
        self.best_after.append(self.best)


def replays(searches: int) -> list[measure.Row]:
    """Early stopping on the same proposals, and samplers, over so many seeds."""
    table = json.loads(TABLE.read_text())
    assert len(table) >= 60, "the table is not complete: --record"
    assert all(curve for curve in table.values()), "a run without an evaluation"
    best = max(curve[str(STEPS)] for curve in table.values() if str(STEPS) in curve)
    space = {key: choice(*values) for key, values in GRID.items()}
    base = Search(space=space, trials=TRIALS, known=(), early_stopping="none")

    def replay(**changes: Any) -> list[Replay]:
        found = [Replay(table, dataclasses.replace(base, seed=seed, **changes)) for seed in range(searches)]
        for each in found:
            each.run()
        return found

    random, tpe = replay(sampler="random"), replay()
    rows = [measure.row("mIoU of the best point of the table", 100 * best, "%")]
    for grace in (0.25, 0.5, 0.75):
        rows += _halving(grace, random, replay(sampler="random", early_stopping="asha", grace=grace))
    return rows + _samplers(random, tpe, best)


def _halving(grace: float, full: list[Replay], stopped: list[Replay]) -> list[measure.Row]:
    """What early stopping saves and loses against the same proposals trained to the end."""
    pairs = list(zip(full, stopped, strict=True))
    saved = statistics.fmean(1 - ours.steps / whole.steps for whole, ours in pairs)
    kept = statistics.fmean(ours.best_point == whole.best_point for whole, ours in pairs)
    lost = 100 * statistics.fmean(whole.best - ours.best for whole, ours in pairs)
    return [
        measure.row(f"asha, grace {grace}: worker-seconds saved", saved, "share"),
        measure.row(f"asha, grace {grace}: searches with the same best trial", kept, "share"),
        measure.row(f"asha, grace {grace}: mIoU of the best trial lost", lost, "points"),
    ]


def _samplers(random: list[Replay], tpe: list[Replay], best: float) -> list[measure.Row]:
    rows = []
    for name, found in (("random", random), ("tpe", tpe)):
        for trials in (TRIALS // 2, TRIALS):
            regret = 100 * statistics.fmean(best - each.best_after[trials - 1] for each in found)
            rows.append(
                measure.row(f"{name}: mIoU short of the best after {trials} trials", regret, "points")
            )
    wins = statistics.fmean(
        (t.best > r.best) + (t.best == r.best) / 2 for t, r in zip(tpe, random, strict=True)
    )
    rows.append(measure.row("tpe against random after all trials: wins, ties half", wins, "share"))
    return rows


class _Clock:
    """When each trial of a search is handed out and has ended."""

    def __init__(self) -> None:
        self.begin: dict[str, float] = {}
        self.end: dict[str, float] = {}

    def began(self, *, remaining: int, concurrent: int) -> None: ...

    def started(self, proposal: Proposal) -> None:
        self.begin[proposal.name] = time.time()

    def warned(self, proposal: Proposal, text: str) -> None: ...

    def training(
        self, proposal: Proposal, step: int, seconds_per_step: float, seconds_left: float
    ) -> None: ...

    def evaluated(self, proposal: Proposal, step: int, miou: float) -> None: ...

    def ended(self, proposal: Proposal, state: str, found: Mapping[str, Any]) -> None:
        del found
        assert state == "complete", state
        self.end[proposal.name] = time.time()

    def stopped(self, proposal: Proposal, where: str) -> None: ...


def overhead(trials: int = 4) -> list[measure.Row]:
    """Trials one after another, and bare runs of the same between them, in one local Ray that is up."""
    from pixelcontrast.cluster.connect import connect
    from pixelcontrast.cluster.train.launch import launch
    from pixelcontrast.cluster.tune.search import run_search

    space = {"contrast.temperature": choice(*GRID["contrast.temperature"])}
    with tempfile.TemporaryDirectory() as folder, connect(min_cpus=2):
        base = prepared(Path(folder))
        clock, bare = _Clock(), []
        for number in range(1, trials + 1):
            search = Search(space=space, trials=number, early_stopping="none", max_concurrent=1)
            run_search(base, search, listener=clock)
            settings = config.replace(base, {"run.name": f"bare-{number}"})
            begin = time.time()
            launch(settings, on_row=_ignored)
            bare.append(_spans(settings, begin, time.time()))
        searched = [
            _spans(_placed(base, f"{base.run.storage}/bare-search", name), begin, clock.end[name])
            for name, begin in clock.begin.items()
        ]
    rows = []
    for name, spans in (("trial", searched), ("bare run", bare)):
        first, rest = (statistics.median(span[index] for span in spans) for index in (0, 1))
        rows.append(measure.row(f"{name}: start to first step", first, "s"))
        rows.append(measure.row(f"{name}: all but the steps", rest, "s"))
    rows.append(measure.row("trial: overhead over a bare run", rows[1].value - rows[3].value, "s", at_most=2))
    return rows


def _placed(base: Experiment, storage: str, name: str) -> Experiment:
    return config.replace(base, {"run.name": name, "run.storage": storage})


def _spans(settings: Experiment, begin: float, end: float) -> tuple[float, float]:
    """Seconds to the end of the first step, and those that are not between the first and the last row."""
    run = open_storage(settings)
    assert read_summary(run)["steps"] == STEPS
    rows = read_rows(run)
    return rows[0]["time"] - begin, (end - begin) - (rows[-1]["time"] - rows[0]["time"])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--out", type=Path)
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--record", action="store_true")
    options = parser.parse_args()
    torch.set_num_threads(1)
    if options.record:
        record()
        return
    rows = replays(10 if options.quick else SEARCHES)
    if not options.quick:
        rows += overhead()
    for row in rows:
        measure.show(row)
    if options.out:
        measure.save(rows, options.out)


if __name__ == "__main__":
    main()
