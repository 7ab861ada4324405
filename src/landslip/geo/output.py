"""Files and folders that appear whole under their final name, or not at all."""

from __future__ import annotations

import errno
import glob
import os
import shutil
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pyogrio.errors
from rasterio._err import CPLE_BaseError  # what rasterio.shutil raises; it has no public name
from rasterio.errors import RasterioError

from landslip.geo.errors import OutputError
from landslip.geo.raster import is_whole_tiff

_LIBRARY_ERRORS = (
    RasterioError,
    CPLE_BaseError,
    pyogrio.errors.DataLayerError,
    pyogrio.errors.DataSourceError,
    pyogrio.errors.FeatureError,
)


def refuse_existing(path: Path, *, overwrite: bool, marker: str | None = None) -> None:
    """Raise OutputError where `path` exists and may not be replaced.

    Args:
        path: Output to be.
        overwrite: True where the user allows it to be replaced.
        marker: A file that marks folders of this kind; a folder without it is never replaced,
            because replacing deletes.
    """
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


def _require_whole_tiffs(paths: Iterable[Path]) -> None:
    # GDAL keeps silent about a disk that was full when it wrote the last blocks on closing.
    for path in paths:
        if path.suffix.lower() in (".tif", ".tiff") and path.exists() and not is_whole_tiff(path):
            raise OSError(errno.ENOSPC, "the file is cut short", str(path))


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
    except _LIBRARY_ERRORS as error:
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
