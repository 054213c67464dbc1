"""What the tests of searches search."""

from pathlib import Path

import pytest

from pixelcontrast import Data, Experiment, Optim, Run
from studies import STEPS


@pytest.fixture
def experiment(tmp_path: Path) -> Experiment:
    """Evaluated four times; nothing of it is trained."""
    return Experiment(
        data=Data(layout="camvid", root="camvid"),
        optim=Optim(steps=STEPS),
        run=Run(name="street", storage=str(tmp_path), eval_interval=100),
    )
