import math
from pathlib import Path

import geopandas as gpd
import numpy as np
import pytest
import rasterio
from affine import Affine
from rasterio.features import rasterize
from shapely import box, union_all

from landslip.geo.errors import UsageError
from landslip.samples.synthetic import Valley, best_ndvi_f1, make_valley, write_valley

SIZE = (256, 384)


@pytest.fixture(scope="module")
def valley() -> Valley:
    return make_valley(SIZE, seed=3)


def burn(polygons: object, valley: Valley) -> np.ndarray[tuple[int, ...], np.dtype[np.bool_]]:
    burned = rasterize(polygons, valley.labels.shape, transform=valley.transform)
    return np.asarray(burned) > 0


def slope_by_scene_pixel(valley: Valley) -> np.ndarray[tuple[int, ...], np.dtype[np.float32]]:
    """Steepness (rise over run) of the elevation cell under each pixel of the scene."""
    cell_m = valley.elevation_transform.a
    steepness = np.hypot(*np.gradient(valley.elevation, cell_m))
    to_cell = ~valley.elevation_transform @ valley.transform
    column, row = to_cell @ tuple(np.meshgrid(np.arange(SIZE[1]) + 0.5, np.arange(SIZE[0]) + 0.5))
    return np.asarray(steepness[row.astype(int), column.astype(int)])


def test_the_same_seed_gives_the_same_bytes(valley: Valley) -> None:
    again = make_valley(SIZE, seed=3)
    assert again.image.tobytes() == valley.image.tobytes()
    assert again.elevation.tobytes() == valley.elevation.tobytes()
    assert [p.wkb for p in again.landslides] == [p.wkb for p in valley.landslides]
    assert make_valley(SIZE, seed=4).image.tobytes() != valley.image.tobytes()


def test_shapes_and_kinds(valley: Valley) -> None:
    assert valley.image.shape == (3, *SIZE)
    assert valley.image.dtype == np.uint16
    assert valley.elevation.dtype == np.float32
    assert valley.labels.shape == valley.cloud.shape == valley.valid.shape == SIZE
    assert valley.labels.dtype == valley.cloud.dtype == valley.valid.dtype == bool
    assert valley.transform.a == -valley.transform.e == 0.5
    assert valley.crs == "EPSG:32648"


def test_values_are_those_of_a_12_bit_sensor_with_an_unseen_corner(valley: Valley) -> None:
    seen = (valley.image > 0).all(axis=0)
    assert ((valley.image == 0).all(axis=0) == ~seen).all()
    assert 0.005 < 1 - seen.mean() < 0.06
    assert not seen[0, -1]
    assert not valley.labels[~seen].any()
    assert valley.image.max() <= 4095
    assert (np.median(valley.image[:, valley.valid], axis=1) > 60).all()


@pytest.mark.parametrize("size", [SIZE, (128, 128), (301, 517)])
@pytest.mark.parametrize("seed", [0, 1])
def test_landslides_cover_a_small_share_of_any_valley(size: tuple[int, int], seed: int) -> None:
    valley = make_valley(size, seed=seed)
    assert 0.02 < valley.labels.mean() < 0.10
    assert len(valley.landslides) >= 3
    assert valley.cloud.mean() < 0.25
    assert valley.valid.mean() > 0.7


def test_density_is_alike_on_checked_and_on_unseen_ground() -> None:
    labels = make_valley((512, 768), seed=0).labels
    border = round(0.65 * 768)
    left, right = labels[:, :border].mean(), labels[:, border:].mean()
    assert 0.8 < left / right < 1.25


def test_most_landslides_are_small_and_few_are_large() -> None:
    areas_m2 = [p.area for p in make_valley((512, 768), seed=0).landslides]
    assert len(areas_m2) > 20
    assert min(areas_m2) > 15
    assert max(areas_m2) > 8 * np.median(areas_m2)


def test_outlines_are_valid_lie_in_the_scene_and_keep_apart(valley: Valley) -> None:
    left, top = valley.transform @ (0, 0)
    right, bottom = valley.transform @ SIZE[::-1]
    scene = box(left, bottom, right, top).buffer(1e-6)
    assert all(p.is_valid and p.geom_type == "Polygon" for p in valley.landslides)
    assert all(scene.contains(p) for p in (*valley.landslides, *valley.checked))
    together = union_all(list(valley.landslides)).area
    assert sum(p.area for p in valley.landslides) == pytest.approx(together, rel=1e-3)


def test_outlines_agree_with_the_labels(valley: Valley) -> None:
    drawn = burn(valley.landslides, valley)
    iou = (drawn & valley.labels).sum() / (drawn | valley.labels).sum()
    assert iou > 0.9


def test_checked_squares_fill_the_left_and_spare_the_right(valley: Valley) -> None:
    checked = burn(valley.checked, valley)
    border = round(0.65 * SIZE[1])
    assert checked[:, :border].mean() > 0.9
    assert not checked[:, border:].any()
    for square in valley.checked:
        west, south, east, north = square.bounds
        assert east - west == pytest.approx(north - south)


def test_landslides_lie_on_slopes_steeper_than_the_scene() -> None:
    for seed in (0, 1, 2):
        valley = make_valley(SIZE, seed=seed)
        slope = slope_by_scene_pixel(valley)
        assert slope[valley.labels].mean() > slope.mean()


def test_landslides_are_drawn_out_along_the_fall_line() -> None:
    valley = make_valley((512, 768), seed=1)
    cell_m = valley.elevation_transform.a
    south, east = np.gradient(valley.elevation, cell_m)
    turns = []
    for landslide in valley.landslides:
        corners = np.array(landslide.minimum_rotated_rectangle.exterior.coords)
        sides = np.diff(corners[:3], axis=0)
        length = np.hypot(*sides.T)
        if length.max() < 2 * length.min():
            continue
        axis = sides[length.argmax()] / length.max()
        column, row = ~valley.elevation_transform @ landslide.centroid.coords[0]
        fall = np.array([east[int(row), int(column)], -south[int(row), int(column)]])
        turns.append(abs(axis @ fall) / np.hypot(*fall))
    # Chance directions would give a median cosine of 0.71.
    assert len(turns) > 15
    assert np.median(turns) > 0.85


def test_ndvi_alone_does_badly() -> None:
    for seed in (0, 1):
        valley = make_valley((512, 768), seed=seed)
        _, f1 = best_ndvi_f1(valley.image, valley.labels, valley.valid)
        assert 0.2 < f1 < 0.6


def test_best_ndvi_f1_is_the_best_of_all_thresholds() -> None:
    rng = np.random.default_rng(0)
    image = rng.integers(1, 12, (3, 20, 30), dtype=np.uint16)
    labels, valid = rng.random((20, 30)) < 0.3, rng.random((20, 30)) < 0.8
    threshold, f1 = best_ndvi_f1(image, labels, valid)

    nir, red = image[:2].astype(float)
    ndvi = (nir - red) / (nir + red)

    def score(t: float) -> float:
        called = ndvi < t
        return float(
            2 * (called & labels)[valid].sum() / (called[valid].sum() + labels[valid].sum())
        )

    assert f1 == pytest.approx(max(score(t) for t in [*np.unique(ndvi), np.inf]))
    assert f1 == pytest.approx(score(threshold))


def test_best_ndvi_f1_is_undefined_without_landslides(valley: Valley) -> None:
    threshold, f1 = best_ndvi_f1(valley.image, np.zeros(SIZE, bool), valley.valid)
    assert math.isnan(threshold)
    assert math.isnan(f1)


def test_coarser_pixels_show_more_ground() -> None:
    valley = make_valley((128, 192), seed=0, pixel_size_m=2.0)
    assert valley.transform == Affine(2, 0, valley.transform.c, 0, -2, valley.transform.f)
    assert valley.labels.any()


@pytest.mark.parametrize(
    ("size", "pixel_size_m"), [((64, 384), 0.5), ((256, 384), 0.0), ((256, 384), math.nan)]
)
def test_impossible_valleys_are_refused(size: tuple[int, int], pixel_size_m: float) -> None:
    with pytest.raises(UsageError, match="Cannot make a valley"):
        make_valley(size, pixel_size_m=pixel_size_m)


def test_files_come_back_as_written(valley: Valley, tmp_path: Path) -> None:
    files = write_valley(valley, tmp_path / "valley")
    with rasterio.open(files.scene) as scene:
        assert scene.crs == valley.crs
        assert scene.transform == valley.transform
        assert scene.descriptions == ("nir", "red", "green")
        assert scene.nodata == 0
        assert scene.profile["tiled"]
        assert scene.compression.name == "deflate"
        assert (scene.read() == valley.image).all()
        left, bottom, right, top = scene.bounds
    with rasterio.open(files.elevation) as elevation:
        assert elevation.descriptions == ("elevation",)
        assert elevation.crs == valley.crs
        assert (elevation.read(1) == valley.elevation).all()
        assert elevation.bounds.left < left
        assert elevation.bounds.bottom < bottom
        assert elevation.bounds.right > right
        assert elevation.bounds.top > top
    landslides = gpd.read_file(files.landslides, layer="landslides")
    assert landslides.crs == valley.crs
    assert list(landslides.columns) == ["id", "geometry"]
    assert list(landslides["id"]) == list(range(1, len(valley.landslides) + 1))
    assert landslides.area.sum() == pytest.approx(sum(p.area for p in valley.landslides))
    assert len(gpd.read_file(files.checked, layer="checked")) == len(valley.checked)
    unusable = gpd.read_file(files.unusable, layer="unusable")
    drawn = burn(list(unusable.geometry), valley)
    assert (drawn & valley.cloud).sum() / (drawn | valley.cloud).sum() > 0.95


def test_writing_twice_replaces(valley: Valley, tmp_path: Path) -> None:
    write_valley(valley, tmp_path)
    files = write_valley(valley, tmp_path)
    assert len(gpd.read_file(files.landslides)) == len(valley.landslides)
