from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import pytest
from affine import Affine
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from numpy.typing import NDArray

from landslip.geo.errors import BandError, DataError
from landslip.geo.grid import Grid, Window
from landslip.geo.raster import Raster, derive, read_reflected
from landslip.prepare import scaling as scaling_module
from landslip.prepare.scaling import (
    FILLER,
    Scaling,
    bands_at_hand,
    measure_percentiles,
    read_apart,
    read_inputs,
    sampled_pixels,
    scaling_of,
)


def raster(
    values: NDArray[Any], valid: NDArray[np.bool_] | None = None, bands: Sequence[str] = "abcdefgh"
) -> Raster:
    shape = values.shape[1:]
    usable = np.ones(shape, dtype=bool) if valid is None else valid
    grid = Grid(None, Affine.identity(), *shape)
    return Raster(values, usable, tuple(bands)[: len(values)], grid)


def measured(*rasters: Raster, quantised: bool = False) -> Scaling:
    bands = rasters[0].bands
    percentiles = measure_percentiles(rasters, bands, len(rasters))
    stretched = bands if rasters[0].values.dtype == np.uint8 else ()
    return scaling_of(percentiles, eight_bit=stretched, quantised=quantised)


# Measuring ---------------------------------------------------------------------------------------


def test_percentiles_are_those_of_all_ground_together() -> None:
    # A small dark tile and a large bright one: pooled over pixels, not averaged over tiles.
    random = np.random.default_rng(0)
    dark = random.normal(1000, 50, (2, 10, 10)).astype("float32")
    bright = random.normal(5000, 300, (2, 40, 50)).astype("float32")
    found = measured(raster(dark), raster(bright))
    for number, (band, low, high) in enumerate(found.ranges):
        pooled = np.concatenate([dark[number].ravel(), bright[number].ravel()])
        assert band == "ab"[number]
        assert (low, high) == pytest.approx(tuple(np.percentile(pooled, [0.5, 99.5])))


def test_every_band_has_its_own_range() -> None:
    values = np.stack([np.linspace(0, 1000, 10_001), np.linspace(-50, 50, 10_001)])
    found = measured(raster(values.reshape(2, 73, 137).astype("float64")))
    assert found.ranges[0][1:] == pytest.approx((5.0, 995.0), abs=1e-3)
    assert found.ranges[1][1:] == pytest.approx((-49.5, 49.5), abs=1e-3)


def test_what_is_not_valid_is_never_counted() -> None:
    values = np.arange(1, 401, dtype="uint16").reshape(1, 20, 20)
    valid = np.ones((20, 20), dtype=bool)
    valid[:10] = False
    values[0, :10] = 60_000
    with_holes = measured(
        raster(values, valid), raster(np.zeros((1, 5, 5), "uint16"), valid[:5, :5])
    )
    alone = measured(raster(values[:, 10:]))
    assert with_holes == alone
    assert 200 < alone.ranges[0][1] < alone.ranges[0][2] < 401


def test_eight_bits_keep_their_range() -> None:
    values = np.full((3, 4, 4), 90, dtype="uint8")
    found = measured(raster(values), raster(values), quantised=True)
    assert found == Scaling((("a", 0.0, 255.0), ("b", 0.0, 255.0), ("c", 0.0, 255.0)), True)


def test_a_constant_band_is_refused_by_name() -> None:
    values = np.random.default_rng(0).integers(0, 99, (3, 50, 50)).astype("uint16")
    values[1] = 7
    values[1, 0, 0] = 9  # a single other pixel does not make it useful
    with pytest.raises(DataError, match=r"Cannot scale band 'b': it is 7 nearly .*--use"):
        measured(raster(values))


def test_ground_without_a_valid_pixel() -> None:
    nothing = np.zeros((4, 4), dtype=bool)
    with pytest.raises(DataError, match="no valid pixel"):
        measured(raster(np.ones((2, 4, 4), "uint16"), nothing))


def test_rasters_are_read_one_at_a_time() -> None:
    alive = 0

    def stream() -> Iterator[Raster]:
        nonlocal alive
        for number in range(5):
            alive += 1
            yield raster(np.arange(25, dtype="uint16").reshape(1, 5, 5) + number)

    assert len(measure_percentiles(stream(), ["a"], 5)) == 1
    assert alive == 5


def test_the_sample_is_even_and_small(monkeypatch: pytest.MonkeyPatch) -> None:
    # A quota of 1000 a tile: a tenth of the pixels, still the same percentiles.
    monkeypatch.setattr(scaling_module, "SAMPLE_PIXELS", 2000)
    seen: list[int] = []
    real = np.percentile

    def counting(values: NDArray[Any], shares: Any, **how: Any) -> Any:
        seen.append(values.size)
        return real(values, shares, **how)

    monkeypatch.setattr(np, "percentile", counting)
    values = np.arange(10_000, dtype="uint16").reshape(1, 100, 100)
    found = measured(raster(values), raster(values))
    assert seen == [2000]
    assert found.ranges[0][1:] == pytest.approx((50, 9950), abs=15)


# Applying ----------------------------------------------------------------------------------------


def test_low_becomes_zero_and_high_one_with_nothing_beyond() -> None:
    values = np.array([[[0, 100, 150], [200, 300, 65535]]], dtype="uint16")
    scaled = Scaling((("a", 100.0, 300.0),)).apply(raster(values))
    np.testing.assert_allclose(scaled[0], [[0, 0, 0.25], [0.5, 1, 1]])
    assert scaled.dtype == np.float32
    assert scaled.flags.c_contiguous


def test_bands_come_in_the_order_of_the_model() -> None:
    values = np.stack([np.full((2, 2), number, "uint16") for number in (10, 20, 30)])
    scaled = Scaling((("c", 0.0, 40.0), ("a", 0.0, 40.0))).apply(raster(values))
    assert scaled[:, 0, 0].tolist() == [0.75, 0.25]


def test_what_is_not_valid_is_zero() -> None:
    values = np.full((2, 2, 2), 200, dtype="int16")
    valid = np.array([[True, False], [True, True]])
    scaled = Scaling((("a", -100.0, 200.0), ("b", 0.0, 400.0))).apply(raster(values, valid))
    assert scaled.tolist() == [[[1, 0], [1, 1]], [[0.5, 0], [0.5, 0.5]]]


def test_quantised_values_have_256_levels() -> None:
    values = np.linspace(0, 4095, 4096).astype("uint16").reshape(1, 64, 64)
    plain = Scaling((("a", 0.0, 4095.0),))
    quantised = Scaling(plain.ranges, quantised=True)
    levels = np.unique(quantised.apply(raster(values)))
    np.testing.assert_array_equal(levels, np.arange(256, dtype="float32") / np.float32(255))
    error = np.abs(quantised.apply(raster(values)) - plain.apply(raster(values)))
    assert error.max() <= 0.5 / 255 + 1e-6


def test_eight_bits_are_not_changed_by_quantising() -> None:
    values = np.arange(256, dtype="uint8").reshape(1, 16, 16)
    ranges = (("a", 0.0, 255.0),)
    expected = np.arange(256, dtype="float32").reshape(1, 16, 16) / np.float32(255)
    for quantised in (False, True):
        np.testing.assert_array_equal(Scaling(ranges, quantised).apply(raster(values)), expected)


def test_the_raster_is_not_changed() -> None:
    values = np.arange(8, dtype="float32").reshape(2, 2, 2)
    given_ = raster(values.copy())
    Scaling((("a", 0.0, 2.0), ("b", 1.0, 7.0)), quantised=True).apply(given_)
    np.testing.assert_array_equal(given_.values, values)


@settings(max_examples=60, deadline=None)
@given(
    values=hnp.arrays("uint16", (2, 3, 4)),
    valid=hnp.arrays(bool, (3, 4)),
    low=st.floats(0, 30_000),
    span=st.floats(1, 40_000),
    quantised=st.booleans(),
)
def test_scaled_values_are_the_formula(
    values: NDArray[np.uint16], valid: NDArray[np.bool_], low: float, span: float, quantised: bool
) -> None:
    ranges = (("b", low, low + span), ("a", 0.0, 65_535.0))
    scaled = Scaling(ranges, quantised).apply(raster(values, valid))
    for plane, number, (_, bottom, top) in zip(scaled, (1, 0), ranges, strict=True):
        for row, col in np.ndindex(3, 4):
            exact = min(max((float(values[number, row, col]) - bottom) / (top - bottom), 0), 1)
            expected = exact if valid[row, col] else 0.0
            tolerance = 0.5 / 255 + 1e-4 if quantised else 1e-4
            assert abs(float(plane[row, col]) - expected) <= tolerance
    assert ((scaled >= 0) & (scaled <= 1)).all()


# Bands that may be missing ------------------------------------------------------------------------


class Layers:
    """A scene whose bands have a validity each, and which remembers what was read."""

    def __init__(
        self, planes: Mapping[str, NDArray[Any]], valid: Mapping[str, NDArray[np.bool_]]
    ) -> None:
        self._planes, self._valid = planes, valid
        self.bands = tuple(planes)
        shape = next(iter(planes.values())).shape
        self.grid = Grid(None, Affine.identity(), *shape)
        self.asked: list[tuple[str, ...]] = []

    def read(self, window: Window, bands: Sequence[str]) -> Raster:
        self.asked.append(tuple(bands))
        part = window.slices
        stored = [band for band in self.bands if band in bands]
        valid = np.logical_and.reduce([self._valid[band][part] for band in stored])
        values = np.stack([np.where(valid, self._planes[band][part], 0) for band in stored])
        found = Raster(values, valid, tuple(stored), self.grid.crop(window))
        return derive(found, bands, values, valid, found.grid.window)


def layers(shape: tuple[int, int] = (6, 8), **invalid: tuple[slice, slice]) -> Layers:
    """Bands a, b, c, d of random values from 1 to 200, not valid in one rectangle each."""
    random = np.random.default_rng(0)
    planes, valid = {}, {}
    for band in "abcd":
        planes[band] = random.integers(1, 201, shape).astype("uint16")
        valid[band] = np.ones(shape, dtype=bool)
        if band in invalid:
            valid[band][invalid[band]] = False
    return Layers(planes, valid)


ABCD = Scaling(tuple((band, 0.0, 200.0) for band in "abcd"))
LEFT, TOP, CORNER = np.s_[:, :3], np.s_[:2, :], np.s_[:2, :3]


def whole(scene: Layers, bands: Sequence[str]) -> Raster:
    return scene.read(scene.grid.window, bands)


def test_the_middle_of_the_range_says_not_known() -> None:
    assert FILLER == 0.5


def test_optional_bands_at_hand() -> None:
    wanted = ("nir", "slope", "pre_ndvi", "ndvi", "pre_red")
    optional = ("slope", "pre_ndvi", "pre_red")
    stored = ("nir", "red", "pre_red")
    assert bands_at_hand(wanted, stored, optional) == ("nir", "ndvi", "pre_red")
    # What pre_ndvi is computed from is there.
    assert bands_at_hand(wanted, (*stored, "pre_nir"), optional) == (
        "nir", "pre_ndvi", "ndvi", "pre_red",
    )  # fmt: skip
    # Bands that are not optional are never left out.
    assert bands_at_hand(wanted, (), ()) == wanted


@pytest.mark.parametrize("window", [Window(0, 0, 6, 8), Window(-2, -3, 10, 12)])
def test_without_optional_bands_all_are_read_at_once(window: Window) -> None:
    scene = layers(a=LEFT, b=TOP)
    image, valid = read_inputs(scene, window, ABCD)
    assert scene.asked == [("a", "b", "c", "d")]
    raster = read_reflected(scene, window, "abcd")
    assert image.tobytes() == ABCD.apply(raster).tobytes()
    np.testing.assert_array_equal(valid, raster.valid)


@pytest.mark.parametrize("quantised", [False, True])
def test_a_band_that_is_missing_is_shown_as_not_known(quantised: bool) -> None:
    scaling = Scaling((("b", 0.0, 200.0), ("slope", 0.0, 45.0), ("a", 0.0, 200.0)), quantised)
    scene = layers(a=CORNER)
    image, valid = read_inputs(scene, scene.grid.window, scaling, ("slope",))
    seen = np.ones((6, 8), dtype=bool)
    seen[CORNER] = False
    np.testing.assert_array_equal(valid, seen)
    assert (image[1] == np.where(seen, FILLER, 0)).all()
    both = Scaling((scaling.ranges[0], scaling.ranges[2]), quantised).apply(whole(scene, "ba"))
    assert image[[0, 2]].tobytes() == both.tobytes()
    assert image.dtype == np.float32
    assert image.flags.c_contiguous


def test_a_band_that_is_needed_and_missing() -> None:
    scaling = Scaling((("a", 0.0, 200.0), ("slope", 0.0, 45.0)))
    scene = raster(np.ones((1, 6, 8), "uint16"), bands=["a"])
    with pytest.raises(BandError, match="Cannot give band 'slope'"):
        read_inputs(scene, scene.grid.window, scaling, ("a",))


def test_optional_bands_take_no_ground_from_others() -> None:
    scene = layers(c=LEFT, d=TOP, a=np.s_[5:, 7:])
    image, valid = read_inputs(scene, scene.grid.window, ABCD, ("d", "c"))
    # One by one, as each has ground that the other lacks.
    assert scene.asked == [("a", "b"), ("c", "d"), ("c",), ("d",)]
    seen = np.ones((6, 8), dtype=bool)
    seen[5:, 7:] = False
    np.testing.assert_array_equal(valid, seen)
    for number, (band, gap) in enumerate({"a": None, "b": None, "c": LEFT, "d": TOP}.items()):
        expected = ABCD.apply(whole(layers(), "abcd"))[number]
        if gap is not None:
            expected[gap] = FILLER
        expected[5:, 7:] = 0
        assert image[number].tobytes() == expected.tobytes(), band


def test_optional_bands_are_read_together_where_they_lack_nothing() -> None:
    # What they lack, the required bands lack as well.
    scene = layers(a=LEFT, c=CORNER, d=LEFT)
    image, valid = read_inputs(scene, scene.grid.window, ABCD, ("c", "d"))
    assert scene.asked == [("a", "b"), ("c", "d")]
    np.testing.assert_array_equal(valid, whole(scene, "a").valid)
    assert image.tobytes() == ABCD.apply(whole(scene, "abcd")).tobytes()
    # And one alone needs no second look.
    scene = layers(d=LEFT)
    read_inputs(scene, scene.grid.window, ABCD, ("d",))
    assert scene.asked == [("a", "b", "c"), ("d",)]


def test_what_is_mirrored_is_mirrored_with_its_gaps() -> None:
    scene = layers(d=LEFT)
    window = Window(-2, -3, 10, 12)
    image, _ = read_inputs(scene, window, ABCD, ("d",))
    inside, _ = read_inputs(scene, scene.grid.window, ABCD, ("d",))
    mirrored = np.pad(inside, [(0, 0), (2, 2), (3, 1)], mode="reflect")
    assert image.tobytes() == mirrored.tobytes()


@settings(max_examples=60, deadline=None)
@given(valid=hnp.arrays(bool, (4, 3, 4)), optional=st.sets(st.sampled_from("bcd")))
def test_inputs_are_the_definition(valid: NDArray[np.bool_], optional: set[str]) -> None:
    full = layers((3, 4))
    planes = dict(zip("abcd", whole(full, "abcd").values, strict=True))
    scene = Layers(planes, dict(zip("abcd", valid, strict=True)))
    image, seen = read_inputs(scene, scene.grid.window, ABCD, tuple(optional))
    needed = [number for number, band in enumerate("abcd") if band not in optional]
    for row, col in np.ndindex(3, 4):
        assert seen[row, col] == all(valid[number, row, col] for number in needed)
        for number, band in enumerate("abcd"):
            known = np.float32(planes[band][row, col]) / np.float32(200)
            expected = known if valid[number, row, col] else FILLER
            assert image[number, row, col] == (expected if seen[row, col] else 0)


def test_optional_bands_are_sampled_on_their_own_ground() -> None:
    scene = layers(a=np.s_[5:, :], c=LEFT, d=TOP)
    pixels = sampled_pixels(scene, ("a", "c", "d", "e"), ("c", "d", "e"))
    assert list(pixels) == ["a", "c", "d"]
    for band, values in pixels.items():
        own = whole(scene, [band])
        np.testing.assert_array_equal(values, own.values[0][own.valid].astype(np.float32))
    # Where none is optional, a pixel counts where all are valid.
    together = sampled_pixels(scene, ("a", "c", "d"))
    assert {values.size for values in together.values()} == {3 * 5}


def test_parts_are_what_was_asked_for() -> None:
    scene = layers(d=LEFT)
    required, slope = read_apart(scene, scene.grid.window, ("d", "b", "a"), ("d",))
    assert (required.bands, slope.bands) == (("b", "a"), ("d",))
    assert required.valid.all()
    assert slope.valid.sum() == 6 * 5
