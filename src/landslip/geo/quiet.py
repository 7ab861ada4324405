"""What libraries need not tell people, in several threads."""

from __future__ import annotations

import threading
import warnings
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager

from rasterio.errors import NotGeoreferencedWarning

_LOCK = threading.Lock()


@contextmanager
def quietly(message: str = "", category: type[Warning] = Warning) -> Iterator[None]:
    """Ignore warnings whose text begins with a pattern.

    One thread at a time: Python keeps one list of filters for all threads, and who puts it back
    takes away what another thread has added meanwhile.
    """
    with _LOCK, warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=message, category=category)
        yield


def without_position() -> AbstractContextManager[None]:
    """Open, create or burn pixels that may have no position; where that matters, it is said."""
    return quietly(category=NotGeoreferencedWarning)
