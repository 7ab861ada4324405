"""What libraries need not tell people, in several threads."""

from __future__ import annotations

import threading
import warnings
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager

NO_POSITION = "(Dataset has no geotransform|The given matrix is equal to Affine.identity)"
"""How rasterio's warnings of pixels without a position begin."""
NO_CRS = "'crs' was not provided"
"""How pyogrio's warning of a layer without a CRS begins."""
_LOCK = threading.Lock()


@contextmanager
def quietly(message: str = "") -> Iterator[None]:
    """Ignore warnings whose text begins with a pattern.

    One thread at a time: Python keeps one list of filters for all threads, and who puts it back
    takes away what another thread has added meanwhile. As rasterio and geopandas do so too,
    a program should call `quiet_process` first; without, a warning may slip through.
    """
    with _LOCK, warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=message)
        yield


def without_position() -> AbstractContextManager[None]:
    """Open, create or burn pixels that may have no position; where that matters, it is said."""
    return quietly(NO_POSITION)


def quiet_process() -> None:
    """Ignore, in all threads of this process, what landslip says in its own words."""
    for message in (NO_POSITION, NO_CRS):
        warnings.filterwarnings("ignore", message=message)
