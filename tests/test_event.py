import datetime
import re
from pathlib import Path

import pytest

from landslip.geo.errors import DataError
from landslip.inventory.event import PRODUCTS, TRIGGERS, Cems, Coolr, Event, Image, read_event

DOCS = (Path(__file__).parent.parent / "docs" / "delivery.md").read_text(encoding="utf-8")


def write(folder: Path, text: str) -> Path:
    path = folder / "event.toml"
    path.write_text(text, encoding="utf-8")
    return path


def test_all_keys_are_read(tmp_path: Path) -> None:
    (tmp_path / "aoi.gpkg").touch()
    event = read_event(
        write(
            tmp_path,
            """
name = "Iburi 胆振"
code = "2018-IBURI"
date_from = 2018-09-06
date_to = "2018-09-07"
trigger = "earthquake"
country = "Japan"
place = "Atsuma"
aoi = "aoi.gpkg"
author = "A. Nyone"
licence = "CC-BY-4.0"
[[images]]
name = "PlanetScope"
id = "x"
date = 2018-09-11
time = 01:20:03
resolution_m = 3
[[images]]
name = "RapidEye"
phase = "pre"
scene = "north"
[cems]
activation = "EMSR123"
aoi = 2
product = "GRA"
monitoring = 3
release = 1
version = 2
locality = "Atsuma"
glide = "EQ-2018-000000-JPN"
obj_desc = "Mudflow"
det_method = "Photo-interpretation"
notation = "n"
[coolr]
source_link = "https://example.org"
event_time = "03:07"
description = "d"
location_accuracy = "1km"
landslide_category = "debris_flow"
landslide_setting = "natural_slope"
storm_name = "s"
photo_link = "p"
country_code = "JP"
sizes_from_m2 = { medium = 1000, small = 0.5 }
""",
        )
    )
    assert event == Event(
        name="Iburi 胆振",
        code="2018-IBURI",
        date_from=datetime.date(2018, 9, 6),
        date_to=datetime.date(2018, 9, 7),
        trigger="earthquake",
        country="Japan",
        place="Atsuma",
        aoi=tmp_path / "aoi.gpkg",
        author="A. Nyone",
        licence="CC-BY-4.0",
        images=(
            Image(
                name="PlanetScope", id="x", date=datetime.date(2018, 9, 11),
                time=datetime.time(1, 20, 3), resolution_m=3.0,
            ),
            Image(name="RapidEye", phase="pre", scene="north"),
        ),
        cems=Cems(
            activation="EMSR123", aoi=2, product="GRA", monitoring=3, release=1, version=2,
            locality="Atsuma", glide="EQ-2018-000000-JPN", obj_desc="Mudflow",
            det_method="Photo-interpretation", notation="n",
        ),
        coolr=Coolr(
            source_link="https://example.org", event_time="03:07", description="d",
            location_accuracy="1km", landslide_category="debris_flow",
            landslide_setting="natural_slope", storm_name="s", photo_link="p", country_code="JP",
            sizes_from_m2=(("small", 0.5), ("medium", 1000.0)),
        ),
    )  # fmt: skip
    assert event.columns() == {
        "event_name": "Iburi 胆振",
        "event_code": "2018-IBURI",
        "event_date_from": "2018-09-06",
        "event_date_to": "2018-09-07",
        "trigger": "earthquake",
        "author": "A. Nyone",
        "licence": "CC-BY-4.0",
    }


def test_a_name_is_enough(tmp_path: Path) -> None:
    event = read_event(write(tmp_path, 'name = " Slide "'))
    assert event == Event(name="Slide")
    assert event.columns() == {"event_name": "Slide"}
    assert event.given()["cems.product"] == "DEL"
    assert "cems.activation" not in event.given()


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("nam = 'x'", "key nam, which is not known; similar ones are name"),
        ("[cems]\nactivaton = 'EMSR123'", "cems.activaton, which is not known.*cems.activation"),
        ("[[images]]\nname = 'x'\nfase = 'pre'", r"images.fase, .* images.phase"),
        ("date_from = '6.9.2018'", r"date_from is '6.9.2018', expected a date \(2018-09-06\)"),
        ("date_from = 2018-09-06T03:07:00", "date_from is 2018-09-06T03:07:00, expected a date wi"),
        (
            "date_from = 2018-09-06\ndate_to = 2018-09-05",
            "date_to is 2018-09-05, date_from is 2018",
        ),
        ("date_to = 2018-09-05", "date_to is 2018-09-05, date_from is not given"),
        ("trigger = 'earthquakes'", r"trigger is 'earthquakes', expected one of .* earthquake\)"),
        ("author = 3", r'author is 3, expected a text \("..."\)'),
        ("aoi = 'none.gpkg'", "aoi is 'none.gpkg', expected a file, and there is no"),
        ("images = 3", r"images is 3, expected tables \(\[\[images\]\]\)"),
        ("cems = 3", r"cems is 3, expected a table \(\[cems\]\)"),
        ("[[images]]\ndate = 2018-09-06", "images.name is missing. Add it"),
        (
            "[[images]]\nname = 'x'\ntime = '25:00'",
            "images.time is '25:00', expected a time in UTC",
        ),
        ("[[images]]\nname = 'x'\ntime = '01:00+02:00'", "without zone"),
        (
            "[[images]]\nname = 'x'\nresolution_m = '3 m'",
            "images.resolution_m is '3 m', expected a",
        ),
        ("[[images]]\nname = 'x'\nresolution_m = nan", "images.resolution_m is nan"),
        ("[cems]\nactivation = 'EMSN123'", r"cems.activation is 'EMSN123', expected EMSR and its"),
        ("[cems]\naoi = 0", "cems.aoi is 0, expected a whole number from 1 on"),
        ("[cems]\naoi = true", "cems.aoi is True, expected a whole number from 1 on"),
        ("[cems]\nproduct = 'REF'", "cems.product is 'REF', expected one of FEP; DEL; GRA"),
        ("[coolr]\ncountry_code = 'jp'", "coolr.country_code is 'jp', expected two letters"),
        ("[coolr]\nsizes_from_m2 = { small = 9, medium = 8 }", "rise from small to catastrophic"),
        ("[coolr]\nsizes_from_m2 = { tiny = 9 }", "coolr.sizes_from_m2.tiny, which is not known"),
    ],
)
def test_messages_name_key_expected_and_found(tmp_path: Path, line: str, expected: str) -> None:
    path = write(tmp_path, line if line.startswith("nam =") else f"name = 'x'\n{line}")
    with pytest.raises(DataError, match=expected) as raised:
        read_event(path)
    assert str(raised.value).startswith(f"Cannot read {path}: ")


@pytest.mark.parametrize("text", ["", "name = ''", "name = '  '"])
def test_an_event_has_a_name(tmp_path: Path, text: str) -> None:
    with pytest.raises(DataError, match="name is missing"):
        read_event(write(tmp_path, text))


def test_what_is_no_toml_is_told(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"no such file or directory\. Name the event\.toml"):
        read_event(tmp_path / "none.toml")
    with pytest.raises(DataError, match=r"it is no TOML in UTF-8 .*end of document"):
        read_event(write(tmp_path, "name = "))
    (tmp_path / "event.toml").write_bytes('name = "ü"'.encode("latin-1"))
    with pytest.raises(DataError, match="it is no TOML in UTF-8"):
        read_event(tmp_path / "event.toml")


def test_the_documented_example_is_read(tmp_path: Path) -> None:
    (text,) = re.findall(r"```toml\n(.*?)```", DOCS, flags=re.DOTALL)
    (tmp_path / "aoi.gpkg").touch()
    event = read_event(write(tmp_path, text))
    assert event.date_from == datetime.date(2018, 9, 6)
    # What is commented out is right, too.
    optional = re.sub(r"^# (\w+ = )", r"\1", text, flags=re.MULTILINE)
    event = read_event(write(tmp_path, optional))
    assert event.images[0].scene == "north"
    assert event.cems.monitoring == 1
    assert event.coolr.sizes_from_m2[-1] == ("large", 100_000.0)


def test_documented_words_are_the_known_ones() -> None:
    assert all(f"`{name}`" in DOCS for name in TRIGGERS)
    assert set(TRIGGERS.values()) <= set(TRIGGERS)
    assert all(words in DOCS for words in PRODUCTS.values())
