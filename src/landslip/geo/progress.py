"""Progress for people: a bar in a terminal, plain lines elsewhere, nothing when quiet.

The logger `landslip` is the one switch: at INFO and below progress shows, above it does not. The
command line sets it; in Python it is silent until ``logging.getLogger("landslip")`` is told
otherwise.
"""

from __future__ import annotations

import logging
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Generic, TypeVar

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

log = logging.getLogger("landslip")
Item = TypeVar("Item")

PLAIN_INTERVAL_S = 15.0
"""Seconds between two plain lines where the output is not a terminal."""


def track(
    items: Iterable[Item], *, total: int, what: str, rate: Rate[Item] | None = None
) -> Iterator[Item]:
    """Pass `items` through and show how many are done.

    Args:
        items: What to pass on.
        total: How many there will be.
        what: What is being done, for people: "Mapping".
        rate: How fast it goes is shown in this; None: not shown.
    """
    if not log.isEnabledFor(logging.INFO):
        yield from items
        return
    counted = _counted(items, rate)
    if sys.stderr.isatty():
        columns = (
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("{task.fields[speed]}"),
            TimeRemainingColumn(),
        )
        with Progress(*columns, console=Console(stderr=True), transient=True) as progress:
            task = progress.add_task(what, total=total, speed="")
            for item, speed in counted:
                yield item
                progress.update(task, advance=1, speed=speed)
    else:
        yield from _plain(counted, total, what)


@dataclass(frozen=True)
class Rate(Generic[Item]):
    """What is counted a second."""

    amount: Callable[[Item], float]
    """Of an item."""
    unit: str
    """For people: "km2"."""


def _counted(items: Iterable[Item], rate: Rate[Item] | None) -> Iterator[tuple[Item, str]]:
    """Items, and how fast they come, for people."""
    begun, total = time.monotonic(), 0.0
    for item in items:
        if rate is None:
            yield item, ""
            continue
        total += rate.amount(item)
        speed = total / max(time.monotonic() - begun, 1e-9)
        yield item, f"{speed:.3g} {rate.unit}/s"


def _plain(counted: Iterable[tuple[Item, str]], total: int, what: str) -> Iterator[Item]:
    start = last = time.monotonic()
    for done, (item, speed) in enumerate(counted, 1):
        yield item
        now = time.monotonic()
        if now - last >= PLAIN_INTERVAL_S and done < total:
            last = now
            left = (now - start) / done * (total - done)
            parts = [f"{done} of {total}", speed, f"{duration(left)} left"]
            log.info("%s: %s", what, ", ".join(part for part in parts if part))


def duration(seconds: float) -> str:
    """Seconds for people: 42 s, 3 min 5 s, 2 h 10 min."""
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60} s"
    return f"{whole // 3600} h {whole % 3600 // 60} min"
