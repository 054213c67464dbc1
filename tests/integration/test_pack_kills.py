"""A packing killed at every single instant resumes to the same pack, and leaves no wrong one."""

import os
import signal
import subprocess
import sys
import time
import traceback
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from itertools import count
from pathlib import Path

import pytest

from killing import CALLS, killed_before
from packs import write_folder
from pixelcontrast.config import Data
from pixelcontrast.datasets.files import read_image
from pixelcontrast.datasets.packing import write
from pixelcontrast.datasets.packing.manifest import find_pack
from processes import FORKING

traced = pytest.mark.skipif(not CALLS, reason="system calls are counted on Linux, on x86_64 and aarch64 only")


def contents(folder: Path) -> dict[str, bytes]:
    """Path below the folder → bytes, of every file."""
    return {
        path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()
    }


def check_whole_or_unfinished(dest: Path, wanted: dict[str, bytes]) -> None:
    """Nobody can take for a pack what is not the whole one."""
    there = contents(dest)
    if "manifest.json" in there:
        assert find_pack(str(dest)) is not None
        assert {name: content for name, content in there.items() if name in wanted} == wanted
    elif ".packing/plan.json" in there:
        with pytest.raises(ValueError, match="an unfinished pack"):
            find_pack(str(dest))
    else:
        assert not [name for name in there if name.endswith(".arrow")]


def to_its_end(work: Callable[..., object], *args: object) -> None:
    """Do some work in a fork that nobody kills."""
    child = os.fork()
    if child == 0:
        try:
            work(*args)
        except BaseException:
            traceback.print_exc()
            os._exit(1)
        os._exit(0)
    assert os.waitpid(child, 0)[1] == 0


def break_every_packing(root: str, every: int) -> list[str]:
    """The calls before which a packing was killed, one in ``every`` of them in its turn.

    All that uses pyarrow is done in forks, since a fork of a process with pyarrow's threads hangs.
    """
    write.SAMPLES_PER_SHARD = 1
    data = Data(layout="folder", root=root)
    # Once here, so that not every fork imports Pillow's plugins under the tracer.
    read_image(Path(root) / "images/train/000.png")
    whole = Path(root).with_name("whole")
    to_its_end(write.pack, data, str(whole))
    wanted, calls = contents(whole), []
    for number in count(1, every):
        dest = Path(root).with_name(f"packed-{number}")
        call = killed_before(number, partial(write.pack, data, str(dest)))
        to_its_end(check_whole_or_unfinished, dest, wanted)
        if call is None:
            return calls
        calls.append(call)
        to_its_end(write.pack, data, str(dest))
        assert contents(dest) == wanted, f"{number}: {call}"
    raise AssertionError


@traced
@pytest.mark.timeout(300)
@pytest.mark.parametrize("every", [pytest.param(1, marks=pytest.mark.slow), 4])
def test_a_packing_killed_before_any_of_its_calls_resumes_to_the_same_pack(
    every: int, tmp_path: Path
) -> None:
    write_folder(tmp_path / "photos", num_train=1, num_val=1)
    with ProcessPoolExecutor(1, mp_context=FORKING) as process:
        calls = process.submit(break_every_packing, str(tmp_path / "photos"), every).result()
    assert len(calls) > 40 / every
    if every > 1:
        return
    assert {"openat", "write", "fsync"} <= set(calls)
    assert sum(call.startswith("rename") for call in calls) >= 6
    assert any(call.startswith(("unlink", "rmdir")) for call in calls)


PACKING = """
import sys
from functools import partial
from pixelcontrast.config import Data
from pixelcontrast.datasets.files import read_image
from pixelcontrast.datasets.packing import write
from pixelcontrast.datasets.parallel import in_processes
if __name__ == "__main__":
    write.SAMPLES_PER_SHARD = 4
    root, dest = sys.argv[1:]
    write.pack(Data(layout="folder", root=root), dest, mapped=partial(in_processes, processes=2))
"""


@pytest.mark.slow
def test_a_packing_in_processes_killed_again_and_again_gives_the_same_pack(tmp_path: Path) -> None:
    data, dest = write_folder(tmp_path / "photos", num_train=150, num_val=30), tmp_path / "packed"
    (tmp_path / "packing.py").write_text(PACKING)
    command = [sys.executable, str(tmp_path / "packing.py"), data.root, str(dest)]
    for number in range(5):
        with subprocess.Popen(command) as process:
            while process.poll() is None and len(list(dest.glob("*/*.arrow"))) < 7 * (number + 1):
                time.sleep(0.001)
            time.sleep(0.004 * number)
            process.send_signal(signal.SIGKILL)
            assert process.wait() == -signal.SIGKILL
        with pytest.raises(ValueError, match="an unfinished pack"):
            find_pack(str(dest))
    subprocess.run(command, check=True)
    subprocess.run([*command[:-1], str(tmp_path / "whole")], check=True)
    assert contents(dest) == contents(tmp_path / "whole")
