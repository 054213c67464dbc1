"""A process killed before its n-th change to a file: a tracer counts the system calls that make one."""

import ctypes
import os
import platform
import signal
import struct
import traceback
from collections.abc import Callable

_NUMBERS = {
    "x86_64": {
        **{1: "write", 18: "pwrite", 74: "fsync", 75: "fdatasync", 76: "truncate", 77: "ftruncate"},
        **{2: "open", 82: "rename", 83: "mkdir", 84: "rmdir", 86: "link", 87: "unlink", 257: "openat"},
        **{258: "mkdirat", 263: "unlinkat", 264: "renameat", 265: "linkat", 316: "renameat2"},
    },
    "aarch64": {
        **{64: "write", 68: "pwrite", 82: "fsync", 83: "fdatasync", 45: "truncate", 46: "ftruncate"},
        **{34: "mkdirat", 35: "unlinkat", 37: "linkat", 38: "renameat", 56: "openat", 276: "renameat2"},
    },
}
CALLS = _NUMBERS.get(platform.machine(), {}) if platform.system() == "Linux" else {}
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
