"""Prototypes of the C library calls that Python does not have, and errno -> our exceptions.

Calls go through `PyDLL`: they keep the interpreter lock. None of them blocks, and giving the lock
away while a thread of the target is stopped would let another Python thread make it stand still
for a whole switch interval (5 ms).

`ctypes.addressof` does not keep a buffer alive. Whoever hands an address to one of these calls
keeps the buffer in an attribute for as long.
"""

from __future__ import annotations

import ctypes
import errno
import os

from jsspy.errors import JsspyError, PermissionDenied, ProcessExited

_libc = ctypes.PyDLL(None, use_errno=True)

ptrace = _libc.ptrace
ptrace.argtypes = (ctypes.c_long, ctypes.c_long, ctypes.c_void_p, ctypes.c_void_p)
ptrace.restype = ctypes.c_long

process_vm_readv = _libc.process_vm_readv
process_vm_readv.argtypes = (
    ctypes.c_int,
    ctypes.c_void_p,
    ctypes.c_ulong,
    ctypes.c_void_p,
    ctypes.c_ulong,
    ctypes.c_ulong,
)
process_vm_readv.restype = ctypes.c_ssize_t

waitid = _libc.waitid
waitid.argtypes = (ctypes.c_int, ctypes.c_int, ctypes.c_void_p, ctypes.c_int)
waitid.restype = ctypes.c_int

pthread_sigmask = _libc.pthread_sigmask
pthread_sigmask.argtypes = (ctypes.c_int, ctypes.c_void_p, ctypes.c_void_p)
pthread_sigmask.restype = ctypes.c_int

syscall = _libc.syscall
"""For system calls that have no function in the C library: number, then up to five arguments."""
syscall.argtypes = (ctypes.c_long,) * 6
syscall.restype = ctypes.c_long

ioctl = _libc.ioctl
ioctl.argtypes = (ctypes.c_int, ctypes.c_ulong, ctypes.c_ulong)
ioctl.restype = ctypes.c_int

get_errno = ctypes.get_errno

_M_MMAP_THRESHOLD = -3
_LARGE_BYTES = 1 << 18


def map_large_blocks() -> None:
    """Have large blocks of memory go back to the system when they are freed, in this process.

    glibc raises the size from which it does so to that of the largest block that was freed, up to
    32 MiB: who has read the names of one large binary keeps 25 MB for as long as he runs. musl
    has no such setting and needs none.
    Source: malloc/malloc.h and mallopt(3), M_MMAP_THRESHOLD, at glibc 2.36.
    """
    mallopt = getattr(_libc, "mallopt", None)
    if mallopt is not None:
        mallopt(_M_MMAP_THRESHOLD, _LARGE_BYTES)


def failure(action: str, pid: int, code: int) -> JsspyError:
    """Return the exception for a call on process `pid` that failed with errno `code`."""
    match code:
        case errno.ESRCH | errno.ENOENT:
            return ProcessExited(f"process {pid} is gone")
        case errno.EPERM | errno.EACCES:
            return PermissionDenied(f"cannot {action} process {pid}: {os.strerror(code).lower()}")
        case _:
            return JsspyError(f"cannot {action} process {pid}: {os.strerror(code).lower()}")
