import csv
import json
import logging
import math
from pathlib import Path
from xml.etree import ElementTree

import geopandas as gpd
import numpy as np
import pytest
import shapely
from scipy import stats

import tiny
from landslip.assess.frequency import (
    frequency_area,
    inventory_statistics,
    inverse_gamma,
    power_law,
)
from landslip.geo.errors import InventoryError
from landslip.geo.inventory import write_layers


def test_an_inverse_gamma_comes_back() -> None:
    random = np.random.default_rng(0)
    areas = np.sort(stats.invgamma.rvs(1.4, loc=-50, scale=900, size=4000, random_state=random))
    areas = areas[areas > 0]
    rho, a, s = inverse_gamma(areas)
    assert (rho, a) == pytest.approx((1.4, 900), rel=0.15)
    mine = stats.invgamma.logpdf(areas, rho, loc=s, scale=a).sum()
    truth = stats.invgamma.logpdf(areas, 1.4, loc=-50, scale=900).sum()
    theirs = stats.invgamma.logpdf(areas, *stats.invgamma.fit(areas, 1.4, loc=-50, scale=900)).sum()
    assert mine >= truth
    assert mine >= theirs - 1e-2


def test_a_power_law_comes_back() -> None:
    random = np.random.default_rng(1)
    tail = 500 * (1 - random.random(3000)) ** (-1 / 1.4)
    below = random.uniform(50, 500, 1500)
    areas = np.sort(np.concatenate([tail, below]))
    exponent, smallest = power_law(areas)
    assert exponent == pytest.approx(2.4, abs=0.1)
    assert 400 < smallest < 700
    held = areas[areas >= smallest]
    assert exponent == pytest.approx(1 + len(held) / np.log(held / smallest).sum())


def test_intervals_hold_the_truth_and_repeat() -> None:
    random = np.random.default_rng(2)
    areas = stats.invgamma.rvs(1.4, scale=900, size=800, random_state=random)
    found, again = frequency_area(areas), frequency_area(areas)
    assert found.record() == again.record()
    gamma, law = found.inverse_gamma, found.power_law
    assert gamma is not None
    assert law is not None
    assert gamma.rho.low < 1.4 < gamma.rho.high
    assert gamma.rollover_m2.low < 900 / 2.4 < gamma.rollover_m2.high
    assert law.exponent.low < 2.4 < law.exponent.high
    assert found.complete_from_m2 == law.smallest_m2.value > gamma.rollover_m2.value
    bins = found.bins()
    assert sum(number for *_, number, _ in bins) == 800
    assert sum(p * (high - low) for low, high, _, p in bins) == pytest.approx(1)


def test_few_landslides_have_no_fit(caplog: pytest.LogCaptureFixture) -> None:
    found = frequency_area(np.full(29, 100.0))
    assert "29 landslides are too few" in caplog.text
    assert (found.power_law, found.inverse_gamma) == (None, None)
    assert math.isnan(found.complete_from_m2)
    ((low, high, number, density),) = frequency_area(np.full(40, 100.0)).bins()
    assert (low, high) == pytest.approx((100, 146.78), rel=1e-4)
    assert number == 40
    assert density == pytest.approx(1 / (high - low))


def inventory(path: Path, seed: int = 0) -> Path:
    """60 squares inside 10 x 10 km that were seen, two on its edge, one rejected."""
    east, north = 500_000, 3_800_000
    random = np.random.default_rng(seed)
    x, y = np.meshgrid(np.arange(10) * 900 + 500, np.arange(6) * 900 + 500)
    side = np.sqrt(random.pareto(1.4, 60) * 300 + 300)
    inside = [
        shapely.box(a, b, a + c, b + c) for a, b, c in zip(x.ravel(), y.ravel(), side, strict=True)
    ]
    edge = [shapely.box(0, 100, 50, 150), shapely.box(9_950, 50, 10_000, 90)]
    geometry = gpd.GeoSeries([*inside, *edge, shapely.box(9_000, 9_000, 9_900, 9_900)], crs=32648)
    slides = gpd.GeoDataFrame(
        {"status": ["accepted"] * 62 + ["rejected"]}, geometry=geometry.translate(east, north)
    )
    ground = shapely.box(east, north, east + 10_000, north + 10_000)
    seen = gpd.GeoDataFrame(geometry=[ground], crs=32648)
    write_layers(path, {"landslides": slides, "observed": seen})
    return path


def test_what_the_edge_cuts_is_left_out(tmp_path: Path) -> None:
    found = inventory_statistics(inventory(tmp_path / "slides.gpkg"))
    assert (len(found.areas_m2), found.cut_by_edge) == (60, 2)
    frame = gpd.read_file(tmp_path / "slides.gpkg", layer="landslides")
    assert found.areas_m2.sum() == pytest.approx(frame.area[:60].sum(), rel=1e-3)


def test_what_lies_near_the_edge_is_whole(tmp_path: Path) -> None:
    ground = shapely.box(500_000, 3_800_000, 501_000, 3_801_000)
    near = [
        shapely.box(500_002, 3_800_500, 500_010, 3_800_510),
        shapely.box(500_500, 3_800_000, 500_510, 3_800_010),
    ]
    for crs in (32648, None):
        path = tmp_path / f"{crs}.gpkg"
        slides = gpd.GeoDataFrame(geometry=near, crs=crs)
        write_layers(
            path, {"landslides": slides, "observed": gpd.GeoDataFrame(geometry=[ground], crs=crs)}
        )
        found = inventory_statistics(path)
        assert (len(found.areas_m2), found.cut_by_edge) == (1, 1)
        assert found.areas_m2[0] == pytest.approx(80, rel=1e-3)


def test_an_inventory_of_rejected_landslides_is_refused(tmp_path: Path) -> None:
    box = gpd.GeoDataFrame({"status": ["rejected"]}, geometry=[shapely.box(0, 0, 9, 9)], crs=32648)
    write_layers(tmp_path / "slides.gpkg", {"landslides": box})
    with pytest.raises(InventoryError, match="all its landslides have the status rejected"):
        inventory_statistics(tmp_path / "slides.gpkg")


def test_stats_write_a_curve_and_its_numbers(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    path = inventory(tmp_path / "slides.gpkg")
    for name in ("a", "b"):
        done = tiny.landslip("stats", path, "--out", tmp_path / name)
        assert done.code == 0, done.err
        assert "power law, exponent" in done.out
    files = sorted(file.name for file in (tmp_path / "a").iterdir())
    assert files == ["frequency_area.csv", "frequency_area.svg", "stats.json"]
    for name in files:
        assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes()
    ElementTree.parse(tmp_path / "a" / "frequency_area.svg")
    with (tmp_path / "a" / "frequency_area.csv").open(encoding="utf-8") as file:
        assert sum(int(row["landslides"]) for row in csv.DictReader(file)) == 60
    record = json.loads((tmp_path / "a" / "stats.json").read_text(encoding="utf-8"))
    assert (record["landslides"], record["cut_by_edge"]) == (60, 2)
    assert tiny.landslip("stats", path, "--out", tmp_path / "a").code == 1


def test_an_inventory_of_cut_landslides_is_refused(tmp_path: Path) -> None:
    box = gpd.GeoDataFrame(geometry=[shapely.box(0, 0, 10, 10)], crs=32648)
    write_layers(tmp_path / "slides.gpkg", {"landslides": box, "observed": box})
    with pytest.raises(InventoryError, match="none of its 1 landslides is whole"):
        inventory_statistics(tmp_path / "slides.gpkg")
