from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from contextlib import closing
from datetime import date, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import rasterio
import shapely
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

import tiny
from landslip.geo.bands import SENSORS
from landslip.geo.errors import BandError, DataError, UsageError
from landslip.geo.grid import Window
from landslip.geo.raster import DIGITAL, FileScene, Scene
from landslip.geo.reflectance import (
    AUTO,
    SURFACE,
    TOP_OF_ATMOSPHERE,
    Calibration,
    ReflectanceScene,
    read_calibration,
    sun_distance_au,
)
from landslip.geo.scene import StackedScene, open_scene

COLOURS = ("blue", "green", "red", "nir")
SHAPE = (20, 30)

GE01 = {
    "blue": ("B", 8.919e-3, 0.06, 1.053, -4.537, 1993.18),
    "green": ("G", 7.0945e-3, 0.07, 0.994, -4.175, 1828.83),
    "red": ("R", 5.667901e-3, 0.035, 0.998, -3.754, 1491.49),
    "nir": ("N", 7.987e-3, 0.14, 0.994, -3.870, 1022.58),
}
"""Code, absCalFactor and effectiveBandwidth of a real IMD; then gain, offset (W m-2 sr-1 um-1) and
solar irradiance (W m-2 um-1) of DigitalGlobe's Absolute Radiometric Calibration 2016v0."""


# What providers deliver --------------------------------------------------------------------------


def indented(groups: Mapping[str, Any], depth: int = 0) -> list[str]:
    """Groups as USGS writes them: indented, text in quotation marks, numbers bare."""
    lines = []
    for name, value in groups.items():
        blanks = "  " * depth
        if isinstance(value, Mapping):
            lines += [f"{blanks}GROUP = {name}", *indented(value, depth + 1)]
            lines.append(f"{blanks}END_GROUP = {name}")
        else:
            bare = value.replace(".", "").replace("-", "").replace("E", "").replace("e", "")
            lines.append(f"{blanks}{name} = " + (value if bare.isdigit() else f'"{value}"'))
    return lines


def rescaling(bands: Sequence[int], gain: float, offset: float) -> dict[str, str]:
    """Another gain for every band, so that none is taken for another."""
    gains = {f"REFLECTANCE_MULT_BAND_{band}": f"{gain * (1 + band / 100):.4E}" for band in bands}
    return gains | {f"REFLECTANCE_ADD_BAND_{band}": f"{offset:.6f}" for band in bands}


def level_1(spacecraft: str = "LANDSAT_8", elevation: str = "45.20143215") -> dict[str, Any]:
    return {
        "LANDSAT_METADATA_FILE": {
            "PRODUCT_CONTENTS": {
                "ORIGIN": "Image courtesy of the U.S. Geological Survey",
                "PROCESSING_LEVEL": "L1TP",
                "COLLECTION_NUMBER": "02",
            },
            "IMAGE_ATTRIBUTES": {
                "SPACECRAFT_ID": spacecraft,
                "DATE_ACQUIRED": "2018-08-30",
                "SUN_AZIMUTH": "148.13",
                "SUN_ELEVATION": elevation,
                "EARTH_SUN_DISTANCE": "1.0095",
            },
            "LEVEL1_RADIOMETRIC_RESCALING": {
                **{f"RADIANCE_MULT_BAND_{band}": "1.2866E-02" for band in range(1, 12)},
                **{f"RADIANCE_ADD_BAND_{band}": "-64.32843" for band in range(1, 12)},
                **rescaling(range(1, 10), 2e-5, -0.1),
            },
        }
    }


def level_2() -> dict[str, Any]:
    """The numbers of Level 1 stand in the file too, before and after those of Level 2."""
    file = level_1()["LANDSAT_METADATA_FILE"]
    own = {"LEVEL2_SURFACE_REFLECTANCE_PARAMETERS": rescaling(range(1, 8), 2.75e-5, -0.2)}
    early = {"LEVEL1_MIN_MAX_REFLECTANCE": rescaling([4], 9e-5, -0.9)}
    return {"LANDSAT_METADATA_FILE": {**early, **own, **file}}


def mtl(path: Path, content: Mapping[str, Any]) -> Path:
    if path.suffix == ".json":
        path.write_text(json.dumps(content, indent=2))
    else:
        path.write_text("\n".join([*indented(content), "END", ""]))
    return path


def sentinel_2(path: Path, level: str, offsets: Mapping[int, float] | None) -> Path:
    """MTD_MSIL1C.xml or MTD_MSIL2A.xml; products from before 2022 state no offsets."""
    kind, container = ("RADIO", "Radiometric_Offset_List")
    quantification = '<QUANTIFICATION_VALUE unit="none">10000</QUANTIFICATION_VALUE>'
    if level == "2A":
        kind, container = "BOA", "BOA_ADD_OFFSET_VALUES_LIST"
        quantification = (
            '<QUANTIFICATION_VALUES_LIST><BOA_QUANTIFICATION_VALUE unit="none">10000'
            '</BOA_QUANTIFICATION_VALUE><AOT_QUANTIFICATION_VALUE unit="none">1000.0'
            '</AOT_QUANTIFICATION_VALUE><WVP_QUANTIFICATION_VALUE unit="cm">1000.0'
            "</WVP_QUANTIFICATION_VALUE></QUANTIFICATION_VALUES_LIST>"
        )
    listed = "".join(
        f'<{kind}_ADD_OFFSET band_id="{number}">{value:g}</{kind}_ADD_OFFSET>'
        for number, value in (offsets or {}).items()
    )
    added = f"<{container}>{listed}</{container}>" if offsets else ""
    name = f"n1:Level-{level}_User_Product"
    path.write_text(
        '<?xml version="1.0" encoding="UTF-8" standalone="no"?>\n'
        f'<{name} xmlns:n1="https://psd-14.sentinel2.eo.esa.int/PSD/User_Product_Level-{level}.xsd"'
        f"><n1:General_Info><Product_Info><PROCESSING_BASELINE>04.00</PROCESSING_BASELINE>"
        f"</Product_Info><Product_Image_Characteristics>{quantification}{added}"
        f"</Product_Image_Characteristics></n1:General_Info></{name}>\n"
    )
    return path


def imd(path: Path, satellite: str = "GE01", sun: str = "39.1", more: str = "") -> Path:
    """IMD of a four-band product, with lists and groups as they are delivered."""
    bands = "".join(
        f"BEGIN_GROUP = BAND_{code}\n\tULLon =  130.84324764;\n\tabsCalFactor = {factor:e};\n"
        f"\teffectiveBandwidth = {width:e};\n\tTDILevel = 10;\nEND_GROUP = BAND_{code}\n"
        for code, factor, width, *_ in GE01.values()
    )
    path.write_text(
        'version = "28.3";\ngenerationTime = 2021-08-06T17:01:55.000000Z;\nbandId = "Multi";\n'
        f'bitsPerPixel = 16;\n{bands}outputFormat = "GeoTIFF";\nBEGIN_GROUP = IMAGE_1\n'
        f'\tsatId = "{satellite}";\n\tnumTLC = 2;\n\tTLCList = (\n\t(0,  0.000000),\n'
        "\t(9137, -3.654800)\t);\n\tfirstLineTime = 2021-03-18T02:12:24.150128Z;\n"
        f"\tminSunEl =  39.0;\n\tmeanSunEl =  {sun};\n\tcloudCover = 0.000;\n{more}"
        "END_GROUP = IMAGE_1\nEND;\n"
    )
    return path


def own(path: Path, **content: Any) -> Path:
    path.write_text(json.dumps(content))
    return path


# Scenes ------------------------------------------------------------------------------------------


def numbers(bands: int = 4, high: int = 20_000) -> NDArray[np.uint16]:
    """Digital numbers (C, H, W) from 1."""
    return np.random.default_rng(7).integers(1, high, (bands, *SHAPE)).astype(np.uint16)


def scene_at(path: Path, bands: Sequence[str] = COLOURS, **how: Any) -> Path:
    return tiny.write_scene(path, numbers(len(bands)), bands=bands, **how)


def assert_reflectance(
    scene: StackedScene, lines: Mapping[str, tuple[float, float]], unit: str, sensor: str
) -> None:
    """Every band is `gain * number + offset`, within what float32 can hold."""
    assert scene.bands == tuple(lines)
    raster = scene.read(scene.grid.window, scene.bands)
    assert raster.values.dtype == np.float32
    assert raster.valid.all()
    for plane, stored, (gain, offset) in zip(
        raster.values, numbers(len(lines)), lines.values(), strict=True
    ):
        expected = stored.astype(np.float64) * gain + offset
        np.testing.assert_allclose(plane, expected, rtol=1e-6, atol=2e-7)
    assert (scene.dtype, scene.sensor) == ("float32", sensor)
    assert scene.units == (unit,) * len(lines)


def assert_plain(message: str, path: Path | str, remedy: str) -> None:
    """What cannot be done, with which file, and one thing to do."""
    assert message.startswith("Cannot ")
    assert str(path) in message
    assert remedy in message
    assert message.endswith(".")
    assert "Traceback" not in message


BROKEN = "Use the file that was delivered with the scene"


# Landsat -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["LC08_L1TP_MTL.txt", "LC08_L1TP_MTL.json"])
def test_landsat_8_is_rescaled_and_divided_by_the_sine_of_the_sun(
    tmp_path: Path, name: str
) -> None:
    scene = scene_at(tmp_path / "scene.tif")
    metadata = mtl(tmp_path / name, level_1())
    sine = math.sin(math.radians(45.20143215))
    # Landsat 8: blue is band 2, green 3, red 4, near infrared 5.
    lines = {
        band: (2e-5 * (1 + number / 100) / sine, -0.1 / sine)
        for band, number in zip(COLOURS, (2, 3, 4, 5), strict=True)
    }
    opened = open_scene(scene, reflectance=metadata)
    assert_reflectance(opened, lines, "reflectance", "landsat-8")


@pytest.mark.parametrize("name", ["LC08_L2SP_MTL.txt", "LC08_L2SP_MTL.json"])
def test_level_2_of_landsat_has_its_own_numbers_and_no_sun(tmp_path: Path, name: str) -> None:
    scene = scene_at(tmp_path / "scene.tif")
    metadata = mtl(tmp_path / name, level_2())
    lines = {
        band: (2.75e-5 * (1 + number / 100), -0.2)
        for band, number in zip(COLOURS, (2, 3, 4, 5), strict=True)
    }
    opened = open_scene(scene, reflectance=metadata)
    assert_reflectance(opened, lines, "surface reflectance", "landsat-8")


def test_bands_of_landsat_7_are_those_of_landsat_7(tmp_path: Path) -> None:
    found = read_calibration(mtl(tmp_path / "LE07_MTL.txt", level_1("LANDSAT_7", "90.0")))
    assert found.sensor == "landsat-7"
    assert found.unit == TOP_OF_ATMOSPHERE
    # Landsat 7: band 1 is blue, 4 near infrared, 8 panchromatic.
    for band, number in {"blue": 1, "green": 2, "red": 3, "nir": 4, "swir2": 7, "pan": 8}.items():
        assert found.lines[band] == pytest.approx((2e-5 * (1 + number / 100), -0.1))


def test_thermal_bands_have_no_reflectance(tmp_path: Path) -> None:
    metadata = mtl(tmp_path / "LC08_MTL.txt", level_1())
    assert set(read_calibration(metadata).lines) == set(SENSORS["landsat-8"].values()) - {
        "thermal", "thermal2",
    }  # fmt: skip
    scene = scene_at(tmp_path / "scene.tif", ["red", "thermal"])
    with pytest.raises(BandError) as failure:
        open_scene(scene, reflectance=metadata)
    message = str(failure.value)
    assert_plain(message, metadata, "Correct the names with --bands")
    assert "has no numbers for thermal, only for coastal, blue" in message
    # The remedy works.
    opened = open_scene(scene, bands=["red", "-"], reflectance=metadata)
    assert opened.bands == ("red",)


def test_collection_1_of_landsat_is_read_too(tmp_path: Path) -> None:
    content = {"L1_METADATA_FILE": level_1()["LANDSAT_METADATA_FILE"]}
    found = read_calibration(mtl(tmp_path / "LC08_01_T1_MTL.txt", content))
    again = read_calibration(mtl(tmp_path / "LC08_02_T1_MTL.txt", level_1()))
    assert found.lines == again.lines


# Sentinel-2 --------------------------------------------------------------------------------------


BY_NUMBER = {"B1": 0, "B2": 1, "B3": 2, "B4": 3, "B5": 4, "B6": 5, "B7": 6, "B8": 7, "B8A": 8,
             "B9": 9, "B10": 10, "B11": 11, "B12": 12}  # fmt: skip
"""Band and its band_id."""


@pytest.mark.parametrize(("level", "unit"), [("1C", "reflectance"), ("2A", "surface reflectance")])
@pytest.mark.parametrize("since_2022", [True, False])
def test_sentinel_2_takes_1000_off_since_2022(
    tmp_path: Path, level: str, unit: str, since_2022: bool
) -> None:
    # Never the same offset twice: B8A is counted between B8 and B9.
    offsets = {number: -1000.0 - number for number in range(13)} if since_2022 else None
    metadata = sentinel_2(tmp_path / f"MTD_MSIL{level}.xml", level, offsets)
    codes = [code for code in BY_NUMBER if code != "B10"]
    scene = scene_at(tmp_path / "scene.tif", codes)
    opened = open_scene(scene, sensor="sentinel-2", reflectance=metadata)
    lines = {
        SENSORS["sentinel-2"][code]: (
            1 / 10_000, (-1000 - BY_NUMBER[code]) / 10_000 if since_2022 else 0.0,
        )
        for code in codes
    }  # fmt: skip
    assert_reflectance(opened, lines, unit, "sentinel-2")


# DigitalGlobe ------------------------------------------------------------------------------------


def geoeye_lines() -> dict[str, tuple[float, float]]:
    """``rho = pi d^2 L / (E sin h)`` with ``L = gain * DN * factor / bandwidth + offset``."""
    # 2021-03-18 is 7747 days after 2000-01-01.
    anomaly = math.radians(357.529 + 0.98560028 * 7747)
    distance = 1.00014 - 0.01671 * math.cos(anomaly) - 0.00014 * math.cos(2 * anomaly)
    lines = {}
    for band, (_, factor, width, gain, offset, irradiance) in GE01.items():
        per_radiance = math.pi * distance**2 / (irradiance * math.sin(math.radians(39.1)))
        lines[band] = (gain * factor / width * per_radiance, offset * per_radiance)
    return lines


def test_geoeye_1_follows_the_formula_of_digitalglobe(tmp_path: Path) -> None:
    scene = scene_at(tmp_path / "scene.tif")
    metadata = imd(tmp_path / "21MAR18021224-M1BS.IMD")
    opened = open_scene(scene, reflectance=metadata)
    assert_reflectance(opened, geoeye_lines(), "reflectance", "geoeye-1")
    # Of a sunny day: 500 of 2047 are some ten to thirty per cent.
    for gain, offset in geoeye_lines().values():
        assert 0.03 < 500 * gain + offset < 0.4


@pytest.mark.parametrize(
    ("satellite", "sensor", "red"),
    [
        ("WV02", "worldview-2", (0.952, -2.512, 1538.85)),
        ("WV03", "worldview-3", (0.964, -3.021, 1535.33)),
    ],
)
def test_worldview_has_numbers_of_its_own(
    tmp_path: Path, satellite: str, sensor: str, red: tuple[float, float, float]
) -> None:
    found = read_calibration(imd(tmp_path / "wv.IMD", satellite))
    gain, offset, irradiance = red
    _, factor, width, *_ = GE01["red"]
    distance = sun_distance_au(date(2021, 3, 18))
    scale = math.pi * distance**2 / (irradiance * math.sin(math.radians(39.1)))
    assert found.sensor == sensor
    assert found.lines["red"] == pytest.approx((gain * factor / width * scale, offset * scale))
    # Only the bands that the file holds.
    assert set(found.lines) == set(COLOURS)


def test_worldview_with_eight_bands_names_them_by_their_codes(tmp_path: Path) -> None:
    path = imd(tmp_path / "wv.IMD", "WV02")
    text = path.read_text()
    more = "".join(
        f"BEGIN_GROUP = BAND_{code}\n\tabsCalFactor = 1.0e-02;\n\teffectiveBandwidth = 5.0e-02;\n"
        f"END_GROUP = BAND_{code}\n"
        for code in ("C", "Y", "RE", "N2", "P")
    )
    path.write_text(text.replace("BEGIN_GROUP = BAND_B\n", more + "BEGIN_GROUP = BAND_B\n"))
    assert set(read_calibration(path).lines) == {*SENSORS["worldview-2"].values(), "pan"}


# JSON of our own ---------------------------------------------------------------------------------


GAIN = {"blue": 0.01, "green": 0.02, "red": 0.03, "nir": 0.04}
OFFSET = {"blue": -0.1, "green": 0.0, "red": 0.2}  # nothing said of nir: 0


def test_json_gives_reflectance_as_it_stands(tmp_path: Path) -> None:
    scene = scene_at(tmp_path / "scene.tif")
    metadata = own(tmp_path / "planet.json", gain=GAIN, offset=OFFSET)
    lines = {band: (GAIN[band], OFFSET.get(band, 0.0)) for band in COLOURS}
    assert_reflectance(open_scene(scene, reflectance=metadata), lines, "reflectance", "")


def test_json_with_the_sun_is_divided_by_its_sine(tmp_path: Path) -> None:
    scene = scene_at(tmp_path / "scene.tif")
    metadata = own(
        tmp_path / "planet.json", gain=GAIN, offset=OFFSET, sun_elevation_deg=30,
        sensor="planetscope",
    )  # fmt: skip
    # The sine of 30 degrees is a half.
    lines = {band: (2 * GAIN[band], 2 * OFFSET.get(band, 0.0)) for band in COLOURS}
    opened = open_scene(scene, reflectance=metadata)
    assert_reflectance(opened, lines, "reflectance", "planetscope")


def test_json_with_irradiance_is_radiance(tmp_path: Path) -> None:
    scene = scene_at(tmp_path / "scene.tif")
    metadata = own(
        tmp_path / "geoeye.json", sensor="geoeye-1", date="2021-03-18", sun_elevation_deg=39.1,
        gain={band: gain * factor / width for band, (_, factor, width, gain, *_) in GE01.items()},
        offset={band: line[4] for band, line in GE01.items()},
        solar_irradiance={band: line[5] for band, line in GE01.items()},
    )  # fmt: skip
    opened = open_scene(scene, reflectance=metadata)
    assert_reflectance(opened, geoeye_lines(), "reflectance", "geoeye-1")
    # The same as the provider's own file says.
    found, delivered = read_calibration(metadata), read_calibration(imd(tmp_path / "a.IMD"))
    for band in COLOURS:
        assert found.lines[band] == pytest.approx(delivered.lines[band], rel=1e-12)


def test_json_may_say_that_the_atmosphere_was_corrected_for(tmp_path: Path) -> None:
    metadata = own(tmp_path / "a.json", gain={"R": 1e-4, "Near Infrared": 2e-4}, unit=SURFACE)
    found = read_calibration(metadata)
    assert found.unit == "surface reflectance"
    # Names are read as everywhere.
    assert found.lines == {"red": (1e-4, 0.0), "nir": (2e-4, 0.0)}


def test_json_may_number_its_bands_by_the_sensor(tmp_path: Path) -> None:
    metadata = own(tmp_path / "a.json", sensor="landsat-8", gain={"B4": 1e-4, "B5": 2e-4})
    assert read_calibration(metadata).lines == {"red": (1e-4, 0.0), "nir": (2e-4, 0.0)}


def test_json_with_an_offset_of_another_name_is_not_read_without_it(tmp_path: Path) -> None:
    metadata = own(tmp_path / "a.json", gain={"red": 1e-4}, offset={"Red": -0.1})
    try:
        found = read_calibration(metadata)
    except DataError as error:
        assert_plain(str(error), metadata, "")
    else:
        assert found.lines["red"] == (1e-4, -0.1)


def test_json_may_begin_with_a_byte_order_mark(tmp_path: Path) -> None:
    metadata = tmp_path / "a.json"
    metadata.write_text(json.dumps({"gain": GAIN}), encoding="utf-8-sig")
    assert set(read_calibration(metadata).lines) == set(COLOURS)


# Looking for metadata ----------------------------------------------------------------------------


def test_auto_finds_the_one_file_beside_the_scene(tmp_path: Path) -> None:
    scene = scene_at(tmp_path / "scene.tif")
    (tmp_path / "notes.txt").write_text("GROUP = 1")
    (tmp_path / "other.json").write_text("{}")
    imd(tmp_path / "M1BS.IMD")
    opened = open_scene(scene, reflectance=AUTO)
    assert_reflectance(opened, geoeye_lines(), "reflectance", "geoeye-1")
    record = opened.sources[-1].record()
    assert (record["role"], record["path"]) == ("reflectance", str(tmp_path / "M1BS.IMD"))
    assert record["sha256"]


@pytest.mark.parametrize(
    "name", ["A_MTL.txt", "A_MTL.json", "MTD_MSIL1C.xml", "a.IMD", "a.imd", "reflectance.json"]
)
def test_auto_knows_the_names_of_all_kinds(tmp_path: Path, name: str) -> None:
    scene = scene_at(tmp_path / "scene.tif")
    if name.endswith("xml"):
        sentinel_2(tmp_path / name, "1C", None)
    elif name.lower().endswith("imd"):
        imd(tmp_path / name)
    elif "MTL" in name:
        mtl(tmp_path / name, level_1())
    else:
        own(tmp_path / name, gain=GAIN)
    assert open_scene(scene, reflectance="auto").units == (TOP_OF_ATMOSPHERE,) * 4


def test_auto_does_not_choose_between_several(tmp_path: Path) -> None:
    scene = scene_at(tmp_path / "scene.tif")
    imd(tmp_path / "P1BS.IMD")
    imd(tmp_path / "M1BS.IMD")
    with pytest.raises(DataError) as failure:
        open_scene(scene, reflectance="auto")
    assert_plain(str(failure.value), scene, "Name one with --reflectance.")
    assert "(M1BS.IMD, P1BS.IMD)" in str(failure.value)
    open_scene(scene, reflectance=tmp_path / "M1BS.IMD")


def test_auto_reads_a_folder_as_usgs_delivers_it(tmp_path: Path) -> None:
    scene = scene_at(tmp_path / "scene.tif")
    for ending in ("txt", "json"):
        mtl(tmp_path / f"LC08_L1TP_106030_20180830_20200831_02_T1_MTL.{ending}", level_1())
    assert open_scene(scene, reflectance="auto").sensor == "landsat-8"


def test_auto_says_where_it_looked(tmp_path: Path) -> None:
    scene = scene_at(tmp_path / "scene.tif")
    with pytest.raises(DataError) as failure:
        open_scene(scene, reflectance="auto")
    assert_plain(str(failure.value), scene, "Name the metadata with --reflectance FILE.")
    assert "*_MTL.txt" in str(failure.value)


def stored_scale(scene: Path, scales: Sequence[float], offsets: Sequence[float]) -> None:
    with rasterio.open(scene, "r+") as file:
        file.scales, file.offsets = scales, offsets
        file.update_tags(LANDSLIP_SENSOR="sentinel-2")


def test_auto_takes_scale_and_offset_of_the_file(tmp_path: Path) -> None:
    scene = scene_at(tmp_path / "scene.tif")
    stored_scale(scene, (1e-4, 2e-4, 3e-4, 4e-4), (-0.1, 0.0, 0.1, 0.2))
    opened = open_scene(scene, reflectance="auto")
    lines = {"blue": (1e-4, -0.1), "green": (2e-4, 0), "red": (3e-4, 0.1), "nir": (4e-4, 0.2)}
    assert_reflectance(opened, lines, "reflectance", "sentinel-2")
    assert opened.sources[-1].path == str(scene)
    # Without being asked, the numbers stay as they are.
    plain = open_scene(scene)
    np.testing.assert_array_equal(plain.read(plain.grid.window, COLOURS).values, numbers())
    assert plain.units == (DIGITAL,) * 4


def test_auto_wants_the_scale_of_every_band(tmp_path: Path) -> None:
    scene = scene_at(tmp_path / "scene.tif")
    stored_scale(scene, (1e-4, 1e-4, 1e-4, 1.0), (0.0, 0.0, 0.0, 0.0))
    with pytest.raises(DataError, match="nir"):
        open_scene(scene, reflectance="auto")


def test_metadata_beside_the_scene_go_before_scale_and_offset(tmp_path: Path) -> None:
    scene = scene_at(tmp_path / "scene.tif")
    stored_scale(scene, (1e-4,) * 4, (0.0,) * 4)
    metadata = own(tmp_path / "reflectance.json", gain=GAIN, offset=OFFSET)
    opened = open_scene(scene, reflectance="auto")
    assert opened.sources[-1].path == str(metadata)


# What cannot be used -----------------------------------------------------------------------------


def test_satellites_that_are_not_known(tmp_path: Path) -> None:
    path = imd(tmp_path / "quickbird.IMD", "QB02")
    with pytest.raises(DataError) as failure:
        read_calibration(path)
    assert_plain(str(failure.value), path, "Write gain and offset into a JSON file")
    assert "for QB02, only for GE01, WV02, WV03" in str(failure.value)
    path = mtl(tmp_path / "LT04_MTL.txt", level_1("LANDSAT_4"))
    with pytest.raises(DataError) as failure:
        read_calibration(path)
    assert_plain(str(failure.value), path, "gain and offset into a JSON file")
    assert "landsat-4" in str(failure.value)


def test_damaged_files(tmp_path: Path) -> None:
    xml = sentinel_2(tmp_path / "MTD_MSIL1C.xml", "1C", None)
    plain_json = own(tmp_path / "reflectance.json", gain=GAIN)
    landsat = mtl(tmp_path / "A_MTL.json", level_1())
    for path in (xml, plain_json, landsat):
        path.write_text(path.read_text()[:-20])
        with pytest.raises(DataError) as failure:
            read_calibration(path)
        assert_plain(str(failure.value), path, BROKEN)
        assert "it is damaged" in str(failure.value)


@pytest.mark.parametrize(
    ("line", "missing"),
    [
        ("SPACECRAFT_ID", "SPACECRAFT_ID"),
        ("SUN_ELEVATION", "SUN_ELEVATION"),
        ("REFLECTANCE_ADD_BAND_4", "REFLECTANCE_ADD_BAND_4"),
        ("REFLECTANCE_", "REFLECTANCE_MULT_BAND_1"),
    ],
)
def test_lines_that_landsat_lacks(tmp_path: Path, line: str, missing: str) -> None:
    path = mtl(tmp_path / "A_MTL.txt", level_1())
    kept = [text for text in path.read_text().splitlines() if line not in text]
    path.write_text("\n".join(kept))
    with pytest.raises(DataError) as failure:
        read_calibration(path)
    assert_plain(str(failure.value), path, BROKEN)
    assert f"'{missing}' is missing" in str(failure.value)


@pytest.mark.parametrize(
    ("line", "missing"),
    [
        ("absCalFactor", "absCalFactor"),
        ("effectiveBandwidth", "effectiveBandwidth"),
        ("satId", "satId"),
        ("meanSunEl", "sunEl"),
        ("firstLineTime", "TLCTime"),
        ("GROUP = BAND_", "BAND_B"),
    ],
)
def test_lines_that_an_imd_lacks(tmp_path: Path, line: str, missing: str) -> None:
    path = imd(tmp_path / "a.IMD")
    kept = [text for text in path.read_text().splitlines() if line not in text]
    path.write_text("\n".join(kept))
    with pytest.raises(DataError) as failure:
        read_calibration(path)
    assert_plain(str(failure.value), path, BROKEN)
    assert f"'{missing}' is missing" in str(failure.value)


def test_xml_of_something_else(tmp_path: Path) -> None:
    path = tmp_path / "scene.tif.aux.xml"
    path.write_text("<PAMDataset><Metadata/></PAMDataset>")
    with pytest.raises(DataError) as failure:
        read_calibration(path)
    assert_plain(str(failure.value), path, BROKEN)
    assert "'QUANTIFICATION_VALUE' is missing" in str(failure.value)


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ({}, "'gain' is missing"),
        ({"gain": {}}, "no band"),
        ({"gain": {"red": 0}}, "above 0"),
        ({"gain": {"red": -1}}, "above 0"),
        ({"gain": {"red": math.nan}}, "above 0"),
        ({"gain": {"red": math.inf}}, "finite"),
        ({"gain": {"red": 1}, "offset": {"red": math.nan}}, "finite"),
        ({"gain": [1, 2]}, "says what cannot be used"),
        ({"gain": {"red": "bright"}}, "bright"),
        ({"gain": {"red": 1}, "unit": "percent"}, "unit is 'percent', expected 'reflectance' or"),
        ({"gain": {"red": 1}, "sun_elevation_deg": 91}, "expected above 0 up to 90"),
        ({"gain": {"red": 1}, "sun_elevation_deg": math.nan}, "expected above 0 up to 90"),
        (
            {"gain": {"red": 1}, "solar_irradiance": {"red": 1500}, "sun_elevation_deg": 30},
            "'date' is missing",
        ),
        (
            {"gain": {"red": 1}, "solar_irradiance": {"red": 1500}, "date": "2020-01-01"},
            "'sun_elevation_deg' is missing",
        ),
        (
            {"gain": {"red": 1}, "solar_irradiance": {"nir": 1000}, "date": "2020-01-01",
             "sun_elevation_deg": 30},
            "'red' is missing",
        ),
        (
            {"gain": {"red": 1}, "solar_irradiance": {"red": 1500}, "date": "22 July 2013",
             "sun_elevation_deg": 30},
            "22 July 2013",
        ),
    ],
)  # fmt: skip
def test_numbers_that_our_json_lacks(tmp_path: Path, content: dict[str, Any], said: str) -> None:
    path = own(tmp_path / "reflectance.json", **content)
    with pytest.raises(DataError) as failure:
        read_calibration(path)
    assert_plain(str(failure.value), path, BROKEN)
    assert said in str(failure.value)


@pytest.mark.parametrize("kind", ["json", "imd", "sentinel-2"])
def test_zeros_where_something_is_divided_by_them(tmp_path: Path, kind: str) -> None:
    if kind == "json":
        path = own(
            tmp_path / "a.json", gain={"red": 1}, solar_irradiance={"red": 0}, date="2020-01-01",
            sun_elevation_deg=30,
        )  # fmt: skip
    elif kind == "imd":
        path = imd(tmp_path / "a.IMD")
        path.write_text(
            path.read_text().replace("effectiveBandwidth = 3.5", "effectiveBandwidth = 0.0")
        )
    else:
        path = sentinel_2(tmp_path / "MTD_MSIL1C.xml", "1C", None)
        path.write_text(path.read_text().replace("10000", "0"))
    with pytest.raises(DataError) as failure:
        read_calibration(path)
    assert_plain(str(failure.value), path, BROKEN)


def test_no_reflectance_by_night(tmp_path: Path) -> None:
    paths = [
        mtl(tmp_path / "A_MTL.txt", level_1(elevation="-12.5")),
        mtl(tmp_path / "B_MTL.json", level_1(elevation="-12.5")),
        imd(tmp_path / "a.IMD", sun="-12.5"),
        own(tmp_path / "reflectance.json", gain=GAIN, sun_elevation_deg=-12.5),
    ]
    for path in paths:
        with pytest.raises(DataError) as failure:
            read_calibration(path)
        assert_plain(str(failure.value), path, "or write gain and offset into a JSON file")
        assert "sun's elevation is -12.5 degrees, expected above 0" in str(failure.value)
    # Without the sun, nothing is asked of it.
    night = level_2()
    night["LANDSAT_METADATA_FILE"]["IMAGE_ATTRIBUTES"]["SUN_ELEVATION"] = "-12.5"
    assert read_calibration(mtl(tmp_path / "C_MTL.txt", night)).unit == SURFACE


def test_files_that_hold_no_metadata(tmp_path: Path) -> None:
    text = tmp_path / "readme.txt"
    text.write_text("Thank you for your order.")
    for path, remedy in (
        (text, "Name the file that was delivered with the scene"),
        (tmp_path / "missing.IMD", "Check its name and folder"),
        (tmp_path, "Check its name and folder"),
    ):
        with pytest.raises(DataError) as failure:
            read_calibration(path)
        assert_plain(str(failure.value), path, remedy)


def test_bands_that_the_metadata_do_not_name(tmp_path: Path) -> None:
    scene = scene_at(tmp_path / "scene.tif")
    metadata = own(tmp_path / "reflectance.json", gain={"red": 1e-4, "green": 1e-4})
    with pytest.raises(BandError) as failure:
        open_scene(scene, reflectance=metadata)
    assert_plain(str(failure.value), metadata, "Correct the names with --bands")
    assert "no numbers for blue, nir, only for red, green" in str(failure.value)


def test_a_sensor_that_the_metadata_contradict(tmp_path: Path) -> None:
    scene = scene_at(tmp_path / "scene.tif")
    metadata = imd(tmp_path / "a.IMD")
    with pytest.raises(UsageError) as failure:
        open_scene(scene, sensor="worldview-2", reflectance=metadata)
    assert_plain(str(failure.value), metadata, "Correct one of the two.")
    assert "--sensor says worldview-2" in str(failure.value)
    assert "says geoeye-1" in str(failure.value)
    assert open_scene(scene, sensor="geoeye-1", reflectance=metadata).sensor == "geoeye-1"
    # JSON without a sensor contradicts nobody.
    silent = own(tmp_path / "silent.json", gain=GAIN)
    assert open_scene(scene, sensor="worldview-2", reflectance=silent).sensor == "worldview-2"


def test_the_command_line_says_it_in_one_line(tmp_path: Path) -> None:
    scene = scene_at(tmp_path / "scene.tif")
    done = tiny.landslip("check", scene, "--reflectance", "auto")
    assert done.code == 1
    assert_plain(done.message, scene, "Name the metadata with --reflectance FILE.")
    metadata = imd(tmp_path / "a.IMD")
    done = tiny.landslip("check", scene, "--reflectance", metadata, "--sensor", "landsat-8")
    assert done.code == 2
    assert_plain(done.message, metadata, "Correct one of the two.")
    done = tiny.landslip("check", scene, "--reflectance", "auto", "--json")
    assert (done.code, done.err) == (0, "")
    found = json.loads(done.out)
    assert f"reflectance: {metadata}" in found["files"]
    assert found["types"] == ["float32"] * 4


# The scene ---------------------------------------------------------------------------------------


@pytest.fixture
def calibrated(tmp_path: Path) -> StackedScene:
    """Blue, green, red, nir as reflectance; nodata at rows 0-3, columns 0-4."""
    values = numbers(high=5000)
    values[:, :4, :5] = 0
    scene = tiny.write_scene(tmp_path / "scene.tif", values, bands=COLOURS, nodata=0)
    metadata = own(
        tmp_path / "reflectance.json", sensor="geoeye-1", offset=dict.fromkeys(COLOURS, 0.05),
        gain=dict.fromkeys(COLOURS, 1e-4),
    )  # fmt: skip
    return open_scene(scene, reflectance=metadata)


def test_indices_are_those_of_reflectance(tmp_path: Path, calibrated: StackedScene) -> None:
    raster = calibrated.read(calibrated.grid.window, ["evi", "nir", "ndvi"])
    blue, _, red, nir = numbers(high=5000).astype(np.float64) * 1e-4 + 0.05
    valid = np.ones(SHAPE, dtype=bool)
    valid[:4, :5] = False
    np.testing.assert_array_equal(raster.valid, valid)
    # Where the denominator is near 0, float32 cannot hold the index.
    denominator = nir + 6 * red - 7.5 * blue + 1
    sound = valid & (np.abs(denominator) > 0.1)
    evi = 2.5 * (nir - red) / denominator
    np.testing.assert_allclose(raster.values[0][sound], evi[sound], rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(raster.values[1][valid], nir[valid], rtol=1e-6)
    ndvi = (nir - red) / (nir + red)
    np.testing.assert_allclose(raster.values[2][valid], ndvi[valid], rtol=1e-4, atol=1e-6)
    # Of digital numbers there is no evi.
    plain = open_scene(tmp_path / "scene.tif")
    with pytest.raises(BandError, match="its constants are for reflectances"):
        plain.read(plain.grid.window, ["evi"])


def test_nodata_stay_invalid_and_zero(calibrated: StackedScene) -> None:
    # The offset must not lift nodata to a reflectance.
    raster = calibrated.read(calibrated.grid.window, COLOURS)
    assert not raster.valid[:4, :5].any()
    assert raster.valid.sum() == SHAPE[0] * SHAPE[1] - 20
    assert (raster.values[:, :4, :5] == 0).all()
    assert (raster.values[:, raster.valid] >= 0.05).all()


def test_any_scene_can_be_calibrated(tmp_path: Path) -> None:
    values = numbers()
    values[:, :4, :5] = 0
    path = tiny.write_scene(tmp_path / "scene.tif", values, bands=COLOURS, nodata=0)
    calibration = read_calibration(imd(tmp_path / "a.IMD"))
    with closing(ReflectanceScene(FileScene.open(path), calibration)) as scene:
        assert isinstance(scene, Scene)
        assert (scene.dtype, scene.sensor, scene.units) == (
            "float32", "geoeye-1", (TOP_OF_ATMOSPHERE,) * 4,
        )  # fmt: skip
        window = Window(2, 3, 7, 11)
        raster = scene.read(window, ["red", "blue"])
        for plane, band in zip(raster.values, ("red", "blue"), strict=True):
            gain, offset = geoeye_lines()[band]
            expected = values[COLOURS.index(band)][window.slices] * gain + offset
            expected[:2, :2] = 0
            np.testing.assert_allclose(plane, expected, rtol=1e-6, atol=2e-7)
        assert raster.valid.sum() == 7 * 11 - 4
        assert raster.grid == scene.grid.crop(window)
        whole = scene.read(scene.grid.window, COLOURS)
        assert not whole.values[:, :4, :5].any()
    silent = Calibration(calibration.lines, SURFACE, "", "somewhere")
    assert ReflectanceScene(scene, silent).sensor == "geoeye-1"


def test_a_band_is_valid_where_it_is_whatever_others_lack(tmp_path: Path) -> None:
    values = numbers()
    values[3, :, 25:] = 0  # nodata in nir only
    path = tiny.write_scene(tmp_path / "scene.tif", values, bands=COLOURS, nodata=0)
    metadata = own(tmp_path / "reflectance.json", gain=GAIN)
    plain, scene = open_scene(path), open_scene(path, reflectance=metadata)
    for bands in (["red"], ["nir"], ["nir", "red"], ["ndvi"], ["brightness"], list(COLOURS)):
        expected = plain.read(plain.grid.window, bands).valid
        np.testing.assert_array_equal(scene.read(scene.grid.window, bands).valid, expected)


@pytest.mark.parametrize(
    "bands", [list(COLOURS), ["nir"], ["red", "blue"], ["ndvi", "evi", "green"]]
)
def test_a_window_is_the_crop_of_the_whole(calibrated: StackedScene, bands: list[str]) -> None:
    whole = calibrated.read(calibrated.grid.window, bands)
    for window in (Window(0, 0, 1, 1), Window(2, 3, 7, 11), Window(13, 0, 7, 30)):
        part = calibrated.read(window, bands)
        rows, cols = window.slices
        np.testing.assert_array_equal(part.values, whole.values[:, rows, cols])
        np.testing.assert_array_equal(part.valid, whole.valid[rows, cols])
        assert part.grid == calibrated.grid.crop(window)
        assert part.bands == tuple(bands)


def test_units_and_sensor_are_those_of_every_part(tmp_path: Path) -> None:
    scene = scene_at(tmp_path / "scene.tif")
    dem = tiny.write_scene(
        tmp_path / "dem.tif", np.linspace(0, 50, 600, dtype=np.float32).reshape(1, *SHAPE),
        bands=["elevation"],
    )  # fmt: skip
    extra = tiny.write_scene(tmp_path / "extra.tif", numbers(1), bands=["roughness"])
    with rasterio.open(extra, "r+") as file:
        file.units = ("mm",)
    west = tiny.write_inventory(tmp_path / "west.gpkg", [(0, 0, 20, 10)])
    opened = open_scene(
        scene, reflectance=imd(tmp_path / "a.IMD"), dem=dem, add=[f"{extra}:roughness"], aoi=west
    )
    assert opened.bands == (*COLOURS, "roughness", "elevation", "slope")
    assert opened.units == ("reflectance",) * 4 + ("mm", "m", "deg")
    assert opened.sensor == "geoeye-1"
    whole = opened.whole()
    assert (whole.units, whole.sensor, whole.bands) == (opened.units, "geoeye-1", opened.bands)
    assert [source.role for source in opened.sources] == [
        "scene", "reflectance", "add", "dem", "aoi",
    ]  # fmt: skip
    opened.close()


def test_unusable_ground_is_left_out_of_reflectance_too(tmp_path: Path) -> None:
    scene = scene_at(tmp_path / "scene.tif")
    cloud = tiny.write_inventory(
        tmp_path / "cloud.gpkg",
        shapes=[shapely.union(tiny.box_at((0, 0, 5, 5)), tiny.box_at((9, 9, 3, 4)))],
    )
    metadata = own(tmp_path / "reflectance.json", gain=GAIN, offset=OFFSET)
    opened = open_scene(scene, reflectance=metadata, unusable=cloud)
    raster = opened.read(opened.grid.window, COLOURS)
    assert (~raster.valid).sum() == 25 + 12
    assert (raster.values[:, ~raster.valid] == 0).all()


# The sun -----------------------------------------------------------------------------------------


def test_the_sun_is_as_far_as_almanacs_say() -> None:
    # USNO: perihelion 147,091,144 km on 2020-01-05, aphelion 152,104,285 km on 2019-07-04.
    astronomical_unit_km = 149_597_870.7
    assert sun_distance_au(date(2020, 1, 5)) * astronomical_unit_km == pytest.approx(
        147_091_144, rel=1e-4
    )
    assert sun_distance_au(date(2019, 7, 4)) * astronomical_unit_km == pytest.approx(
        152_104_285, rel=1e-4
    )
    assert sun_distance_au(date(2013, 1, 3)) == pytest.approx(0.9833, abs=1e-4)
    assert sun_distance_au(date(2013, 7, 4)) == pytest.approx(1.0167, abs=1e-4)
    assert sun_distance_au(date(2018, 4, 4)) == pytest.approx(1.0, abs=5e-4)


@given(st.dates(date(1972, 7, 23), date(2060, 1, 1)))
def test_the_sun_comes_back_every_year(day: date) -> None:
    distance = sun_distance_au(day)
    assert 0.9831 < distance < 1.0169
    # Steps of a day are small, and a year later all is as before, within a day's step.
    assert abs(sun_distance_au(day + timedelta(days=1)) - distance) < 3e-4
    assert sun_distance_au(day + timedelta(days=1461)) == pytest.approx(distance, abs=1e-4)


def test_zero_is_no_data_where_the_file_declares_none(tmp_path: Path) -> None:
    values = numbers()
    values[:, :4, :5] = 0
    metadata = own(tmp_path / "reflectance.json", gain=GAIN, offset=dict.fromkeys(GAIN, -0.1))
    for name, nodata in (("undeclared.tif", None), ("declared.tif", 0)):
        path = tiny.write_scene(tmp_path / name, values, bands=COLOURS, nodata=nodata)
        scene = open_scene(path, reflectance=metadata)
        raster = scene.read(scene.grid.window, scene.bands)
        assert not raster.valid[:4, :5].any()
        assert raster.valid.sum() == raster.valid.size - 20
        scene.close()
    # Where another value is declared, 0 is a number like others.
    path = tiny.write_scene(tmp_path / "other.tif", values, bands=COLOURS, nodata=65535)
    scene = open_scene(path, reflectance=metadata)
    assert scene.read(scene.grid.window, scene.bands).valid.all()
    scene.close()


def test_a_file_that_knows_its_sensor_contradicts_other_metadata(tmp_path: Path) -> None:
    path = tiny.write_scene(tmp_path / "scene.tif", numbers(), bands=COLOURS)
    with rasterio.open(path, "r+") as file:
        file.update_tags(LANDSLIP_SENSOR="worldview-2")
    with pytest.raises(UsageError, match=r"scene.tif says worldview-2, .*a.IMD says geoeye-1"):
        open_scene(path, reflectance=imd(tmp_path / "a.IMD"))


def test_auto_takes_the_metadata_with_the_name_of_the_scene(tmp_path: Path) -> None:
    path = tiny.write_scene(tmp_path / "bands.tif", numbers(), bands=COLOURS)
    imd(tmp_path / "bands.IMD")
    imd(tmp_path / "pan.IMD")
    scene = open_scene(path, reflectance="auto")
    assert scene.sources[-1].path == str(tmp_path / "bands.IMD")
