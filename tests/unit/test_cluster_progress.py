import io
import os
import pty
import subprocess
import sys

import pytest

from pixelcontrast.cluster.train.events import steps_to_first_row
from pixelcontrast.cluster.train.progress import TrainingProgress, print_evaluation
from pixelcontrast.config import Data, Experiment, Optim, Run
from pixelcontrast.console import PlainConsole

TRAIN = {
    "kind": "train",
    "step": 40,
    "steps": 200,
    "epoch": 1.6,
    "loss": 1.75,
    "ce": 0.512,
    "contrast": 4.321,
    "lr": 0.009,
    "images_per_second": 12.34,
    "attempt": 1,
}
EVAL = {
    "kind": "eval",
    "step": 40,
    "miou": 0.4567,
    "pixel_accuracy": 0.8912,
    "iou": {"road": 0.912, "traffic light of a very long name": None, "sky": 0.0},
}


def shown(*rows: dict, terminal: bool = False) -> str:
    console = PlainConsole(file=io.StringIO(), force_terminal=terminal, width=80)
    with TrainingProgress(console) as progress:
        for row in rows:
            progress.row(row)
    return console.file.getvalue()  # type: ignore[attr-defined]


def test_piped_rows_are_plain_lines_with_the_numbers():
    text = shown(TRAIN, EVAL, TRAIN | {"step": 60})
    assert all(character.isprintable() or character == "\n" for character in text)
    first, second, third = text.splitlines()
    assert all(number in first for number in ("40/200", "CE 0.512", "contrast 4.321", "12.3 img/s"))
    assert all(number in second for number in ("step 40", "mIoU 45.7 %", "pixel accuracy 89.1 %"))
    assert all(number in third for number in ("60/200", "mIoU 45.7 %", "left"))


def test_baseline_without_contrast_shows_none():
    plain = {key: value for key, value in TRAIN.items() if key != "contrast"}
    assert "contrast" not in shown(plain)


def test_auxiliary_loss_is_shown_where_there_is_one():
    assert "aux" not in shown(TRAIN)
    assert "aux 1.250" in shown(TRAIN | {"auxiliary": 1.25})


def test_steps_left_out_are_counted():
    assert "CE 0.512  skipped 2" in shown(TRAIN | {"skipped": 2})
    assert "skipped" not in shown(TRAIN | {"skipped": 0})
    left_out = {"loss": None, "ce": None, "contrast": None, "skipped": 1}
    assert "40/200  skipped 1  12.3 img/s" in shown(TRAIN | left_out)


def test_time_left_follows_the_pace_of_the_rows(monkeypatch):
    times = iter([0.0, 10.0])
    monkeypatch.setattr("pixelcontrast.cluster.train.progress.time.monotonic", lambda: next(times))
    last = shown(TRAIN, TRAIN | {"step": 60}).splitlines()[-1]
    assert last.endswith("1:10 left")


def test_the_last_line_has_the_last_evaluation_and_no_time_left():
    end = TRAIN | {"step": 200}
    last = shown(TRAIN, EVAL, end, EVAL | {"step": 200, "miou": 0.5432}, terminal=True)
    last = last[last.rindex("200/200") :]
    assert "mIoU 54.3 %" in last
    assert "45.7" not in last
    assert "left" not in last
    assert "left" not in shown(TRAIN, end).splitlines()[-1]


@pytest.mark.parametrize("terminal", [False, True])
def test_what_is_waited_for_is_shown_until_the_first_row(terminal: bool):
    console = PlainConsole(file=io.StringIO(), force_terminal=terminal, width=100)
    with TrainingProgress(console) as progress:
        progress.stage("starting Ray on this machine")
        progress.stage("waiting for Ray to start the workers (2)")
        progress.row(TRAIN)
    text = console.file.getvalue()  # type: ignore[attr-defined]
    assert "waiting for Ray to start the workers (2)" in text
    assert text.rindex("waiting") < text.rindex("40/200")


def test_terminal_shows_the_same_numbers_live():
    text = shown(TRAIN, EVAL, TRAIN | {"step": 60}, terminal=True)
    assert "\x1b[" in text
    assert all(word in text for word in ("60/200", "CE 0.512", "contrast 4.321", "mIoU 45.7 %"))


def test_table_is_plain_and_fits_80_columns_when_piped():
    console = PlainConsole(file=io.StringIO(), width=80)
    print_evaluation(EVAL, console)
    text = console.file.getvalue()  # type: ignore[attr-defined]
    lines = [line.split() for line in text.splitlines()]
    assert all(character.isprintable() or character == "\n" for character in text)
    assert max(map(len, text.splitlines())) <= 80
    assert ["road", "91.2"] in lines
    assert ["sky", "0.0"] in lines
    assert ["mIoU", "45.7"] in lines
    assert ["pixel", "accuracy", "89.1"] in lines
    assert next(line for line in lines if "light" in line)[-1] == "–"


def test_a_real_terminal_gets_one_line_that_is_redrawn():
    rows = f"[{TRAIN!r}, {TRAIN | {'step': 60}!r}, {TRAIN | {'step': 80}!r}]"
    code = "from pixelcontrast.cluster.train.progress import TrainingProgress\n"
    code += f"with TrainingProgress() as progress:\n    for row in {rows}: progress.row(row)"
    master, slave = pty.openpty()
    environment = os.environ | {"TERM": "xterm", "COLUMNS": "100"}
    subprocess.run([sys.executable, "-c", code], stdout=slave, stderr=slave, env=environment, check=True)
    os.close(slave)
    text = os.read(master, 65536).decode()
    os.close(master)
    assert "80/200" in text
    assert text.count("\n") <= 2


def test_importing_progress_and_launch_imports_neither_ray_nor_torch():
    code = "import sys, pixelcontrast.cluster.train.progress, pixelcontrast.cluster.train.launch\n"
    code += "sys.exit(bool({'ray', 'torch'} & sys.modules.keys()))"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


@pytest.mark.parametrize(("steps", "eval_interval", "first"), [(200, 100, 20), (4, 2, 2), (1, 9, 1)])
def test_the_first_numbers_come_with_a_report_an_evaluation_or_the_end(
    steps: int, eval_interval: int, first: int
) -> None:
    run = Run(name="r", eval_interval=eval_interval)
    experiment = Experiment(data=Data(layout="folder", root="photos"), optim=Optim(steps=steps), run=run)
    assert steps_to_first_row(experiment) == first
