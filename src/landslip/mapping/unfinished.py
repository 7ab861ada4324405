"""A map that is not finished: rasters that fill up, and a journal, so that a kill loses little."""

from __future__ import annotations

import datetime
import json
import os
import shutil
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from landslip.geo.errors import OutputError
from landslip.geo.grid import Grid, Window
from landslip.geo.in_place import InPlaceRaster
from landslip.geo.output import plain_write_errors, require_same, whole_file

JOURNAL = "journal.json"
DONE = "done.bin"
SYNC_S = 10.0
"""Seconds between two times that the journal is brought up to date; a power cut loses as many."""


@dataclass(frozen=True)
class Plane:
    """A raster of an unfinished map."""

    dtype: str
    nodata: float | None


class UnfinishedMap:
    """The folder `DIR.partial` of a map, or of one scene of it.

    Windows are written into plain rasters in place, which a GIS can open meanwhile, and then marked
    in the journal: first the pixels are on the disk, then the mark. So after a kill at any moment
    what is marked is there, and the rest is computed again.
    """

    def __init__(self, folder: Path, grid: Grid, planes: Mapping[str, Plane]) -> None:
        """Use `begin` or `resume`."""
        self.folder = folder
        self._rasters = {name: InPlaceRaster(folder / f"{name}.tif", grid) for name in planes}
        self.done = np.fromfile(folder / DONE, dtype=np.uint8)
        self._marks = (folder / DONE).open("r+b", buffering=0)
        self._written: list[int] = []
        self._synced = time.monotonic()

    @classmethod
    def begin(
        cls,
        folder: Path,
        grid: Grid,
        planes: Mapping[str, Plane],
        windows: int,
        journal: Mapping[str, Any],
    ) -> Self:
        """Make the folder, full of nodata, with nothing done."""
        with plain_write_errors(folder), _gone_where_it_fails(folder):
            for name, plane in planes.items():
                InPlaceRaster.create(
                    folder / f"{name}.tif", grid, band=name, dtype=plane.dtype, nodata=plane.nodata
                ).close()
            (folder / DONE).write_bytes(bytes(windows))
            begun = datetime.datetime.now(datetime.UTC).isoformat(timespec="milliseconds")
            record = {**journal, "begun": begun.replace("+00:00", "Z")}
            # Last: a folder with a journal is whole.
            with whole_file(folder / JOURNAL) as partial:
                partial.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
        return cls(folder, grid, planes)

    @classmethod
    def resume(
        cls,
        folder: Path,
        grid: Grid,
        planes: Mapping[str, Plane],
        found: dict[str, Any],
        asked: Mapping[str, Any],
    ) -> Self:
        """Continue what was begun with the same scene, models and options.

        Args:
            folder: As in `begin`.
            grid: As in `begin`.
            planes: As in `begin`.
            found: Its journal.
            asked: What the journal must say.

        Raises:
            OutputError: It was begun otherwise, and what differs; or it is damaged.
        """
        require_same(found, json.loads(json.dumps(asked)), folder)
        try:
            return cls(folder, grid, planes)
        except (OSError, AssertionError) as error:
            raise OutputError(
                f"Cannot continue {folder}: it is damaged ({error}). Remove it to start anew."
            ) from error

    def write(self, number: int, window: Window, pixels: Mapping[str, NDArray[Any]]) -> None:
        """Write the rasters of one window, each (H, W); it is marked as done a little later."""
        with plain_write_errors(self.folder):
            for name, values in pixels.items():
                self._rasters[name].write(window, values)
            self._written.append(number)
            if time.monotonic() - self._synced >= SYNC_S:
                self.sync()

    def sync(self) -> None:
        """Bring pixels to the disk, then mark their windows."""
        with plain_write_errors(self.folder):
            for raster in self._rasters.values():
                raster.sync()
            for number in self._written:
                self._marks.seek(number)
                self._marks.write(b"\1")
                self.done[number] = 1
            os.fsync(self._marks.fileno())
        self._written.clear()
        self._synced = time.monotonic()

    def close(self) -> None:
        """Mark what was written, and close the files."""
        self.sync()
        self.release()

    def release(self) -> None:
        """Close the files as they are."""
        for raster in self._rasters.values():
            raster.close()
        self._marks.close()


@contextmanager
def _gone_where_it_fails(folder: Path) -> Iterator[None]:
    """A new folder, which is removed where the block does not end well."""
    remove_unfinished(folder)
    folder.mkdir(parents=True)
    try:
        yield
    except BaseException:
        shutil.rmtree(folder, ignore_errors=True)
        raise


def read_journal(folder: Path) -> dict[str, Any] | None:
    """The journal of an unfinished map; None where there is none, or one that was never begun.

    Raises:
        OutputError: It is damaged.
    """
    path = folder / JOURNAL
    if not path.exists():
        return None
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise OutputError(
            f"Cannot continue {folder}: its {JOURNAL} is damaged. Remove the folder to start anew."
        ) from error
    return dict(found)


def remove_unfinished(folder: Path) -> None:
    """Remove what a map began, and nothing else.

    Raises:
        OutputError: The folder holds other files.
    """
    if not folder.exists():
        return
    own = {JOURNAL, DONE}
    foreign = [
        path.name
        for path in sorted(folder.rglob("*"))
        if path.is_file() and path.name not in own and path.suffix not in (".tif", ".partial")
    ]
    if foreign:
        raise OutputError(
            f"Cannot map: {folder} is where unfinished maps lie, and it holds {foreign[0]}, which "
            "is of none. Move it away, or name another output."
        )
    shutil.rmtree(folder)
