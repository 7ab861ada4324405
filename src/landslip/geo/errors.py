"""Every exception that landslip raises on purpose.

::

    LandslipError               root: catch this to catch them all
    ├── UsageError              a wrong call (ValueError); the command line exits with 2
    ├── DataError               the data cannot be used (ValueError); exits with 1
    │   ├── RasterError         a raster cannot be opened or read
    │   ├── BandError           bands are missing, unnamed or unknown
    │   ├── InventoryError      polygons cannot be used
    │   ├── TileSetError        a tile set is broken or does not fit
    │   └── ModelError          a model file is broken or does not fit
    ├── OutputError             an output exists, or cannot be written (OSError); exits with 1
    └── MissingExtraError       an optional package is not installed (ImportError); exits with 1

A message says: Cannot *do what*: *which item*; *expected against found, with units*. *One thing
to do.*
"""


class LandslipError(Exception):
    """Root of the exceptions that landslip raises on purpose."""


class UsageError(LandslipError, ValueError):
    """A call that cannot be right whatever the data: options that contradict each other."""


class DataError(LandslipError, ValueError):
    """Data that cannot be used as asked."""


class RasterError(DataError):
    """A raster that cannot be opened or read."""


class BandError(DataError):
    """Bands that are missing, unnamed or unknown."""


class InventoryError(DataError):
    """Polygons that cannot be used."""


class TileSetError(DataError):
    """A tile set that is broken or does not fit."""


class ModelError(DataError):
    """A model file that is broken or does not fit."""


class OutputError(LandslipError, OSError):
    """An output that exists already, or that cannot be written."""


class MissingExtraError(LandslipError, ImportError):
    """An optional package that is needed and not installed."""
