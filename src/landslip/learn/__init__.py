"""From tiles to a model file."""
