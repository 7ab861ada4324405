"""Files and folders that appear whole under their final name, or not at all."""

from __future__ import annotations

import errno
import glob
import logging
import os
import re
import shutil
import struct
import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray
from rasterio._err import CPLE_BaseError  # what rasterio.shutil raises; it has no public name
from rasterio.errors import RasterioError

from landslip.geo.errors import OutputError

log = logging.getLogger(__name__)

NO_LOCKS = (errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP, errno.ENOTSUP)
"""What file systems answer that know no locks, as some network file systems do."""


def _library_errors() -> tuple[type[BaseException], ...]:
    """What GDAL reports errors with; pyogrio only where it is loaded, as it takes pandas along."""
    pyogrio = sys.modules.get("pyogrio.errors")
    if pyogrio is None:
        return RasterioError, CPLE_BaseError
    own = pyogrio.DataLayerError, pyogrio.DataSourceError, pyogrio.FeatureError
    return RasterioError, CPLE_BaseError, *own


def refuse_existing(path: Path, *, overwrite: bool, marker: str | None = None) -> None:
    """Raise OutputError where `path` exists and may not be replaced.

    GeoPackages with reviewed polygons, or that another program holds open, never may, wherever
    they lie in a folder.

    Args:
        path: Output to be.
        overwrite: True where the user allows it to be replaced.
        marker: A file that marks folders of this kind; a folder without it is never replaced,
            because replacing deletes.
    """
    with plain_write_errors(path):
        if not path.exists():
            return
    if not overwrite:
        raise OutputError(
            f"Cannot write {path}: it exists already. Name another output, or add --overwrite."
        )
    if marker is not None and not (path / marker).is_file():
        raise OutputError(
            f"Cannot replace {path}: it holds no {marker}, so landslip did not write it. "
            "Name another output."
        )
    from landslip.geo.inventory import refuse_reviewed

    for package in [path] if path.is_file() else sorted(path.rglob("*.gpkg")):
        if package.suffix == ".gpkg":
            refuse_reviewed(package, what=path)


_NOT_TO_BE_WRITTEN = frozenset(
    {
        errno.EACCES,
        errno.EEXIST,
        errno.EISDIR,
        errno.ENAMETOOLONG,
        errno.ENOTDIR,
        errno.EPERM,
        errno.EROFS,
    }
)


@contextmanager
def whole_file(path: Path, *, overwrite: bool = False) -> Iterator[Path]:
    """Give a hidden name beside `path` to write to; rename it when the block ends well.

    Raises:
        OutputError: `path` exists and `overwrite` is False, or the disk is full.
    """
    refuse_existing(path, overwrite=overwrite)
    partial = path.with_name(f".{path.stem}.{os.getpid()}.partial{path.suffix}")
    try:
        with plain_write_errors(path):
            path.parent.mkdir(parents=True, exist_ok=True)
            yield partial
            _require_whole_tiffs([partial])
            partial.replace(path)
    finally:
        for leftover in path.parent.glob(f"{glob.escape(partial.name)}*"):
            leftover.unlink(missing_ok=True)


@contextmanager
def whole_folder(path: Path, marker: str, *, overwrite: bool = False) -> Iterator[Path]:
    """Give a hidden folder beside `path` to fill; rename it when the block ends well.

    Args:
        path: Final name.
        marker: A file that the block writes; only folders that hold it are replaced.
        overwrite: Replace a folder that exists.

    Raises:
        OutputError: `path` exists and may not be replaced, or the disk is full.
    """
    refuse_existing(path, overwrite=overwrite, marker=marker)
    partial = path.with_name(f".{path.name}.{os.getpid()}.partial")
    try:
        with plain_write_errors(path):
            partial.mkdir(parents=True)
            yield partial
            _require_whole_tiffs(partial.rglob("*"))
            replace_folder(partial, path)
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def unfinished_folder(path: Path) -> Path:
    """Where work for the file or folder `path` lies until it is finished."""
    return path.with_name(f"{path.name}.partial")


@contextmanager
def only_process(out: Path) -> Iterator[Path]:
    """Give the folder for unfinished work of `out`, and keep other processes out of it.

    The lock falls when the process ends, however it ends. What killed processes left beside `out`
    is removed. A file system without locks keeps nobody out, and a warning says so.

    Raises:
        OutputError: Another process works there.
    """
    from filelock import FileLock, Timeout

    folder = unfinished_folder(out)
    path = folder.with_name(f".{folder.name}.lock")
    lock = FileLock(path)
    with plain_write_errors(folder):
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            lock.acquire(timeout=0)
        except Timeout as error:
            raise OutputError(
                f"Cannot write {folder}: another process is at work there. Wait until it ends, or "
                "name another output."
            ) from error
        except OSError as error:
            if error.errno not in NO_LOCKS:
                raise
            log.warning("%s cannot be locked: let no other process write there", folder)
    try:
        # Without the lock, they may be of a process that is at work.
        if lock.is_locked:
            _remove_leftovers(out)
        yield folder
    finally:
        # While it is held: who opens it from now on makes a new one. Windows does so on release.
        with suppress(OSError):
            path.unlink()
        lock.release()


def _remove_leftovers(path: Path) -> None:
    """Remove what `whole_file` and `whole_folder` could not, because they were killed."""
    name = re.compile(
        rf"\.({re.escape(path.name)}\.\d+\.partial"
        rf"|{re.escape(path.stem)}\.\d+\.partial{re.escape(path.suffix)})"
    )
    for found in path.parent.iterdir():
        if name.fullmatch(found.name):
            if found.is_dir():
                shutil.rmtree(found, ignore_errors=True)
            else:
                found.unlink(missing_ok=True)


def _require_whole_tiffs(paths: Iterable[Path]) -> None:
    # GDAL keeps silent about a disk that was full when it wrote the last blocks on closing.
    for path in paths:
        if path.suffix.lower() in (".tif", ".tiff") and path.exists() and not is_whole_tiff(path):
            raise OSError(errno.ENOSPC, "the file is cut short", str(path))


def is_whole_tiff(path: Path) -> bool:
    """True where all that a TIFF points to lies in the file: directories, tags, and blocks.

    Source: TIFF 6.0, section 2, and the BigTIFF layout of libtiff.
    """
    with path.open("rb") as file:
        content = _Bytes(file, path.stat().st_size)
        try:
            return _directories_are_whole(content)
        except EOFError:
            return False


class _Bytes:
    """Bytes of a file by their place; EOFError beyond its end."""

    def __init__(self, file: BinaryIO, size: int) -> None:
        self._file = file
        self._size = size

    def require(self, start: int, length: int) -> None:
        if start + length > self._size:
            raise EOFError

    def read(self, start: int, length: int) -> bytes:
        self.require(start, length)
        self._file.seek(start)
        return self._file.read(length)


def _directories_are_whole(content: _Bytes) -> bool:
    head = content.read(0, 8)
    order = {b"II": "<", b"MM": ">"}.get(head[:2])
    if order is None:
        return False
    is_big = struct.unpack(order + "H", head[2:4])[0] == 43
    count_code, entry_code, place_code = ("Q", "HHQ8s", "Q") if is_big else ("H", "HHI4s", "I")
    place = struct.calcsize(place_code)
    (start,) = struct.unpack(order + place_code, content.read(8 if is_big else 4, place))
    seen: set[int] = set()
    while start and start not in seen:
        seen.add(start)
        head_size = struct.calcsize(order + count_code)
        (count,) = struct.unpack(order + count_code, content.read(start, head_size))
        entry_size = struct.calcsize(order + entry_code)
        entries = content.read(start + head_size, count * entry_size)
        blocks: dict[int, NDArray[np.unsignedinteger]] = {}
        for tag, kind, number, value in struct.iter_unpack(order + entry_code, entries):
            length = _TIFF_TYPES.get(kind, 1) * number
            if length > place:
                (offset,) = struct.unpack(order + place_code, value)
                content.require(offset, length)
                value = content.read(offset, length) if tag in _TIFF_BLOCKS else b""
            if tag in _TIFF_BLOCKS:
                code = f"{order}u{_TIFF_TYPES[kind]}"
                blocks[_TIFF_BLOCKS[tag]] = np.frombuffer(value[:length], code).astype(np.uint64)
        if len(blocks) == 2 and blocks[0].size:
            content.require(int((blocks[0] + blocks[1]).max()), 0)
        end = start + head_size + count * entry_size
        (start,) = struct.unpack(order + place_code, content.read(end, place))
    return bool(seen)


_TIFF_TYPES = {1: 1, 2: 1, 3: 2, 4: 4, 5: 8, 6: 1, 7: 1, 8: 2, 9: 4, 10: 8, 11: 4, 12: 8} | {
    13: 4, 16: 8, 17: 8, 18: 8,
}  # fmt: skip
"""Bytes of one value, by type."""
_TIFF_BLOCKS = {273: 0, 324: 0, 279: 1, 325: 1}
"""Tags of the places (0) and lengths (1) of strips and tiles."""


def replace_folder(new: Path, path: Path) -> None:
    """Move a finished folder to its final name; an older one there gives way only then."""
    if not path.exists():
        new.replace(path)
        return
    old = path.with_name(f".{path.name}.{os.getpid()}.old")
    path.replace(old)
    new.replace(path)
    if old.is_dir():
        shutil.rmtree(old)
    else:
        old.unlink()


@contextmanager
def plain_write_errors(path: Path) -> Iterator[None]:
    """Turn the system's and GDAL's write errors into one clear OutputError."""
    try:
        yield
    except OutputError:
        raise
    except _library_errors() as error:
        raise OutputError(
            f"Cannot write {path}: {str(error).rstrip('.')}. Check the free space and the rights "
            "of its folder."
        ) from error
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
            raise OutputError(
                f"Cannot write {path}: the disk is full ({free_text(path)} left). "
                "Free some space, or name an output on another disk."
            ) from error
        if error.errno in _NOT_TO_BE_WRITTEN:
            raise OutputError(
                f"Cannot write {path}: {error.strerror}. Name an output that you may write to."
            ) from error
        raise


def require_space(path: Path, needed_bytes: int) -> None:
    """Raise OutputError where the disk of `path` has less than `needed_bytes` free."""
    if shutil.disk_usage(_existing_parent(path)).free < needed_bytes:
        raise OutputError(
            f"Cannot write {path}: {needed_bytes / 1e9:.2f} GB are needed and {free_text(path)} "
            "are free. Free some space, or name an output on another disk."
        )


def free_text(path: Path) -> str:
    """Free space on the disk of `path`, for people."""
    return f"{shutil.disk_usage(_existing_parent(path)).free / 1e9:.2f} GB"


def _existing_parent(path: Path) -> Path:
    return next(folder for folder in [path, *path.absolute().parents] if folder.exists())


def require_same(found: dict[str, Any], asked: dict[str, Any], folder: Path) -> None:
    """Raise OutputError where unfinished work was begun with other options."""
    changed = _changed(found, asked)
    if changed:
        raise OutputError(
            f"Cannot continue {folder}: it was begun with other options ({'; '.join(changed)}). "
            "Repeat the command that began it, or remove the folder to start anew."
        )


def _changed(found: dict[str, Any], asked: dict[str, Any]) -> list[str]:
    """What differs, for people."""
    lines = []
    for key in asked:
        before, now = found.get(key), asked[key]
        if isinstance(before, dict) and isinstance(now, dict):
            lines += _changed(before, now)
        elif before != now:
            lines.append(f"{key} = {_short(before)}, now {_short(now)}")
    return lines


def _short(value: object) -> str:
    text = str(value)
    return text if len(text) <= 60 else f"{text[:57]}..."
