import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from landslip.geo.errors import UsageError
from landslip.inventory.volume import RELATIONS, volumes_m3

areas = st.floats(1e-2, 1e9)
names = st.sampled_from(sorted(RELATIONS))


@pytest.mark.parametrize(
    ("relation", "area", "low", "high"),
    [
        # By hand: 10^(-0.63 + 1.41 log A -+ sqrt(0.06^2 + (0.02 log A)^2)).
        ("larsen-bedrock", 5e5, 18.9e6, 34.2e6),
        ("larsen-soil", 1.0, 0.2138, 0.2355),
    ],
)
def test_values(relation: str, area: float, low: float, high: float) -> None:
    found = volumes_m3(np.array([area]), relation)
    assert [float(each[0]) for each in found] == pytest.approx([low, high], rel=2e-3)


@given(area=areas, relation=names)
def test_range_is_that_of_the_laws(area: float, relation: str) -> None:
    lows, highs = [], []
    for law in RELATIONS[relation].laws:
        size = math.log10(area)
        error = math.sqrt(law.log10_alpha_error**2 + (size * law.gamma_error) ** 2)
        lows.append(10 ** (law.log10_alpha + law.gamma * size - error))
        highs.append(10 ** (law.log10_alpha + law.gamma * size + error))
    low, high = volumes_m3(np.array([area]), relation)
    assert low[0] == pytest.approx(min(lows))
    assert high[0] == pytest.approx(max(highs))
    assert 0 < low[0] < high[0]


@given(area=areas, relation=names)
def test_a_larger_landslide_holds_more(area: float, relation: str) -> None:
    low, high = volumes_m3(np.array([area, 2 * area]), relation)
    assert low[1] > low[0]
    assert high[1] > high[0]


def test_unknown_material_spans_both() -> None:
    size = np.geomspace(1, 1e8, 50)
    low, high = volumes_m3(size, "larsen")
    for material in ("larsen-soil", "larsen-bedrock"):
        own_low, own_high = volumes_m3(size, material)
        assert (low <= own_low).all()
        assert (high >= own_high).all()


def test_no_volume_without_an_area() -> None:
    low, high = volumes_m3(np.array([0.0, -1.0, np.nan, 100.0]), "larsen")
    assert np.isnan(low).tolist() == np.isnan(high).tolist() == [True, True, True, False]


def test_no_landslides() -> None:
    low, high = volumes_m3(np.zeros(0), "larsen")
    assert low.shape == high.shape == (0,)


def test_every_relation_names_its_source() -> None:
    for name, relation in RELATIONS.items():
        assert relation.name == name
        assert relation.laws
        assert any(year in relation.source for year in ("2009", "2010"))


def test_unknown_relation() -> None:
    with pytest.raises(UsageError, match=r"relation x: .* one of larsen-soil, larsen-bedrock"):
        volumes_m3(np.ones(1), "x")
