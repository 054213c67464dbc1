"""What lower precisions cost: time on a CPU that emulates bfloat16, and how far products err."""

import logging
import platform
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F

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


@pytest.mark.parametrize(("significant_bits", "most"), [(11, 0.001), (8, 0.008)], ids=["TF32", "bfloat16"])
def test_cosines_of_rounded_embeddings_err_no_more_than_matmul_precision_says(
    significant_bits: int, most: float
) -> None:
    rows = F.normalize(torch.randn(400, 4, generator=torch.Generator().manual_seed(0), dtype=torch.float64))
    fraction, exponent = torch.frexp(rows)
    rounded = torch.ldexp((fraction * 2**significant_bits).round() / 2**significant_bits, exponent)
    if significant_bits == 8:
        assert torch.equal(rounded, rows.float().bfloat16().double())
    error = (rounded @ rounded.T - rows @ rows.T).abs().max()
    assert most / 4 < error <= most
