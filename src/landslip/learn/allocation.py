"""Memory that large tensors free, kept for the next ones.

The C library gives blocks of some megabytes back to the system as soon as they are free, and the
system fills every page with zeros before it lends it again. A network allocates gigabytes a second
on a processor, and so spends up to half of its time on pages that it has just had.
"""

from __future__ import annotations

import ctypes
import platform
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache

# Names and numbers are those of malloc.h, the values in `GIVING_BACK` what glibc comes to by itself
# where blocks are large: mallopt(3).
M_TRIM_THRESHOLD, M_MMAP_THRESHOLD, M_MMAP_MAX = -1, -3, -4
KEEPING = {M_MMAP_MAX: 0, M_TRIM_THRESHOLD: -1}
GIVING_BACK = {M_MMAP_MAX: 65536, M_MMAP_THRESHOLD: 32 * 2**20, M_TRIM_THRESHOLD: 64 * 2**20}

_lock = threading.Lock()
_holders = 0


@contextmanager
def freed_memory_kept() -> Iterator[None]:
    """Keep what the main thread frees inside the block, and give it back to the system at its end.

    Blocks may lie in one another and run in several threads. Other threads gain nothing: glibc's
    arenas for them hold no large tensors. Nothing happens where the C library is not glibc.
    """
    global _holders
    libc = _glibc()
    if libc is None:
        yield
        return
    with _lock:
        _holders += 1
        if _holders == 1:
            _set(libc, KEEPING)
    try:
        yield
    finally:
        with _lock:
            _holders -= 1
            if _holders == 0:
                _set(libc, GIVING_BACK)
                libc.malloc_trim(0)


def _set(libc: ctypes.CDLL, options: dict[int, int]) -> None:
    for option, value in options.items():
        libc.mallopt(option, value)


@cache
def _glibc() -> ctypes.CDLL | None:
    """The C library, where it is glibc."""
    if platform.libc_ver()[0] != "glibc":
        return None
    libc = ctypes.CDLL(None)
    libc.mallopt.argtypes = (ctypes.c_int, ctypes.c_int)
    libc.malloc_trim.argtypes = (ctypes.c_size_t,)
    return libc
