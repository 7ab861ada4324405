"""Files and folders that appear whole under their final name, or not at all."""

from __future__ import annotations

import errno
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from rasterio.errors import RasterioError

from landslip.geo.errors import OutputError


def refuse_existing(path: Path, *, overwrite: bool) -> None:
    """Raise OutputError where `path` exists and may not be replaced."""
    if path.exists() and not overwrite:
        raise OutputError(
            f"Cannot write {path}: it exists already. Name another output, or add --overwrite."
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
            partial.replace(path)
    finally:
        for leftover in path.parent.glob(f"{partial.name}*"):
            leftover.unlink(missing_ok=True)


@contextmanager
def whole_folder(path: Path, *, overwrite: bool = False) -> Iterator[Path]:
    """Give a hidden folder beside `path` to fill; rename it when the block ends well.

    Raises:
        OutputError: `path` exists and `overwrite` is False, or the disk is full.
    """
    refuse_existing(path, overwrite=overwrite)
    partial = path.with_name(f".{path.name}.{os.getpid()}.partial")
    try:
        with plain_write_errors(path):
            partial.mkdir(parents=True)
            yield partial
            replace_folder(partial, path)
    finally:
        shutil.rmtree(partial, ignore_errors=True)


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
    except RasterioError as error:
        raise OutputError(
            f"Cannot write {path}: {error}. Check the free space and the rights of its folder."
        ) from error
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
            raise OutputError(
                f"Cannot write {path}: the disk is full ({free_text(path)} left). "
                "Free some space, or name an output on another disk."
            ) from error
        if error.errno in (errno.EACCES, errno.EROFS, errno.EPERM, errno.ENOTDIR):
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
