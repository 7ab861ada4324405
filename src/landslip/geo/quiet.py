"""What rasterio need not tell people, in several threads."""

from __future__ import annotations

import threading
import warnings
from collections.abc import Iterator
from contextlib import contextmanager

from rasterio.errors import NotGeoreferencedWarning

_LOCK = threading.Lock()


@contextmanager
def without_position() -> Iterator[None]:
    """Open, create or burn pixels that may have no position; where that matters, it is said.

    One thread at a time: Python keeps one list of filters for all threads, and rasterio changes it
    and puts it back whenever it burns polygons.
    """
    with _LOCK, warnings.catch_warnings():
        warnings.simplefilter("ignore", NotGeoreferencedWarning)
        yield
