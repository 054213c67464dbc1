"""Searches by their command, in a process of their own: killed, interrupted, and started again."""

import json
import os
import signal
import statistics
import subprocess
import sys
from pathlib import Path

import psutil
import pytest
from scipy.stats import ttest_rel
from search_results import check_the_promise, trained_steps, trials_of

from pixelcontrast.words import points

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]
FILE = Path(__file__).with_name("small_search.py")


def command(scenes: Path, storage: Path, *more: str) -> list[str]:
    places = ["--data.root", str(scenes), "--run.storage", str(storage)]
    return [sys.executable, str(FILE), *more, *places]


def environment() -> dict[str, str]:
    return {name: value for name, value in os.environ.items() if not name.startswith("RAY_")}


def run_command(arguments: list[str], cwd: Path, *, status: int = 0) -> str:
    done = subprocess.run(arguments, capture_output=True, text=True, cwd=cwd, env=environment(), check=False)
    assert done.returncode == status, done.stderr
    return done.stdout


def interrupt_after(
    arguments: list[str], cwd: Path, number: int, how: signal.Signals, *, evaluated: int = 1
) -> tuple[int, str]:
    """Signal the driver when ``number`` trials have ended well and so many have been evaluated since."""
    ended = 0
    names: set[str] = set()
    lines = []
    with subprocess.Popen(
        arguments,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        cwd=cwd,
        env=environment(),
        start_new_session=True,
    ) as driver:
        assert driver.stdout is not None
        children: list[psutil.Process] = []
        for line in driver.stdout:
            lines.append(line)
            ended += line.rstrip().endswith("left)") and "  failed: " not in line
            if ended >= number and "  step " in line:
                names.add(line.split()[0])
            if len(names) >= evaluated and not children:
                children = psutil.Process(driver.pid).children(recursive=True)
                if how == signal.SIGINT:
                    os.killpg(driver.pid, how)  # a terminal's Ctrl-C reaches all
                else:
                    driver.send_signal(how)
    assert children, "".join(lines)
    assert not psutil.wait_procs(children, timeout=30)[1]
    return driver.returncode, "".join(lines)


def ended_rows(search: Path) -> dict[str, bytes]:
    """The rows of trials that stay as they are: those that failed are tried again."""
    return {
        trial.user_attrs["run"]: (search / trial.user_attrs["run"] / "metrics.jsonl").read_bytes()
        for trial in trials_of(search)
        if trial.state.name in ("COMPLETE", "PRUNED")
    }


def test_eight_trials_with_the_driver_killed_twice_and_interrupted_once(scenes: Path, tmp_path: Path) -> None:
    arguments = command(scenes, tmp_path / "runs", "search", "--trials", "8")
    search = tmp_path / "runs" / "small-search"
    kept: dict[str, bytes] = {}
    for number, how, status in [(1, signal.SIGKILL, -9), (1, signal.SIGINT, 130), (1, signal.SIGKILL, -9)]:
        returncode, output = interrupt_after(arguments, tmp_path, number, how)
        assert returncode == status, output
        if how == signal.SIGINT:
            assert "Rerun the command to resume it" in output
        kept |= ended_rows(search)
    run_command(arguments, tmp_path)  # one diverges
    check_the_promise(search, kept, trials=8)
    assert len(kept) >= 3

    again = run_command(arguments, tmp_path)
    started = [line.split()[0] for line in again.splitlines() if "  starts  " in line]
    assert started == [trial.user_attrs["run"] for trial in trials_of(search) if trial.state.name == "FAIL"]
    check_the_promise(search, ended_rows(search), trials=8)


def test_an_interrupted_search_leaves_checkpoints_and_goes_on_from_them(scenes: Path, tmp_path: Path) -> None:
    """Two of three arms run; nothing but the interruption, and the best evaluation, leaves a checkpoint."""
    steps, search = 60, tmp_path / "runs" / "small-arms"
    more = {"optim.steps": steps, "run.eval-interval": 5, "run.checkpoint-interval": 1000}
    options = [text for key, value in more.items() for text in (f"--{key}", str(value))]
    arguments = command(scenes, tmp_path / "runs", "compare", "--seeds", "0", *options)
    returncode, output = interrupt_after(arguments, tmp_path, 0, signal.SIGINT, evaluated=2)
    assert returncode == 130, output
    assert "Stopped. Rerun the command to resume it" in output
    assert "Traceback" not in output
    trials = trials_of(search)
    assert [(trial.user_attrs["run"], trial.state.name) for trial in trials] == [
        ("ce-s0", "RUNNING"),
        ("contrast-s0", "RUNNING"),
    ]
    last = {trial.user_attrs["run"]: trained_steps(search / trial.user_attrs["run"])[-1] for trial in trials}
    for name, step in last.items():
        assert 5 <= step < steps
        # One more may be the best evaluation's.
        newest = max(path.name for path in (search / name / "checkpoints").iterdir())
        assert newest == f"step-{step:08d}"
        assert f"{name}  stopped with a checkpoint at step {step}\n" in output

    run_command(arguments, tmp_path)
    trials = trials_of(search)
    assert [trial.state.name for trial in trials] == ["COMPLETE"] * 3
    for trial in trials:
        name = trial.user_attrs["run"]
        assert trained_steps(search / name) == list(range(1, steps + 1))
        assert list(trial.intermediate_values) == list(range(5, steps + 1, 5))
        attempts = [json.loads(line) for line in (search / name / "attempts.jsonl").read_text().splitlines()]
        assert [attempt["from_step"] for attempt in attempts] == [0, *([last[name]] if name in last else [])]


def test_three_arms_on_three_seeds_print_their_table_and_may_be_asked_for_bit_by_bit(
    scenes: Path, tmp_path: Path
) -> None:
    search = tmp_path / "runs" / "small-arms"
    some = run_command(
        command(scenes, tmp_path / "runs", "compare", "ce", "cool", "--seeds", "0", "1"),
        tmp_path,
    )
    assert "2 arms (ce, cool) on seeds 0, 1" in some
    kept = ended_rows(search)
    assert kept.keys() == {"ce-s0", "ce-s1", "cool-s0", "cool-s1"}
    every = run_command(command(scenes, tmp_path / "runs", "compare"), tmp_path)
    assert "5 trials to run" in every
    check_the_promise(search, kept, trials=9)

    scores: dict[str, list[float]] = {}
    for trial in sorted(trials_of(search), key=lambda trial: trial.user_attrs["seed"]):
        scores.setdefault(trial.user_attrs["arm"], []).append(100 * (trial.value or 0.0))
    mean = statistics.fmean(scores["ce"])
    row = next(line for line in every.splitlines() if line.startswith("ce "))
    numbers = [f"{score:.1f}" for score in scores["ce"]]
    assert row.split() == ["ce", *numbers, f"{mean:.1f}", "±", f"{statistics.stdev(scores['ce']):.1f}"]
    difference = ttest_rel(scores["contrast"], scores["ce"]).confidence_interval(0.95)
    row = next(line for line in every.splitlines() if line.startswith("contrast "))
    mean = statistics.fmean(scores["contrast"]) - statistics.fmean(scores["ce"])
    shown = [points(number / 100) for number in (mean, difference.low, difference.high)]
    assert " ".join(row.split()).endswith("{} [{}, {}] 3".format(*shown))
    assert "IoU in %, cool and ce" in every
    assert (search / "report.html").is_file()
