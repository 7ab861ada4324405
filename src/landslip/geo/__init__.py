"""The ground floor: where pixels and polygons lie; the only raster and vector I/O."""
