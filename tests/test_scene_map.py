from __future__ import annotations

import json
import logging
from collections.abc import Sequence
from contextlib import closing
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import geopandas as gpd
import numpy as np
import pandas as pd
import pytest
import rasterio
import shapely
import torch
from numpy.typing import NDArray
from rasterio.crs import CRS
from torch import nn

import tiny
from landslip.geo.errors import BandError, DataError, OutputError, UsageError
from landslip.geo.grid import Grid, Window
from landslip.geo.raster import Raster, create_raster
from landslip.geo.scene import open_scene
from landslip.inventory import delineate
from landslip.inventory.outlines import landslide_polygons
from landslip.learn.card import ModelCard, save_model
from landslip.learn.device import Compute
from landslip.learn.ensemble import Ensemble, Member
from landslip.learn.models import build_model
from landslip.learn.predict import probabilities
from landslip.mapping.layout import even_layout
from landslip.mapping.options import MapOptions
from landslip.mapping.scene_map import estimate_map, map_scene
from landslip.mapping.work import Job, WindowMapper
from tiny import grid_of

UTM = CRS.from_epsg(32654)
CPU = Compute(torch.device("cpu"), "float32")


def write_scene(path: Path, grid: Grid, values: NDArray[Any], bands: Sequence[str]) -> Path:
    with create_raster(path, grid, bands=bands, dtype=values.dtype.name, nodata=0) as out:
        out.write(values)
    return path


def write_model(path: Path, network: nn.Module, **changes: Any) -> Path:
    fields: dict[str, Any] = {
        "name": "test",
        "architecture": "unet-small",
        "total_parameters": 1,
        "bands": ("nir",),
        "scaling": (("nir", 0.0, 255.0),),
        "pixel_size_m": 10.0,
        "halo_px": 96,
        "stride_px": 16,
    }
    save_model(path, network, ModelCard(**(fields | changes)))
    return path


class Bright(nn.Module):
    """Says landslide with certainty where the first band is above a half."""

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return (images[:, :1] - 0.5) * 1000


@pytest.fixture
def bright_model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A model file whose network is `Bright`."""
    monkeypatch.setattr("landslip.learn.card.build_model", lambda *_, **__: Bright())
    return write_model(tmp_path / "bright.safetensors", Bright())


def planted(path: Path, grid: Grid) -> Path:
    """A dark scene with a bright slide of 7 x 5 pixels."""
    values = np.full((1, *grid.shape), 10, dtype=np.uint8)
    values[0, 30:37, 40:45] = 250
    return write_scene(path, grid, values, ["nir"])


@pytest.mark.parametrize(("outline", "tolerance"), [("pixels", 0.0), ("contour", 0.02)])
def test_planted_slide_comes_back_with_its_area(
    tmp_path: Path, bright_model: Path, outline: str, tolerance: float
) -> None:
    scene = planted(tmp_path / "scene.tif", grid_of(90, 110))
    options = MapOptions(threshold=0.5, outline=outline, core_px=32, device="cpu")
    found = map_scene(scene, bright_model, tmp_path / "map", options=options)
    frame = gpd.read_file(tmp_path / "map" / "landslides.gpkg", layer="landslides")
    assert len(frame) == 1
    assert frame.crs.to_epsg() == 32654
    assert frame.area_m2[0] == pytest.approx(3500, rel=tolerance, abs=1e-9)
    assert frame.geometry[0].area == pytest.approx(frame.area_m2[0], abs=1e-3)
    assert frame.probability_mean[0] == 1
    assert frame.probability_max[0] == 1
    west, south, east, north = frame.total_bounds
    assert (west, north) == pytest.approx((400_400, 4_699_700), abs=0.05)
    assert (east, south) == pytest.approx((400_450, 4_699_630), abs=0.05)
    assert found.observed_km2 == pytest.approx(90 * 110 * 100 / 1e6)


def test_map_writes_what_it_promises(tmp_path: Path, bright_model: Path) -> None:
    grid = grid_of(90, 110)
    scene = planted(tmp_path / "scene.tif", grid)
    out = tmp_path / "map"
    map_scene(scene, bright_model, out, options=MapOptions(threshold=0.25, device="cpu"))
    assert sorted(path.name for path in out.iterdir()) == [
        "inventory.html", "landslides.gpkg", "probability.qml", "probability.tif", "quicklook.png",
        "run.json",
    ]  # fmt: skip
    with rasterio.open(out / "probability.tif") as raster:
        assert raster.tags(ns="IMAGE_STRUCTURE")["LAYOUT"] == "COG"
        assert (raster.dtypes[0], raster.nodata, raster.descriptions) == (
            "uint8", 255, ("probability",),
        )  # fmt: skip
        assert raster.scales[0] == pytest.approx(1 / 254)
        assert float(raster.tags()["LANDSLIP_THRESHOLD"]) == 0.25
        assert set(np.unique(raster.read(1))) == {0, 254}
        assert Grid(raster.crs, raster.transform, *raster.shape) == grid
    record = json.loads((out / "run.json").read_text())
    assert record["models"][0]["sha256"]
    assert record["scenes"][0]["sources"][0]["role"] == "scene"
    assert record["options"]["threshold"] == 0.25
    with pytest.raises(OutputError, match="exists already"):
        map_scene(scene, bright_model, out)


def test_the_inventory_of_a_map_tells_what_options_ask_for(
    tmp_path: Path, bright_model: Path
) -> None:
    values = np.full((1, 60, 80), 10, dtype=np.uint8)
    values[0, 20:32, 10:20] = 250  # under the edge of a cloud
    values[0, 20:32, 50:56] = 250
    path = write_scene(tmp_path / "scene.tif", grid_of(60, 80), values, ["nir"])
    cloud = tiny.box_at((0, 0, 60, 15))
    gpd.GeoDataFrame(geometry=[cloud], crs=UTM).to_file(tmp_path / "cloud.gpkg")
    with create_raster(
        tmp_path / "dem.tif", grid_of(60, 80), bands=["z"], dtype="float32", nodata=-1
    ) as out:
        out.write(np.arange(60, 0, -1, dtype=np.float32)[:, None] * 10 + np.zeros(80), 1)
    rules = tmp_path / "rules.txt"
    rules.write_text("slope_mean_deg > 40 and touches_unobserved != '' -> doubtful\n")
    options = MapOptions(
        threshold=0.5, device="cpu", outline="pixels", dem=tmp_path / "dem.tif", rules=rules,
        drop=("doubtful",),
    )  # fmt: skip
    scene = open_scene(path, unusable=tmp_path / "cloud.gpkg")
    estimate_map([scene], bright_model, options=options)
    found = map_scene(scene, bright_model, tmp_path / "map", options=options)
    assert (found.landslides, found.dropped) == (1, 1)
    file = tmp_path / "map" / "landslides.gpkg"
    (kept,), (moved,) = (
        gpd.read_file(file, layer=name).to_dict("records") for name in ("landslides", "dropped")
    )
    assert (kept["id"], moved["id"]) == (2, 1)
    assert (kept["flags"], moved["flags"]) == ("", "doubtful")
    assert (moved["touches_unobserved"], kept["touches_unobserved"]) == ("unusable", "")
    assert (kept["slope_mean_deg"], kept["aspect_deg"]) == (45, 180)
    assert (kept["length_m"], kept["width_m"], kept["length_along"]) == (120, 60, "slope")
    assert kept["relief_m"] == 120
    assert (kept["scene"], kept["model"], kept["status"]) == ("scene", "test", "unreviewed")
    rules.write_text("slope < 4 -> flat\n")
    with pytest.raises(UsageError, match="slope_mean_deg"):
        map_scene(scene, bright_model, tmp_path / "other", options=replace(options, drop=()))
    assert not list(tmp_path.glob("other*"))


def test_unseen_ground_is_said_and_never_mapped(tmp_path: Path, bright_model: Path) -> None:
    grid = grid_of(60, 80)
    values = np.full((1, 60, 80), 250, dtype=np.uint8)
    values[0, :10] = 0  # nodata
    path = write_scene(tmp_path / "scene.tif", grid, values, ["nir"])
    cloud = shapely.box(400_000, 4_699_400, 400_100, 4_699_900)  # columns 0-9, rows 10-59
    aoi = shapely.box(400_000, 4_699_500, 400_800, 4_700_000)  # rows 0-49
    for name, shape in (("cloud", cloud), ("aoi", aoi)):
        gpd.GeoDataFrame(geometry=[shape], crs=UTM).to_file(tmp_path / f"{name}.gpkg")
    scene = open_scene(path, aoi=tmp_path / "aoi.gpkg", unusable=tmp_path / "cloud.gpkg")
    options = MapOptions(device="cpu", outline="pixels")
    map_scene(scene, bright_model, tmp_path / "map", options=options)
    file = tmp_path / "map" / "landslides.gpkg"
    unseen = gpd.read_file(file, layer="not_observed").set_index("reason")
    assert unseen.area_m2.to_dict() == {
        "no data": 10 * 80 * 100,
        "unusable": 40 * 10 * 100,
        "outside the area of interest": 10 * 80 * 100,
    }
    seen = gpd.read_file(file, layer="observed")
    assert seen.area_m2.sum() == 40 * 70 * 100
    assert gpd.read_file(file, layer="landslides").area_m2.tolist() == [40 * 70 * 100]
    with rasterio.open(tmp_path / "map" / "probability.tif") as raster:
        codes = raster.read(1)
    assert (codes[10:50, 10:] == 254).all()
    assert (codes == 255).sum() == 60 * 80 - 40 * 70


def test_windows_agree_with_the_untiled_network() -> None:
    torch.manual_seed(0)
    network = build_model("unet-small", 2).eval()
    random = np.random.default_rng(0)
    grid = grid_of(150, 210)
    values = random.integers(0, 255, (2, 150, 210)).astype(np.uint8)
    scene = Raster(values, np.ones((150, 210), dtype=bool), ("nir", "red"), grid)
    card = ModelCard(
        name="t", architecture="unet-small", total_parameters=1, bands=("nir", "red"),
        scaling=(("nir", 0.0, 255.0), ("red", 0.0, 255.0)), pixel_size_m=10.0, halo_px=96,
        stride_px=16,
    )  # fmt: skip
    mapped = np.full(grid.shape, np.nan, dtype=np.float32)
    layout = even_layout(grid, 16, 96, 64)
    job = Job(
        scene=scene, models=("t",), scalings=(card.scaling_of_bands,), device="cpu",
        precision="float32", tta=False, scales=(1.0,), layout=layout, as_float=True, covered=None,
    )  # fmt: skip
    members = [Member(card, network, card.scaling_of_bands)]
    mapper = WindowMapper(job, Ensemble(members, CPU))
    for core in layout.cores(grid):
        mapped[core.slices] = mapper(core).planes["probability"]
    # The same ground in one piece, mirrored alike.
    whole = np.pad(
        card.scaling_of_bands.apply(scene), ((0, 0), (96, 96 + 10), (96, 96 + 14)), "reflect"
    )
    untiled = probabilities(network, whole[None], CPU, 16)[0][96 : 96 + 150, 96 : 96 + 210]
    assert np.abs(mapped - untiled).max() < 1e-3


def test_scene_that_does_not_fit_the_model(tmp_path: Path, bright_model: Path) -> None:
    values = np.full((1, 40, 40), 100, dtype=np.uint8)
    red = write_scene(tmp_path / "red.tif", grid_of(40, 40), values, ["red"])
    with pytest.raises(BandError, match=r"needs bands nir; the scene names red \(nir missing\)"):
        map_scene(red, bright_model, tmp_path / "map")
    fine = write_scene(tmp_path / "fine.tif", grid_of(40, 40, 2.0), values, ["nir"])
    with pytest.raises(DataError, match=r"pixels are 2 m, the model learnt on 10 m"):
        map_scene(fine, bright_model, tmp_path / "map")
    resampled = open_scene(fine, pixel_size_m=10)
    map_scene(resampled, bright_model, tmp_path / "map", options=MapOptions(device="cpu"))
    with rasterio.open(tmp_path / "map" / "probability.tif") as raster:
        assert raster.shape == (8, 8)
    empty = write_scene(tmp_path / "empty.tif", grid_of(40, 40), 0 * values, ["nir"])
    with pytest.raises(DataError, match="no pixel of the scene is usable"):
        map_scene(empty, bright_model, tmp_path / "other")
    assert not (tmp_path / "other").exists()


def test_other_radiometry_is_said(
    tmp_path: Path, bright_model: Path, caplog: pytest.LogCaptureFixture
) -> None:
    values = np.random.default_rng(0).integers(1000, 4000, (1, 40, 40)).astype(np.uint16)
    scene = write_scene(tmp_path / "scene.tif", grid_of(40, 40), values, ["nir"])
    options = MapOptions(device="cpu", scaling="model")
    map_scene(scene, bright_model, tmp_path / "map", options=options)
    assert "band nir: the model learnt 0 to 255, the scene holds" in caplog.text


def test_scene_without_crs_is_mapped_and_said(
    tmp_path: Path, bright_model: Path, caplog: pytest.LogCaptureFixture
) -> None:
    scene = planted(tmp_path / "scene.tif", grid_of(90, 110, crs=None))
    options = MapOptions(threshold=0.5, outline="pixels", device="cpu")
    map_scene(scene, bright_model, tmp_path / "map", options=options)
    assert "polygons carry no position" in caplog.text
    frame = gpd.read_file(tmp_path / "map" / "landslides.gpkg", layer="landslides")
    assert frame.crs is None or not frame.crs.to_epsg()
    assert frame.area_m2.tolist() == [3500]


def test_reviewed_inventory_is_never_replaced(tmp_path: Path, bright_model: Path) -> None:
    scene = planted(tmp_path / "scene.tif", grid_of(90, 110))
    out, options = tmp_path / "map", MapOptions(threshold=0.5, device="cpu")
    map_scene(scene, bright_model, out, options=options)
    map_scene(scene, bright_model, out, options=options, overwrite=True)
    frame = gpd.read_file(out / "landslides.gpkg", layer="landslides")
    frame.assign(status="accepted").to_file(out / "landslides.gpkg", layer="landslides")
    with pytest.raises(OutputError, match="reviewed work is never overwritten"):
        map_scene(scene, bright_model, out, options=options, overwrite=True)


def test_the_inventory_does_not_depend_on_how_many_are_written_at_once(
    tmp_path: Path, bright_model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    values = np.full((1, 90, 110), 10, dtype=np.uint8)
    for number in range(7):
        values[0, 10 * number : 10 * number + 3 + number, 5 : 15 + number] = 250
    scene = write_scene(tmp_path / "scene.tif", grid_of(90, 110), values, ["nir"])
    options = MapOptions(threshold=0.5, min_area_m2=4000, outline="pixels", device="cpu")
    found = map_scene(scene, bright_model, tmp_path / "whole", options=options)
    monkeypatch.setattr(delineate, "landslide_polygons", partial(landslide_polygons, group=2))
    map_scene(scene, bright_model, tmp_path / "parts", options=options)
    whole, parts = (
        gpd.read_file(tmp_path / name / "landslides.gpkg", layer="landslides")
        for name in ("whole", "parts")
    )
    assert whole["id"].tolist() == [1, 2, 3, 4, 5, 6]
    assert whole["area_m2"].tolist() == [100 * (3 + n) * (10 + n) for n in range(1, 7)]
    assert found.area_m2 == whole["area_m2"].sum()
    pd.testing.assert_frame_equal(whole, parts)


def test_window_of_one_pixel_and_of_odd_sizes(tmp_path: Path, bright_model: Path) -> None:
    for height, width in ((1, 1), (1, 37), (33, 1)):
        values = np.full((1, height, width), 250, dtype=np.uint8)
        path = write_scene(
            tmp_path / f"{height}_{width}.tif", grid_of(height, width), values, ["nir"]
        )
        out = tmp_path / f"map_{height}_{width}"
        found = map_scene(path, bright_model, out, options=MapOptions(device="cpu"))
        assert found.area_m2 == pytest.approx(height * width * 100)
    assert Window(0, 0, 1, 1).grown(96).height == 193


# Bands that may be missing ------------------------------------------------------------------------


AS_LEARNT = MapOptions(
    device="cpu", precision="float32", threshold=0.5, scaling="model", as_float=True
)
MIDDLE = 100
"""What 0 to 200, the range of tiny models, scales to a half."""


def probabilities_of(scene: Any, model: Path, out: Path) -> NDArray[np.float32]:
    map_scene(scene, model, out, options=AS_LEARNT)
    with rasterio.open(out / "probability.tif") as raster:
        found: NDArray[np.float32] = raster.read(1)
    return found


def missing_bands(out: Path) -> list[str]:
    record = json.loads((out / "run.json").read_text())
    found: list[str] = record["scenes"][0]["missing_bands"]
    return found


def test_a_model_maps_with_and_without_the_elevation(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    # First in the network's order, where the quicklook would look for it.
    model = tiny.tiny_model(
        tmp_path / "m.safetensors", ("slope", *tiny.RGN), optional_bands=("slope",)
    )
    values = tiny.noise(3, 64, 96)
    values[:, 20:30, 40:60] = 0
    path = tiny.write_scene(tmp_path / "scene.tif", values, nodata=0)
    heights = tiny.noise(1, 64, 96, "float32", seed=3) / 4
    dem = tiny.write_scene(tmp_path / "dem.tif", heights, bands=["elevation"])
    middle = np.full((1, 64, 96), MIDDLE, dtype=np.float32)
    added = tiny.write_scene(tmp_path / "middle.tif", middle, bands=["slope"])

    with closing(open_scene(path, dem=dem)) as scene:
        with_slope = probabilities_of(scene, model, tmp_path / "a")
    assert missing_bands(tmp_path / "a") == []
    assert "optional" not in caplog.text
    without = probabilities_of(path, model, tmp_path / "b")
    assert missing_bands(tmp_path / "b") == ["slope"]
    assert "the scene lacks optional bands: mapped without slope" in caplog.text
    filled = probabilities_of(open_scene(path, add=[f"{added}:slope"]), model, tmp_path / "c")

    assert without.tobytes() == filled.tobytes()
    seen = ~np.isnan(without)
    assert seen.sum() == 64 * 96 - 10 * 20
    assert not np.isnan(with_slope[1:-1, 1:-1][seen[1:-1, 1:-1]]).any()
    assert (with_slope[seen] != without[seen]).mean() > 0.9
    for name in "abc":
        assert (tmp_path / name / "quicklook.png").stat().st_size > 0


def test_ground_without_a_scene_from_before_stays_observed(tmp_path: Path) -> None:
    bands = ("nir", "red", "pre_nir", "pre_red")
    model = tiny.tiny_model(
        tmp_path / "m.safetensors", bands, optional_bands=("pre_nir", "pre_red")
    )
    values = tiny.noise(2, 64, 96)
    values[:, :6, :8] = 0
    now = tiny.write_scene(tmp_path / "now.tif", values, bands=bands[:2], nodata=0)
    before = tiny.noise(2, 64, 96, seed=1)
    before[1, :, :38] = 0  # 40 % of one band only
    pre = tiny.write_scene(tmp_path / "pre.tif", before, bands=bands[:2], nodata=0)
    before[1, :, :38] = MIDDLE
    filled = tiny.write_scene(tmp_path / "filled.tif", before, bands=bands[:2], nodata=0)

    found = probabilities_of(open_scene(now, pre=pre), model, tmp_path / "a")
    expected = probabilities_of(open_scene(now, pre=filled), model, tmp_path / "b")
    assert found.tobytes() == expected.tobytes()
    assert np.isnan(found).sum() == 6 * 8
    assert missing_bands(tmp_path / "a") == []
    seen = gpd.read_file(tmp_path / "a" / "landslides.gpkg", layer="observed")
    assert seen.area_m2.tolist() == [(64 * 96 - 6 * 8) * 100]


def test_bands_that_a_model_needs_are_asked_for_alone(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    bands = ("nir", "slope", "pre_ndvi", "red")
    model = tiny.tiny_model(tmp_path / "m.safetensors", bands, optional_bands=bands[1:3])
    scene = tiny.write_scene(tmp_path / "nir.tif", bands=["nir"])
    with pytest.raises(BandError, match=r"needs bands nir, red; the scene names nir \(red missing"):
        map_scene(scene, model, tmp_path / "map")
    assert not caplog.records
    scene = tiny.write_scene(tmp_path / "both.tif", bands=["red", "nir"])
    with caplog.at_level(logging.INFO):
        map_scene(scene, model, tmp_path / "map", options=AS_LEARNT)
    assert missing_bands(tmp_path / "map") == ["slope", "pre_ndvi"]
    assert "mapped without slope, pre_ndvi" in caplog.text
    # What is computed from bands that are there is there.
    before = tiny.write_scene(tmp_path / "before.tif", bands=["red", "nir"], seed=1)
    map_scene(open_scene(scene, pre=before), model, tmp_path / "again", options=AS_LEARNT)
    assert missing_bands(tmp_path / "again") == ["slope"]
