"""What this process may use of the machine, and work in several threads that stays in order."""

from __future__ import annotations

import os
import sys
from collections import deque
from collections.abc import Callable, Generator, Iterable
from concurrent.futures import Executor, Future, ThreadPoolExecutor
from contextlib import nullcontext, suppress
from itertools import islice
from pathlib import Path
from typing import TypeVar

Item = TypeVar("Item")
Result = TypeVar("Result")


OWN_BYTES = 700 * 2**20
"""What Python, torch and GDAL take before the work begins (bytes)."""
MEMORY_LIMITS = (
    Path("/sys/fs/cgroup/memory.max"),
    Path("/sys/fs/cgroup/memory/memory.limit_in_bytes"),
)
"""Where Linux tells how much memory a container may take: control groups 2 and 1."""


def default_threads() -> int:
    """Processors for this process: those that it may use, shared with its `processes_here`."""
    available = getattr(os, "sched_getaffinity", None)
    count = len(available(0)) if available else os.cpu_count() or 1
    return max(count // processes_here(), 1)


def few_threads() -> int:
    """Threads for work of which Python's lock lets only a part run at once."""
    return min(default_threads(), 4)


def default_memory_bytes() -> int:
    """Memory for this process (bytes): the machine's or container's, shared as the processors are.

    2 GiB where the system does not tell.
    """
    if not hasattr(os, "sysconf"):  # Windows
        return 2 * 2**30 // processes_here()
    limits = [os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")]
    for path in MEMORY_LIMITS:
        with suppress(OSError, ValueError):  # no such file; the word "max"
            limits.append(int(path.read_text()))
    return min(limits) // processes_here()


def own_memory_bytes() -> int:
    """Memory that this process takes now (bytes); `OWN_BYTES` at least."""
    path = Path("/proc/self/statm")
    if not path.exists():
        return OWN_BYTES
    return max(int(path.read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE"), OWN_BYTES)


def peak_memory_bytes() -> int | None:
    """Most memory that this process has taken (bytes); None where the system does not tell."""
    if sys.platform == "win32":
        return None
    import resource

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


def processes_here() -> int:
    """Processes that `torchrun` started together on this machine; 1 without it."""
    return int(os.environ.get("LOCAL_WORLD_SIZE", "1"))


def in_order(
    function: Callable[[Item], Result],
    items: Iterable[Item],
    threads: int,
    executor: Executor | None = None,
) -> Generator[Result, None, None]:
    """Results of `function` in the order of `items`, computed by several threads.

    At most two results a thread wait to be taken, so memory does not grow with the work. A caller
    that stops early waits only for what runs.

    Args:
        function: What to do with an item.
        items: Asked for when they are needed.
        threads: How many work at once.
        executor: Who does it, instead of threads of this process; it stays open.
    """
    waiting: deque[Future[Result]] = deque()
    remaining = iter(items)
    with (
        ThreadPoolExecutor(threads, thread_name_prefix="landslip")
        if executor is None
        else nullcontext(executor)
    ) as pool:
        try:
            waiting.extend(pool.submit(function, item) for item in islice(remaining, 2 * threads))
            while waiting:
                result = waiting.popleft().result()
                waiting.extend(pool.submit(function, item) for item in islice(remaining, 1))
                yield result
        finally:
            for future in waiting:
                future.cancel()
