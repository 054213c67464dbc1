"""The CamVid experiment on real images, as a user types it: with and without contrast, one worker and two."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

EXPERIMENT = Path(__file__).parents[2] / "experiments" / "camvid.py"
STEPS = 30


@pytest.mark.slow
@pytest.mark.skipif("CAMVID_ROOT" not in os.environ, reason="CAMVID_ROOT does not name a folder with CamVid")
@pytest.mark.parametrize("workers", ["1", "2"])
@pytest.mark.parametrize("weight", ["1.0", "0"])
def test_camvid_trains(weight: str, workers: str, tmp_path: Path) -> None:
    options = ["--run.storage", str(tmp_path), "--run.workers", workers, "--contrast.weight", weight]
    options += ["--optim.steps", str(STEPS), "--run.report-interval", "10", "--run.device", "cpu"]
    environment = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")}
    command = [sys.executable, str(EXPERIMENT), *options]
    done = subprocess.run(command, capture_output=True, text=True, env=environment, check=False)
    assert done.returncode == 0, done.stderr

    rows = [json.loads(line) for line in (tmp_path / "camvid" / "metrics.jsonl").read_text().splitlines()]
    training, evaluation = rows[:-1], rows[-1]
    assert [row["step"] for row in training] == [10, 20, 30]
    assert training[-1]["ce"] < training[0]["ce"]
    assert all(("contrast" in row) == (weight != "0") for row in training)
    assert len(evaluation["iou"]) == 11
    # The best constant prediction, road everywhere, has one IoU above 0 of eleven, and that below 0.35.
    assert evaluation["miou"] > 0.05
