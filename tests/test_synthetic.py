import math
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import rasterio
from rasterio.features import rasterize
from rasterio.transform import array_bounds, rowcol
from shapely import box, union_all

from landslip.geo.errors import UsageError
from landslip.samples.synthetic import Valley, best_ndvi_f1, make_valley, write_valley

SIZE = (256, 384)


WIDE = (512, 768)


@pytest.fixture(scope="module")
def valley() -> Valley:
    return make_valley(SIZE, seed=3)


@pytest.fixture(scope="module")
def wide() -> Valley:
    """Large enough for a few dozen landslides."""
    return make_valley(WIDE, seed=0)


def burn(polygons: Any, valley: Valley) -> npt.NDArray[np.bool_]:
    burned = rasterize(polygons, valley.labels.shape, transform=valley.transform)
    return np.asarray(burned, dtype=bool)


def fall(valley: Valley) -> npt.NDArray[np.float64]:
    """(2, h, w): east and north parts of the downhill gradient, on the elevation's grid."""
    south, east = np.gradient(valley.elevation.astype(float), valley.elevation_transform.a)
    return np.stack([-east, south])


def elevation_cells(valley: Valley, polygon: Any) -> tuple[npt.NDArray[Any], npt.NDArray[Any]]:
    """Rows and columns of the elevation under some points of a polygon's outline."""
    x, y = polygon.exterior.xy
    rows, columns = rowcol(valley.elevation_transform, np.array(x), np.array(y))
    return np.asarray(rows, dtype=int), np.asarray(columns, dtype=int)


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
    seen = np.asarray((valley.image > 0).all(axis=0))
    assert np.array_equal((valley.image == 0).all(axis=0), ~seen)
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


def test_density_is_alike_on_checked_and_on_unseen_ground(wide: Valley) -> None:
    border = round(0.65 * WIDE[1])
    left, right = wide.labels[:, :border].mean(), wide.labels[:, border:].mean()
    assert 0.8 < left / right < 1.25


def test_most_landslides_are_small_and_few_are_large(wide: Valley) -> None:
    areas_m2 = [p.area for p in wide.landslides]
    assert len(areas_m2) > 20
    assert min(areas_m2) > 15
    assert max(areas_m2) > 8 * np.median(areas_m2)


def test_outlines_are_valid_lie_in_the_scene_and_keep_apart(valley: Valley) -> None:
    scene = box(*array_bounds(*SIZE, valley.transform)).buffer(1e-6)
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


def test_landslides_lie_on_slopes_steeper_than_the_scene(wide: Valley) -> None:
    slope = np.hypot(*fall(wide))
    margin = 12  # cells of elevation beyond the scene
    scene = slope[margin:-margin, margin:-margin]
    under = [slope[elevation_cells(wide, landslide)].mean() for landslide in wide.landslides]
    assert np.mean(under) > 1.1 * scene.mean()


def test_landslides_are_drawn_out_along_the_fall_line(wide: Valley) -> None:
    downhill = fall(wide)
    cosines = []
    for landslide in wide.landslides:
        corners = np.array(landslide.minimum_rotated_rectangle.exterior.coords)
        sides = np.diff(corners[:3], axis=0)
        lengths = np.hypot(sides[:, 0], sides[:, 1])
        axis = sides[lengths.argmax()]
        rows, columns = elevation_cells(wide, landslide)
        way = downhill[:, rows, columns].mean(axis=1)
        cosines.append(abs(axis @ way) / lengths.max() / np.hypot(*way))
    # Directions by chance would give a median of 0.71.
    assert np.median(cosines) > 0.9


def test_ndvi_alone_does_badly(wide: Valley) -> None:
    _, f1 = best_ndvi_f1(wide.image, wide.labels, wide.valid)
    assert 0.2 < f1 < 0.6


def test_best_ndvi_f1_is_the_best_of_all_thresholds() -> None:
    rng = np.random.default_rng(0)
    image = rng.integers(1, 12, (3, 20, 30), dtype=np.uint16)
    labels, valid = rng.random((20, 30)) < 0.3, rng.random((20, 30)) < 0.8
    threshold, f1 = best_ndvi_f1(image, labels, valid)

    nir, red = image[0].astype(float), image[1].astype(float)
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
    coarse = make_valley((128, 192), seed=0, pixel_size_m=1.0)
    assert (coarse.transform.a, coarse.transform.e) == (1.0, -1.0)
    assert len(coarse.landslides) == np.unique([p.wkb for p in coarse.landslides]).size >= 4


@pytest.mark.parametrize(
    ("size", "pixel_size_m"), [((64, 384), 0.5), (SIZE, 0.0), (SIZE, 2.0), (SIZE, math.nan)]
)
def test_impossible_valleys_are_refused(size: tuple[int, int], pixel_size_m: float) -> None:
    with pytest.raises(UsageError, match="Cannot make a valley"):
        make_valley(size, pixel_size_m=pixel_size_m)


def test_files_come_back_as_written(valley: Valley, tmp_path: Path) -> None:
    import geopandas as gpd

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
    import geopandas as gpd

    write_valley(valley, tmp_path)
    files = write_valley(valley, tmp_path)
    assert len(gpd.read_file(files.landslides)) == len(valley.landslides)
