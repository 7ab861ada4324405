from __future__ import annotations

import json
import logging
from collections.abc import Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import geopandas as gpd
import numpy as np
import pytest
import rasterio
import torch
from affine import Affine
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from rasterio.crs import CRS
from torch import nn

import tiny
from landslip.geo.errors import BandError, DataError, OutputError, TileSetError, UsageError
from landslip.geo.grid import Grid, Window
from landslip.geo.raster import DIGITAL, FileScene, Raster
from landslip.geo.scene import open_scene
from landslip.learn import radiometry, train
from landslip.learn.card import ModelCard, load_card, load_model, save_model
from landslip.learn.plan import TrainOptions
from landslip.learn.radiometry import choose_scaling, choose_tile_scaling
from landslip.learn.recipes import recipe_named
from landslip.learn.train import train_model
from landslip.mapping import pictures as mapping_pictures
from landslip.mapping.options import MapOptions
from landslip.mapping.scene_map import map_scene
from landslip.prepare import pictures as tile_pictures
from landslip.prepare import scaling as scaling_module
from landslip.prepare.scaling import (
    Ranges,
    Scaling,
    measure_scene,
    units_of,
    write_eight_bit,
)
from landslip.prepare.split import TileOptions
from landslip.prepare.tile_set import Tile, TileSet, require_alike
from landslip.prepare.tiles import make_tiles

NUMBER = "digital number"
CLOUD = (10, 30, 20, 25)
"""Row, column, height, width (px): 500 of 64 x 96 pixels, 8 %."""


@pytest.fixture(autouse=True)
def _without_pictures(monkeypatch: pytest.MonkeyPatch) -> None:
    """Pictures take longer than all the rest and show nothing of this."""
    monkeypatch.setattr(tile_pictures, "write_split_picture", lambda *_: None)
    monkeypatch.setattr(mapping_pictures, "write_quicklook", lambda *_: None)
    monkeypatch.setattr(train, "write_history", lambda *_: None)
    monkeypatch.setattr(train, "write_pr_curve", lambda _, __, path: path.touch())


@dataclass(frozen=True, eq=False)
class Ground:
    """A scene in memory that says of itself what files say."""

    raster: Raster
    sensor: str = ""
    units: tuple[str, ...] = ()
    dtype: str = "uint16"

    @property
    def grid(self) -> Grid:
        return self.raster.grid

    @property
    def bands(self) -> tuple[str, ...]:
        return self.raster.bands

    def read(self, window: Window, bands: Sequence[str]) -> Raster:
        return self.raster.read(window, bands)


def ground(ranges: Mapping[str, tuple[float, float]], **said: Any) -> Ground:
    """Bands whose percentiles 0.5 and 99.5 are exactly `ranges`, in random order."""
    random = np.random.default_rng(0)
    planes = []
    for low, high in ranges.values():
        # Of 201 evenly spread values, the second and the last but one stand at 0.5 and 99.5 %.
        step = (high - low) / 198
        steps = np.linspace(low - step, high + step, 201)
        planes.append(random.permutation(steps).reshape(3, 67))
    values = np.stack(planes).astype(np.float32)
    shape = values.shape[1:]
    grid = Grid(CRS.from_string(tiny.UTM), tiny.transform_of(), *shape)
    return Ground(Raster(values, np.ones(shape, dtype=bool), tuple(ranges), grid), **said)


def card_of(ranges: Mapping[str, tuple[float, float]], **changes: Any) -> ModelCard:
    """A card whose scaling and percentiles are `ranges`, unless changed."""
    listed = tuple((band, low, high) for band, (low, high) in ranges.items())
    fields: dict[str, Any] = {
        "name": "test", "architecture": "unet-small", "total_parameters": 1,
        "bands": tuple(ranges), "scaling": listed, "percentiles": listed, "pixel_size_m": 10.0,
        "halo_px": 96, "stride_px": 16,
    }  # fmt: skip
    return ModelCard(**(fields | changes))


LEARNT = {"nir": (100.0, 1000.0), "red": (50.0, 500.0)}
UNITS = {"units": (NUMBER, NUMBER)}


def times(factor: float, ranges: Mapping[str, tuple[float, float]]) -> dict[str, Any]:
    return {band: (factor * low, factor * high) for band, (low, high) in ranges.items()}


def assert_ranges(found: Ranges, expected: Mapping[str, tuple[float, float]]) -> None:
    assert tuple(band for band, _, _ in found) == tuple(expected)
    for (_, *numbers), ends in zip(found, expected.values(), strict=True):
        assert numbers == pytest.approx(ends, rel=1e-5)


# Which numbers a model is shown ------------------------------------------------------------------


def test_the_same_sensor_and_units_keep_the_models_numbers(
    caplog: pytest.LogCaptureFixture,
) -> None:
    # However dark the scene is: the same number is the same light.
    scene = ground(times(0.3, LEARNT), sensor="geoeye-1")
    card = card_of(LEARNT, sensor="geoeye-1", **UNITS)
    with caplog.at_level(logging.INFO):
        chosen = choose_scaling(scene, card, "auto")
    assert chosen.used == "model"
    assert chosen.why == "same sensor, geoeye-1, and units"
    assert chosen.scaling == card.scaling_of_bands
    assert_ranges(chosen.learnt, LEARNT)
    assert_ranges(chosen.found, times(0.3, LEARNT))
    assert "scaling: the model's numbers (same sensor, geoeye-1, and units)" in caplog.text


def test_another_sensor_takes_the_scenes_numbers_and_says_so(
    caplog: pytest.LogCaptureFixture,
) -> None:
    # However alike the ranges are.
    scene = ground(LEARNT, sensor="worldview-2")
    chosen = choose_scaling(scene, card_of(LEARNT, sensor="geoeye-1", **UNITS), "auto")
    assert chosen.used == "scene"
    assert chosen.why == "the scene is worldview-2's, the model learnt from geoeye-1's"
    (record,) = caplog.records
    assert record.levelno == logging.WARNING
    assert (
        "nir: model 100 to 1000, scene 100 to 1000\n  red: model 50 to 500" in record.getMessage()
    )


def test_other_units_take_the_scenes_numbers() -> None:
    # Of the same sensor, and even where the ranges happen to be alike.
    card = card_of(LEARNT, sensor="geoeye-1", **UNITS)
    scene = ground(LEARNT, sensor="geoeye-1", units=(NUMBER, "reflectance"))
    chosen = choose_scaling(scene, card, "auto")
    assert chosen.used == "scene"
    assert chosen.why == "red is in reflectance, the model learnt from digital number"
    surface = card_of(LEARNT, units=("surface reflectance",) * 2)
    scene = ground(LEARNT, units=("reflectance", "reflectance"))
    assert choose_scaling(scene, surface, "auto").used == "scene"


def test_a_scene_without_units_holds_digital_numbers() -> None:
    card = card_of(LEARNT, units=("reflectance",) * 2)
    assert "nir is in digital number" in choose_scaling(ground(LEARNT), card, "auto").why
    # A card of before units were kept says nothing against any.
    scene = ground(LEARNT, units=("reflectance",) * 2)
    assert choose_scaling(scene, card_of(LEARNT), "auto").used == "model"


@pytest.mark.parametrize(("mine", "theirs"), [("", ""), ("geoeye-1", ""), ("", "geoeye-1")])
def test_where_a_sensor_is_not_known_the_ranges_decide(mine: str, theirs: str) -> None:
    card = card_of(LEARNT, sensor=theirs, **UNITS)
    alike = choose_scaling(ground(times(1.2, LEARNT), sensor=mine), card, "auto")
    assert (alike.used, alike.scaling) == ("model", card.scaling_of_bands)
    assert "alike ranges" in alike.why
    tenfold = choose_scaling(ground(times(10, LEARNT), sensor=mine), card, "auto")
    assert tenfold.used == "scene"
    assert "the range of nir is another" in tenfold.why
    assert_ranges(tenfold.scaling.ranges, times(10, LEARNT))


@pytest.mark.parametrize(
    ("low", "high", "used"),
    [
        (100, 549, "scene"),  # shares 449 of 900
        (100, 551, "model"),
        (100, 1899, "model"),  # 900 of 1799
        (100, 1901, "scene"),
        (399, 1299, "model"),  # 601 of 1199
        (401, 1301, "scene"),  # 599 of 1201
        (1000, 1900, "scene"),
        (5000, 6000, "scene"),
    ],
)
def test_ranges_are_alike_where_they_share_half(low: float, high: float, used: str) -> None:
    card = card_of({"nir": (100.0, 1000.0)}, units=(NUMBER,))
    assert choose_scaling(ground({"nir": (low, high)}), card, "auto").used == used


def test_one_band_of_another_range_is_enough() -> None:
    scene = ground(LEARNT | {"red": (500.0, 5000.0)})
    chosen = choose_scaling(scene, card_of(LEARNT, **UNITS), "auto")
    assert (chosen.used, "red" in chosen.why) == ("scene", True)


def eight_bit_card(**changes: Any) -> ModelCard:
    return card_of(dict.fromkeys(LEARNT, (0.0, 255.0)), percentiles=(), **changes)


def test_models_of_eight_bits_without_percentiles_go_by_the_type() -> None:
    # The paper authors' models, for example: nothing but 0 to 255 is known of their ground.
    narrow = {"nir": (90.0, 140.0), "red": (20.0, 60.0)}
    both = choose_scaling(ground(narrow, dtype="uint8"), eight_bit_card(), "auto")
    assert (both.used, both.why) == ("model", "both are 8-bit")
    other = choose_scaling(ground(narrow, dtype="uint16"), eight_bit_card(), "auto")
    assert other.used == "scene"
    assert "learnt from 8-bit values" in other.why
    # What was stretched between percentiles is stretched between percentiles again.
    assert_ranges(other.scaling.ranges, narrow)


def test_models_of_eight_bits_with_percentiles_go_by_them() -> None:
    learnt = tuple((band, 10.0, 240.0) for band in LEARNT)
    card = card_of(dict.fromkeys(LEARNT, (0.0, 255.0)), percentiles=learnt)
    alike = ground(dict.fromkeys(LEARNT, (20.0, 230.0)), dtype="uint8")
    assert choose_scaling(alike, card, "auto").scaling == card.scaling_of_bands
    # 10 to 240 become 1000 to 3300, so 0 to 255 become 900 to 3450.
    other = choose_scaling(ground(dict.fromkeys(LEARNT, (1000.0, 3300.0))), card, "auto")
    assert_ranges(other.scaling.ranges, dict.fromkeys(LEARNT, (900.0, 3450.0)))


def test_cards_of_before_percentiles_were_kept_use_their_scaling() -> None:
    card = card_of(LEARNT, percentiles=())
    assert choose_scaling(ground(times(1.1, LEARNT)), card, "auto").used == "model"
    chosen = choose_scaling(ground(times(10, LEARNT)), card, "auto")
    assert chosen.learnt == card.scaling
    assert_ranges(chosen.scaling.ranges, times(10, LEARNT))


TERRAIN = {"nir": (100.0, 1000.0), "elevation": (0.0, 800.0), "slope": (2.0, 40.0)}
TERRAIN_UNITS = (NUMBER, "m", "deg")


def test_metres_and_degrees_keep_the_models_numbers() -> None:
    card = card_of(
        TERRAIN, units=TERRAIN_UNITS,
        scaling=(("nir", 0.0, 2000.0), ("elevation", -50.0, 900.0), ("slope", 0.0, 45.0)),
    )  # fmt: skip
    mountains = {"nir": (1000.0, 10_000.0), "elevation": (3000.0, 5000.0), "slope": (10.0, 70.0)}
    chosen = choose_scaling(ground(mountains, units=TERRAIN_UNITS), card, "scene")
    # 100 to 1000 become 1000 to 10000, so 0 to 2000 become 0 to 20000.
    assert_ranges(chosen.scaling.ranges[:1], {"nir": (0.0, 20_000.0)})
    for kept, own in zip(chosen.scaling.ranges[1:], card.scaling[1:], strict=True):
        assert kept[0] == own[0]
        assert kept[1:] == pytest.approx(own[1:], rel=1e-12, abs=1e-9)
    # Nor are they a reason to take the scene's.
    higher = mountains | {"nir": (100.0, 1000.0)}
    assert choose_scaling(ground(higher, units=TERRAIN_UNITS), card, "auto").used == "model"


def test_flat_ground_is_no_reason_to_stop() -> None:
    plain = {"nir": (1000.0, 10_000.0), "elevation": (7.0, 7.0), "slope": (0.0, 0.0)}
    card = card_of(TERRAIN, units=TERRAIN_UNITS)
    chosen = choose_scaling(ground(plain, units=TERRAIN_UNITS), card, "scene")
    assert_ranges(chosen.scaling.ranges, TERRAIN | {"nir": (1000.0, 10_000.0)})


def test_indices_are_scaled_as_bands_are() -> None:
    card = card_of({"nir": (100.0, 1000.0), "ndvi": (-0.5, 0.5)}, units=(NUMBER, "1"))
    scene = ground({"nir": (1000.0, 9000.0), "red": (500.0, 800.0)})
    chosen = choose_scaling(scene, card, "scene")
    nir, red = scene.raster.values.astype(np.float64)
    low, high = np.percentile((nir - red) / (nir + red), [0.5, 99.5])
    assert_ranges(chosen.scaling.ranges, {"nir": (1000.0, 9000.0), "ndvi": (low, high)})


def test_a_constant_band_has_no_range_of_its_own() -> None:
    scene = ground(LEARNT | {"red": (7.0, 7.0)})
    card = card_of(LEARNT, **UNITS)
    for mode in ("scene", "auto"):
        with pytest.raises(DataError) as failure:
            choose_scaling(scene, card, mode)
        assert str(failure.value) == (
            "Cannot scale band 'red' by the scene's own numbers: it is 7 nearly everywhere. Use "
            "--scaling model."
        )
    assert choose_scaling(scene, card, "model").scaling == card.scaling_of_bands


def clipping(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [
        record.getMessage()
        for record in caplog.records
        if record.levelno == logging.WARNING and "radiometry differs" in record.getMessage()
    ]


def test_the_models_numbers_warn_where_the_scene_lies_beyond_them(
    caplog: pytest.LogCaptureFixture,
) -> None:
    card = card_of(LEARNT, **UNITS)
    choose_scaling(ground(LEARNT | {"red": (260.0, 1000.0)}), card, "model")
    (warning,) = clipping(caplog)
    # Two thirds of 260 to 1000 lie above 500.
    assert warning.startswith("band red: the model learnt 50 to 500, the scene holds 2")
    assert "(67 % outside)" in warning
    assert "use --scaling scene, or train on this scene" in warning


def test_the_models_numbers_warn_where_the_scene_is_flat(caplog: pytest.LogCaptureFixture) -> None:
    card = card_of(LEARNT, **UNITS)
    choose_scaling(ground(LEARNT | {"nir": (500.0, 560.0)}), card, "model")
    assert [text.split(":")[0] for text in clipping(caplog)] == ["band nir"]
    caplog.clear()
    # A fifth beyond the range is common, and the scene's own numbers clip by themselves.
    choose_scaling(ground(times(1.2, LEARNT)), card, "model")
    choose_scaling(ground(times(10, LEARNT)), card, "scene")
    assert clipping(caplog) == []


def test_modes_that_are_asked_for_are_taken_as_they_are() -> None:
    card = card_of(LEARNT, sensor="geoeye-1", **UNITS)
    same = ground(times(2, LEARNT), sensor="geoeye-1")
    other = ground(times(2, LEARNT), sensor="worldview-2", units=("reflectance",) * 2)
    for scene in (same, other):
        kept = choose_scaling(scene, card, "model")
        assert (kept.used, kept.why, kept.scaling) == ("model", "as asked", card.scaling_of_bands)
        own = choose_scaling(scene, card, "scene")
        assert (own.used, own.why) == ("scene", "as asked")
        assert_ranges(own.scaling.ranges, times(2, LEARNT))


def test_modes_that_are_not_known() -> None:
    with pytest.raises(UsageError) as failure:
        choose_scaling(ground(LEARNT), card_of(LEARNT), "histogram")
    assert str(failure.value) == (
        "Cannot scale by 'histogram': expected one of auto, model, scene. Correct --scaling."
    )


@pytest.mark.parametrize("mode", ["auto", "model", "scene"])
def test_a_scene_of_nothing(mode: str) -> None:
    full = ground(LEARNT).raster
    empty = Raster(0 * full.values, np.zeros_like(full.valid), full.bands, full.grid)
    with pytest.raises(DataError, match=r"^Cannot map: no pixel of the scene is usable\. Check"):
        choose_scaling(Ground(empty), card_of(LEARNT), mode)


def test_levels_stay_as_many_as_the_model_learnt() -> None:
    card = card_of(LEARNT, quantised=True)
    for mode in ("model", "scene"):
        assert choose_scaling(ground(times(3, LEARNT)), card, mode).scaling.quantised


def test_the_record_says_what_was_done_and_why() -> None:
    chosen = choose_scaling(ground(times(10, LEARNT)), card_of(LEARNT, **UNITS), "auto")
    record = json.loads(json.dumps(chosen.record()))
    assert set(record) == {"used", "why", "ranges", "model_percentiles", "scene_percentiles"}
    assert (record["used"], record["why"]) == ("scene", chosen.why)
    assert record["ranges"] == [list(part) for part in chosen.scaling.ranges]
    assert record["model_percentiles"] == [["nir", 100.0, 1000.0], ["red", 50.0, 500.0]]
    assert record["scene_percentiles"][1] == ["red", *map(pytest.approx, (500.0, 5000.0))]


def test_a_model_of_two_sensors_knows_both() -> None:
    card = card_of(LEARNT, sensor="geoeye-1, worldview-2", **UNITS)
    chosen = choose_scaling(ground(times(0.4, LEARNT), sensor="geoeye-1"), card, "auto")
    assert chosen.used == "model"


def test_eight_bits_of_the_same_sensor_are_not_its_numbers() -> None:
    # As pansharpen --to 8bit writes them: with the sensor's tag.
    card = card_of(LEARNT, sensor="geoeye-1", **UNITS)
    stretched = ground(dict.fromkeys(LEARNT, (1.0, 255.0)), sensor="geoeye-1", dtype="uint8")
    assert choose_scaling(stretched, card, "auto").used == "scene"
    # And the other way round.
    card = eight_bit_card(sensor="geoeye-1", **UNITS)
    assert choose_scaling(ground(LEARNT, sensor="geoeye-1"), card, "auto").used == "scene"


def test_brightness_has_the_unit_of_its_bands() -> None:
    numbers = {"red": (100.0, 2000.0), "green": (100.0, 2000.0)}
    units = units_of(ground(numbers), ["brightness"])
    card = card_of({"brightness": (100.0, 2000.0)}, units=units, sensor="geoeye-1")
    shares = ground(times(1e-4, numbers), sensor="geoeye-1", units=("reflectance",) * 2)
    assert choose_scaling(shares, card, "auto").used == "scene"


def test_bands_that_may_be_missing_keep_the_models_numbers() -> None:
    learnt = LEARNT | {"slope": (2.0, 40.0), "pre_red": (60.0, 600.0)}
    card = card_of(
        learnt, units=(NUMBER, NUMBER, "deg", NUMBER), optional_bands=("slope", "pre_red"),
    )  # fmt: skip
    same = choose_scaling(ground(LEARNT), card, "auto")
    assert (same.used, same.scaling) == ("model", card.scaling_of_bands)
    assert [band for band, _, _ in same.learnt] == ["nir", "red"]
    assert_ranges(same.found, LEARNT)
    assert "slope" not in same.table
    for mode in ("auto", "scene"):
        tenfold = choose_scaling(ground(times(10, LEARNT)), card, mode)
        assert tenfold.used == "scene"
        # All bands of the model, in its order: what is missing may be there in another scene.
        assert_ranges(tenfold.scaling.ranges, learnt | times(10, LEARNT))
        assert_ranges(tenfold.found, times(10, LEARNT))
    with pytest.raises(BandError, match="Cannot give band 'red'"):
        choose_scaling(ground({"nir": (1.0, 2.0)}), card, "auto")


def before(path: Path, gap: float) -> tuple[Path, NDArray[np.uint16]]:
    """A scene from before with no data in a share of its columns."""
    values = base(seed=2)[1:2]
    values[:, :, : round(gap * 96)] = 0
    return tiny.write_scene(path, values, bands=["red"], nodata=0), values


def test_optional_bands_are_measured_where_they_have_data(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    now = tiny.write_scene(tmp_path / "now.tif", base())
    ranges = percentiles(base()) | {"pre_red": (10.0, 20.0)}
    card = card_of(ranges, optional_bands=("pre_red",))
    pre, values = before(tmp_path / "pre.tif", 0.4)
    with closing(open_scene(now, pre=pre)) as scene:
        chosen = choose_scaling(scene, card, "scene")
    own = tuple(np.percentile(values[values > 0], [0.5, 99.5]))
    # The others are measured on all of their ground.
    assert_ranges(chosen.found, percentiles(base()) | {"pre_red": own})
    assert_ranges(chosen.scaling.ranges, percentiles(base()) | {"pre_red": own})
    pre, _ = before(tmp_path / "nothing.tif", 1.0)
    with closing(open_scene(now, pre=pre)) as scene:
        chosen = choose_scaling(scene, card, "scene")
    assert_ranges(chosen.found, percentiles(base()))
    assert_ranges(chosen.scaling.ranges, ranges)
    assert "no pixel of the scene has optional bands pre_red" in caplog.text


def test_eight_bits_in_memory_are_eight_bits() -> None:
    full = ground(dict.fromkeys(LEARNT, (5.0, 250.0))).raster
    raster = Raster(full.values.astype(np.uint8), full.valid, full.bands, full.grid)
    assert choose_scaling(raster, eight_bit_card(), "auto").used == "model"


# Tiles to learn from -----------------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class InMemory:
    """Gives the pixels of tiles that are the whole of a raster."""

    raster: Raster
    place: Path = Path("tiles")
    asked: tuple[list[tuple[str, ...]]] = ([],)

    def read(self, tile: Tile, bands: Sequence[str]) -> tuple[Raster, NDArray[np.uint8]]:
        self.asked[0].append(tuple(bands))
        raster = self.raster.read(self.raster.grid.window, bands)
        return raster, np.zeros((tile.height, tile.width), dtype=np.uint8)

    def hard(self, tile: Tile) -> NDArray[np.bool_]:
        return np.zeros((tile.height, tile.width), dtype=bool)


Pairs = list[tuple[TileSet, Tile]]


def pairs_of(scene: Ground, count: int = 1, **said: Any) -> Pairs:
    """A scene as the training tiles of a set, the same ground in each."""
    height, width = scene.raster.grid.shape
    tiles = tuple(Tile(f"{n}", "train", height, width, 0.5, 1.0) for n in range(count))
    fields: dict[str, Any] = {"sensor": scene.sensor, "units": scene.units}
    reader = InMemory(scene.raster, asked=([],))
    made = TileSet(
        reader, tiles, scene.bands, 10.0, "", scene.dtype, (), **(fields | said)
    )  # fmt: skip
    return [(made, tile) for tile in tiles]


CASES: dict[str, tuple[dict[str, Any], dict[str, Any], dict[str, Any]]] = {
    "the same sensor": (times(0.3, LEARNT), {"sensor": "geoeye-1"}, {"sensor": "geoeye-1"}),
    "another sensor": (LEARNT, {"sensor": "worldview-2"}, {"sensor": "geoeye-1"}),
    "no sensor, alike": (times(1.2, LEARNT), {}, {}),
    "no sensor, unlike": (times(10, LEARNT), {}, {}),
    "other units": (LEARNT, {"units": ("reflectance",) * 2}, {}),
    "eight bits": (dict.fromkeys(LEARNT, (1.0, 255.0)), {"dtype": "uint8"}, {}),
}


@pytest.mark.parametrize("mode", ["auto", "model", "scene"])
@pytest.mark.parametrize("case", CASES)
def test_tiles_are_shown_as_their_scene_would_be(case: str, mode: str) -> None:
    ranges, said, learnt = CASES[case]
    scene = ground(ranges, **({"units": (NUMBER,) * 2} | said))
    card = card_of(LEARNT, **UNITS, **learnt)
    expected = choose_scaling(scene, card, mode)
    chosen = choose_tile_scaling(pairs_of(scene), card, mode)
    assert replace(chosen, ground="scene", why=expected.why) == expected
    assert chosen.ground == "training ground"
    assert chosen.why == expected.why.replace("scene", "training ground")


def test_tiles_are_judged_unless_a_mode_is_asked_for(caplog: pytest.LogCaptureFixture) -> None:
    scene = ground(LEARNT, sensor="worldview-2")
    chosen = choose_tile_scaling(pairs_of(scene), card_of(LEARNT, sensor="geoeye-1", **UNITS))
    assert chosen.used == "scene"
    (record,) = caplog.records
    assert record.levelno == logging.WARNING
    assert record.getMessage() == (
        "scaling: the training ground's numbers (the training ground is worldview-2's, the model "
        "learnt from geoeye-1's)\n"
        "  nir: model 100 to 1000, training ground 100 to 1000\n"
        "  red: model 50 to 500, training ground 50 to 500"
    )
    with pytest.raises(UsageError, match=r"^Cannot scale by 'histogram': expected one of auto, "):
        choose_tile_scaling(pairs_of(scene), card_of(LEARNT), "histogram")


def test_tiles_of_a_scene_are_measured_as_the_scene_is(tmp_path: Path) -> None:
    values = base()
    values[:, in_cloud()] = 0
    path = tiny.write_scene(tmp_path / "scene.tif", values, nodata=0)
    tiles = make_tiles(
        path, tiny.write_inventory(tmp_path / "a.gpkg"), tmp_path / "tiles", options=COLUMNS
    )
    card = card_of(percentiles(base()), units=(NUMBER,) * 3)
    chosen = choose_tile_scaling([(tiles, tile) for tile in tiles.tiles], card)
    # They cover the whole scene, which is small enough to be read as a whole.
    assert_ranges(chosen.found, percentiles(base(), ~in_cloud()))
    train = choose_tile_scaling([(tiles, tile) for tile in tiles.of("train")], card)
    here = ~in_cloud()
    here[:, 48:] = False
    assert_ranges(train.found, percentiles(base(), here))


def test_tiles_of_unknown_units_are_taken_for_the_models() -> None:
    card = card_of(TERRAIN, units=TERRAIN_UNITS)
    alike = choose_tile_scaling(pairs_of(ground(TERRAIN)), card)
    assert (alike.used, "alike ranges" in alike.why) == ("model", True)
    other = TERRAIN | {"nir": (1000.0, 10_000.0), "slope": (0.0, 80.0)}
    chosen = choose_tile_scaling(pairs_of(ground(other)), card)
    assert chosen.used == "scene"
    assert_ranges(chosen.scaling.ranges, TERRAIN | {"nir": (1000.0, 10_000.0)})
    # Nor does a card of before units were kept say anything against any.
    assert choose_tile_scaling(pairs_of(ground(LEARNT)), card_of(LEARNT)).used == "model"


def test_tiles_beside_terrain_are_eight_bit_by_their_first_band() -> None:
    learnt = {"nir": (0.0, 255.0), "elevation": (0.0, 800.0)}
    card = card_of(learnt, percentiles=(), units=(NUMBER, "m"))
    narrow = ground({"nir": (90.0, 140.0), "elevation": (0.0, 800.0)}, units=(NUMBER, "m"))
    stretched = pairs_of(narrow, types=("uint8", "float32"))
    assert choose_tile_scaling(stretched, card).why.startswith("the range of nir")
    other = choose_tile_scaling(pairs_of(narrow, types=("uint16", "float32")), card)
    assert other.why == "the model learnt from 8-bit values, the training ground has others"


@pytest.mark.parametrize(
    ("sensors", "used"),
    [
        (("geoeye-1", "worldview-2"), "model"),
        (("geoeye-1", "geoeye-1"), "model"),
        (("geoeye-1", "sentinel-2"), "scene"),
        (("geoeye-1", ""), "scene"),  # not known, so the ranges decide
    ],
)
def test_tiles_of_two_scenes_are_pooled(sensors: tuple[str, str], used: str) -> None:
    first = ground(times(3, LEARNT), sensor=sensors[0])
    second = ground(times(10, LEARNT), sensor=sensors[1])
    card = card_of(LEARNT, sensor="geoeye-1, worldview-2", **UNITS)
    chosen = choose_tile_scaling(pairs_of(first) + pairs_of(second), card)
    assert chosen.used == used
    both = np.concatenate([each.raster.values.reshape(2, -1) for each in (first, second)], axis=1)
    low, high = np.percentile(both, [0.5, 99.5], axis=1)
    ends = zip(low, high, strict=True)
    assert_ranges(chosen.found, dict(zip(LEARNT, ends, strict=True)))


def test_of_many_tiles_some_are_read(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(radiometry, "SAMPLE_WINDOWS", 5)
    for count, read in ((1, 1), (5, 5), (6, 3), (23, 5)):
        pairs = pairs_of(ground(LEARNT), count)
        reader = pairs[0][0].reader
        assert isinstance(reader, InMemory)
        chosen = choose_tile_scaling(pairs, card_of(LEARNT))
        assert len(reader.asked[0]) == read
        assert_ranges(chosen.found, LEARNT)


def test_tiles_may_lack_optional_bands(caplog: pytest.LogCaptureFixture) -> None:
    learnt = LEARNT | {"slope": (2.0, 40.0)}
    card = card_of(learnt, units=(NUMBER, NUMBER, "deg"), optional_bands=("slope",))
    chosen = choose_tile_scaling(pairs_of(ground(LEARNT, units=(NUMBER,) * 2)), card)
    assert (chosen.used, chosen.scaling) == ("model", card.scaling_of_bands)
    assert_ranges(chosen.found, LEARNT)
    assert "no pixel of the training ground has optional bands slope" in caplog.text
    with pytest.raises(BandError, match="Cannot give band 'slope'"):
        choose_tile_scaling(pairs_of(ground(LEARNT)), card_of(learnt))


def test_tiles_that_cannot_be_scaled() -> None:
    full = ground(LEARNT).raster
    empty = Ground(Raster(0 * full.values, np.zeros_like(full.valid), full.bands, full.grid))
    for pairs in (pairs_of(empty), []):
        with pytest.raises(DataError) as failure:
            choose_tile_scaling(pairs, card_of(LEARNT))
        assert str(failure.value) == (
            "Cannot train: no pixel of the training ground is usable. Check nodata and --unusable "
            "with landslip check."
        )
    flat = ground(LEARNT | {"red": (7.0, 7.0)})
    with pytest.raises(DataError) as failure:
        choose_tile_scaling(pairs_of(flat), card_of(LEARNT, **UNITS))
    assert str(failure.value) == (
        "Cannot scale band 'red' by the training ground's own numbers: it is 7 nearly everywhere. "
        "Leave the band out with --use, and train without --from."
    )


def test_tiles_beyond_the_models_range_are_said(caplog: pytest.LogCaptureFixture) -> None:
    card = card_of(TERRAIN, units=TERRAIN_UNITS, sensor="geoeye-1")
    beyond = {"nir": (1000.0, 9000.0), "elevation": (3000.0, 5000.0), "slope": (2.0, 40.0)}
    scene = ground(beyond, units=TERRAIN_UNITS, sensor="geoeye-1")
    assert choose_tile_scaling(pairs_of(scene), card).used == "model"
    warned = [record for record in caplog.records if record.levelname == "WARNING"]
    nir, elevation, unlike = (record.getMessage() for record in warned)
    assert nir.startswith("band nir: the model learnt 100 to 1000, the training ground holds ")
    assert nir.endswith(" outside): the radiometry differs, so train without --from")
    assert elevation.endswith(" outside): what lies beyond is cut off, so train without --from")
    assert unlike == (
        "the range of nir is another than the model's, though the sensor is the same: if the "
        "numbers were made in another way, tile the ground again with --reflectance, or train "
        "without --from"
    )


# Matching ----------------------------------------------------------------------------------------


LOWS, SPANS = st.floats(-1000, 1000), st.floats(1, 5000)
RANGE = st.builds(lambda low, span: (low, low + span), LOWS, SPANS)


def scaled(value: float, low: float, high: float) -> float:
    return (value - low) / (high - low)


@given(
    own=st.tuples(RANGE, RANGE), learnt=st.tuples(RANGE, RANGE), found=st.tuples(RANGE, RANGE),
    share=st.floats(-0.5, 1.5), quantised=st.booleans(),
)  # fmt: skip
def test_percentiles_of_the_scene_fall_where_those_of_the_model_fell(
    own: tuple[Any, Any],
    learnt: tuple[Any, Any],
    found: tuple[Any, Any],
    share: float,
    quantised: bool,
) -> None:
    def named(pair: tuple[Any, Any]) -> Ranges:
        return tuple((band, *ends) for band, ends in zip("ab", pair, strict=True))

    matched = Scaling(named(own), quantised).matched(named(learnt), named(found))
    assert matched.quantised is quantised
    assert [band for band, _, _ in matched.ranges] == ["a", "b"]
    for (_, *ends), own_ends, before, after in zip(matched.ranges, own, learnt, found, strict=True):
        # At both percentiles, and all that lies between and beyond them.
        for at in (0.0, 1.0, share):
            seen = before[0] + at * (before[1] - before[0])
            shown = after[0] + at * (after[1] - after[0])
            expected = scaled(seen, *own_ends)
            assert scaled(shown, *ends) == pytest.approx(expected, rel=1e-6, abs=1e-6)


@given(own=RANGE, learnt=RANGE)
def test_the_models_own_ground_is_shown_as_it_was(
    own: tuple[float, float], learnt: tuple[float, float]
) -> None:
    scaling = Scaling((("a", *own),))
    same = scaling.matched((("a", *learnt),), (("a", *learnt),))
    assert same.ranges[0][1:] == pytest.approx(own, rel=1e-12, abs=1e-9)


@given(learnt=RANGE, found=RANGE, quantised=st.booleans())
def test_pixels_at_the_percentiles_are_shown_alike(
    learnt: tuple[float, float], found: tuple[float, float], quantised: bool
) -> None:
    def pixels(ends: tuple[float, float]) -> Raster:
        values = np.array([[[*ends, sum(ends) / 2]]], dtype=np.float64)
        return Raster(
            values, np.ones((1, 3), dtype=bool), ("a",), Grid(None, Affine.identity(), 1, 3)
        )

    scaling = Scaling((("a", learnt[0] - 3, learnt[1] + 5),), quantised)
    matched = scaling.matched((("a", *learnt),), (("a", *found),))
    # Float32 holds 1000 to a ten-thousandth; a level of 256 may then be the next one.
    tolerance = 1.01 / 255 if quantised else 1e-3
    np.testing.assert_allclose(
        matched.apply(pixels(found)), scaling.apply(pixels(learnt)), rtol=0, atol=tolerance
    )


# Measuring a scene -------------------------------------------------------------------------------


def base(seed: int = 0) -> NDArray[np.uint16]:
    """Eleven bits (3, 64, 96): skewed as ground is, each band with a range of its own."""
    random = np.random.default_rng(seed)
    smooth = random.gamma(4.0, 60.0, (3, 64, 96)) * np.array([2.0, 1.0, 1.3])[:, None, None]
    values: NDArray[np.uint16] = np.clip(smooth + 40, 1, 2047).astype(np.uint16)
    return values


def in_cloud(shape: tuple[int, int] = (64, 96)) -> NDArray[np.bool_]:
    row, col, height, width = CLOUD
    inside = np.zeros(shape, dtype=bool)
    inside[row : row + height, col : col + width] = True
    return inside


def percentiles(values: NDArray[Any], valid: NDArray[np.bool_] | None = None) -> dict[str, Any]:
    """By numpy, of every pixel."""
    pixels = values.reshape(len(values), -1) if valid is None else values[:, valid]
    return {
        band: tuple(np.percentile(plane.astype(np.float64), [0.5, 99.5]))
        for band, plane in zip(tiny.RGN, pixels, strict=True)
    }


@pytest.fixture
def cloudy(tmp_path: Path) -> Path:
    """The ground of `base` under a cloud of 30000."""
    values = base()
    values[:, in_cloud()] = 30_000
    return tiny.write_scene(tmp_path / "cloudy.tif", values)


@pytest.fixture
def cloud(tmp_path: Path) -> Path:
    return tiny.write_inventory(tmp_path / "cloud.gpkg", [CLOUD])


def test_cloud_is_not_measured_and_the_area_of_interest_not_heeded(
    tmp_path: Path, cloudy: Path, cloud: Path
) -> None:
    clear = percentiles(base(), ~in_cloud())
    aoi = tiny.write_inventory(tmp_path / "aoi.gpkg", [(40, 60, 10, 12)])
    for area in (None, aoi):
        with closing(open_scene(cloudy, unusable=cloud, aoi=area)) as scene:
            assert_ranges(measure_scene(scene, tiny.RGN), clear)
            # In the order asked for.
            assert measure_scene(scene, ["green", "nir"])[0] == ("green", *clear["green"])
    with closing(open_scene(cloudy, aoi=aoi)) as scene:
        everything = base()
        everything[:, in_cloud()] = 30_000
        assert_ranges(measure_scene(scene, tiny.RGN), percentiles(everything))
        # The area of interest still holds where pixels are read.
        assert scene.read(scene.grid.window, tiny.RGN).valid.sum() == 10 * 12


def test_cloud_may_be_a_raster_and_nodata_count_no_more_than_cloud(tmp_path: Path) -> None:
    values = base()
    values[:, in_cloud()] = 30_000
    values[1, :, 90:] = 0  # nodata in one band is nodata
    scene = tiny.write_scene(tmp_path / "scene.tif", values, nodata=0)
    mask = tiny.write_scene(
        tmp_path / "mask.tif", in_cloud()[None].astype(np.uint8), bands=["cloud"]
    )
    valid = ~in_cloud()
    valid[:, 90:] = False
    with closing(open_scene(scene, unusable=mask)) as opened:
        assert_ranges(measure_scene(opened, tiny.RGN), percentiles(base(), valid))


def test_other_scenes_are_measured_too(tmp_path: Path) -> None:
    path = tiny.write_scene(tmp_path / "scene.tif", base())
    with closing(FileScene.open(path)) as file:
        assert_ranges(measure_scene(file, tiny.RGN), percentiles(base()))
        raster = file.read(file.grid.window, tiny.RGN)
    assert_ranges(measure_scene(raster, tiny.RGN), percentiles(base()))


def test_a_scene_without_a_usable_pixel_cannot_be_measured(tmp_path: Path, cloudy: Path) -> None:
    everything = tiny.write_inventory(tmp_path / "all.gpkg", [(0, 0, 64, 96)])
    with (
        closing(open_scene(cloudy, unusable=everything)) as scene,
        pytest.raises(DataError, match=r"^Cannot scale the bands: no pixel .* Check nodata and"),
    ):
        measure_scene(scene, tiny.RGN)


@dataclass(frozen=True, eq=False)
class Counted(Ground):
    """Ground that remembers what was read."""

    windows: tuple[list[Window]] = ([],)

    def read(self, window: Window, bands: Sequence[str]) -> Raster:
        self.windows[0].append(window)
        return super().read(window, bands)


def stretch(values: NDArray[Any], valid: NDArray[np.bool_] | None = None) -> Raster:
    usable = np.ones(values.shape[1:], dtype=bool) if valid is None else valid
    grid = Grid(CRS.from_string(tiny.UTM), tiny.transform_of(), *usable.shape)
    return Raster(values, usable, tuple("abcd")[: len(values)], grid)


def test_large_scenes_are_sampled_evenly(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(scaling_module, "SAMPLE_PX", 8)
    monkeypatch.setattr(scaling_module, "SAMPLE_WINDOWS", 50)
    # Brightness rises from west to east and, on top of it, from north to south.
    rows, cols = np.indices((200, 160))
    values = (cols + rows / 10).astype(np.float32)[None]
    scene = Counted(stretch(values), windows=([],))
    found = measure_scene(scene, ["a"])
    assert len(scene.windows[0]) == 50
    assert {(window.height, window.width) for window in scene.windows[0]} == {(8, 8)}
    low, high = np.percentile(values, [0.5, 99.5])
    assert found[0][1:] == pytest.approx((low, high), abs=0.05 * (high - low))


def test_pixels_weigh_alike_whatever_cloud_lies_beside_them(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(scaling_module, "SAMPLE_PX", 64)
    monkeypatch.setattr(scaling_module, "SAMPLE_PIXELS", 9000)
    # Nine windows; of the last, cloud leaves 100 pixels, which are bright: 0.3 % of the ground.
    values = np.random.default_rng(0).uniform(100, 200, (1, 64, 9 * 64)).astype(np.float32)
    valid = np.ones((64, 9 * 64), dtype=bool)
    valid[:, 8 * 64 :] = False
    valid[:10, 8 * 64 : 8 * 64 + 10] = True
    values[:, :, 8 * 64 :] = 1000
    low, high = np.percentile(values[0][valid], [0.5, 99.5])
    assert high < 200
    found = measure_scene(stretch(values, valid), ["a"])
    assert found[0][1:] == pytest.approx((low, high), abs=2)


def test_units_are_those_of_bands_and_of_indices() -> None:
    scene = ground(TERRAIN | {"red": (1.0, 2.0)}, units=(*TERRAIN_UNITS, "reflectance"))
    assert units_of(scene, ["slope", "ndvi", "nir", "elevation"]) == ("deg", "1", NUMBER, "m")
    assert units_of(ground(LEARNT), ["red", "ndvi", "evi"]) == (NUMBER, "1", "1")
    assert units_of(ground(LEARNT).raster, ["nir", "pre_ndvi"]) == (NUMBER, "1")
    assert DIGITAL == NUMBER


# Mapping -----------------------------------------------------------------------------------------


def sharp_model(path: Path, **changes: Any) -> Path:
    """A tiny model that tells pixels apart: untrained ones say a half of everything."""
    ranges = tuple((band, *map(float, ends)) for band, ends in percentiles(base()).items())
    fields: dict[str, Any] = {
        "scaling": ranges, "percentiles": ranges, "units": (NUMBER,) * 3, "halo_px": 32,
    }  # fmt: skip
    card, network = load_model(tiny.tiny_model(path, **(fields | changes)))
    head = network.get_submodule("classify")
    assert isinstance(head, nn.Conv2d)
    with torch.no_grad():
        logits = network(torch.rand(1, 3, 64, 96, generator=torch.Generator().manual_seed(0)))
        factor = 2 / logits.std()
        head.weight *= factor
        assert head.bias is not None
        head.bias.copy_(-logits.mean() * factor)
    save_model(path, network, card, overwrite=True)
    return path


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model of the ground of `base`, of no known sensor."""
    return sharp_model(tmp_path_factory.mktemp("model") / "sharp.safetensors")


def mapped(
    scene: Any, model: Path, out: Path, scaling: str = "auto"
) -> tuple[NDArray[np.uint8], dict[str, Any]]:
    """Codes of the probabilities, and the record of the scaling."""
    options = MapOptions(
        device="cpu", precision="float32", threshold=0.5, outline="pixels", scaling=scaling
    )
    map_scene(scene, model, out, options=options)
    with rasterio.open(out / "probability.tif") as file:
        codes: NDArray[np.uint8] = file.read(1)
    (ground,) = json.loads((out / "run.json").read_text())["scenes"]
    record: dict[str, Any] = ground["scaling"][0]
    return codes, record


def test_one_scene_in_four_radiometries_gives_one_map(tmp_path: Path, model: Path) -> None:
    values = base()
    first, record = mapped(tiny.write_scene(tmp_path / "a.tif", values), model, tmp_path / "a")
    assert record["used"] == "model"
    assert first.std() > 40  # else anything would agree
    tenfold = tiny.write_scene(tmp_path / "b.tif", (values * 10).astype(np.uint16))
    reflectance = tiny.write_scene(tmp_path / "c.tif", (values * 1e-4).astype(np.float32))
    metadata = tmp_path / "calibration.json"
    gains, offsets = dict.fromkeys(tiny.RGN, 2e-4), dict.fromkeys(tiny.RGN, -0.05)
    metadata.write_text(json.dumps({"gain": gains, "offset": offsets}))
    others = {
        "b": (tenfold, "the range of nir is another"),
        "c": (reflectance, "the range of nir is another"),
        "d": (
            open_scene(tmp_path / "a.tif", reflectance=metadata),
            "nir is in reflectance, the model learnt from digital number",
        ),
    }
    largest = 0.0
    for name, (scene, why) in others.items():
        codes, record = mapped(scene, model, tmp_path / name)
        assert record["used"] == "scene"
        assert why in record["why"]
        difference = np.abs(codes.astype(int) - first.astype(int))
        largest = max(largest, float(np.median(difference)))
        assert difference.mean() < 1
    assert largest <= 1
    # Shown by the model's numbers, the same scene is another.
    wrong, _ = mapped(tenfold, model, tmp_path / "wrong", "model")
    assert np.median(np.abs(wrong.astype(int) - first.astype(int))) > 20


@pytest.mark.parametrize("masked_by", ["polygons", "raster"])
def test_what_lies_under_cloud_changes_nothing(tmp_path: Path, model: Path, masked_by: str) -> None:
    if masked_by == "polygons":
        unusable = tiny.write_inventory(tmp_path / "cloud.gpkg", [CLOUD])
    else:
        unusable = tiny.write_scene(
            tmp_path / "cloud.tif", in_cloud()[None].astype(np.uint8), bands=["cloud"]
        )
    random = np.random.default_rng(5)
    covers: dict[str, Any] = {
        "bright": random.integers(28_000, 32_000, (3, 500)),
        "dark": random.integers(1, 300, (3, 500)),
    }
    outcomes = []
    for name, cover in covers.items():
        # Another radiometry than the model's, so that the scene's own range is what counts.
        values = (base(seed=1) * 8).astype(np.uint16)
        values[:, in_cloud()] = cover
        path = tiny.write_scene(tmp_path / f"{name}.tif", values)
        scene = open_scene(path, unusable=unusable)
        codes, record = mapped(scene, model, tmp_path / name)
        polygons = gpd.read_file(tmp_path / name / "landslides.gpkg", layer="landslides")
        outcomes.append((codes, record, polygons))
    (codes, record, polygons), (other_codes, other_record, other_polygons) = outcomes
    assert record["used"] == "scene"
    assert (codes == 255).sum() == 500
    assert len(polygons) > 10
    assert codes.tobytes() == other_codes.tobytes()
    assert record == other_record
    assert polygons.drop(columns="scene").equals(other_polygons.drop(columns="scene"))
    assert_ranges(record["ranges"], percentiles(base(seed=1) * 8, ~in_cloud()))
    # Where the cloud is not said to be one, it is taken for ground.
    unmasked = choose_scaling(open_scene(tmp_path / "bright.tif"), load_card(model), "auto")
    assert unmasked.found[0][2] > 28_000


def test_map_by_command_keeps_the_scaling(tmp_path: Path, model: Path) -> None:
    scene = tiny.write_scene(tmp_path / "scene.tif", base() * 2)
    words = ("map", scene, "--model", model, "--device", "cpu", "--out", tmp_path / "map")
    done = tiny.landslip(*words, "--scaling", "scene")
    assert done.code == 0, done.err
    run = json.loads((tmp_path / "map/run.json").read_text())
    assert run["options"]["scaling"] == "scene"
    (chosen,) = run["scenes"][0]["scaling"]
    assert (chosen["used"], chosen["why"]) == ("scene", "as asked")
    assert_ranges(chosen["scene_percentiles"], percentiles(base() * 2))
    assert_ranges(chosen["ranges"], percentiles(base() * 2))
    assert_ranges(chosen["model_percentiles"], percentiles(base()))
    assert "scaling: the scene's numbers (as asked)\n  nir: model " in done.err
    wrong = tiny.landslip(*words, "--overwrite", "--scaling", "histogram")
    assert wrong.code == 2
    assert wrong.message.startswith("Cannot scale by 'histogram': expected one of auto, model")


# Eight bits --------------------------------------------------------------------------------------


def test_eight_bits_are_the_formula(tmp_path: Path, cloud: Path) -> None:
    values = base()
    values[:, in_cloud()] = 30_000
    values[:, :5, :7] = 0
    path = tiny.write_scene(tmp_path / "scene.tif", values, nodata=0)
    valid = ~in_cloud()
    valid[:5, :7] = False
    out = tmp_path / "deep/eight.tif"
    with closing(open_scene(path, unusable=cloud)) as scene:
        ranges = write_eight_bit(scene, out, tags={"LANDSLIP_SENSOR": "geoeye-1"})
    expected = percentiles(base(), valid)
    assert_ranges(ranges, expected)
    with rasterio.open(out) as file, rasterio.open(path) as source:
        codes = file.read()
        assert (file.dtypes, file.nodata) == (("uint8",) * 3, 0)
        assert file.descriptions == tiny.RGN
        assert (file.crs, file.transform) == (source.crs, source.transform)
        tags = file.tags()
    for (band, low, high), plane, stored in zip(ranges, codes, values, strict=True):
        assert [float(text) for text in tags[f"LANDSLIP_8BIT_{band.upper()}"].split()] == [
            low,
            high,
        ]
        assert not plane[~valid].any()
        share = np.clip((stored[valid].astype(np.float64) - low) / (high - low), 0, 1)
        difference = np.abs(plane[valid].astype(int) - (1 + np.rint(254 * share)))
        assert difference.max() <= 1  # halves, in float32
        assert (difference == 0).mean() > 0.999
        assert (plane[valid].min(), plane[valid].max()) == (1, 255)
        # What lies beyond the percentiles is at the ends, and nothing else is.
        assert (plane[valid] == 1).mean() == pytest.approx(0.005, abs=0.005)
        assert (plane[valid] == 255).mean() == pytest.approx(0.005, abs=0.005)
    assert tags["LANDSLIP_SENSOR"] == "geoeye-1"
    with closing(open_scene(out)) as again:
        np.testing.assert_array_equal(again.read(again.grid.window, tiny.RGN).valid, valid)
        assert (again.dtype, again.sensor) == ("uint8", "geoeye-1")


def test_eight_bits_replace_nothing_unasked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    scene = open_scene(tiny.write_scene(tmp_path / "scene.tif", base()))
    out = tmp_path / "eight.tif"
    out.write_text("precious")
    with monkeypatch.context() as patch:
        # Nor does it measure a large scene first.
        patch.setattr(scaling_module, "measure_scene", lambda *_: pytest.fail("measured"))
        with pytest.raises(OutputError, match=r"^Cannot write .*eight\.tif: it exists already\."):
            write_eight_bit(scene, out)
    assert out.read_text() == "precious"
    write_eight_bit(scene, out, overwrite=True)
    with rasterio.open(out) as file:
        assert file.dtypes[0] == "uint8"


def test_eight_bits_of_nothing(tmp_path: Path, cloudy: Path) -> None:
    values = base()
    values[1] = 77
    flat = open_scene(tiny.write_scene(tmp_path / "flat.tif", values))
    out = tmp_path / "eight.tif"
    with pytest.raises(DataError, match=r"^Cannot stretch band 'red' .* is 77 nearly .*--bands"):
        write_eight_bit(flat, out)
    everything = tiny.write_inventory(tmp_path / "all.gpkg", [(0, 0, 64, 96)])
    with pytest.raises(DataError, match="no pixel of the scene is usable"):
        write_eight_bit(open_scene(cloudy, unusable=everything), out)
    assert not list(tmp_path.glob("*eight*"))


def test_check_writes_eight_bits(tmp_path: Path, cloudy: Path, cloud: Path) -> None:
    out = tmp_path / "eight.tif"
    done = tiny.landslip("check", cloudy, "--unusable", cloud, "--to-8bit", out)
    assert done.code == 0, done.err
    assert f"Stretched to 8 bit: {out}" in done.out
    with rasterio.open(out) as file:
        codes = file.read()
        assert not codes[:, in_cloud()].any()
        assert (codes[:, ~in_cloud()] > 0).all()
        ends = [float(text) for text in file.tags()["LANDSLIP_8BIT_RED"].split()]
    assert ends == pytest.approx(percentiles(base(), ~in_cloud())["red"])
    before = out.read_bytes()
    again = tiny.landslip("check", cloudy, "--to-8bit", out)
    assert again.code == 1
    assert "it exists already" in again.message
    assert out.read_bytes() == before
    assert tiny.landslip("check", cloudy, "--to-8bit", out, "--overwrite").code == 0
    assert out.read_bytes() != before


# Tiles -------------------------------------------------------------------------------------------


COLUMNS = TileOptions(size=16, split="columns:48,80")
AS_REFLECTANCE = {"gain": dict.fromkeys(tiny.RGN, 1e-4)}


def tiled(
    folder: Path, values: NDArray[Any] | None = None, bands: Sequence[str] = tiny.RGN, **how: Any
) -> TileSet:
    """A tile set of `values`, 64 x 96 px, beside its scene and landslides."""
    folder.mkdir(parents=True)
    scene = tiny.write_scene(
        folder / "scene.tif", base() if values is None else values, bands=bands
    )
    inventory = tiny.write_inventory(folder / "landslides.gpkg")
    if how.pop("reflectance", False):
        how["reflectance"] = folder / "reflectance.json"
        how["reflectance"].write_text(json.dumps(AS_REFLECTANCE))
    with closing(open_scene(scene, **how)) as opened:
        return make_tiles(opened, inventory, folder / "tiles", options=COLUMNS)


def test_tiles_remember_the_radiometry_of_the_whole_scene(tmp_path: Path, cloud: Path) -> None:
    values = base()
    values[:, in_cloud()] = 30_000
    aoi = tiny.write_inventory(tmp_path / "aoi.gpkg", [(0, 0, 64, 90)])
    tiles = tiled(tmp_path / "a", values, unusable=cloud, aoi=aoi, sensor="geoeye-1")
    assert_ranges(tiles.percentiles, percentiles(base(), ~in_cloud()))
    assert tiles.units == (NUMBER,) * 3
    assert tiles.sensor == "geoeye-1"
    assert TileSet.open(tiles.folder) == tiles
    head = json.loads((tiles.folder / "tileset.json").read_text())
    assert head["percentiles"] == [list(part) for part in tiles.percentiles]
    assert (head["units"], head["sensor"]) == ([NUMBER] * 3, "geoeye-1")


def test_tiles_of_reflectance_and_terrain_say_so(tmp_path: Path) -> None:
    heights = np.linspace(100, 400, 64 * 96, dtype=np.float32).reshape(1, 64, 96)
    dem = tiny.write_scene(tmp_path / "dem.tif", heights, bands=["elevation"])
    tiles = tiled(tmp_path / "a", reflectance=True, dem=dem)
    assert tiles.units == ("reflectance",) * 3 + ("m", "deg")
    assert tiles.sensor == ""
    with closing(
        open_scene(tmp_path / "a/scene.tif", reflectance=tmp_path / "a/reflectance.json", dem=dem)
    ) as scene:
        raster = scene.read(scene.grid.window, scene.bands)
    for (_, *ends), plane in zip(tiles.percentiles, raster.values, strict=True):
        assert ends == pytest.approx(np.percentile(plane[raster.valid], [0.5, 99.5]), rel=1e-5)


def forget_radiometry(tiles: TileSet) -> TileSet:
    """The folder as it was written before radiometry was kept."""
    index = tiles.folder / "tileset.json"
    head = json.loads(index.read_text())
    for key in ("percentiles", "units", "sensor"):
        del head[key]
    index.write_text(json.dumps(head))
    return TileSet.open(tiles.folder)


def test_folders_of_before_radiometry_was_kept_are_read(tmp_path: Path) -> None:
    tiles = tiled(tmp_path / "a", sensor="geoeye-1")
    old = forget_radiometry(tiles)
    assert (old.percentiles, old.units, old.sensor) == ((), (), "")
    assert (old.tiles, old.bands, old.sources) == (tiles.tiles, tiles.bands, tiles.sources)
    # They go with any other of their type.
    require_alike([old, tiled(tmp_path / "b", reflectance=True, sensor="worldview-2")])


def test_tiles_of_other_units_are_not_mixed(tmp_path: Path) -> None:
    first, second = tiled(tmp_path / "a"), tiled(tmp_path / "b", reflectance=True)
    for pair in ((first, second), (second, first)):
        with pytest.raises(TileSetError) as failure:
            train_model(pair, tmp_path / "model.safetensors", options=QUICK)
        message = str(failure.value)
        assert message.startswith(
            f"Cannot train on {pair[0].folder} and {pair[1].folder} together: "
        )
        assert any(
            f": {band} is in {pair[0].units[0]} and in {pair[1].units[0]}. " in message
            for band in tiny.RGN
        )
        assert message.endswith("Tile both with --reflectance, or both without.")
    assert not list(tmp_path.glob("model*"))


def test_tiles_of_eight_bits_are_not_mixed_with_others(tmp_path: Path) -> None:
    first = tiled(tmp_path / "a")
    second = tiled(tmp_path / "b", (base() // 8).astype(np.uint8))
    with pytest.raises(TileSetError) as failure:
        train_model([first, second], tmp_path / "model.safetensors", options=QUICK)
    message = str(failure.value)
    assert message.startswith(f"Cannot train on {first.folder} and {second.folder} together: ")
    assert "green, nir, red stretched to 8 bit in one" in message
    # Of 16 bits there are several types.
    require_alike([first, tiled(tmp_path / "c", base().astype(np.int16))])


def test_eight_bits_beside_terrain_are_eight_bits(tmp_path: Path) -> None:
    heights = np.linspace(100, 400, 64 * 96, dtype=np.float32).reshape(1, 64, 96)
    dem = tiny.write_scene(tmp_path / "dem.tif", heights, bands=["elevation"])
    first = tiled(tmp_path / "a", dem=dem)
    second = tiled(tmp_path / "b", (base() // 8).astype(np.uint8), dem=dem)
    with pytest.raises(TileSetError, match="8 bit"):
        require_alike([first, second])


# Training ----------------------------------------------------------------------------------------


QUICK = TrainOptions(
    model="unet-small", recipe=recipe_named("modern", {"epochs": 1, "batch": 8}),
    precision="float32", device="cpu",
)  # fmt: skip


def test_a_card_tells_the_radiometry_of_its_ground(tmp_path: Path, cloud: Path) -> None:
    values = base()
    values[:, in_cloud()] = 30_000
    tiles = tiled(tmp_path / "a", values, unusable=cloud, sensor="geoeye-1")
    out = tmp_path / "model.safetensors"
    card = train_model([tiles], out, options=QUICK)
    # Of the whole scene, ground of validation and test included, without its cloud.
    expected = percentiles(base(), ~in_cloud())
    assert_ranges(card.percentiles, expected)
    assert card.scaling == card.percentiles
    assert card.units == (NUMBER,) * 3
    assert card.sensor == "geoeye-1"
    assert load_card(out) == card
    shown = tiny.landslip("info", out)
    assert "digital number, digital number, digital number; geoeye-1" in shown.out
    # The scene is then shown as the tiles were, whether its sensor is said or not.
    for sensor in ("geoeye-1", None):
        with closing(open_scene(tmp_path / "a/scene.tif", unusable=cloud, sensor=sensor)) as scene:
            chosen = choose_scaling(scene, card, "auto")
        assert chosen.used == "model"
        assert chosen.found == chosen.learnt


def test_several_scenes_give_the_range_that_spans_theirs(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    values = {"a": base(), "b": (base(seed=1) * 3).astype(np.uint16)}
    first = tiled(tmp_path / "a", values["a"], sensor="geoeye-1")
    second = tiled(tmp_path / "b", values["b"], sensor="worldview-2")
    options = replace(QUICK, bands=("green", "ndvi"))
    card = train_model([first, second], tmp_path / "model.safetensors", options=options)
    assert (
        f"{first.folder} is of geoeye-1, {second.folder} of worldview-2: one range of numbers"
        in caplog.text
    )
    assert card.sensor == "geoeye-1, worldview-2"
    assert card.units == (NUMBER, "1")
    ends = [percentiles(each)["green"] for each in values.values()]
    spanned = (min(low for low, _ in ends), max(high for _, high in ends))
    assert card.percentiles[0] == ("green", *map(pytest.approx, spanned))
    # An index is measured on the training ground: columns 0 to 47.
    seen = [each[:, :, :48].astype(np.float64) for each in values.values()]
    ndvi = np.concatenate([((nir - red) / (nir + red)).ravel() for nir, red, _ in seen])
    expected = np.percentile(ndvi, [0.5, 99.5])
    assert card.percentiles[1][1:] == pytest.approx(expected, rel=1e-4, abs=1e-4)
    assert card.scaling == card.percentiles


def test_old_tiles_are_measured_themselves(tmp_path: Path) -> None:
    old = forget_radiometry(tiled(tmp_path / "a", sensor="geoeye-1"))
    card = train_model([old], tmp_path / "model.safetensors", options=QUICK)
    assert (card.units, card.sensor) == ((), "")
    assert_ranges(card.percentiles, percentiles(base()[:, :, :48]))
    assert card.scaling == card.percentiles


def test_eight_bits_keep_their_range_and_their_percentiles(tmp_path: Path) -> None:
    values = (base() // 8).astype(np.uint8)
    tiles = tiled(tmp_path / "a", values)
    card = train_model([tiles], tmp_path / "model.safetensors", options=QUICK)
    assert card.scaling == tuple((band, 0.0, 255.0) for band in tiny.RGN)
    assert_ranges(card.percentiles, percentiles(values))


def test_models_are_not_scored_on_other_numbers(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    from landslip.learn.predict import score_model

    tiles = tiled(tmp_path / "a", sensor="geoeye-1")
    model = tiny.tiny_model(
        tmp_path / "m.safetensors", units=("reflectance",) * 3, sensor="worldview-2"
    )
    with pytest.raises(TileSetError, match=r"nir is in digital number, the model .*reflectance"):
        score_model(model, tiles)
    other = tiny.tiny_model(tmp_path / "n.safetensors", units=(NUMBER,) * 3, sensor="worldview-2")
    score_model(other, tiles)
    assert "learnt from worldview-2" in caplog.text


def test_elevation_that_was_added_is_in_metres(tmp_path: Path) -> None:
    heights = np.linspace(100, 400, 64 * 96, dtype=np.float32).reshape(1, 64, 96)
    dem = tiny.write_scene(tmp_path / "dem.tif", heights, bands=["height"])
    path = tiny.write_scene(tmp_path / "scene.tif")
    added = open_scene(path, add=[f"{dem}:elevation"])
    assert added.units == (NUMBER, NUMBER, NUMBER, "m")
    assert added.types == ("uint16",) * 3 + ("float32",)
