import io
import json
import math
import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import shapely
from affine import Affine
from numpy.typing import NDArray
from rasterio.crs import CRS
from rich.console import Console

from landslip.geo.errors import BandError, DataError, InventoryError, OutputError
from landslip.geo.grid import Grid, Window
from landslip.geo.inventory import Polygons, rasterised, read_polygons
from landslip.geo.labels import PolygonLabels
from landslip.geo.raster import Raster
from landslip.geo.scene import open_scene
from landslip.geo.windows import cover
from landslip.prepare import check
from landslip.prepare.check import InventoryCheck, SceneCheck, check_scene
from landslip.prepare.shift import CELL_PX, Shift, cells_with_edges, estimate_shift

WriteRaster = Callable[..., Path]
WritePolygons = Callable[..., Path]

WIDE = Grid(CRS.from_epsg(32648), Affine(10, 0, 500_000, 0, -10, 3_800_000), 420, 500)
"""The frame of `utm_grid`, wide enough for a shift to be measured."""


@pytest.fixture(scope="module")
def blobs() -> list[Any]:
    """Forty irregular landslides on WIDE, in its CRS."""
    rng = np.random.default_rng(1)
    found = []
    for row in range(35, 400, 70):
        for col in range(35, 480, 62):
            angles = np.arange(0, 2 * np.pi, 0.3)
            sizes = rng.uniform(7, 16, len(angles))
            points = [
                WIDE.transform * (col + size * math.cos(angle), row + size * math.sin(angle))
                for angle, size in zip(angles, sizes, strict=True)
            ]
            found.append(shapely.Polygon(points).buffer(0))
    return found


@pytest.fixture(scope="module")
def bright(blobs: list[Any]) -> NDArray[np.uint16]:
    """An image (2, H, W) on WIDE in which the blobs are brighter than noisy ground."""
    noise = np.random.default_rng(2).normal(1000, 60, (2, *WIDE.shape))
    return (noise + 200 * rasterised(blobs, WIDE, WIDE.window)).astype(np.uint16)


def moved(shapes: Sequence[Any], rows: int, cols: int, size: float = 10) -> list[Any]:
    step = np.array([cols * size, -rows * size])
    return [shapely.transform(shape, lambda points: points + step) for shape in shapes]


# What is said


def test_a_good_scene_gives_figures_and_no_warning(
    write_raster: WriteRaster, write_polygons: WritePolygons, blobs: list[Any], bright: Any
) -> None:
    scene = write_raster("wide.tif", bright, bands=["nir", "red"], grid=WIDE, nodata=0)
    found = check_scene(scene, inventory=write_polygons("blobs.gpkg", blobs))
    assert found.warnings == ()
    assert found.notes == ()
    assert found.files == (f"scene: {scene}",)
    assert found.bands == ("nir", "red")
    assert found.types == ("uint16", "uint16")
    assert (found.height_px, found.width_px) == WIDE.shape
    assert found.pixel_size_m == 10
    assert found.crs == "EPSG:32648"
    assert found.area_km2 == pytest.approx(21)
    assert found.sampled_share == 1
    assert found.nodata_share == found.excluded_share == 0
    assert max(found.saturated) < 0.001
    slides = found.inventory
    assert slides is not None
    assert (slides.inside, slides.outside, slides.repaired) == (len(blobs), 0, 0)
    areas = [shape.area for shape in blobs]
    assert slides.area_km2 == pytest.approx(sum(areas) / 1e6)
    assert slides.smallest_px == pytest.approx(min(areas) / 100)
    assert slides.below_four_px == 0
    burnt = rasterised(blobs, WIDE, WIDE.window)
    assert slides.landslide_share == pytest.approx(burnt.mean())
    assert slides.labelled_share == 1
    assert slides.shift is not None
    assert (slides.shift.rows_px, slides.shift.cols_px) == (0, 0)
    assert not slides.shift.likely


def test_nodata_and_excluded_ground_are_told_apart(
    utm_scene: Path, write_polygons: WritePolygons
) -> None:
    east = write_polygons("east.gpkg", [shapely.box(500_300, 3_799_600, 500_600, 3_800_000)])
    scene = open_scene(utm_scene, unusable=east)
    found = check_scene(scene)
    assert found.excluded_share == 0.5
    assert found.nodata_share == pytest.approx(20 / 2400)
    assert found.files == (f"scene: {utm_scene}", f"unusable: {east}")
    assert found.inventory is None
    scene.close()


@pytest.mark.parametrize(
    ("dtype", "values", "share"),
    [
        ("uint8", [255] * 3 + [100] * 94 + [0] * 3, 0.06),
        ("uint16", [10_000] * 3 + list(range(300, 397)), 0.03 + 0.01),
        ("uint16", list(range(300, 400)), 0.02),
        ("float32", [1.0] * 5 + list(np.linspace(0.2, 0.9, 95)), 0.05 + 0.01),
        ("uint8", [7] * 100, 1.0),
    ],
)
def test_saturation_is_the_share_at_the_ends(
    write_raster: WriteRaster, dtype: str, values: list[float], share: float
) -> None:
    first = np.array(values, dtype=dtype).reshape(1, 10, 10)
    second = np.linspace(1, 90, 100).astype(dtype).reshape(1, 10, 10)
    found = check_scene(
        write_raster("ends.tif", np.concatenate([first, second]), bands=["nir", "red"])
    )
    assert found.saturated[0] == pytest.approx(share)
    assert any("Many pixels are saturated in nir" in text for text in found.warnings)


def test_few_pixels_at_an_end_are_no_saturation(write_raster: WriteRaster) -> None:
    values = np.arange(300, 40_300, dtype=np.uint16).reshape(1, 200, 200)
    found = check_scene(write_raster("even.tif", values, bands=["nir"]))
    assert list(found.saturated) == [0]
    # The ends of the type count however few they are.
    values[0, 0, 0] = 65_535
    found = check_scene(write_raster("end.tif", values, bands=["nir"]))
    assert list(found.saturated) == [1 / 40_000]


def test_terrain_is_never_saturated(write_raster: WriteRaster, utm_scene: Path) -> None:
    sea = write_raster("sea.tif", np.zeros((1, 40, 60), np.float32))
    scene = open_scene(utm_scene, dem=sea)
    found = check_scene(scene)
    assert found.bands[3:] == ("elevation", "slope")
    assert np.isnan(found.saturated[3:]).all()
    assert not any("elevation" in text or "slope" in text for text in found.warnings)
    scene.close()


def test_black_borders_ask_for_nodata(write_raster: WriteRaster) -> None:
    values = np.random.default_rng(0).integers(500, 20_000, (3, 40, 60), dtype=np.uint16)
    values[:, :8] = 0
    found = check_scene(write_raster("black.tif", values, bands=["nir", "red", "green"]))
    assert [text for text in found.warnings if "20.0% of the valid pixels are 0" in text]
    assert max(found.saturated) < 0.01
    assert found.nodata_share == 0


def test_bands_without_names_are_told(write_raster: WriteRaster, utm_scene: Path) -> None:
    values = np.random.default_rng(0).integers(500, 20_000, (3, 40, 60), dtype=np.uint16)
    path = write_raster("numbers.tif", values, bands=["B8", "red", None])
    found = check_scene(path)
    assert found.bands == ("B8", "red", "band3")
    assert any("does not say what B8, band3 show" in text for text in found.warnings)
    known = open_scene(path, sensor="sentinel-2", unnamed=True)
    assert any("does not say what band3 show" in text for text in check_scene(known).warnings)
    assert not any("does not say" in text for text in check_scene(utm_scene).warnings)


def test_scenes_without_position_and_in_degrees(plain_scene: Path, degree_scene: Path) -> None:
    plain = check_scene(plain_scene)
    assert plain.crs == ""
    assert any("no coordinate reference system" in text for text in plain.warnings)
    assert any(text.startswith("8-bit data (red, green, blue)") for text in plain.notes)
    degrees = check_scene(degree_scene)
    assert not any("coordinate" in text for text in degrees.warnings)
    assert any("measured on the ellipsoid" in text for text in degrees.notes)
    assert degrees.area_km2 == pytest.approx(30 * 50 * 11.09 * 9.2 / 1e6, rel=0.01)


def test_suspicious_polygons_are_told(
    utm_scene: Path, slides: Path, write_polygons: WritePolygons
) -> None:
    found = check_scene(utm_scene, inventory=slides)
    assert found.inventory is not None
    assert (found.inventory.inside, found.inventory.outside) == (1, 1)
    assert any("1 of 2 polygons lie outside the scene" in text for text in found.warnings)
    small = shapely.box(500_200, 3_799_850, 500_215, 3_799_865)
    bow_tie = shapely.Polygon(
        [(500_000, 3_799_700), (500_200, 3_799_900), (500_200, 3_799_700), (500_000, 3_799_900)]
    )
    text = " ".join(
        check_scene(utm_scene, inventory=write_polygons("odd.gpkg", [small, bow_tie])).warnings
    )
    assert "1 polygons crossed themselves and were repaired" in text
    assert "1 of 2 landslides are smaller than 4 pixels (400 m2)" in text
    degrees = write_polygons(
        "degrees.gpkg", [shapely.box(105.001, 34.335, 105.004, 34.338)], crs=4326
    )
    text = " ".join(check_scene(utm_scene, inventory=degrees).warnings)
    assert "The landslides are in EPSG:4326, the scene is in EPSG:32648" in text


def test_landslides_on_missing_ground_are_told(
    utm_scene: Path, write_polygons: WritePolygons
) -> None:
    corner = write_polygons("corner.gpkg", [shapely.box(500_000, 3_799_970, 500_040, 3_800_000)])
    found = check_scene(utm_scene, inventory=corner)
    assert any("No landslide covers a valid pixel" in text for text in found.warnings)


def test_label_rasters_have_no_polygons(write_raster: WriteRaster, utm_scene: Path) -> None:
    labels = np.zeros((1, 40, 60), dtype=np.uint8)
    labels[0, 10:15, 20:27], labels[0, 20:] = 1, 255
    found = check_scene(utm_scene, inventory=write_raster("labels.tif", labels)).inventory
    assert found is not None
    assert (found.inside, found.smallest_px, found.below_four_px) == (None, None, None)
    assert found.area_km2 == pytest.approx(3500 / 1e6)
    valid = 2400 - 20 - 40
    assert found.labelled_share == pytest.approx((20 * 59 - 20) / valid)
    assert found.landslide_share == pytest.approx(35 / (20 * 59 - 20))
    assert found.shift is None


def test_what_cannot_be_used_is_refused(
    utm_scene: Path, degree_scene: Path, slides: Path, tmp_path: Path
) -> None:
    with pytest.raises(InventoryError, match="touches the scene"):
        check_scene(open_scene(utm_scene).read(Window(0, 0, 5, 5), ["nir"]), inventory=slides)
    with pytest.raises(DataError, match="no such file"):
        check_scene(tmp_path / "none.tif")
    with pytest.raises(BandError, match="two of its bands are called"):
        check_scene(open_scene(degree_scene, bands=["red", "red", "blue"]))


# How it is counted


class Watched:
    """A scene that notes what is read."""

    def __init__(self, raster: Raster) -> None:
        self.raster = raster
        self.windows: list[Window] = []

    @property
    def grid(self) -> Grid:
        return self.raster.grid

    @property
    def bands(self) -> tuple[str, ...]:
        return self.raster.bands

    def read(self, window: Window, bands: Sequence[str]) -> Raster:
        self.windows.append(window)
        return self.raster.read(window, bands)


@pytest.fixture
def watched(bright: Any) -> Watched:
    return Watched(Raster(bright, np.ones(WIDE.shape, dtype=bool), ("nir", "red"), WIDE))


def test_a_scene_is_read_window_by_window(
    watched: Watched, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(check, "CORE_PX", 64)
    found = check_scene(watched)
    assert found.sampled_share == 1
    assert found.files == ("scene: Watched",)
    assert max(max(window.height, window.width) for window in watched.windows) == 64
    seen = sum(window.height * window.width for window in watched.windows[2:])
    assert seen == WIDE.height * WIDE.width


def test_large_scenes_are_sampled_evenly_and_it_is_said(
    watched: Watched, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(check, "CORE_PX", 64)
    monkeypatch.setattr(check, "SAMPLE_ABOVE_PX", WIDE.height * WIDE.width // 4)
    found = check_scene(watched)
    assert found.sampled_share == pytest.approx(0.25, abs=0.08)
    assert any("Shares were counted on" in text for text in found.notes)
    # Eight windows a row, and every fourth or so: all columns must get their turn.
    assert {window.col for window in watched.windows} == set(range(0, 500, 64))
    assert found.area_km2 == pytest.approx(21)


def test_windows_give_what_the_whole_gives(
    watched: Watched, monkeypatch: pytest.MonkeyPatch, write_polygons: WritePolygons, blobs: Any
) -> None:
    slides = write_polygons("blobs.gpkg", blobs)
    whole = check_scene(watched, inventory=slides)
    monkeypatch.setattr(check, "CORE_PX", 64)
    assert check_scene(watched, inventory=slides) == whole


# Shift


@pytest.mark.parametrize(
    ("rows", "cols"), [(0, 4), (5, 0), (-4, -4), (0, -8), (7, 3), (-10, 2), (2, 1)]
)
def test_shifted_outlines_are_told_by_how_much(
    watched: Watched, write_polygons: WritePolygons, blobs: list[Any], rows: int, cols: int
) -> None:
    found = check_scene(watched, inventory=write_polygons("moved.gpkg", moved(blobs, rows, cols)))
    assert found.inventory is not None
    shift = found.inventory.shift
    assert shift is not None
    assert shift.likely
    assert (shift.rows_px, shift.cols_px) == (-rows, -cols)
    assert shift.distance_m == pytest.approx(10 * math.hypot(rows, cols), rel=1e-3)
    (warning,) = (text for text in found.warnings if "seem to be shifted" in text)
    if rows:
        assert f"{abs(rows)} px {'up' if rows > 0 else 'down'}" in warning
    if cols:
        assert f"{abs(cols)} px {'left' if cols > 0 else 'right'}" in warning


def test_a_shift_of_one_pixel_is_not_worth_a_warning(
    watched: Watched, write_polygons: WritePolygons, blobs: list[Any]
) -> None:
    found = check_scene(watched, inventory=write_polygons("one.gpkg", moved(blobs, 0, 1)))
    assert not any("shifted" in text for text in found.warnings)


def test_outlines_without_any_edge_in_the_image_give_no_alarm(
    write_polygons: WritePolygons, blobs: list[Any]
) -> None:
    slides = write_polygons("blobs.gpkg", blobs)
    for seed in range(3):
        noise = np.random.default_rng(seed).normal(1000, 60, (1, *WIDE.shape))
        scene = Raster(noise, np.ones(WIDE.shape, dtype=bool), ("pan",), WIDE)
        assert not any("shifted" in text for text in check_scene(scene, inventory=slides).warnings)


def test_a_uniform_image_and_few_outlines_say_nothing(
    write_polygons: WritePolygons, blobs: list[Any], watched: Watched
) -> None:
    flat = Raster(np.full((1, *WIDE.shape), 9), np.ones(WIDE.shape, dtype=bool), ("pan",), WIDE)
    found = check_scene(flat, inventory=write_polygons("blobs.gpkg", blobs)).inventory
    assert found is not None
    assert found.shift is not None
    assert not found.shift.likely
    few = check_scene(watched, inventory=write_polygons("few.gpkg", moved(blobs[:3], 5, 0)))
    assert few.inventory is not None
    assert few.inventory.shift is None


def test_the_edge_of_checked_ground_is_no_outline(
    watched: Watched, write_polygons: WritePolygons, blobs: list[Any]
) -> None:
    """Beyond the checked areas there is no background, so no outline either."""
    slides = write_polygons("moved.gpkg", moved(blobs, 5, 5))
    tiny = write_polygons("tiny.gpkg", [shapely.box(500_000, 3_799_990, 500_010, 3_800_000)])
    found = check_scene(watched, inventory=slides, checked=tiny)
    assert found.inventory is not None
    assert found.inventory.shift is None


# What is given back


def test_json_has_the_fields_as_keys(utm_scene: Path, slides: Path) -> None:
    found = check_scene(utm_scene, inventory=slides)
    read = json.loads(found.to_json())
    assert list(read) == [part.name for part in fields(SceneCheck)]
    assert list(read["inventory"]) == [part.name for part in fields(InventoryCheck)]
    assert read["inventory"]["shift"] is None
    assert read["warnings"] == list(found.warnings)


def test_json_knows_no_nan(write_raster: WriteRaster) -> None:
    path = write_raster("nothing.tif", np.zeros((1, 40, 60), np.uint8), bands=["nir"], nodata=0)
    found = check_scene(path)
    assert math.isnan(found.saturated[0])
    assert "NaN" not in found.to_json()
    assert json.loads(found.to_json())["saturated"] == [None]


def test_the_table_is_for_people(utm_scene: Path, slides: Path) -> None:
    console = Console(width=200, file=io.StringIO(), record=True)
    console.print(check_scene(utm_scene, inventory=slides).table())
    text = console.export_text()
    for part in ("40 rows x 60 columns", "10 m", "EPSG:32648", "nir (uint16)", "too few outlines"):
        assert part in text


# Picture


def png_size(path: Path) -> tuple[int, int]:
    head = path.read_bytes()[:24]
    assert head.startswith(b"\x89PNG")
    return int.from_bytes(head[16:20], "big"), int.from_bytes(head[20:24], "big")


def test_pictures_are_written_for_all_kinds_of_scenes(
    utm_scene: Path,
    degree_scene: Path,
    plain_scene: Path,
    slides: Path,
    write_raster: WriteRaster,
    write_polygons: WritePolygons,
    tmp_path: Path,
) -> None:
    half = write_polygons("half.gpkg", [shapely.box(500_000, 3_799_800, 500_600, 3_800_000)])
    labels = np.zeros((1, 40, 60), dtype=np.uint8)
    labels[0, 10:15, 20:27] = 1
    raster = write_raster("labels.tif", labels)
    calls: list[tuple[Any, dict[str, Any]]] = [
        (utm_scene, {"inventory": slides, "checked": half}),
        (open_scene(utm_scene, bands=["-", "red", "-"], unusable=half), {"inventory": raster}),
        (degree_scene, {}),
        (plain_scene, {}),
    ]
    for number, (scene, options) in enumerate(calls):
        path = tmp_path / f"picture{number}.png"
        check_scene(scene, picture=path, **options)
        assert max(png_size(path)) <= 2000
        assert path.stat().st_size > 2000


def test_existing_pictures_are_kept_before_anything_is_read(
    utm_scene: Path, tmp_path: Path
) -> None:
    path = tmp_path / "picture.png"
    path.write_text("mine")
    with pytest.raises(OutputError, match="exists already"):
        check_scene(tmp_path / "none.tif", picture=path)
    assert path.read_text() == "mine"
    check_scene(utm_scene, picture=path, overwrite=True)
    png_size(path)


def test_matplotlib_and_scipy_are_loaded_only_when_needed(utm_scene: Path) -> None:
    code = (
        "import sys\n"
        "from landslip.prepare.check import check_scene\n"
        "check_scene(sys.argv[1])\n"
        "heavy = {'matplotlib', 'torch', 'skimage', 'scipy'} & set(sys.modules)\n"
        "assert not heavy, heavy\n"
    )
    subprocess.run([sys.executable, "-c", code, utm_scene], check=True)


# Real scenes


def shift_of(scene: Any, polygons: Polygons) -> Shift:
    labels = PolygonLabels(polygons, None, scene.grid)
    cells = [
        cell
        for window in cover(scene.grid, 16 * CELL_PX)
        for cell in cells_with_edges(labels.read(window), window)
    ]
    found = estimate_shift(scene, labels, cells)
    assert found is not None
    return found


@pytest.mark.data
def test_tianshui_is_aligned(data: Path) -> None:
    found = check_scene(data / "tianshui/scene.tif", inventory=data / "tianshui/landslides.gpkg")
    slides = found.inventory
    assert slides is not None
    assert (slides.inside, slides.outside, slides.repaired) == (110, 0, 0)
    assert slides.landslide_share == pytest.approx(0.048, abs=5e-4)
    assert found.area_km2 == pytest.approx(0.81)
    assert slides.shift is not None
    assert (slides.shift.rows_px, slides.shift.cols_px) == (0, 0)
    assert not any("shifted" in text for text in found.warnings)
    assert any(text.startswith("8-bit data") for text in found.notes)


@pytest.mark.data
@pytest.mark.parametrize(("rows", "cols"), [(4, 0), (0, -5), (5, 5), (3, -7), (-8, 0)])
def test_a_shift_of_tianshui_is_found(data: Path, rows: int, cols: int) -> None:
    scene = open_scene(data / "tianshui/scene.tif")
    aligned = read_polygons(data / "tianshui/landslides.gpkg", scene.grid)
    shapes = moved(list(aligned.geometries), rows, cols, size=0.5)
    found = shift_of(scene, Polygons(aligned.frame.set_geometry(shapes), "", 0))
    assert found.likely
    assert math.hypot(found.rows_px + rows, found.cols_px + cols) <= 1.5
    scene.close()


@pytest.mark.data
def test_iburi_is_aligned_within_a_pixel(data: Path) -> None:
    scene = open_scene(data / "iburi/post.tif", sensor="sentinel-2")
    found = check_scene(scene, inventory=data / "iburi/labels.tif")
    assert found.bands == ("red", "green", "blue")
    assert found.area_km2 == pytest.approx(109.2, abs=0.1)
    assert found.warnings == ()
    slides = found.inventory
    assert slides is not None
    assert slides.shift is not None
    assert math.hypot(slides.shift.rows_px, slides.shift.cols_px) <= 1
    scene.close()
