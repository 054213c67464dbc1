"""Ctrl-C before anything has started: one line and status 130, whatever was being imported or prepared."""

import subprocess
import sys
from pathlib import Path

import pytest

FILE = """
import os, signal, threading, time
import pixelcontrast
signal.signal(signal.SIGINT, signal.default_int_handler)  # a background job ignores it

def ctrl_c():
    os.kill(os.getpid(), signal.SIGINT)

{first}
from pixelcontrast import Data, Experiment, Run, main

def prepare(experiment):
    {prepare}

data, run = Data(layout="camvid", root="{folder}"), Run(name="x", storage="{folder}")
main(Experiment(data=data, run=run), prepare=prepare)
"""


@pytest.mark.parametrize(
    ("first", "prepare", "said"),
    [
        ("threading.Timer(0.1, ctrl_c).start()", "pass", "Stopped before anything was started."),
        ("", "ctrl_c()", "Stopped. Rerun the command to "),
        ("", "threading.Timer(0.5, ctrl_c).start()", "Stopped. Rerun the command to "),
    ],
    ids=["while_the_settings_are_imported", "while_the_data_are_prepared", "while_torch_is_imported"],
)
def test_an_early_ctrl_c_ends_in_one_line(first: str, prepare: str, said: str, tmp_path: Path) -> None:
    file = tmp_path / "experiment.py"
    # Without an interruption it would end with status 2, as there are no data; torch's import takes longer.
    file.write_text(FILE.format(first=first, prepare=prepare, folder=tmp_path))
    done = subprocess.run([sys.executable, str(file)], capture_output=True, text=True, check=False)
    assert done.returncode == 130, done.stderr
    assert done.stderr.startswith(said)
    assert done.stderr.count("\n") == 1
    assert done.stdout == ""
