"""From a probability raster, of any tool, to an inventory of landslides."""
