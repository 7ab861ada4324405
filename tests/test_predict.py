from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

import tiny
from landslip.assess.scores import ScoreHistogram
from landslip.geo.errors import BandError
from landslip.learn.card import ModelCard, save_model
from landslip.learn.predict import score_model
from landslip.prepare.split import TileOptions
from landslip.prepare.tile_set import TileSet
from landslip.prepare.tiles import make_tiles

MIDDLE = 100
"""What 0 to 200, the range of tiny models, scales to a half."""


def tiled(folder: Path, *, slope: int | None) -> TileSet:
    """Tiles of 16 px with nodata in a corner, with a constant slope or without."""
    values = tiny.noise(3, 64, 96)
    bands: tuple[str, ...] = tiny.RGN
    if slope is not None:
        values = np.concatenate([values, np.full((1, 64, 96), slope, dtype=values.dtype)])
        bands = (*bands, "slope")
    values[:, 30:, 85:] = 0
    scene = tiny.write_scene(folder / "scene.tif", values, bands=bands, nodata=0)
    inventory = tiny.write_inventory(folder / "landslides.gpkg")
    options = TileOptions(size=16, split="columns:48,80")
    return make_tiles(scene, inventory, folder / "tiles", options=options)


def same(first: ScoreHistogram, second: ScoreHistogram) -> bool:
    return all(
        np.array_equal(getattr(first, field), getattr(second, field))
        for field in ScoreHistogram.__dataclass_fields__
    )


class Mean(nn.Module):
    """Says what all bands together say: untrained networks say a half of everything."""

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return 4 * images.mean(dim=1, keepdim=True) - 2


def test_tiles_that_lack_an_optional_band_are_scored_without_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("landslip.learn.card.build_model", lambda *_, **__: Mean())
    bands = ("slope", *tiny.RGN)
    card = ModelCard(
        name="test", architecture="unet-small", total_parameters=0, bands=bands,
        optional_bands=("slope",), scaling=tuple((band, 0.0, 200.0) for band in bands),
        pixel_size_m=10.0, halo_px=0, stride_px=1,
    )  # fmt: skip
    save_model(tmp_path / "m.safetensors", Mean(), card)
    without, middle, steep = (
        score_model(
            tmp_path / "m.safetensors", tiled(tmp_path / f"{slope}", slope=slope), device="cpu"
        )
        for slope in (None, MIDDLE, 200)
    )
    assert same(without, middle)
    assert not same(without, steep)


def test_tiles_that_lack_a_needed_band_are_named(tmp_path: Path) -> None:
    bands = ("swir1", "slope", *tiny.RGN)
    model = tiny.tiny_model(tmp_path / "m.safetensors", bands, optional_bands=("slope",))
    tiles = tiled(tmp_path / "a", slope=None)
    with pytest.raises(BandError) as failure:
        score_model(model, tiles, device="cpu")
    assert str(failure.value) == (
        f"Cannot score {model} on {tiles.folder}: the model needs bands swir1, nir, red, green, "
        "the tiles hold nir, red, green. Use tiles with those bands."
    )
