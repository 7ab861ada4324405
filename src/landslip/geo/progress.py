"""Progress for people: a bar in a terminal, plain lines elsewhere, nothing when quiet.

The logger `landslip` is the one switch: at INFO and below progress shows, above it does not. The
command line sets it; in Python it is silent until ``logging.getLogger("landslip")`` is told
otherwise.
"""

from __future__ import annotations

import logging
import sys
import time
from collections.abc import Iterable, Iterator
from typing import TypeVar

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

log = logging.getLogger("landslip")
Item = TypeVar("Item")

PLAIN_INTERVAL_S = 15.0
"""Seconds between two plain lines where the output is not a terminal."""


def track(items: Iterable[Item], *, total: int, what: str) -> Iterator[Item]:
    """Pass `items` through and show how many are done.

    Args:
        items: What to pass on.
        total: How many there will be.
        what: What is being done, for people: "Mapping".
    """
    if not log.isEnabledFor(logging.INFO):
        yield from items
    elif sys.stderr.isatty():
        columns = (
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeRemainingColumn(),
        )
        with Progress(*columns, console=Console(stderr=True), transient=True) as progress:
            task = progress.add_task(what, total=total)
            for item in items:
                yield item
                progress.advance(task)
    else:
        yield from _plain(items, total, what)


def _plain(items: Iterable[Item], total: int, what: str) -> Iterator[Item]:
    start = last = time.monotonic()
    for done, item in enumerate(items, 1):
        yield item
        now = time.monotonic()
        if now - last >= PLAIN_INTERVAL_S and done < total:
            last = now
            left = (now - start) / done * (total - done)
            log.info("%s: %d of %d, %s left", what, done, total, duration(left))


def duration(seconds: float) -> str:
    """Seconds for people: 42 s, 3 min 5 s, 2 h 10 min."""
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60} s"
    return f"{whole // 3600} h {whole % 3600 // 60} min"
