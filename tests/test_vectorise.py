"""The verb `vectorise`: layers, ids, flags, what is kept apart, and what it refuses.

Maps are tiny ones in UTM zone 54 with pixels of 10 m.
"""

from __future__ import annotations

import math
import sqlite3
from pathlib import Path
from typing import Any

import geopandas as gpd
import numpy as np
import pandas as pd
import pyogrio
import pytest
import rasterio
import shapely
from numpy.typing import NDArray
from rasterio.crs import CRS

import tiny
from landslip.geo.errors import DataError, OutputError, UsageError
from landslip.geo.grid import Grid
from landslip.geo.raster import create_raster
from landslip.inventory import outlines
from landslip.inventory.options import InventoryOptions
from landslip.inventory.sheet import write_sheet
from landslip.inventory.vectorise import vectorise
from tiny import grid_of

PIXELS = InventoryOptions(outline="pixels")
STEEP, FLAT, TALL = (10, 10, 6, 12), (40, 60, 5, 8), (20, 70, 12, 3)
"""(row, col, height, width) in px; the second lies on flat ground."""


def write_map(
    path: Path, planes: NDArray[Any], *, grid: Grid | None = None, nodata: float | None = 255
) -> Path:
    grid = grid or grid_of(*planes.shape)
    with create_raster(
        path, grid, bands=["probability"], dtype=planes.dtype.name, nodata=nodata
    ) as out:
        out.write(planes, 1)
        if planes.dtype == np.uint8:
            out.scales = (1 / 254,)
    return path


@pytest.fixture
def probability(tmp_path: Path) -> Path:
    codes = np.zeros((64, 96), dtype=np.uint8)
    for level, (row, col, height, width) in zip((254, 200, 140), (STEEP, FLAT, TALL), strict=True):
        codes[row : row + height, col : col + width] = level
    codes[60:, :] = 255
    return write_map(tmp_path / "p.tif", codes)


@pytest.fixture
def dem(tmp_path: Path) -> Path:
    """Falls to the east by 30 degrees on the left, and is flat on the right."""
    grid = grid_of(64, 96)
    z = np.maximum(480 - np.arange(96) * 10.0, 0) * math.tan(math.radians(30)) + np.zeros((64, 1))
    with create_raster(
        tmp_path / "dem.tif", grid, bands=["elevation"], dtype="float32", nodata=-9999
    ) as out:
        out.write(z.astype(np.float32), 1)
    return tmp_path / "dem.tif"


def layers_of(path: Path) -> dict[str, gpd.GeoDataFrame]:
    return {
        name: gpd.read_file(path, layer=name)
        for name, kind in pyogrio.list_layers(path)
        if kind is not None
    }


def test_layers_and_columns(probability: Path, tmp_path: Path) -> None:
    found = vectorise(probability, tmp_path / "out.gpkg", threshold=0.5, options=PIXELS)
    layers = layers_of(tmp_path / "out.gpkg")
    assert set(layers) == {"landslides", "observed", "not_observed"}
    frame = layers["landslides"]
    assert frame["id"].tolist() == [1, 2, 3]
    assert frame["area_m2"].tolist() == [7200, 3600, 4000]
    assert frame["probability_class"].tolist() == ["high", "low", "medium"]
    assert not frame["touches_edge"].any()
    assert frame["status"].tolist() == ["unreviewed"] * 3
    assert (frame["pixel_size_m"] == 10).all()
    assert (frame["threshold"] == 0.5).all()
    assert (found.landslides, found.dropped, found.bodies) == (3, 0, 3)
    assert found.area_m2 == 14_800
    assert found.observed_km2 == pytest.approx(60 * 96 * 100 / 1e6)
    assert layers["not_observed"]["reason"].tolist() == ["no data"]


def test_every_column_is_documented(probability: Path, dem: Path, tmp_path: Path) -> None:
    rules, event = tmp_path / "rules.txt", tmp_path / "event.toml"
    rules.write_text("slope_mean_deg < 5 -> flat\n")
    event.write_text(
        'name = "Storm"\ncode = "S1"\ndate_from = 2024-06-01\ndate_to = 2024-06-02\n'
        'trigger = "rainfall"\nauthor = "A"\nlicence = "CC-BY-4.0"\n'
        '[[images]]\nname = "PlanetScope"\ndate = 2024-06-03\n'
    )
    road = gpd.GeoDataFrame(geometry=[shapely.LineString([(0, 0), (1e6, 1e7)])], crs=tiny.UTM)
    road.to_file(tmp_path / "road.gpkg")
    values = np.full((4, 64, 96), 100, np.uint16)
    scene = tiny.write_scene(
        tmp_path / "scene.tif", values, bands=("nir", "red", "pre_nir", "pre_red")
    )
    out = tmp_path / "out.gpkg"
    options = InventoryOptions(
        dem=dem, rules=rules, event=event, near=(f"road={tmp_path / 'road.gpkg'}",), split=True,
        volume="larsen",
    )  # fmt: skip
    vectorise(probability, out, threshold=0.5, options=options, scene=scene)
    frame = layers_of(out)["landslides"]
    text = (Path(__file__).parents[1] / "docs" / "inventory.md").read_text(encoding="utf-8")
    names = [name.replace("road", "NAME") for name in frame.columns if name != "geometry"]
    assert [name for name in names if f"`{name}`" not in text] == []
    assert (frame["image_date"] == "2024-06-03").all()
    assert (frame["event_date_to"] == "2024-06-02").all()


def test_rules_flag_and_move_and_lose_nothing(probability: Path, dem: Path, tmp_path: Path) -> None:
    rules = tmp_path / "rules.txt"
    rules.write_text(
        "# what it is not\n"
        "slope_mean_deg < 5 and area_m2 < 5000 -> likely_not_landslide\n"
        "length_width_ratio > 3.5 -> channel\n"
    )
    options = InventoryOptions(outline="pixels", dem=dem, rules=rules)
    vectorise(probability, tmp_path / "all.gpkg", threshold=0.5, options=options)
    everything = layers_of(tmp_path / "all.gpkg")["landslides"]
    assert everything["flags"].fillna("").tolist() == [
        "", "likely_not_landslide, channel", "likely_not_landslide",
    ]  # fmt: skip
    options = InventoryOptions(outline="pixels", dem=dem, rules=rules, drop=("channel",))
    found = vectorise(probability, tmp_path / "some.gpkg", threshold=0.5, options=options)
    layers = layers_of(tmp_path / "some.gpkg")
    assert layers["landslides"]["id"].tolist() == [1, 3]
    assert layers["dropped"]["id"].tolist() == [2]
    assert (found.landslides, found.dropped) == (2, 1)
    together = pd.concat([layers["landslides"], layers["dropped"]]).sort_values("id")
    pd.testing.assert_frame_equal(together.reset_index(drop=True), everything)


def test_split_bodies_keep_their_parent(tmp_path: Path) -> None:
    """Two discs and a bridge of two pixels; a third one alone."""
    row, col = np.mgrid[:80, :120] + 0.5
    inside = (np.hypot(row - 40, col - 30) < 18) | (np.hypot(row - 40, col - 68) < 18)
    inside |= (np.abs(row - 40) < 1.5) & (col > 30) & (col < 68)
    inside |= np.hypot(row - 30, col - 105) < 10
    path = write_map(tmp_path / "p.tif", inside.astype(np.uint8) * np.uint8(254))
    whole = vectorise(path, tmp_path / "whole.gpkg", threshold=0.5)
    assert whole.landslides == 2
    found = vectorise(
        path, tmp_path / "split.gpkg", threshold=0.5, options=InventoryOptions(split=True)
    )
    assert (found.landslides, found.bodies) == (3, 2)
    assert "(2 before bodies were split)" in found.text
    layers = layers_of(tmp_path / "split.gpkg")
    frame, bodies = layers["landslides"], layers["bodies"]
    assert frame["id"].tolist() == [1, 2, 3]
    assert sorted(frame["parent_id"].fillna(0)) == [0, 1, 1]
    assert bodies["id"].tolist() == [1]
    parts = frame[frame["parent_id"] == 1].geometry
    assert parts.area.sum() == pytest.approx(bodies.geometry[0].area, rel=1e-9)
    assert parts.iloc[0].intersection(parts.iloc[1]).area < 1e-6
    assert parts.area.min() == pytest.approx(parts.area.max(), rel=0.1)


def test_styles_are_inside(probability: Path, tmp_path: Path) -> None:
    vectorise(probability, tmp_path / "out.gpkg", threshold=0.5)
    with sqlite3.connect(tmp_path / "out.gpkg") as database:
        rows = database.execute(
            "select f_table_name, styleName, useAsDefault, styleQML from layer_styles"
            " order by useAsDefault desc, update_time desc"
        ).fetchall()
    assert [row[:3] for row in rows] == [
        ("landslides", "by class", 1), ("landslides", "by status", 0),
    ]  # fmt: skip
    assert 'attr="probability_class"' in rows[0][3]
    assert 'attr="status"' in rows[1][3]


def test_the_same_map_gives_the_same_bytes(probability: Path, tmp_path: Path) -> None:
    for name in ("a.gpkg", "b.gpkg"):
        vectorise(probability, tmp_path / name, threshold=0.5)
    assert (tmp_path / "a.gpkg").read_bytes() == (tmp_path / "b.gpkg").read_bytes()


def test_the_threshold_is_that_of_the_tags(probability: Path, tmp_path: Path) -> None:
    with rasterio.open(probability, "r+") as file:
        file.update_tags(LANDSLIP_THRESHOLD="0.7", LANDSLIP_MODEL="m")
    found = vectorise(probability, tmp_path / "out.gpkg")
    assert (found.threshold, found.landslides) == (0.7, 2)
    assert (layers_of(tmp_path / "out.gpkg")["landslides"]["model"] == "m").all()


@pytest.mark.parametrize("kind", ["float32", "binary", "degrees", "no CRS"])
def test_maps_of_any_tool(tmp_path: Path, kind: str, caplog: pytest.LogCaptureFixture) -> None:
    codes = np.zeros((64, 96), dtype=np.uint8)
    codes[10:16, 10:22] = 254
    grid, expected = grid_of(64, 96), 7200.0
    if kind == "degrees":
        step = 1e-4
        grid = Grid(CRS.from_epsg(4326), rasterio.Affine(step, 0, 141.9, 0, -step, 42.7), 64, 96)
        expected = 72 * grid.pixel_area_m2(13).item()
    elif kind == "no CRS":
        grid, expected = grid_of(64, 96, crs=None), 7200.0
    planes: NDArray[Any] = codes
    if kind == "float32":
        planes = (codes / 254).astype(np.float32)
    elif kind == "binary":
        planes = (codes > 0).astype(np.int16)
    path = write_map(tmp_path / "p.tif", planes, grid=grid, nodata=None)
    found = vectorise(path, tmp_path / "out.gpkg", options=PIXELS)
    assert found.landslides == 1
    assert found.area_m2 == pytest.approx(expected, rel=1e-4)
    assert ("no coordinate reference system" in caplog.text) == (kind == "no CRS")
    frame = layers_of(tmp_path / "out.gpkg")["landslides"]
    assert ("lon" in frame) == (kind != "no CRS")


def test_nothing_and_everything(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    nothing = write_map(tmp_path / "none.tif", np.zeros((30, 20), np.uint8))
    found = vectorise(nothing, tmp_path / "none.gpkg", threshold=0.5)
    assert found.landslides == 0
    assert "the inventory is empty" in caplog.text
    layers = layers_of(tmp_path / "none.gpkg")
    assert len(layers["landslides"]) == 0
    assert "slope_mean_deg" not in layers["landslides"]
    assert {"id", "area_m2", "status"} <= set(layers["landslides"])
    write_sheet(tmp_path / "none.gpkg", tmp_path / "none.html")
    everything = write_map(tmp_path / "all.tif", np.full((30, 20), 254, np.uint8))
    found = vectorise(everything, tmp_path / "all.gpkg", threshold=0.5)
    assert (found.landslides, found.area_m2) == (1, 60_000)
    unknown = write_map(tmp_path / "unknown.tif", np.full((30, 20), 255, np.uint8))
    with pytest.raises(DataError, match="none of its pixels is known"):
        vectorise(unknown, tmp_path / "unknown.gpkg", threshold=0.5)
    assert not list(tmp_path.glob("*unknown*.gpkg*"))


def test_half_a_million_specks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Those that are wanted come in groups; here a hundredth, as quick as tests must be."""
    codes = np.zeros((100, 200), dtype=np.uint8)
    codes[::2, ::2] = 254
    path = write_map(tmp_path / "p.tif", codes)
    monkeypatch.setattr(outlines, "GROUP", 1000)
    found = vectorise(path, tmp_path / "out.gpkg", threshold=0.5, options=PIXELS)
    assert found.landslides == 5000
    assert layers_of(tmp_path / "out.gpkg")["landslides"]["id"].tolist() == list(range(1, 5001))


def test_the_sheet_tells_figures(probability: Path, dem: Path, tmp_path: Path) -> None:
    out = tmp_path / "out.gpkg"
    vectorise(probability, out, threshold=0.5, options=InventoryOptions(outline="pixels", dem=dem))
    frame = gpd.read_file(out, layer="landslides")
    write_sheet(out, tmp_path / "sheet.html", title="Storm")
    page = (tmp_path / "sheet.html").read_text(encoding="utf-8")
    assert "<h1>Storm</h1>" in page
    observed = 60 * 96 * 100 / 1e6
    for text in ("14,800 m²", f"{observed:.3f} km²", f"{3 / observed:,.2f}", "The largest 3"):
        assert text in page
    frame.assign(status=["rejected", "accepted", ""]).to_file(out, layer="landslides")
    write_sheet(out, tmp_path / "sheet.html", overwrite=True)
    assert "7,600 m²" in (tmp_path / "sheet.html").read_text(encoding="utf-8")


@pytest.mark.parametrize("status", ["accepted", "Edited ", "rejected"])
def test_reviewed_work_is_never_replaced(probability: Path, tmp_path: Path, status: str) -> None:
    out = tmp_path / "out.gpkg"
    vectorise(probability, out, threshold=0.5)
    vectorise(probability, out, threshold=0.5, overwrite=True)
    frame = gpd.read_file(out, layer="landslides")
    frame.loc[1, "status"] = status
    frame.to_file(out, layer="landslides")
    before = out.read_bytes()
    with pytest.raises(OutputError, match="1 of its landslides were reviewed"):
        vectorise(probability, out, threshold=0.5, overwrite=True)
    assert out.read_bytes() == before


def test_a_file_open_in_another_program_is_not_replaced(probability: Path, tmp_path: Path) -> None:
    out = tmp_path / "out.gpkg"
    vectorise(probability, out, threshold=0.5)
    with sqlite3.connect(out) as other:
        other.execute("pragma journal_mode = wal")
        other.execute("update gpkg_contents set description = 'mine'")
        with pytest.raises(OutputError, match=r"another program holds out\.gpkg open"):
            vectorise(probability, out, threshold=0.5, overwrite=True)


def test_what_cannot_be_is_refused(probability: Path, dem: Path, tmp_path: Path) -> None:
    out = tmp_path / "out.gpkg"
    for threshold in (0.0, -1.0, 1.01, math.nan):
        with pytest.raises(UsageError, match="between 0 and 1"):
            vectorise(probability, out, threshold=threshold)
    with pytest.raises(UsageError, match=r"must end in \.gpkg"):
        vectorise(probability, tmp_path / "out.shp", threshold=0.5)
    with pytest.raises(UsageError, match="Cannot outline by 'bezier'"):
        InventoryOptions(outline="bezier")
    with pytest.raises(UsageError, match="min_hole_m2 -1"):
        InventoryOptions(min_hole_m2=-1)
    with pytest.raises(UsageError, match="no rules say which"):
        InventoryOptions(drop=("flat",))
    with pytest.raises(UsageError, match="none of that name"):
        vectorise(probability, out, threshold=0.5, options=InventoryOptions(volume="guess"))
    other = tiny.write_scene(tmp_path / "scene.tif", tiny.noise(3, 32, 32))
    with pytest.raises(DataError, match="Name the scene that was mapped"):
        vectorise(probability, out, threshold=0.5, scene=other)
    rules = tmp_path / "rules.txt"
    for text, says in (
        ("area_m2 < -> tiny\n", "at character 11"),
        ("slope_mean_deg < 5 -> flat\n", "slope_mean_deg"),
        ("area_m2 < 5 -> tiny\n", "Cannot drop flat"),
    ):
        rules.write_text(text)
        options = InventoryOptions(rules=rules, drop=("flat",) if "tiny" in text else ())
        with pytest.raises(UsageError, match=says):
            vectorise(probability, out, threshold=0.5, options=options)
    assert not out.exists()


def test_the_command_line(probability: Path, dem: Path, tmp_path: Path) -> None:
    out = tmp_path / "out.gpkg"
    done = tiny.landslip(
        "vectorise", probability, "--threshold", "0.5", "--dem", dem, "--out", out, "--outline",
        "pixels", "--min-area", "3800", "--sheet", tmp_path / "sheet.html",
    )  # fmt: skip
    assert done.code == 0, done
    assert "2 landslides, 11,200 m2, on 0.576 km2" in done.out.replace("\n", " ")
    assert (tmp_path / "sheet.html").exists()
    again = tiny.landslip("vectorise", probability, "--threshold", "0.5", "--out", out)
    assert again.code == 1
    assert "exists already" in again.err
    exported = tiny.landslip("export", out, "--as", "geojson", "--out", tmp_path / "l.geojson")
    assert exported.code == 0, exported
    assert gpd.read_file(tmp_path / "l.geojson")["id"].tolist() == [1, 2]
