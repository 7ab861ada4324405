import csv
import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import geopandas as gpd
import numpy as np
import pandas as pd
import pyogrio
import pytest
import shapely

from landslip.deliver import forms, shapefile
from landslip.deliver.export import Exported, export_inventory
from landslip.deliver.schemas import CEMS, COOLR, Field
from landslip.geo.errors import (
    DataError,
    InventoryError,
    LandslipError,
    MissingExtraError,
    OutputError,
    UsageError,
)

DOCS = (Path(__file__).parent.parent / "docs" / "delivery.md").read_text(encoding="utf-8")
UTM = "EPSG:32654"
WEST, NORTH = 400_000.0, 4_700_000.0
EVENT = """
name = "Iburi 胆振"
code = "2018-IBURI"
date_from = 2018-09-06
date_to = 2018-09-06
trigger = "earthquake"
country = "Japan"
place = "Atsuma"
author = "A. Nyone"
licence = "CC-BY-4.0"
[[images]]
name = "PlanetScope"
date = 2018-09-11
time = 01:20:03
resolution_m = 3.0
[cems]
activation = "EMSR123"
aoi = 2
locality = "Atsuma"
"""
HOLE = shapely.Polygon(
    [(0, 0), (60, 0), (60, 40), (0, 40)], [[(10, 10), (20, 10), (20, 20), (10, 20)]]
)
SHAPES = (
    HOLE,
    shapely.box(100, 0, 130, 30),
    shapely.box(200, 0, 240, 50),
    shapely.box(0, 99, 9, 108),
)
"""In metres east and north of (WEST, NORTH)."""
KEPT = [3, 8, 21]
"""Ids that are not rejected."""


def placed(shape: shapely.Geometry) -> shapely.Geometry:
    return shapely.transform(shape, lambda xy: xy + np.array([WEST, NORTH]))


def landslides() -> gpd.GeoDataFrame:
    columns = {
        "id": [3, 8, 13, 21],
        "parent_id": pd.array([None, 1, 1, None], dtype="Int64"),
        "area_m2": [2300.0, 900.0, 2000.0, 81.0],
        "probability_mean": [0.8312, 0.61, 0.5, np.nan],
        "probability_class": ["high", "low", "low", None],
        "touches_edge": [True, False, False, True],
        "touches_unobserved": ["no data", "", "", ""],
        "distance_to_river_m": [12.5, 0.0, 3.0, 4.0],
        "distance_to_road_m": [2.5, 1.0, 3.0, 4.0],
        "pixel_size_m": [3.0] * 4,
        "status": ["accepted", "unreviewed", "Rejected ", None],
        "comment": ["Erdrutsch bei 厚真町 & <x>", "厚" * 120, None, ""],
    }
    shapes = [placed(shape) for shape in SHAPES]
    return gpd.GeoDataFrame(columns, geometry=shapes, crs=UTM)


def ground() -> dict[str, gpd.GeoDataFrame]:
    cloud = shapely.box(150, 0, 180, 30)
    seen = shapely.box(-50, -50, 300, 150) - cloud
    rows = [("unusable", cloud), ("outside the area of interest", shapely.box(300, 0, 400, 9))]
    return {
        "observed": gpd.GeoDataFrame(
            {"area_m2": [seen.area]}, geometry=[placed(seen)], crs=UTM
        ),
        "not_observed": gpd.GeoDataFrame(
            {"reason": [reason for reason, _ in rows]},
            geometry=[placed(shape) for _, shape in rows],
            crs=UTM,
        ),
    }  # fmt: skip


def write(folder: Path, layers: Mapping[str, gpd.GeoDataFrame]) -> Path:
    folder.mkdir(exist_ok=True)
    for layer, frame in layers.items():
        pyogrio.write_dataframe(
            frame, folder / "landslides.gpkg", layer=layer, driver="GPKG",
            append=(folder / "landslides.gpkg").exists(), geometry_type="MultiPolygon",
            promote_to_multi=True,
        )  # fmt: skip
    return folder


@pytest.fixture
def source(tmp_path: Path) -> Path:
    """Folder of a map with four landslides, one of them rejected, and what was observed."""
    return write(tmp_path / "map", {"landslides": landslides(), **ground()})


@pytest.fixture
def event(tmp_path: Path) -> Path:
    path = tmp_path / "event.toml"
    path.write_text(EVENT, encoding="utf-8")
    return path


def expected(crs: str = UTM) -> gpd.GeoDataFrame:
    frame = landslides()
    frame = frame[frame["id"].isin(KEPT)].reset_index(drop=True)
    return frame.to_crs(crs)


def texts(values: pd.Series) -> list[Any]:
    return [None if pd.isna(value) else value for value in values]


def require_equal(found: gpd.GeoDataFrame, wanted: gpd.GeoDataFrame, tolerance: float) -> None:
    """Same rows in the same order: ids, values of all columns, geometry."""
    assert found["id"].tolist() == wanted["id"].tolist() == KEPT
    for name in wanted.columns.drop("geometry"):
        if wanted[name].dtype.kind in "fiub" or str(wanted[name].dtype) == "Int64":
            np.testing.assert_array_equal(
                found[name].astype(float), wanted[name].astype(float), err_msg=name
            )
        else:
            assert texts(found[name]) == texts(wanted[name]), name
    for shape, same in zip(found.geometry, wanted.geometry, strict=True):
        assert shape.is_valid
        apart = shapely.hausdorff_distance(shapely.normalize(shape), shapely.normalize(same))
        assert apart <= tolerance
        assert sum(len(part.interiors) for part in shapely.get_parts(shape)) == sum(
            len(part.interiors) for part in shapely.get_parts(same)
        )


def content(path: Path) -> bytes:
    return path.read_bytes()


def test_geopackage_keeps_all_but_what_was_rejected(source: Path, tmp_path: Path) -> None:
    before = content(source / "landslides.gpkg")
    result = export_inventory(source, tmp_path / "out.gpkg", form="gpkg")
    assert result == Exported(
        tmp_path / "out.gpkg", (tmp_path / "out.gpkg",), 3, 1,
        ("2 of 3 landslides were not reviewed",),
    )  # fmt: skip
    assert result.text == f"3 landslides, 1 rejected ones left out: {tmp_path / 'out.gpkg'}"
    found = gpd.read_file(result.out, layer="landslides")
    require_equal(found, expected(), 0.0)
    assert found.crs == UTM
    info = pyogrio.read_info(result.out, layer="landslides")
    kinds = dict(zip(info["fields"], info["ogr_types"], strict=True))
    subtypes = dict(zip(info["fields"], info["ogr_subtypes"], strict=True))
    assert kinds["id"] == kinds["parent_id"] == "OFTInteger64"
    assert subtypes["touches_edge"] == "OFSTBoolean"
    for layer, frame in ground().items():
        same = gpd.read_file(result.out, layer=layer)
        assert all(shapely.equals(same.geometry, frame.geometry))
    assert content(source / "landslides.gpkg") == before


def test_geopackage_keeps_styles_and_leaves_dropped_ones(source: Path, tmp_path: Path) -> None:
    from landslip.geo.styles import add_styles

    gpkg = source / "landslides.gpkg"
    write(source, {"dropped": landslides()})
    styles = {"by status": "<qgis>1</qgis>", "by class": "<qgis>2</qgis>"}
    add_styles(gpkg, {"landslides": styles, "dropped": styles})
    out = export_inventory(gpkg, tmp_path / "out.gpkg", form="gpkg").out
    found = pyogrio.read_dataframe(out, layer="layer_styles", read_geometry=False)
    assert found["f_table_name"].tolist() == ["landslides"] * 2
    assert found["styleName"].tolist() == ["by status", "by class"]
    assert found["useAsDefault"].tolist() == [True, False]
    assert "dropped" not in [name for name, _ in pyogrio.list_layers(out)]


def test_geojson_follows_rfc_7946(source: Path, tmp_path: Path) -> None:
    out = export_inventory(source, tmp_path / "out.geojson", form="geojson").out
    require_equal(gpd.read_file(out), expected("EPSG:4326"), 1e-7)
    read = json.loads(out.read_text(encoding="utf-8"))
    assert "crs" not in read
    assert [feature["id"] for feature in read["features"]] == KEPT
    assert [feature["properties"]["id"] for feature in read["features"]] == KEPT
    assert set(read["features"][0]["properties"]) == set(landslides().columns) - {"geometry"}
    assert read["features"][0]["properties"]["touches_edge"] is True
    assert read["features"][0]["properties"]["parent_id"] is None
    rings = read["features"][0]["geometry"]["coordinates"][0]
    assert shapely.LinearRing(rings[0]).is_ccw
    assert not shapely.LinearRing(rings[1]).is_ccw
    decimals = re.findall(r"1[34]\d\.(\d+)", out.read_text(encoding="utf-8"))
    assert max(len(each) for each in decimals) == 7


def test_kml_names_landslides_by_their_id(source: Path, event: Path, tmp_path: Path) -> None:
    out = export_inventory(source, tmp_path / "out.kml", form="kml", event=event).out
    found = gpd.read_file(out)
    assert found["Name"].tolist() == [f"Landslide {number}" for number in KEPT]
    assert found["id"].tolist() == [f"landslide-{number}" for number in KEPT]
    found = found.assign(id=found["landslide_id"].astype(int))
    found["touches_edge"] = found["touches_edge"].astype(bool)
    found["comment"] = found["comment"].fillna("")
    wanted = expected("EPSG:4326").drop(columns=["parent_id", "touches_unobserved", "status"])
    require_equal(found.set_geometry(shapely.force_2d(found.geometry)), wanted, 1e-7)
    assert found["parent_id"].isna().tolist() == [True, False, True]
    assert set(found["author"]) == {"A. Nyone"}
    names = {"kml": "http://www.opengis.net/kml/2.2"}
    root = ElementTree.parse(out).getroot()
    assert root.findtext("kml:Document/kml:name", namespaces=names) == "Iburi 胆振"
    styles = {style.get("id") for style in root.iterfind(".//kml:Style", names)}
    used = [each.text for each in root.iterfind(".//kml:styleUrl", names)]
    assert used == ["#classhigh", "#classlow", "#class"]
    assert {str(each)[1:] for each in used} <= styles
    outer = root.findtext(".//kml:outerBoundaryIs//kml:coordinates", namespaces=names)
    points = [tuple(map(float, point.split(","))) for point in str(outer).split()]
    assert shapely.LinearRing(points).is_ccw


def test_shapefiles_say_what_their_fields_are(source: Path, tmp_path: Path) -> None:
    result = export_inventory(source, tmp_path / "out", form="shp")
    names = [path.name for path in result.files]
    for layer in ("landslides", "observed", "not_observed"):
        assert {f"{layer}.{end}" for end in ("shp", "shx", "dbf", "prj", "cpg")} <= set(names)
    assert content(tmp_path / "out" / "landslides.cpg") == b"UTF-8"
    with (tmp_path / "out" / "fields.csv").open(encoding="utf-8", newline="") as file:
        rows = [row for row in csv.DictReader(file) if row["layer"] == "landslides"]
    fields = {row["column"]: row["field"] for row in rows}
    assert list(fields) == [name for name in landslides() if name != "geometry"]
    assert fields["probability_mean"] == "prob_mean"
    assert fields["distance_to_river_m"] == "d_river"
    assert max(len(field) for field in fields.values()) <= 10
    found = gpd.read_file(tmp_path / "out" / "landslides.shp")
    assert found[fields["touches_edge"]].tolist() == [1, 0, 1]
    wanted = expected()
    # 254 bytes, at the border of a character.
    wanted.loc[1, "comment"] = "厚" * 84
    back = found.rename(columns={field: column for column, field in fields.items()})
    for name in ("comment", "touches_unobserved"):
        # Shapefiles know no difference between nothing and an empty text.
        back[name] = back[name].fillna("")
    require_equal(back, wanted, 0.0)
    assert "landslides: comment was cut to 254 bytes in 1 rows" in result.notes
    record = json.loads((tmp_path / "out" / "delivery.json").read_text(encoding="utf-8"))
    assert record["landslides"] == 3
    assert record["rejected"] == 1
    assert record["notes"] == list(result.notes)


def test_large_shapefiles_are_told(
    source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shapefile, "LIMIT_BYTES", 600)
    notes = export_inventory(source, tmp_path / "out", form="shp").notes
    assert any(note.startswith("landslides.dbf holds 0.0 GB, and many") for note in notes)


def test_short_names_are_unique_whatever_their_case() -> None:
    columns = [
        "id",
        "a_name_too_long",
        "a_name_too_large",
        "A_NAME_TOO",
        "длинноеимя",
        *shapefile.SHORT,
    ]
    names = shapefile.short_names(columns)
    assert list(names) == columns
    assert names["A_NAME_TOO"] == "A_NAME_TOO"
    assert names["a_name_too_long"] == "a_name_to2"
    assert names["a_name_too_large"] == "a_name_to3"
    assert names["длинноеимя"] == "длинн"
    assert len({name.lower() for name in names.values()}) == len(columns)
    assert max(len(name.encode()) for name in names.values()) <= 10
    assert all(len(name) > 10 for name in shapefile.SHORT)


def test_parquet_needs_pyarrow(
    source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(forms, "find_spec", lambda name: None)
    with pytest.raises(MissingExtraError, match=r"pip install 'landslip\[parquet\]'"):
        export_inventory(source, tmp_path / "out.parquet", form="parquet")
    assert not (tmp_path / "out.parquet").exists()


def test_parquet_keeps_crs_and_types(source: Path, tmp_path: Path) -> None:
    pytest.importorskip("pyarrow")
    out = export_inventory(source, tmp_path / "out.parquet", form="parquet").out
    found = gpd.read_parquet(out)
    require_equal(found, expected(), 0.0)
    assert found.crs == UTM
    assert found["touches_edge"].dtype == bool
    assert str(found["parent_id"].dtype) == "Int64"


@pytest.mark.parametrize(
    ("form", "name"), [("gpkg", "o.gpkg"), ("geojson", "o.json"), ("kml", "o.kml"), ("shp", "o")]
)
def test_an_event_becomes_columns(
    source: Path, event: Path, tmp_path: Path, form: str, name: str
) -> None:
    out = export_inventory(source, tmp_path / name, form=form, event=event).out
    found = gpd.read_file(out / "landslides.shp" if form == "shp" else out, layer=0)
    assert set(found["event_name"]) == {"Iburi 胆振"}
    assert set(found["trigger"]) == {"earthquake"}
    column = "event_from" if form == "shp" else "event_date_from"
    assert set(found[column].astype(str).str[:10]) == {"2018-09-06"}


@pytest.mark.parametrize(
    ("form", "name"), [("gpkg", "o.gpkg"), ("geojson", "o.json"), ("kml", "o.kml"), ("shp", "o")]
)
def test_an_empty_inventory_is_delivered(tmp_path: Path, form: str, name: str) -> None:
    source = write(tmp_path / "map", {"landslides": landslides().iloc[:0], **ground()})
    result = export_inventory(source, tmp_path / name, form=form)
    assert (result.landslides, result.rejected, result.notes) == (0, 0, ())
    path = result.out / "landslides.shp" if form == "shp" else result.out
    assert pyogrio.read_info(path, layer="landslides")["features"] == 0


@pytest.mark.parametrize("crs", ["EPSG:4326", "EPSG:3857", "EPSG:6680"])
def test_any_crs_is_placed(tmp_path: Path, crs: str) -> None:
    source = write(tmp_path / "map", {"landslides": landslides().to_crs(crs)})
    out = export_inventory(source, tmp_path / "out.geojson", form="geojson").out
    require_equal(gpd.read_file(out), expected("EPSG:4326"), 2e-7)
    out = export_inventory(source, tmp_path / "out.gpkg", form="gpkg").out
    assert gpd.read_file(out).crs == crs


def test_without_a_crs_there_is_no_longitude(tmp_path: Path) -> None:
    frame = landslides().set_crs(None, allow_override=True)
    folder = tmp_path / "map"
    folder.mkdir()
    with pytest.warns(UserWarning, match="'crs' was not provided"):
        pyogrio.write_dataframe(frame, folder / "landslides.gpkg", layer="landslides")
    export_inventory(folder, tmp_path / "out.gpkg", form="gpkg")
    for form in ("geojson", "kml"):
        with pytest.raises(InventoryError, match="it has no coordinate reference system"):
            export_inventory(folder, tmp_path / f"out.{form}", form=form)
        assert not (tmp_path / f"out.{form}").exists()


def test_only_some_columns_will_do(tmp_path: Path, event: Path) -> None:
    few = landslides()[["id", "geometry"]]
    source = write(tmp_path / "map", {"landslides": few, **ground()})
    for form, name in (("gpkg", "o.gpkg"), ("geojson", "o.json"), ("kml", "o.kml"), ("shp", "o")):
        assert export_inventory(source, tmp_path / name, form=form).landslides == 4
    for schema in ("cems", "coolr"):
        out = tmp_path / schema
        result = export_inventory(source, out, form="shp", schema=schema, event=event)
        assert result.landslides == 4


def test_empty_values_keep_their_type(tmp_path: Path) -> None:
    frame = landslides()
    frame["seen"] = pd.array([True, None, False, None], dtype="boolean")
    source = write(tmp_path / "map", {"landslides": frame})
    out = export_inventory(source, tmp_path / "out.geojson", form="geojson").out
    features = json.loads(out.read_text(encoding="utf-8"))["features"]
    assert [feature["properties"]["seen"] for feature in features] == [True, None, None]
    assert [feature["properties"]["parent_id"] for feature in features] == [None, 1, None]
    export_inventory(source, tmp_path / "out", form="shp")
    seen = gpd.read_file(tmp_path / "out" / "landslides.shp")["seen"]
    assert texts(seen) == [1, None, None]


def test_what_is_odd_is_noted(tmp_path: Path) -> None:
    frame = landslides()
    frame["id"] = [3, 3, 5, 6]
    frame["status"] = "accepted"
    frame.loc[2, "geometry"] = None
    frame.loc[3, "geometry"] = placed(shapely.Polygon([(0, 0), (9, 9), (9, 0), (0, 9)]))
    source = write(tmp_path / "map", {"landslides": frame})
    result = export_inventory(source, tmp_path / "out.gpkg", form="gpkg")
    assert result.notes == (
        "1 landslides have no polygon and were left out",
        "ids that several landslides share: 3",
        "1 polygons cross themselves",
    )
    assert result.landslides == 3


def test_landslides_without_id_are_noted(tmp_path: Path, event: Path) -> None:
    frame = landslides().assign(id=[3.0, np.nan, 13.0, 21.0])
    source = write(tmp_path / "map", {"landslides": frame, **ground()})
    for form, name in (("gpkg", "o.gpkg"), ("geojson", "o.json"), ("kml", "o.kml"), ("shp", "o")):
        result = export_inventory(source, tmp_path / name, form=form)
        assert "1 landslides have no id" in result.notes
    features = json.loads((tmp_path / "o.json").read_text(encoding="utf-8"))["features"]
    assert [feature.get("id") for feature in features] == [None] * 3
    assert [feature["properties"]["id"] for feature in features] == [3, None, 21]
    names = gpd.read_file(tmp_path / "o.kml")["Name"]
    assert names.str.strip().tolist() == ["Landslide 3", "Landslide", "Landslide 21"]
    with pytest.raises(DataError, match=r"coolr.event_import_id in 1 of 3 rows \(column id\)"):
        export_inventory(source, tmp_path / "out", form="shp", schema="coolr", event=event)


def test_what_exists_stays(source: Path, tmp_path: Path) -> None:
    for form, name in (("gpkg", "o.gpkg"), ("geojson", "o.json"), ("kml", "o.kml")):
        out = tmp_path / name
        out.write_text("mine")
        with pytest.raises(OutputError, match="it exists already"):
            export_inventory(source, out, form=form)
        assert out.read_text() == "mine"
    (tmp_path / "o").mkdir()
    with pytest.raises(OutputError, match="it exists already"):
        export_inventory(source, tmp_path / "o", form="shp")
    with pytest.raises(OutputError, match=r"it holds no delivery\.json"):
        export_inventory(source, tmp_path / "o", form="shp", overwrite=True)


def test_deliveries_are_replaced_on_demand(source: Path, tmp_path: Path) -> None:
    for form, name in (("geojson", "o.json"), ("kml", "o.kml"), ("shp", "o")):
        first = export_inventory(source, tmp_path / name, form=form)
        bytes_of = {path.name: content(path) for path in first.files}
        again = export_inventory(source, tmp_path / name, form=form, overwrite=True)
        assert {path.name: content(path) for path in again.files} == bytes_of
    assert not list(tmp_path.glob(".*"))


def test_reviewed_work_is_never_replaced(source: Path, tmp_path: Path) -> None:
    out = write(tmp_path / "other", {"landslides": landslides()}) / "landslides.gpkg"
    with pytest.raises(OutputError, match="2 of its landslides were reviewed"):
        export_inventory(source, out, form="gpkg", overwrite=True)


def test_the_inventory_is_no_output(tmp_path: Path) -> None:
    frame = landslides().assign(status="unreviewed")
    source = write(tmp_path / "map", {"landslides": frame})
    before = content(source / "landslides.gpkg")
    with pytest.raises(UsageError, match="it is the inventory that is to be delivered"):
        export_inventory(source, source / "landslides.gpkg", form="gpkg", overwrite=True)
    assert content(source / "landslides.gpkg") == before


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({"form": "geopkg"}, "form 'geopkg': expected gpkg, .* Name gpkg"),
        ({"form": "xyz"}, "Name one of them"),
        ({"form": "gpkg", "out": "o.json"}, r"gpkg files end in \.gpkg"),
        ({"form": "geojson", "out": "o.gpkg"}, r"geojson files end in \.geojson or \.json"),
        ({"form": "shp", "out": "o.shp"}, "it is a folder, because a shapefile is several"),
        ({"form": "shp", "schema": "cmes", "out": "o"}, "schema 'cmes': .* Name cems"),
        ({"form": "kml", "schema": "cems", "out": "o"}, "schema cems as kml: it comes as shp"),
        ({"form": "parquet", "schema": "coolr", "out": "o"}, "coolr as parquet: it comes as geo"),
        ({"form": "gpkg", "schema": "cems", "out": "o.gpkg"}, "it is several files. Name a folder"),
        ({"form": "shp", "schema": "cems", "out": "o"}, "needs to know of the event. Name an even"),
    ],
)
def test_wrong_calls_are_refused(
    source: Path, tmp_path: Path, options: dict[str, Any], expected: str
) -> None:
    out = tmp_path / options.pop("out", "o.gpkg")
    with pytest.raises(UsageError, match=expected):
        export_inventory(source, out, **options)
    assert not out.exists()


def test_wrong_inventories_are_refused(tmp_path: Path) -> None:
    def refused(inventory: Path, expected: str) -> None:
        with pytest.raises(InventoryError, match=expected):
            export_inventory(inventory, tmp_path / "o.gpkg", form="gpkg")

    refused(tmp_path / "none.gpkg", "there is no .*none.gpkg")
    refused(tmp_path, r"there is no .*landslides\.gpkg")
    refused(write(tmp_path / "a", {"slides": landslides()}), "it has the layers slides")
    refused(write(tmp_path / "b", {"landslides": landslides()[["geometry"]]}), "it is not there")
    for name, ids in (("c", ["a", "b", "c", "d"]), ("d", [1.5, 2.0, 3.0, 4.0])):
        frame = landslides().assign(id=ids)
        refused(write(tmp_path / name, {"landslides": frame}), "with texts or fractions in it")
    (tmp_path / "text.gpkg").write_text("no database")
    refused(tmp_path / "text.gpkg", "it is not a vector file that GDAL can read")
    assert not list(tmp_path.glob("o.gpkg"))


CEMS_STEM = "EMSR123_AOI02_DEL_PRODUCT"


def read_package(folder: Path, form: str, layer: str) -> gpd.GeoDataFrame:
    if form == "gpkg":
        return gpd.read_file(folder / f"{CEMS_STEM}_v1.gpkg", layer=f"{layer}_v1")
    path = folder / f"{CEMS_STEM}_{layer}_v1.{'json' if form == 'geojson' else 'shp'}"
    if layer != "source":
        return gpd.read_file(path)
    if form == "shp":
        return gpd.read_file(path.with_suffix(".dbf"))
    # GDAL takes the time for one.
    features = json.loads(path.read_text(encoding="utf-8"))["features"]
    return pd.DataFrame([feature["properties"] for feature in features])


@pytest.mark.parametrize("form", ["shp", "geojson", "gpkg"])
def test_cems_package(source: Path, event: Path, tmp_path: Path, form: str) -> None:
    before = content(source / "landslides.gpkg")
    result = export_inventory(source, tmp_path / "out", form=form, schema="cems", event=event)
    assert (result.landslides, result.rejected) == (3, 1)
    for layer, fields in CEMS.items():
        found = read_package(result.out, form, layer)
        assert [name for name in found if name != "geometry"] == [field.name for field in fields]
        if layer != "source":
            assert found.crs == "EPSG:4326"
    images = read_package(result.out, form, "source").drop(columns="geometry", errors="ignore")
    assert images.to_dict("records") == [
        {
            "source_nam": "PlanetScope",
            "src_date": "11/09/2018",
            "source_tm": "T01:20:03Z",
            "sensor_gsd": "3 m",
            "eventphase": "Post-event",
            "src_id": 1,
        }
    ]
    events = read_package(result.out, form, "observedEventA")
    assert set(events["event_type"]) == {"6-Mass Movement"}
    assert set(events["obj_desc"]) == {"Landslide"}
    assert events["det_method"].tolist() == [
        "Semi-automatic extraction",
        "Automatic extraction",
        "Automatic extraction",
    ]
    assert events["notation"].tolist() == ["id 3", "id 8", "id 21"]
    assert events["dmg_src_id"].tolist() == [1, 1, 1]
    assert events["area"].tolist() == [0.23, 0.09, 0.0081]
    wanted = expected("EPSG:4326").geometry
    assert max(shapely.hausdorff_distance(events.geometry, wanted)) < 1e-7
    (area,) = read_package(result.out, form, "areaOfInterestA").to_dict("records")
    outline = gpd.GeoSeries([placed(shapely.box(-50, -50, 300, 150))], crs=UTM).to_crs(4326)[0]
    assert area.pop("geometry").hausdorff_distance(outline) < 1e-6
    assert pd.isna(area.pop("glide_no"))
    assert area == {
        "emsr_id": "EMSR123", "area_id": "02", "locality": "Atsuma", "map_type": "Delineation",
    }  # fmt: skip
    footprints = read_package(result.out, form, "imageFootprintA").to_crs(UTM)
    assert footprints["obj_type"].tolist() == ["Image Footprint", "Not Analysed"]
    assert footprints["or_src_id"].tolist() == [1, 1]
    np.testing.assert_allclose(footprints.area, [69_100, 900], rtol=1e-3)
    with (result.out / f"{CEMS_STEM}_summaryTable_v1.csv").open(encoding="utf-8") as file:
        summary = {row["item"]: (row["unit"], row["value"]) for row in csv.DictReader(file)}
    assert summary["landslides"] == ("number", "3")
    assert summary["rejected and left out"] == ("number", "1")
    assert summary["area of landslides"] == ("ha", "0.3281")
    assert summary["observed"] == ("km2", "0.0691")
    assert float(summary["area of interest"][1]) == pytest.approx(0.07, rel=2e-3)
    assert content(source / "landslides.gpkg") == before


def test_cems_names_tell_monitoring_and_release(source: Path, event: Path, tmp_path: Path) -> None:
    event.write_text(f"{EVENT}monitoring = 3\nrelease = 1\nversion = 2\n", encoding="utf-8")
    out = tmp_path / "out"
    result = export_inventory(source, out, form="geojson", schema="cems", event=event)
    names = [path.name for path in result.files]
    assert names == [
        "EMSR123_AOI02_DEL_MONIT03_areaOfInterestA_r1_v2.json",
        "EMSR123_AOI02_DEL_MONIT03_imageFootprintA_r1_v2.json",
        "EMSR123_AOI02_DEL_MONIT03_observedEventA_r1_v2.json",
        "EMSR123_AOI02_DEL_MONIT03_source_r1_v2.json",
        "EMSR123_AOI02_DEL_MONIT03_summaryTable_r1_v2.csv",
        "delivery.json",
    ]


def test_cems_area_of_interest_of_the_event(source: Path, event: Path, tmp_path: Path) -> None:
    shapes = [placed(shapely.box(0, 0, 160, 50)), placed(shapely.box(160, 0, 170, 50))]
    gpd.GeoDataFrame(geometry=shapes, crs=UTM).to_crs(3857).to_file(tmp_path / "aoi.gpkg")
    event.write_text(EVENT.replace("author", 'aoi = "aoi.gpkg"\nauthor'), encoding="utf-8")
    out = tmp_path / "out"
    export_inventory(source, out, form="gpkg", schema="cems", event=event)
    area = read_package(out, "gpkg", "areaOfInterestA").to_crs(UTM).geometry[0]
    assert area.hausdorff_distance(placed(shapely.box(0, 0, 170, 50))) < 1e-3
    footprints = read_package(out, "gpkg", "imageFootprintA").to_crs(UTM)
    # What was not analysed ends at the area of interest.
    np.testing.assert_allclose(footprints.area, [69_100, 600], rtol=1e-3)


def test_cems_landslides_know_the_image_of_their_scene(tmp_path: Path, event: Path) -> None:
    frame = landslides().assign(scene=["north", "south", "south", "north"])
    seen = gpd.GeoDataFrame(
        {"scene": ["south", "north"]},
        geometry=[placed(shapely.box(90, 0, 300, 100)), placed(shapely.box(0, 0, 90, 150))],
        crs=UTM,
    )
    source = write(tmp_path / "map", {"landslides": frame, "observed": seen})
    more = """
[[images]]
name = "RapidEye"
date = 2018-08-01
resolution_m = 5.0
phase = "pre"
[[images]]
name = "SPOT"
date = 2018-09-12
scene = "south"
"""
    text = EVENT.replace("resolution_m = 3.0", 'scene = "north"' + more)
    event.write_text(text, encoding="utf-8")
    result = export_inventory(source, tmp_path / "out", form="gpkg", schema="cems", event=event)
    images = read_package(result.out, "gpkg", "source")
    assert images["source_nam"].tolist() == ["PlanetScope", "RapidEye", "SPOT"]
    # Of images mapped from, the inventory knows the pixel size.
    assert images["sensor_gsd"].tolist() == ["3 m", "5 m", "3 m"]
    assert images["eventphase"].tolist() == ["Post-event", "Pre-event", "Post-event"]
    assert read_package(result.out, "gpkg", "observedEventA")["dmg_src_id"].tolist() == [1, 3, 1]
    footprints = read_package(result.out, "gpkg", "imageFootprintA").to_crs(UTM)
    assert footprints["or_src_id"].tolist() == [1, 3]
    np.testing.assert_allclose(footprints.area, [13_500, 21_000], rtol=1e-3)
    assert "imageFootprintA lacks RapidEye: what it covers is not known" in result.notes

    event.write_text(text.replace('scene = "south"', ""), encoding="utf-8")
    with pytest.raises(DataError, match=r"observedEventA\.dmg_src_id in 1 of 3 rows \(images.sc"):
        export_inventory(source, tmp_path / "no", form="gpkg", schema="cems", event=event)


def test_all_that_is_missing_is_named_at_once(tmp_path: Path, event: Path) -> None:
    few = landslides()[["id", "geometry"]]
    source = write(tmp_path / "map", {"landslides": few})
    event.write_text("name = 'x'", encoding="utf-8")

    def message(schema: str) -> str:
        with pytest.raises(DataError) as raised:
            export_inventory(source, tmp_path / "out", form="shp", schema=schema, event=event)
        assert {path.name for path in tmp_path.iterdir()} == {"map", "event.toml"}
        return str(raised.value)

    found = message("cems")
    for part in (
        "as cems: 10 mandatory fields are missing",
        "source.source_nam (images.name of event.toml)",
        "source.src_date (images.date of event.toml)",
        "source.sensor_gsd (images.resolution_m of event.toml, or column pixel_size_m)",
        "source.eventphase (images.phase of event.toml)",
        "areaOfInterestA.emsr_id (cems.activation of event.toml)",
        "areaOfInterestA.area_id (cems.aoi of event.toml)",
        "areaOfInterestA.locality (cems.locality of event.toml)",
        "observedEventA.dmg_src_id (images.scene of event.toml, or src_id of the only image)",
        "areaOfInterestA (aoi of event.toml, or layer observed)",
        "imageFootprintA (layer observed)",
    ):
        assert part in found
    found = message("coolr")
    assert "as coolr: 3 mandatory fields are missing" in found
    for part in (
        "coolr.source_name (author of event.toml)",
        "coolr.event_date (date_from of event.toml)",
        "coolr.landslide_trigger (trigger of event.toml)",
    ):
        assert part in found


def test_mandatory_values_are_asked_for_without_landslides(tmp_path: Path, event: Path) -> None:
    source = write(tmp_path / "map", {"landslides": landslides().iloc[:0], **ground()})
    event.write_text("name = 'x'", encoding="utf-8")
    with pytest.raises(DataError, match=r"coolr.source_name .*coolr.event_date"):
        export_inventory(source, tmp_path / "out", form="shp", schema="coolr", event=event)
    event.write_text(EVENT, encoding="utf-8")
    for schema in ("cems", "coolr"):
        for form in ("shp", "geojson", "gpkg"):
            out = tmp_path / f"{schema}-{form}"
            result = export_inventory(source, out, form=form, schema=schema, event=event)
            assert result.landslides == 0


@pytest.mark.parametrize(("form", "short"), [("geojson", False), ("gpkg", False), ("shp", True)])
def test_coolr_catalogue(source: Path, event: Path, tmp_path: Path, form: str, short: bool) -> None:
    more = '[coolr]\ncountry_code = "JP"\nsizes_from_m2 = { small = 100, medium = 1000 }\n'
    event.write_text(EVENT + more, encoding="utf-8")
    out = tmp_path / "out"
    result = export_inventory(source, out, form=form, schema="coolr", event=event)
    with (out / "coolr_points.csv").open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    assert list(rows[0]) == [field.name for field in COOLR]
    first = {name: value for name, value in rows[0].items() if value}
    assert float(first.pop("longitude")) == pytest.approx(139.7851, abs=1e-3)
    assert float(first.pop("latitude")) == pytest.approx(42.4459, abs=1e-3)
    assert first == {
        "source_name": "A. Nyone",
        "event_date": "09/06/2018 12:00:00 AM",
        "event_title": "Iburi 胆振",
        "location_description": "Atsuma",
        "location_accuracy": "exact",
        "landslide_category": "landslide",
        "landslide_trigger": "earthquake",
        "landslide_size": "medium",
        "landslide_setting": "unknown",
        "notes": "2300 m2; probability 0.83; accepted; mapped from PlanetScope 2018-09-11; "
        "licence CC-BY-4.0",
        "event_import_source": "2018-IBURI",
        "event_import_id": "3",
        "country_name": "Japan",
        "country_code": "JP",
    }
    assert [int(row["event_import_id"]) for row in rows] == KEPT
    assert [row["landslide_size"] for row in rows] == ["medium", "small", "unknown"]
    found = gpd.read_file(out / f"coolr_polygons.{form}")
    names = [field.short or field.name if short else field.name for field in COOLR]
    assert [name for name in found if name != "geometry"] == names
    assert found.crs == "EPSG:4326"
    wanted = expected("EPSG:4326").geometry
    assert max(shapely.hausdorff_distance(found.geometry, wanted)) < 1e-7
    points = gpd.points_from_xy(
        [float(row["longitude"]) for row in rows], [float(row["latitude"]) for row in rows]
    )
    assert shapely.contains(found.geometry, points).all()
    assert (out / "fields.csv").exists() == short
    assert result.files == tuple(sorted(out.iterdir()))


def tables(text: str) -> list[list[list[str]]]:
    """Rows of the tables of a page, without their heads."""
    blocks = re.findall(r"(?:^\|.*\|\n)+", text, flags=re.MULTILINE)
    return [
        [[cell.strip() for cell in line.strip("|").split("|")] for line in block.splitlines()[2:]]
        for block in blocks
    ]


def documented(field: Field, *, short: bool) -> list[str]:
    row = [f"`{field.name}`", field.kind, field.origin, "yes" if field.mandatory else ""]
    return [*row, field.meaning, *([f"`{field.short or field.name}`"] if short else [])]


def test_documented_tables_are_the_ones_of_the_code() -> None:
    forms_table, short_table, *schemas, coolr = tables(DOCS)
    assert [row[0] for row in forms_table] == [f"`{form}`" for form in forms.SUFFIXES]
    assert short_table == [[f"`{a}`", f"`{b}`"] for a, b in shapefile.SHORT.items()]
    assert schemas == [
        [documented(field, short=False) for field in fields] for fields in CEMS.values()
    ]
    assert coolr == [documented(field, short=True) for field in COOLR]


def test_fields_can_be_written_to_shapefiles() -> None:
    for fields in (*CEMS.values(), COOLR):
        names = [field.short or field.name for field in fields]
        assert max(len(name) for name in names) <= 10
        assert len(set(names)) == len(names)
    for field in (field for fields in (*CEMS.values(), COOLR) for field in fields):
        assert not field.mandatory or field.remedy or field.default is not None


def test_no_delivery_is_left_when_writing_fails(
    source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*args: object, **options: object) -> None:
        raise OSError(28, "No space left on device")

    for form, name in (("geojson", "o.json"), ("gpkg", "o.gpkg"), ("shp", "o")):
        with monkeypatch.context() as patched:
            patched.setattr(pyogrio, "write_dataframe", fail)
            with pytest.raises(LandslipError, match="the disk is full"):
                export_inventory(source, tmp_path / name, form=form)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["map"]
