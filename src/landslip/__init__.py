"""From a satellite scene to a landslide inventory."""

__version__ = "0.1.0"
