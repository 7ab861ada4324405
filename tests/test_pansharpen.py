from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import rasterio
from affine import Affine
from numpy.typing import NDArray
from rasterio.enums import ColorInterp
from rasterio.warp import Resampling, calculate_default_transform, reproject

from landslip.geo.errors import BandError, DataError, OutputError, RasterError, UsageError
from landslip.geo.grid import Window
from landslip.geo.scene import open_scene
from landslip.prepare.sharpen.coregister import measure_offset
from landslip.prepare.sharpen.fusion import METHODS, Fusion
from landslip.prepare.sharpen.matching import SharpenOptions
from landslip.prepare.sharpen.pair import open_pair
from landslip.prepare.sharpen.pansharpen import open_pansharpened, pansharpen
from tiny import landslip, write_inventory, write_scene

BANDS = ("blue", "green", "red", "nir")
RATIO = 4
SIDE = 48
"""Side of the multispectral file (px)."""
LEFT, TOP = 400_000.0, 4_700_000.0

Pair = tuple[Path, Path]
Make = Callable[..., Pair]


def texture(height: int, width: int, seed: int = 0) -> NDArray[np.float64]:
    """A smooth landscape between about 200 and 1200."""
    from scipy.ndimage import gaussian_filter

    random = np.random.default_rng(seed)
    fine = gaussian_filter(random.normal(size=(height, width)), 2) * 8
    coarse = gaussian_filter(random.normal(size=(height, width)), 9) * 25
    plane: NDArray[np.float64] = np.clip(700 + 100 * (fine + coarse), 50, 1800)
    return plane


@pytest.fixture
def make(tmp_path: Path) -> Make:
    """Writes pan.tif (1 m) and ms.tif (4 m, four named bands, uint16) of one landscape.

    `pan` and `ms` change the values before they are written; `shift_px` moves the content of the
    bands by (rows, columns) of pan pixels.
    """

    def write(
        *,
        pan: Callable[[NDArray[Any]], NDArray[Any]] = lambda values: values,
        ms: Callable[[NDArray[Any]], NDArray[Any]] = lambda values: values,
        shift_px: tuple[int, int] = (0, 0),
        bands: tuple[str | None, ...] = BANDS,
        **profile: Any,
    ) -> Pair:
        fine = SIDE * RATIO
        scene = texture(fine + 40, fine + 40)
        sharp = scene[20:-20, 20:-20]
        row, col = 20 - shift_px[0], 20 - shift_px[1]
        moved = scene[row : row + fine, col : col + fine]
        coarse = moved.reshape(SIDE, RATIO, SIDE, RATIO).mean(axis=(1, 3))
        slopes = np.array([0.4, 0.8, 1.1, 1.7])[:, None, None]
        noise = np.random.default_rng(1).normal(0, 4, (4, SIDE, SIDE))
        planes = slopes * coarse + [[[60]], [[20]], [[10]], [[5]]] + noise
        first, second = tmp_path / "pan.tif", tmp_path / "ms.tif"
        write_scene(
            first, pan(np.rint(sharp)[None].astype(np.uint16)), bands=["pan"],
            transform=Affine(1, 0, LEFT, 0, -1, TOP), nodata=profile.get("pan_nodata"),
        )  # fmt: skip
        write_scene(
            second, ms(np.rint(planes).astype(np.uint16)), bands=bands,
            transform=profile.get("transform", Affine(RATIO, 0, LEFT, 0, -RATIO, TOP)),
            nodata=profile.get("nodata"), crs=profile.get("crs", "EPSG:32654"),
        )  # fmt: skip
        return first, second

    return write


def read(path: Path) -> NDArray[Any]:
    with rasterio.open(path) as file:
        return np.asarray(file.read())


# The file ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("method", METHODS)
def test_file_and_scene_hold_the_same_pixels(tmp_path: Path, make: Make, method: str) -> None:
    pan, ms = make(nodata=0)
    options = SharpenOptions(method=method)
    pansharpen(pan, ms, tmp_path / "out.tif", options=options).close()
    scene = open_pansharpened(pan, ms, options=options)
    file = open_scene(tmp_path / "out.tif")
    assert scene.dtype == file.dtype == "uint16"
    assert scene.bands == file.bands == BANDS
    assert scene.grid == file.grid
    for window in (scene.grid.window, Window(3, 50, 77, 31)):
        for wanted in (BANDS, ("nir", "red"), ("ndvi", "green")):
            mine, theirs = scene.read(window, wanted), file.read(window, wanted)
            assert mine.values.tobytes() == theirs.values.tobytes()
            assert (mine.valid == theirs.valid).all()


def test_bytes_do_not_depend_on_threads_or_windows(
    tmp_path: Path, make: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    from landslip.geo import writing

    pan, ms = make()
    written = {}
    for threads, side in ((1, 512), (4, 512), (3, 64), (1, 16)):
        monkeypatch.setattr(writing, "WRITE_PX", side)
        out = tmp_path / f"{threads}_{side}.tif"
        options = SharpenOptions(method="gs", threads=threads)
        pansharpen(pan, ms, out, options=options).close()
        written[threads, side] = read(out).tobytes()
    assert len(set(written.values())) == 1


def test_names_units_nodata_and_type_survive_and_tags_tell(tmp_path: Path, make: Make) -> None:
    pan, ms = make(nodata=9)
    with rasterio.open(ms, "r+") as file:
        for number in file.indexes:
            file.set_band_unit(number, "W m-2 sr-1 um-1")
    out = tmp_path / "out.tif"
    options = SharpenOptions(method="gs", weights=(1, 1, 1, 1))
    landslip("pansharpen", pan, ms, "--out", tmp_path / "x.tif")
    pansharpen(pan, ms, out, bands=("nir", "red", "green"), options=options).close()
    with rasterio.open(out) as file, rasterio.open(pan) as fine:
        assert file.descriptions == ("nir", "red", "green")
        assert file.units == ("W m-2 sr-1 um-1",) * 3
        assert file.nodata == 9
        assert file.dtypes == ("uint16",) * 3
        assert (file.transform, file.shape, file.crs) == (fine.transform, fine.shape, fine.crs)
        tags = file.tags()
        assert file.compression.value == "DEFLATE"
    settings = json.loads(tags["LANDSLIP_PANSHARPEN"])
    assert settings["method"] == "gs"
    # All bands simulate the pan, though three are written.
    assert settings["weights"] == dict.fromkeys(BANDS, 0.25)
    assert set(settings["gains"]) == set(BANDS)
    import hashlib

    for key, path in (("LANDSLIP_PAN", pan), ("LANDSLIP_MS", ms)):
        source = json.loads(tags[key])
        assert source["sha256"] == hashlib.sha256(path.read_bytes()).hexdigest()
        assert source["path"] == str(path)


def test_bands_left_out_change_nothing_in_the_others(tmp_path: Path, make: Make) -> None:
    pan, ms = make()
    everything = open_pansharpened(pan, ms)
    some = open_pansharpened(pan, ms, bands=("red", "blue"))
    window = everything.grid.window
    assert (
        some.read(window, some.bands).values == everything.read(window, BANDS).values[[2, 0]]
    ).all()
    # Named in order, with a dash, where the file has no names: the same.
    unnamed = make(bands=(None,) * 4)
    named = open_pansharpened(*unnamed, bands=("blue", "-", "red", "-"))
    assert named.bands == ("blue", "red")
    assert (
        named.read(window, ("red", "blue")).values == some.read(window, ("red", "blue")).values
    ).all()


def test_the_sharp_image_is_near_the_truth(make: Make) -> None:
    pan, ms = make()
    fine = SIDE * RATIO
    truth = 1.1 * texture(fine + 40, fine + 40)[20:-20, 20:-20] + 10
    scene = open_pansharpened(pan, ms)
    window = scene.grid.window
    sharp = scene.read(window, ["red"]).values[0].astype(float)
    plain = scene.upsampled(window).values[2]
    error = np.sqrt(np.mean((sharp - truth) ** 2))
    assert error < 0.35 * np.sqrt(np.mean((plain - truth) ** 2))


@pytest.mark.data
@pytest.mark.parametrize("number", [1, 2])
def test_brovey_is_that_of_gdal(data: Path, number: int) -> None:
    pan = data / "pansharpen" / f"pan{number}.tif"
    ms = data / "pansharpen" / f"ms{number}.tif"
    weights = (0.1, 0.2, 0.3, 0.4)
    bands = "".join(
        f'<SpectralBand dstBand="{n}"><SourceFilename relativeToVRT="0">{ms}</SourceFilename>'
        f"<SourceBand>{n}</SourceBand></SpectralBand>"
        for n in range(1, 5)
    )
    vrt = (
        '<VRTDataset subClass="VRTPansharpenedDataset"><PansharpeningOptions>'
        "<Algorithm>WeightedBrovey</Algorithm><AlgorithmOptions>"
        f"<Weights>{','.join(map(str, weights))}</Weights></AlgorithmOptions>"
        "<Resampling>Cubic</Resampling><PanchroBand>"
        f'<SourceFilename relativeToVRT="0">{pan}</SourceFilename><SourceBand>1</SourceBand>'
        f"</PanchroBand>{bands}</PansharpeningOptions></VRTDataset>"
    )
    with rasterio.open(vrt) as file:
        theirs = file.read().astype(float)
    scene = open_pansharpened(
        pan, ms, bands=BANDS, options=SharpenOptions(method="brovey", weights=weights)
    )
    window = scene.grid.window
    # GDAL rounds the upsampled bands to the type of the file before it multiplies.
    rounded = np.clip(np.rint(scene.upsampled(window).values), 0, 65535)
    sharp = scene.pan(window).values[0].astype(np.float32)
    mine = np.rint(scene.matching.fusion.apply(sharp, rounded))
    assert np.abs(mine - theirs).max() <= 1


# How the files lie -------------------------------------------------------------------------------


@pytest.mark.parametrize("ratio, right_m, down_m", [(3.3, 0.0, 0.0), (2.0, 11.3, -7.9)])
def test_any_ratio_and_offset(tmp_path: Path, ratio: float, right_m: float, down_m: float) -> None:
    # Both files show one landscape of stripes, each averaged to its own pixels.
    def landscape(grid: Affine, height: int, width: int) -> NDArray[np.float64]:
        fine = 10
        rows = (np.arange(height * fine) + 0.5) / fine
        cols = (np.arange(width * fine) + 0.5) / fine
        xs = grid.a * cols + grid.c
        ys = grid.e * rows + grid.f
        plane = 500 + 200 * np.sin(xs / 9)[None, :] + 150 * np.cos(ys / 7)[:, None]
        averaged: NDArray[np.float64] = plane.reshape(height, fine, width, fine).mean(axis=(1, 3))
        return averaged

    near = Affine(1, 0, LEFT, 0, -1, TOP)
    far = Affine(ratio, 0, LEFT + right_m, 0, -ratio, TOP - down_m)
    pan = write_scene(
        tmp_path / "pan.tif", landscape(near, 120, 130)[None].astype(np.float32), bands=["pan"],
        transform=near,
    )  # fmt: skip
    coarse = landscape(far, 50, 60)
    ms = write_scene(
        tmp_path / "ms.tif", np.stack([coarse, 2 * coarse + 30]).astype(np.float32),
        bands=["red", "nir"], transform=far,
    )  # fmt: skip
    scene = open_pansharpened(pan, ms)
    raster = scene.read(scene.grid.window, ["red", "nir"])
    rows, cols = np.indices((120, 130)) + 0.5
    inside = (rows >= down_m) & (rows - down_m < 50 * ratio)
    inside &= (cols >= right_m) & (cols - right_m < 60 * ratio)
    assert (raster.valid == inside).all()
    truth = landscape(near, 120, 130)
    inner = np.s_[12:88, 14:100]
    assert raster.valid[inner].all()
    # A misplacement of half a pixel would be an error of about 11.
    assert np.abs(raster.values[0][inner] - truth[inner]).mean() < 1.5
    assert np.abs(raster.values[1][inner] - 2 * truth[inner] - 30).mean() < 3


def test_bands_in_another_crs(tmp_path: Path, make: Make) -> None:
    pan, ms = make()
    with rasterio.open(ms) as file:
        transform, width, height = calculate_default_transform(
            file.crs, "EPSG:4326", file.width, file.height, *file.bounds, resolution=4e-5
        )
        degrees = np.zeros((4, height, width), dtype=np.uint16)
        reproject(
            rasterio.band(file, [1, 2, 3, 4]), degrees, dst_transform=transform,
            dst_crs="EPSG:4326", resampling=Resampling.cubic,
        )  # fmt: skip
    other = write_scene(
        tmp_path / "degrees.tif", degrees, bands=BANDS, crs="EPSG:4326", transform=transform,
        nodata=0,
    )  # fmt: skip
    mine, theirs = open_pansharpened(pan, other), open_pansharpened(pan, ms)
    assert mine.grid == theirs.grid
    window = Window(40, 40, 100, 100)
    first, second = (each.read(window, BANDS) for each in (mine, theirs))
    assert first.valid.all()
    difference = np.abs(first.values.astype(float) - second.values)
    assert np.median(difference) < 0.03 * second.values.mean()
    part = mine.read(Window(60, 70, 30, 20), BANDS)
    assert part.values.tobytes() == first.values[:, 20:50, 30:50].tobytes()


@pytest.mark.parametrize("shift", [(0, 0), (2, 0), (-1, 3)])
def test_misregistration_is_measured_said_and_mended(
    make: Make, shift: tuple[int, int], caplog: pytest.LogCaptureFixture
) -> None:
    pan, ms = make(shift_px=shift)
    scene = open_pansharpened(pan, ms)
    found = scene.misregistration
    assert found is not None and not found.applied
    assert (found.rows_px, found.cols_px) == pytest.approx((-shift[0], -shift[1]), abs=0.2)
    assert ("--coregister" in caplog.text) == (shift != (0, 0))
    moved = open_pansharpened(pan, ms, options=SharpenOptions(coregister=True))
    assert moved.misregistration is not None and moved.misregistration.applied
    aligned = open_pansharpened(*make())
    inner = Window(20, 20, 140, 140)
    truth = aligned.read(inner, BANDS).values.astype(float)
    if shift != (0, 0):
        before = np.abs(scene.read(inner, BANDS).values - truth).mean()
        after = np.abs(moved.read(inner, BANDS).values - truth).mean()
        assert after < 0.35 * before
    # What was moved fits.
    pair = open_pair(pan, ms, coregister=True)
    left = measure_offset(pair.averaged, pair.bands)
    assert left is not None
    assert abs(left.rows_px) < 0.1 and abs(left.cols_px) < 0.1


def test_flat_ground_cannot_be_coregistered(make: Make, caplog: pytest.LogCaptureFixture) -> None:
    pan, ms = make(pan=lambda values: values * 0 + 7)
    with pytest.raises(DataError, match=r"Cannot coregister.*Leave out --coregister"):
        open_pansharpened(pan, ms, options=SharpenOptions(method="brovey", coregister=True))
    open_pansharpened(pan, ms, options=SharpenOptions(method="brovey"))
    assert "too little texture" in caplog.text


# Statistics --------------------------------------------------------------------------------------


def test_a_sample_says_its_error(
    make: Make, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    from landslip.prepare.sharpen import matching as module

    monkeypatch.setattr(module, "STATISTICS_PX", 6)
    monkeypatch.setattr(module, "PAN_STATISTICS_PX", 24)
    pan, ms = make()
    for method in ("gs", "gsa"):
        whole = open_pansharpened(pan, ms, options=SharpenOptions(method=method))
        part = open_pansharpened(pan, ms, options=SharpenOptions(method=method, sample=0.4))
        error = part.matching.sample_error
        assert whole.matching.sample_error is None
        assert error is not None and 0 < error < 0.3
        for mine, true in zip(part.matching.fusion.gains, whole.matching.fusion.gains, strict=True):
            assert mine == pytest.approx(true, rel=6 * error)
        assert mine != true
        assert part.settings["sample_error"] == error


def test_unusable_ground_is_not_in_the_statistics(tmp_path: Path, make: Make) -> None:
    cloud = write_inventory(
        tmp_path / "cloud.gpkg", [(0, 0, 60, 60)], transform=Affine(1, 0, LEFT, 0, -1, TOP),
        crs="EPSG:32654",
    )  # fmt: skip

    def clouded(values: NDArray[Any]) -> NDArray[Any]:
        side = 60 if len(values) == 1 else 15
        values[:, :side, :side] = 6000
        return values

    for method in ("gs", "gsa"):
        options = SharpenOptions(method=method)
        clear = open_pansharpened(*make(), unusable=cloud, options=options)
        window = Window(80, 80, 100, 100)
        expected = clear.read(window, BANDS).values
        under = open_pansharpened(*make(pan=clouded, ms=clouded), unusable=cloud, options=options)
        assert under.matching == clear.matching
        assert (under.read(window, BANDS).values == expected).all()
        without = open_pansharpened(*make(pan=clouded, ms=clouded), options=options)
        assert without.matching != clear.matching


# Bad input ---------------------------------------------------------------------------------------


def test_files_swapped(make: Make) -> None:
    pan, ms = make()
    with pytest.raises(RasterError, match=r"ms.tif has 4 bands.*swapped.*panchromatic file first"):
        open_pansharpened(ms, pan)


def test_one_band_only(tmp_path: Path, make: Make) -> None:
    pan, ms = make()
    one = write_scene(
        tmp_path / "one.tif", read(ms)[:1], bands=["red"],
        transform=Affine(4, 0, LEFT, 0, -4, TOP),
    )  # fmt: skip
    with pytest.raises(RasterError, match=r"one.tif has one band, expected two at least"):
        open_pansharpened(pan, one)


def test_bands_finer_than_the_pan(make: Make) -> None:
    pan, ms = make(transform=Affine(0.5, 0, LEFT, 0, -0.5, TOP))
    with pytest.raises(RasterError, match=r"pixels of .*ms.tif are 0.5 m, those of .*pan.tif 1 m"):
        open_pansharpened(pan, ms)


def test_files_that_do_not_overlap(make: Make) -> None:
    for right, down in ((5000, 0), (-200, 0), (0, 900), (0, -200)):
        pan, ms = make(transform=Affine(4, 0, LEFT + right, 0, -4, TOP - down))
        with pytest.raises(RasterError, match=r"do not overlap \(bounds 400000 .*one place"):
            open_pansharpened(pan, ms)


def test_one_file_without_a_crs(make: Make) -> None:
    pan, ms = make(crs=None)
    with pytest.raises(RasterError, match=r"one of the two has no coordinate reference system"):
        open_pansharpened(pan, ms)


def test_both_without_a_crs(tmp_path: Path, make: Make) -> None:
    pan, ms = make()
    plain = [
        write_scene(tmp_path / f"{name}.tif", read(path), bands=bands, crs=None,
                    transform=Affine(size, 0, 0, 0, -size, 0))
        for name, path, bands, size in (("a", pan, ["pan"], 1), ("b", ms, BANDS, 4))
    ]  # fmt: skip
    window = Window(0, 0, 100, 100)
    mine = open_pansharpened(plain[0], plain[1]).read(window, BANDS).values
    assert (mine == open_pansharpened(pan, ms).read(window, BANDS).values).all()


def test_a_constant_band_stays_constant(make: Make) -> None:
    def constant(values: NDArray[Any]) -> NDArray[Any]:
        values[1] = 321
        return values

    pan, ms = make(ms=constant)
    for method in ("gs", "gsa"):
        scene = open_pansharpened(pan, ms, options=SharpenOptions(method=method))
        assert (scene.read(scene.grid.window, ["green"]).values == 321).all()


def test_everything_constant_is_an_error(make: Make) -> None:
    pan, ms = make(ms=lambda values: values * 0 + 5)
    with pytest.raises(DataError, match="bands do not vary"):
        open_pansharpened(pan, ms)


def test_negative_values_are_values(make: Make) -> None:
    def lowered(values: NDArray[Any]) -> NDArray[Any]:
        low: NDArray[Any] = (values.astype(np.int32) - 700).astype(np.int16)
        return low

    below = open_pansharpened(*make(pan=lowered, ms=lowered))
    window = below.grid.window
    low = below.read(window, BANDS)
    assert low.values.dtype == np.int16
    assert low.valid.all()
    above = open_pansharpened(*make()).read(window, BANDS)
    # Gram-Schmidt does not know where zero is.
    assert np.abs(low.values.astype(int) + 700 - above.values).max() <= 1
    brovey = open_pansharpened(
        *make(pan=lowered, ms=lowered), options=SharpenOptions(method="brovey")
    )
    sharp, plain = brovey.read(window, BANDS).values, brovey.upsampled(window).values
    dark = np.tensordot(np.full(4, 0.25), plain, 1) < -1
    assert dark.any()
    assert np.abs(sharp[:, dark] - plain[:, dark]).max() <= 0.5


def test_nothing_leaves_the_type(make: Make) -> None:
    def times_36(values: NDArray[Any]) -> NDArray[Any]:
        larger: NDArray[Any] = np.clip(values.astype(int) * 36, 0, 65535).astype(np.uint16)
        return larger

    pan, ms = make(pan=lambda v: v * 36, ms=times_36)
    scene = open_pansharpened(pan, ms, options=SharpenOptions(method="gs"))
    fused = scene.read(scene.grid.window, BANDS).values
    plain = scene.upsampled(scene.grid.window).values
    assert fused.max() == 65535
    # Wrapped values would lie far from what was there before.
    assert np.abs(fused.astype(float) - plain).max() < 40_000
    assert (fused[plain > 60_000] > 20_000).all()


def test_different_bit_depths(make: Make) -> None:
    pan, ms = make(ms=lambda values: (values // 16).astype(np.uint8))
    with rasterio.open(ms, "r+") as file:
        # Else the fourth of four 8-bit bands counts as transparency.
        file.colorinterp = [ColorInterp.gray] + [ColorInterp.undefined] * 3
    scene = open_pansharpened(pan, ms)
    raster = scene.read(scene.grid.window, BANDS)
    assert raster.values.dtype == np.uint8
    assert 0.8 < raster.values.mean() / scene.upsampled(scene.grid.window).values.mean() < 1.2
    with pytest.raises(DataError, match=r"brovey: the pan is uint16, the bands are uint8.*gsa"):
        open_pansharpened(pan, ms, options=SharpenOptions(method="brovey"))


def test_brovey_warns_of_other_levels(make: Make, caplog: pytest.LogCaptureFixture) -> None:
    pan, ms = make(pan=lambda values: values * 8)
    open_pansharpened(pan, ms, options=SharpenOptions(method="brovey"))
    assert "brovey scales all colours" in caplog.text


@pytest.mark.parametrize("method", METHODS)
def test_nodata_holes_do_not_bleed(tmp_path: Path, make: Make, method: str) -> None:
    def hole(values: NDArray[Any]) -> NDArray[Any]:
        values[2, 20:25, 20:25] = 0
        values[:, :3] = 0
        return values

    def pan_hole(values: NDArray[Any]) -> NDArray[Any]:
        values[0, 150:160, 30:40] = 0
        return values

    pan, ms = make(pan=pan_hole, ms=hole, nodata=0, pan_nodata=0)
    options = SharpenOptions(method=method)
    pansharpen(pan, ms, tmp_path / "out.tif", options=options).close()
    with rasterio.open(tmp_path / "out.tif") as file:
        assert file.nodata == 0
        sharp, valid = file.read(), file.dataset_mask() > 0
        bands_valid = (file.read_masks() > 0).all(axis=0)
    expected = np.ones((192, 192), dtype=bool)
    expected[80:100, 80:100] = expected[:12] = expected[150:160, 30:40] = False
    assert (bands_valid == expected).all()
    assert (valid == expected).all()
    whole = open_pansharpened(*make(), options=options)
    truth = whole.read(whole.grid.window, BANDS).values.astype(float)
    edge = np.zeros_like(expected)
    edge[76:104, 76:104] = edge[12:16] = True
    edge &= expected
    relative = np.abs(sharp[:, edge] - truth[:, edge]) / truth[:, edge]
    assert np.median(relative) < 0.06
    assert relative.max() < 0.6


def test_a_valid_pixel_never_takes_the_value_of_nodata(make: Make) -> None:
    def dark(values: NDArray[Any]) -> NDArray[Any]:
        ones: NDArray[Any] = np.maximum(values, 1050) - 1049
        return ones

    pan, ms = make(pan=lambda values: values, ms=dark, nodata=0)
    scene = open_pansharpened(pan, ms, options=SharpenOptions(method="gs"))
    raster = scene.read(scene.grid.window, BANDS)
    assert raster.valid.all()
    assert raster.values.min() == 1


def test_a_pan_larger_than_the_bands_is_nodata_there(tmp_path: Path, make: Make) -> None:
    pan, ms = make(transform=Affine(4, 0, LEFT + 20, 0, -4, TOP - 12))
    pansharpen(pan, ms, tmp_path / "out.tif").close()
    with rasterio.open(tmp_path / "out.tif") as file:
        valid = (file.read_masks() > 0).all(axis=0)
        assert file.nodata == 0
    assert not valid[:12].any() and not valid[:, :20].any()
    assert valid[12:, 20:].all()


def test_no_common_valid_pixel(make: Make) -> None:
    def left(values: NDArray[Any]) -> NDArray[Any]:
        values[:, :, values.shape[2] // 2 :] = 0
        return values

    def right(values: NDArray[Any]) -> NDArray[Any]:
        values[:, :, : values.shape[2] // 2] = 0
        return values

    pan, ms = make(pan=left, ms=right, nodata=0, pan_nodata=0)
    with pytest.raises(DataError, match="no pixel is valid in both"):
        open_pansharpened(pan, ms)


def test_bands_that_are_not_there(make: Make) -> None:
    pan, ms = make()
    with pytest.raises(BandError, match=r"swir1: .*names blue, green, red, nir"):
        open_pansharpened(pan, ms, bands=("nir", "swir1"))
    with pytest.raises(BandError, match="left out"):
        open_pansharpened(*make(bands=(None,) * 4), bands=("-", "-", "-", "-"))
    with pytest.raises(BandError, match="does not name its 4 bands"):
        open_pansharpened(*make(bands=(None,) * 4))


def test_options_that_cannot_be() -> None:
    wrong: dict[str, Any]
    for wrong in ({"method": "ihs"}, {"sample": 0.0}, {"sample": 1.5}, {"threads": 0}):
        with pytest.raises(UsageError, match="Cannot"):
            SharpenOptions(**wrong)


def test_an_output_that_exists_is_kept(tmp_path: Path, make: Make) -> None:
    out = tmp_path / "out.tif"
    out.write_bytes(b"precious")
    with pytest.raises(OutputError, match="exists already"):
        pansharpen(*make(), out)
    assert out.read_bytes() == b"precious"
    pansharpen(*make(), out, overwrite=True).close()
    assert read(out).shape == (4, 192, 192)


# The command line --------------------------------------------------------------------------------


def test_command_writes_reports_and_says(tmp_path: Path, make: Make) -> None:
    pan, ms = make(shift_px=(2, 0))
    out, report = tmp_path / "out.tif", tmp_path / "report"
    done = landslip(
        "pansharpen", pan, ms, "--out", out, "--bands", "nir,red,green", "--report", report,
        "--coregister", "--cog",
    )  # fmt: skip
    assert done.code == 0, done.err
    assert "cubic upsampling" in done.out and "gsa beats cubic upsampling" in done.out
    with rasterio.open(out) as file:
        assert file.descriptions == ("nir", "red", "green")
        assert file.tags(ns="IMAGE_STRUCTURE")["LAYOUT"] == "COG"
        assert json.loads(file.tags()["LANDSLIP_PANSHARPEN"])["coregistered"] is True
    found = json.loads((report / "quality.json").read_text())
    assert [row["method"] for row in found["rows"]] == ["cubic upsampling", "gsa"]
    assert (report / "quality.png").read_bytes().startswith(b"\x89PNG")
    again = landslip("pansharpen", pan, ms, "--out", tmp_path / "b.tif", "--report", report)
    assert again.code == 1 and "exists already" in again.message
    assert not (tmp_path / "b.tif").exists()


def test_command_writes_eight_bit(tmp_path: Path, make: Make) -> None:
    pan, ms = make()
    done = landslip("pansharpen", pan, ms, "--out", tmp_path / "e.tif", "--to", "8bit")
    assert done.code == 0, done.err
    with rasterio.open(tmp_path / "e.tif") as file:
        assert file.dtypes == ("uint8",) * 4
        assert file.nodata == 0
        assert file.descriptions == BANDS
        values = file.read()
        assert "LANDSLIP_PANSHARPEN" in file.tags()
    sharp = open_pansharpened(pan, ms)
    raw = sharp.read(sharp.grid.window, BANDS).values
    low, high = np.percentile(raw.reshape(4, -1), [0.5, 99.5], axis=1)
    share = np.clip((raw - low[:, None, None]) / (high - low)[:, None, None], 0, 1)
    assert np.abs(values - (1 + 254 * share)).max() <= 0.51
    wrong = landslip("pansharpen", pan, ms, "--out", tmp_path / "f.tif", "--to", "16bit")
    assert wrong.code == 2 and "expected 8bit" in wrong.message


def test_pairs_and_files_are_not_mixed_up(tmp_path: Path, make: Make) -> None:
    pan, ms = make()
    for words, text in (
        (("check", pan, "--pan", pan, "--ms", ms), "name one file, or a pair"),
        (("check", "--pan", pan), "name one file, or a pair"),
        (("check",), "name one file, or a pair"),
        (("check", ms, "--coregister"), "--coregister with one file"),
        (("check", "--pan", pan, "--ms", ms, "--pixel-size", "2"), "while it is pansharpened"),
        (("check", "--pan", pan, "--ms", ms, "--weights", "a,b"), "expected numbers"),
    ):
        done = landslip(*words)
        assert done.code == 2, words
        assert text in done.message


def test_check_tile_and_map_take_pairs(tmp_path: Path, make: Make) -> None:
    from tiny import tiny_model

    pan, ms = make(nodata=0)
    slides = write_inventory(
        tmp_path / "slides.gpkg", [(20, 20, 30, 30), (100, 120, 40, 40), (40, 150, 20, 20)],
        transform=Affine(1, 0, LEFT, 0, -1, TOP), crs="EPSG:32654",
    )  # fmt: skip
    sharp = tmp_path / "sharp.tif"
    assert landslip("pansharpen", pan, ms, "--out", sharp).code == 0
    model = tiny_model(
        tmp_path / "m.safetensors", bands=("nir", "red"), pixel_size_m=1.0,
        scaling=(("nir", 500.0, 2000.0), ("red", 300.0, 1500.0)),
    )  # fmt: skip
    pair = ("--pan", pan, "--ms", ms)
    assert landslip("check", *pair, "--inventory", slides).code == 0
    for name, source in (("pair", pair), ("file", (sharp,))):
        tiles, folder = tmp_path / f"tiles_{name}", tmp_path / f"map_{name}"
        made = landslip(
            "tile", *source, "--inventory", slides, "--size", "48", "--split", "columns:96,144",
            "--out", tiles,
        )  # fmt: skip
        assert made.code == 0, made.err
        mapped = landslip("map", *source, "--model", model, "--out", folder, "--device", "cpu")
        assert mapped.code == 0, mapped.err
    trained = landslip(
        "train", *pair, "--inventory", slides, "--size", "48", "--split", "columns:96,144",
        "--model", "unet-small", "--recipe", "modern", "--epochs", "1", "--batch", "2",
        "--device", "cpu", "--out", tmp_path / "trained.safetensors",
    )  # fmt: skip
    assert trained.code == 0, trained.err
    for path in sorted((tmp_path / "tiles_pair" / "images").iterdir()):
        other = tmp_path / "tiles_file" / "images" / path.name
        assert (read(path) == read(other)).all()
    for name in ("probability.tif",):
        first, second = tmp_path / "map_pair" / name, tmp_path / "map_file" / name
        assert (read(first) == read(second)).all()
    record = json.loads((tmp_path / "map_pair" / "run.json").read_text())
    roles = {source["role"]: source for source in record["scenes"][0]["sources"]}
    assert set(roles) == {"pan", "ms"}
    assert roles["ms"]["settings"]["method"] == "gsa"


def test_fusion_of_a_scene_is_told_in_words(make: Make) -> None:
    scene = open_pansharpened(*make())
    assert isinstance(scene.matching.fusion, Fusion)
    rows = dict(scene.rows())
    assert rows["method"] == "gsa"
    assert "blue" in rows["simulated pan"] and "px" in rows["bands should move"]


@pytest.mark.parametrize("kind", ["nan", "coregistered"])
def test_what_is_not_valid_is_nodata_in_the_file_too(tmp_path: Path, make: Make, kind: str) -> None:
    def floats(values: NDArray[Any]) -> NDArray[Any]:
        made: NDArray[Any] = values.astype(np.float32)
        made[:, 5:8, 9:12] = np.nan
        return made

    if kind == "nan":
        pan, ms = make(ms=floats)
        options = SharpenOptions()
    else:
        pan, ms = make(shift_px=(2, -2))
        options = SharpenOptions(coregister=True)
    pansharpen(pan, ms, tmp_path / "out.tif", options=options).close()
    scene, file = open_pansharpened(pan, ms, options=options), open_scene(tmp_path / "out.tif")
    mine, theirs = (each.read(each.grid.window, BANDS) for each in (scene, file))
    assert not mine.valid.all()
    assert (mine.valid == theirs.valid).all()
    assert mine.values.tobytes() == theirs.values.tobytes()


def test_a_small_pan_on_large_bands(tmp_path: Path, make: Make) -> None:
    from landslip.prepare.sharpen.quality import sharpen_quality

    pan, ms = make()
    corner = Affine(1, 0, LEFT + 60, 0, -1, TOP - 40)
    small = write_scene(
        tmp_path / "small.tif", read(pan)[:, 40:140, 60:160], bands=["pan"], transform=corner
    )
    for method in METHODS:
        scene = open_pansharpened(small, ms, options=SharpenOptions(method=method))
        assert scene.misregistration is not None
        assert scene.read(scene.grid.window, BANDS).valid.all()
        assert len(sharpen_quality(scene).rows) == 2


def test_borders_of_zero_that_nobody_declared_are_not_measured(make: Make) -> None:
    def bordered(values: NDArray[Any]) -> NDArray[Any]:
        side = values.shape[1] // 12
        values[:, :side] = 0
        return values

    truth = open_pansharpened(*make()).matching.fusion
    found = open_pansharpened(*make(pan=bordered, ms=bordered)).matching.fusion
    assert found.weights == pytest.approx(truth.weights, abs=0.03)


def test_the_report_measures_what_was_asked_for(make: Make) -> None:
    from landslip.prepare.sharpen.quality import sharpen_quality

    errors = set()
    for weights in ((1, 1, 1, 1), (0, 0, 0, 1)):
        options = SharpenOptions(method="gs", weights=weights)
        errors.add(sharpen_quality(open_pansharpened(*make(), options=options)).rows[1].ergas)
    assert len(errors) == 2


def test_transparency_beside_unnamed_bands(tmp_path: Path, make: Make) -> None:
    pan, ms = make()
    values = np.concatenate([read(ms), np.full((1, SIDE, SIDE), 65535, dtype=np.uint16)])
    path = write_scene(
        tmp_path / "alpha.tif", values, bands=(None,) * 5,
        transform=Affine(RATIO, 0, LEFT, 0, -RATIO, TOP),
    )  # fmt: skip
    with rasterio.open(path, "r+") as file:
        file.colorinterp = [ColorInterp.gray] + [ColorInterp.undefined] * 3 + [ColorInterp.alpha]
    for last in ("-", "alpha"):
        scene = open_pansharpened(pan, path, bands=(*BANDS, last))
        assert scene.bands == BANDS


def test_the_sources_are_never_overwritten(make: Make) -> None:
    pan, ms = make()
    before = ms.read_bytes()
    with pytest.raises(OutputError, match="one of the files to be sharpened"):
        pansharpen(pan, ms, ms, overwrite=True)
    assert ms.read_bytes() == before
