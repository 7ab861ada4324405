"""One sharp scene from a panchromatic and a multispectral file."""
