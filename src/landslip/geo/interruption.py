"""Stopping long work between two steps."""

from __future__ import annotations

import logging
import signal
import threading
from types import FrameType
from typing import Any, Self

log = logging.getLogger(__name__)


class Interruption:
    """Turns Ctrl-C and SIGTERM into a wish that a loop fulfils after a step, so nothing is lost.

    A KeyboardInterrupt that comes while GDAL calls back into Python would be swallowed there. A
    second Ctrl-C stops at once.
    """

    def __init__(self) -> None:
        self.asked = False
        self._before: dict[int, Any] = {}

    def __enter__(self) -> Self:
        # Only the main thread may handle signals; elsewhere the caller's handling stays.
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGINT, signal.SIGTERM):
                self._before[number] = signal.signal(number, self._ask)
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _ask(self, _number: int, _frame: FrameType | None) -> None:
        if self.asked:
            raise KeyboardInterrupt
        self.asked = True
        log.warning("stopping after this step; press Ctrl-C again to stop at once")

    def stop_if_asked(self) -> None:
        """Raise KeyboardInterrupt where somebody asked; call it where nothing is half done."""
        if self.asked:
            raise KeyboardInterrupt
