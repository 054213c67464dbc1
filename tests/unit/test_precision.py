"""bfloat16 on a CPU without instructions for it is much slower than float32, and says so."""

import logging
import platform
from pathlib import Path

import pytest
import torch

from pixelcontrast import Data, Experiment, Run
from pixelcontrast.training.loop import warn_of_emulated_precision

CPUINFO = Path("/proc/cpuinfo")


@pytest.mark.skipif(platform.machine() != "x86_64" or not CPUINFO.exists(), reason="reads /proc/cpuinfo")
@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_bfloat16_warns_where_the_cpu_emulates_it(precision: str, caplog: pytest.LogCaptureFixture) -> None:
    experiment = Experiment(
        data=Data(layout="camvid", root="camvid"),
        run=Run(name="r", precision=precision),  # type: ignore[arg-type]
    )
    with caplog.at_level(logging.WARNING):
        warn_of_emulated_precision(experiment, torch.device("cpu"))
    is_emulated = precision == "bfloat16" and "avx512f" not in CPUINFO.read_text()
    assert ("--run.precision float32" in caplog.text) == is_emulated
