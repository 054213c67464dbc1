"""``make gpu-check`` without a GPU: what it runs, and what its counts make of a profile."""

import runpy
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize("failing", ["pytest", "gpu.py", "neither"])
def test_both_parts_run_and_either_can_fail(tmp_path: Path, failing: str) -> None:
    python = tmp_path / "python"
    python.write_text(f'#!/bin/sh\necho "$@" >> {tmp_path}/calls\ncase "$*" in *{failing}*) exit 1;; esac\n')
    python.chmod(0o755)
    (tmp_path / "installed").touch()
    variables = [f"BIN={tmp_path}", f"INSTALLED={tmp_path}/installed"]
    done = subprocess.run(["make", "gpu-check", *variables], cwd=ROOT, capture_output=True)
    assert (done.returncode == 0) == (failing == "neither")
    tests, benchmark = (tmp_path / "calls").read_text().splitlines()
    assert tests == "-m pytest -m cuda"
    assert benchmark.startswith("experiments/benchmarks/gpu.py")


def test_a_profile_without_kernels_counts_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(ROOT / "experiments" / "benchmarks"))
    count = runpy.run_path(str(ROOT / "experiments" / "benchmarks" / "gpu.py"))["launches_and_waits"]
    assert count({"aten::mm": 4}) is None
    kernels = {"cudaLaunchKernel": 5, "cudaLaunchKernelExC": 2, "cuLaunchKernelEx": 3}
    assert count(kernels | {"cudaStreamSynchronize": 2, "cudaDeviceSynchronize": 1}) == (10, 2)
