"""A process killed before its n-th change to a file: a tracer counts the system calls that make one."""

import ctypes
import os
import platform
import signal
import struct
import traceback
from collections.abc import Callable

_X86_64 = (
    "write 1, pwrite 18, fsync 74, fdatasync 75, truncate 76, ftruncate 77, open 2, rename 82, mkdir 83, \
rmdir 84, link 86, unlink 87, openat 257, mkdirat 258, unlinkat 263, renameat 264, linkat 265, renameat2 316"
)
_AARCH64 = "write 64, pwrite 68, fsync 82, fdatasync 83, truncate 45, ftruncate 46, mkdirat 34, unlinkat 35, \
linkat 37, renameat 38, openat 56, renameat2 276"
_TABLES = {"x86_64": _X86_64, "aarch64": _AARCH64} if platform.system() == "Linux" else {}
_ENTRIES = _TABLES.get(platform.machine(), "").split(", ")
CALLS = {int(number): name for name, _, number in (entry.partition(" ") for entry in _ENTRIES) if name}
"""System calls by number; none where this machine's are not known here."""

_TRACE_ME, _NEXT_CALL, _OPTIONS, _CALL_INFO = 0, 24, 0x4200, 0x420E
_MARK_CALLS, _END_WITH_TRACER = 0x1, 0x100000
_ENTRY = 1


def killed_before(number: int, work: Callable[[], object]) -> str | None:
    """Do ``work`` in a fork that is killed before the ``number``-th call with which it changes files.

    Call it in a process of one thread. Returns the call's name, or None where the work was done before.
    """
    child = os.fork()
    if child == 0:
        _work_traced(work)
    os.waitpid(child, 0)
    _ptrace(_OPTIONS, child, 0, _MARK_CALLS | _END_WITH_TRACER)
    seen = forwarded = 0
    while True:
        _ptrace(_NEXT_CALL, child, 0, forwarded)
        _, status = os.waitpid(child, 0)
        if not os.WIFSTOPPED(status):
            assert os.waitstatus_to_exitcode(status) == 0, "the work itself failed"
            return None
        at_call = os.WSTOPSIG(status) == signal.SIGTRAP | 0x80
        forwarded = 0 if at_call else os.WSTOPSIG(status)
        if at_call and (name := _change(child)):
            seen += 1
            if seen == number:
                os.kill(child, signal.SIGKILL)
                os.waitpid(child, 0)
                return name


def _work_traced(work: Callable[[], object]) -> None:
    try:
        _ptrace(_TRACE_ME, 0, 0, 0)
        os.kill(os.getpid(), signal.SIGSTOP)  # until the tracer is ready
        work()
    except BaseException:
        traceback.print_exc()
        os._exit(1)
    os._exit(0)


def _change(child: int) -> str | None:
    """The name of the call that the child is about to make, if it changes files."""
    info = ctypes.create_string_buffer(88)
    _ptrace(_CALL_INFO, child, len(info), ctypes.addressof(info))
    number, *arguments = struct.unpack_from("7Q", info.raw, 24)
    name = CALLS.get(number) if info.raw[0] == _ENTRY else None
    if name in ("open", "openat"):
        flags = arguments[1 if name == "open" else 2]
        return name if flags & (os.O_WRONLY | os.O_RDWR | os.O_CREAT) else None
    return name


def _ptrace(request: int, process: int, address: int, data: int) -> None:
    trace = ctypes.CDLL(None, use_errno=True).ptrace
    trace.argtypes = [ctypes.c_long, ctypes.c_long, ctypes.c_void_p, ctypes.c_void_p]
    trace.restype = ctypes.c_long
    if trace(request, process, address, data) < 0:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
