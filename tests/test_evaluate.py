import json
import logging
import math
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyogrio
import pyproj
import pytest
import rasterio
import shapely
from affine import Affine
from numpy.typing import NDArray
from rasterio.crs import CRS
from rasterio.features import rasterize
from rich.console import Console

import reference
from landslip.assess import evaluate as module
from landslip.assess.evaluate import evaluate
from landslip.assess.evaluation import Evaluation
from landslip.assess.pictures import (
    FN,
    FP,
    NOT_SCORED,
    TN,
    TP,
    ErrorPicture,
    error_classes,
    write_pr_curve,
)
from landslip.assess.scores import Counts, ScoreHistogram
from landslip.geo.errors import (
    DataError,
    InventoryError,
    OutputError,
    RasterError,
    UsageError,
)
from landslip.geo.grid import Grid
from landslip.geo.windows import cover

UTM = "EPSG:32648"
PLACE = Affine(10, 0, 400_000, 0, -10, 3_400_000)
"""Pixels of 10 m; the upper left corner is at (400000, 3400000)."""


def write(
    path: Path,
    values: Any,
    *,
    dtype: str = "uint8",
    crs: str | None = UTM,
    transform: Affine = PLACE,
    nodata: float | None = None,
    scale: float = 1.0,
    tag: float | str | None = None,
) -> Path:
    plane = np.asarray(values, dtype=dtype)
    height, width = plane.shape
    profile = {"driver": "GTiff", "count": 1, "dtype": dtype, "height": height, "width": width}
    place = {"crs": crs, "transform": transform, "nodata": nodata}
    with rasterio.open(path, "w", **profile, **place) as dataset:
        dataset.write(plane, 1)
        dataset.scales = (scale,)
        if tag is not None:
            dataset.update_tags(LANDSLIP_THRESHOLD=str(tag))
    return path


def write_probability(path: Path, codes: Any, **others: Any) -> Path:
    return write(path, codes, **({"nodata": 255, "scale": 1 / 254, "tag": 0.5} | others))


def pixels(row: int, col: int, height: int, width: int) -> shapely.Polygon:
    """A rectangle of pixels of `PLACE`, in metres."""
    west, north = 400_000 + 10 * col, 3_400_000 - 10 * row
    return shapely.box(west, north - 10 * height, west + 10 * width, north)


def write_polygons(
    path: Path, polygons: Iterable[Any], *, layer: str = "landslides", **columns: Sequence[str]
) -> Path:
    import geopandas as gpd

    frame = gpd.GeoDataFrame(dict(columns), geometry=list(polygons), crs=UTM)
    pyogrio.write_dataframe(
        frame, path, layer=layer, driver="GPKG", append=path.exists(), geometry_type="Polygon"
    )
    return path


def only(evaluation: Evaluation) -> Counts:
    (scores,) = evaluation.predictions
    return scores.pixels


TRUTH = np.array([[1, 1, 0, 0], [1, 0, 0, 0], [0, 0, 0, 1]])


@pytest.fixture
def truth(tmp_path: Path) -> Path:
    return write(tmp_path / "truth.tif", TRUTH, nodata=255)


# Maps of every kind.


def test_perfect_map(tmp_path: Path, truth: Path) -> None:
    path = write_probability(tmp_path / "map.tif", TRUTH * 254)
    evaluation = evaluate([path], truth)
    counts = only(evaluation)
    assert counts == Counts(tp=4, fp=0, fn=0, tn=8)
    assert (counts.precision, counts.recall, counts.f1, counts.iou) == (1, 1, 1, 1)
    assert evaluation.ground.km2 == pytest.approx(12 * 100 / 1e6)
    assert evaluation.ground.pixels == 12
    assert evaluation.ground.landslide_share == pytest.approx(4 / 12)


def test_known_confusion(tmp_path: Path, truth: Path) -> None:
    codes = np.array([[254, 126, 127, 0], [128, 0, 0, 0], [0, 255, 200, 255]])
    evaluation = evaluate([write_probability(tmp_path / "map.tif", codes)], truth)
    assert only(evaluation) == Counts(tp=2, fp=2, fn=1, tn=5)
    assert evaluation.ground.pixels == 10


def test_a_path_alone_is_one_prediction(tmp_path: Path, truth: Path) -> None:
    path = write_probability(tmp_path / "map.tif", TRUTH * 254)
    assert only(evaluate(str(path), truth)).f1 == 1


@pytest.mark.parametrize("threshold", [0.1, 0.3, 0.5, 0.7, 1.0])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_floating_point_is_compared_exactly(tmp_path: Path, dtype: str, threshold: float) -> None:
    generator = np.random.default_rng(0)
    probability = generator.random((40, 50)).astype(dtype)
    probability[0, :6] = [0, 1, threshold, np.nextafter(threshold, 0), 0.4999, 0.5001]
    probability[1, :4] = np.nan
    labels = generator.integers(0, 2, (40, 50))
    path = write(tmp_path / "map.tif", probability, dtype=dtype)
    counts = only(evaluate([path], write(tmp_path / "t.tif", labels), threshold=threshold))
    # Float32 cannot hold .3: what is stored for it counts as .3.
    mapped = probability >= np.dtype(dtype).type(threshold - 1e-9)
    known = ~np.isnan(probability)
    tally = reference.pixel_counts(
        np.where(known, np.where(mapped, 254, 0), 255).astype(np.uint8),
        labels.astype(np.uint8),
        0.5,
    )
    assert (counts.tp, counts.fp, counts.fn, counts.tn) == tally


@pytest.mark.parametrize("dtype", ["uint8", "int8", "int16", "int32"])
def test_a_map_of_0_and_1_has_no_threshold(tmp_path: Path, truth: Path, dtype: str) -> None:
    binary = TRUTH.copy()
    binary[0, 0], binary[2, 0] = 0, 1
    binary[2, 3] = 99
    evaluation = evaluate([write(tmp_path / "map.tif", binary, dtype=dtype, nodata=99)], truth)
    assert only(evaluation) == Counts(tp=2, fp=1, fn=1, tn=7)
    assert evaluation.predictions[0].threshold is None


def test_whole_numbers_with_a_scale_are_probabilities(tmp_path: Path, truth: Path) -> None:
    per_cent = np.where(TRUTH == 1, 57, 56)
    path = write(tmp_path / "map.tif", per_cent, dtype="uint16", scale=0.01)
    assert only(evaluate([path], truth, threshold=0.57)) == Counts(tp=4, tn=8)
    assert only(evaluate([path], truth, threshold=0.56)) == Counts(tp=4, fp=8)


def test_threshold_is_the_option_then_the_tag_then_a_half(
    tmp_path: Path, truth: Path, caplog: pytest.LogCaptureFixture
) -> None:
    codes = TRUTH * 100 + 50
    tagged = write_probability(tmp_path / "tagged.tif", codes, tag=0.55)
    silent = write_probability(tmp_path / "silent.tif", codes, tag=None)
    with caplog.at_level(logging.WARNING):
        assert evaluate([tagged], truth).predictions[0].threshold == 0.55
        assert evaluate([silent], truth, threshold=0.3).predictions[0].threshold == 0.3
    assert not caplog.records
    assert only(evaluate([tagged], truth)).recall == 1
    assert only(evaluate([tagged], truth, threshold=0.6)).recall == 0
    with caplog.at_level(logging.WARNING):
        assert evaluate([silent], truth).predictions[0].threshold == 0.5
    assert "LANDSLIP_THRESHOLD" in caplog.text
    assert "0.5 is used" in caplog.text


def test_polygons_count_inside_what_was_observed(tmp_path: Path, truth: Path) -> None:
    path = tmp_path / "map.gpkg"
    write_polygons(path, [pixels(0, 0, 3, 1), pixels(0, 3, 3, 1)])
    assert only(evaluate([path], truth)) == Counts(tp=3, fp=3, fn=1, tn=5)
    write_polygons(path, [pixels(0, 0, 3, 2)], layer="observed")
    write_polygons(path, [pixels(0, 2, 3, 2)], layer="not_observed")
    evaluation = evaluate([path], truth)
    assert only(evaluation) == Counts(tp=2, fp=1, fn=1, tn=2)
    assert evaluation.ground.pixels == 6
    assert evaluation.predictions[0].threshold is None


def test_rejected_polygons_are_not_mapped(tmp_path: Path, truth: Path) -> None:
    polygons = [pixels(0, 0, 2, 1), pixels(2, 0, 1, 1)]
    path = write_polygons(tmp_path / "map.gpkg", polygons, status=["accepted", "rejected"])
    assert only(evaluate([path], truth)) == Counts(tp=2, fp=0, fn=2, tn=8)


def test_a_map_may_hold_no_landslides(tmp_path: Path, truth: Path) -> None:
    path = write_polygons(tmp_path / "map.gpkg", [])
    write_polygons(path, [pixels(0, 0, 3, 4)], layer="observed")
    counts = only(evaluate([path], truth))
    assert counts == Counts(tp=0, fp=0, fn=4, tn=8)
    assert math.isnan(counts.precision)
    assert counts.f1 == 0


# The ground.


def test_all_maps_are_scored_on_the_same_ground(tmp_path: Path, truth: Path) -> None:
    first = write_probability(tmp_path / "first.tif", TRUTH * 254)
    # Pixels of 20 m, from one row above; the right half was not observed.
    coarse = np.array([[254, 255], [0, 255]])
    moved = Affine(20, 0, 400_000, 0, -20, 3_400_010)
    second = write_probability(tmp_path / "second.tif", coarse, transform=moved)
    evaluation = evaluate([first, second], truth)
    counts = [scores.pixels for scores in evaluation.predictions]
    assert counts == [Counts(tp=3, tn=3), Counts(tp=2, fp=0, fn=1, tn=3)]
    assert evaluation.ground.pixels == 6
    assert [scores.name for scores in evaluation.predictions] == ["first", "second"]
    # The pixels are those of the first: the other way round they are 20 m wide.
    turned = evaluate([second, first], truth)
    assert turned.ground.km2 == pytest.approx(turned.ground.pixels * 400 / 1e6)


@pytest.mark.parametrize("nodata", [None, 99])
@pytest.mark.parametrize("dtype", ["uint8", "int16", "float32"])
def test_maps_of_any_type_are_observed_only_where_they_lie(
    tmp_path: Path, truth: Path, dtype: str, nodata: float | None
) -> None:
    first = write_probability(tmp_path / "first.tif", TRUTH * 254)
    small = write(tmp_path / "small.tif", TRUTH[:2, :2], dtype=dtype, nodata=nodata)
    assert evaluate([first, small], truth, threshold=0.5).ground.pixels == 4


def test_areas_in_degrees_are_true(tmp_path: Path) -> None:
    step, west, north = 0.001, 105.0, 60.0
    place = Affine(step, 0, west, 0, -step, north)
    labels = np.zeros((40, 30), int)
    labels[:4] = 1
    target = write(tmp_path / "truth.tif", labels, crs="EPSG:4326", transform=place)
    path = write(tmp_path / "map.tif", labels, crs="EPSG:4326", transform=place)
    evaluation = evaluate([path], target, out=tmp_path / "out")
    outline = shapely.box(west, north - 40 * step, west + 30 * step, north)
    area_m2, _ = pyproj.Geod(ellps="WGS84").geometry_area_perimeter(outline)
    assert evaluation.ground.km2 == pytest.approx(abs(area_m2) / 1e6, rel=1e-5)
    (area,) = read_errors(tmp_path / "out" / "map_errors.gpkg")["area_m2"]
    assert area / 1e6 == pytest.approx(evaluation.ground.km2 * 4 / 40, rel=2e-3)


def test_unlabelled_and_unchecked_ground_does_not_count(tmp_path: Path) -> None:
    labels = TRUTH.copy()
    labels[0, :] = 255
    path = write_probability(tmp_path / "map.tif", np.full((3, 4), 254))
    raster = write(tmp_path / "truth.tif", labels)
    assert only(evaluate([path], raster)) == Counts(tp=2, fp=6)
    polygons = write_polygons(tmp_path / "truth.gpkg", [pixels(1, 0, 1, 1)])
    checked = write_polygons(tmp_path / "checked.gpkg", [pixels(1, 0, 2, 2)])
    assert only(evaluate([path], polygons)) == Counts(tp=1, fp=11)
    assert only(evaluate([path], polygons, checked=checked)) == Counts(tp=1, fp=3)
    assert only(evaluate([path], raster, checked=checked)) == Counts(tp=2, fp=3)


def test_positive_names_the_value_of_landslides(tmp_path: Path) -> None:
    path = write_probability(tmp_path / "map.tif", TRUTH * 254)
    grey = write(tmp_path / "grey.tif", TRUTH * 200)
    assert only(evaluate([path], grey, positive=200)) == Counts(tp=4, tn=8)


def test_only_usable_ground_of_interest_counts(tmp_path: Path, truth: Path) -> None:
    path = write_probability(tmp_path / "map.tif", TRUTH * 254)
    aoi = write_polygons(tmp_path / "aoi.gpkg", [pixels(0, 0, 2, 4)])
    cloud = write_polygons(tmp_path / "cloud.gpkg", [pixels(0, 0, 3, 1)])
    cloud_raster = write(tmp_path / "cloud.tif", [[7, 0, 0, 0]] * 3)
    assert only(evaluate([path], truth, aoi=aoi)) == Counts(tp=3, tn=5)
    assert only(evaluate([path], truth, unusable=cloud)) == Counts(tp=2, tn=7)
    assert only(evaluate([path], truth, unusable=cloud_raster)) == Counts(tp=2, tn=7)
    assert only(evaluate([path], truth, aoi=aoi, unusable=cloud)) == Counts(tp=1, tn=5)


def test_polygons_take_their_pixels_from_another_raster(tmp_path: Path, truth: Path) -> None:
    path = write_polygons(tmp_path / "map.gpkg", [pixels(0, 0, 1, 2)])
    target = write_polygons(tmp_path / "truth.gpkg", [pixels(0, 0, 2, 1)])
    assert only(evaluate([path], truth)) == Counts(tp=2, fp=0, fn=2, tn=8)
    scene = write(tmp_path / "scene.tif", np.ones((2, 2)), dtype="float32")
    assert only(evaluate([path], target, like=scene)) == Counts(tp=1, fp=1, fn=1, tn=1)
    with pytest.raises(UsageError, match="--like"):
        evaluate([path], target)


def test_windows_make_no_difference(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    codes, labels = noisy(50, 70)
    path = write_probability(tmp_path / "map.tif", codes)
    target = write(tmp_path / "truth.tif", labels)
    whole = evaluate([path], target, out=tmp_path / "whole")
    monkeypatch.setattr(module, "_strips", lambda grid: list(cover(grid, 7, grid.width)))
    cut = evaluate([path], target, out=tmp_path / "cut")
    assert whole.record() == cut.record()
    counts = only(cut)
    tally = reference.pixel_counts(codes, labels, 0.5)
    assert (counts.tp, counts.fp, counts.fn, counts.tn) == tally
    for name in ("scores.json", "map_errors.png"):
        assert (tmp_path / "whole" / name).read_bytes() == (tmp_path / "cut" / name).read_bytes()
    once, pieced = (
        read_errors(tmp_path / folder / "map_errors.gpkg") for folder in ("whole", "cut")
    )
    assert list(once["kind"]) == list(pieced["kind"])
    assert once.geometry.normalize().geom_equals(pieced.geometry.normalize()).all()


def noisy(height: int, width: int) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    generator = np.random.default_rng(1)
    codes = generator.choice([0, 100, 127, 254, 255], (height, width)).astype(np.uint8)
    return codes, generator.choice([0, 1, 255], (height, width)).astype(np.uint8)


# What is written.


def read_errors(path: Path) -> Any:
    return pyogrio.read_dataframe(path, layer="errors")


def test_outputs(tmp_path: Path) -> None:
    codes, labels = noisy(30, 40)
    path = write_probability(tmp_path / "map.tif", codes)
    target = write(tmp_path / "truth.tif", labels)
    out = tmp_path / "deep" / "out"
    evaluation = evaluate([path], target, out=out)
    assert sorted(file.name for file in out.iterdir()) == [
        "map_errors.gpkg",
        "map_errors.png",
        "map_errors.qml",
        "map_errors.tif",
        "map_pr.png",
        "map_reliability.png",
        "map_sizes.png",
        "map_worst.png",
        "report.html",
        "scores.json",
    ]
    counts = only(evaluation)
    with rasterio.open(out / "map_errors.tif") as dataset:
        classes = dataset.read(1)
        colours = dataset.colormap(1)
        assert dataset.nodata == NOT_SCORED
        assert dataset.crs == CRS.from_user_input(UTM)
        assert dataset.transform == PLACE
        assert dataset.tags(1)["CLASS_2"] == "missed (FN)"
    red, green, blue = (colours[kind][:3] for kind in (FN, TP, FP))
    assert red[0] > 200 > max(red[1:])
    assert min(green[:2]) > 200 > green[2]
    assert blue[2] > 200 > max(blue[:2])
    expected = {TP: counts.tp, FN: counts.fn, FP: counts.fp, TN: counts.tn}
    assert {kind: int((classes == kind).sum()) for kind in expected} == expected
    assert int((classes == NOT_SCORED).sum()) == 30 * 40 - counts.total

    frame = read_errors(out / "map_errors.gpkg")
    assert frame.geometry.is_valid.all()
    for kind, name in ((TP, "TP"), (FN, "FN"), (FP, "FP")):
        chosen = frame[frame["kind"] == name]
        burnt = rasterize(chosen.geometry, out_shape=(30, 40), transform=PLACE)
        np.testing.assert_array_equal(burnt == 1, classes == kind)
        assert chosen["area_m2"].sum() == pytest.approx(100 * expected[kind])
    assert set(frame["kind"]) == {"TP", "FN", "FP"}

    text = (out / "scores.json").read_text(encoding="utf-8")
    record = json.loads(text)
    assert list(record) == [
        "predictions", "differences", "reference", "reference_shifted_f1", "reference_reviewed",
        "ground", "landslip",
    ]  # fmt: skip
    (scores,) = record["predictions"]
    assert list(scores) == [
        "name", "path", "threshold", "pixels", "blocks", "boundary", "objects", "inventory",
        "probability", "map",
    ]  # fmt: skip
    keys = ["precision", "recall", "f1", "iou", "omission", "commission", "mcc"]
    keys += ["tp", "fp", "fn", "tn"]
    assert list(scores["pixels"]) == [*keys, "intervals"]
    assert [scores["pixels"][key] for key in keys] == [getattr(counts, key) for key in keys]
    assert record["ground"]["pixels"] == counts.total


def test_undefined_scores_are_null(tmp_path: Path) -> None:
    nothing = write(tmp_path / "map.tif", np.zeros((3, 4)))
    target = write(tmp_path / "truth.tif", np.zeros((3, 4)))
    evaluate([nothing], target, out=tmp_path / "out")
    record = json.loads((tmp_path / "out" / "scores.json").read_text())
    scores = record["predictions"][0]["pixels"]
    assert [scores[key] for key in ("precision", "recall", "f1", "iou")] == [None] * 4
    assert record["predictions"][0]["threshold"] is None
    assert len(read_errors(tmp_path / "out" / "map_errors.gpkg")) == 0


def test_same_input_gives_same_bytes(tmp_path: Path, truth: Path) -> None:
    path = write_probability(tmp_path / "map.tif", TRUTH * 200)
    for name in ("a", "b"):
        evaluate([path], truth, out=tmp_path / name)
    for file in (tmp_path / "a").iterdir():
        assert file.read_bytes() == (tmp_path / "b" / file.name).read_bytes()


def test_names_are_unique(tmp_path: Path, truth: Path) -> None:
    paths = []
    for folder in ("unet", "resunet", "deep/unet"):
        (tmp_path / folder).mkdir(parents=True)
        paths.append(write_probability(tmp_path / folder / "map.tif", TRUTH * 254))
    paths.append(write_probability(tmp_path / "other.tif", TRUTH * 254))
    evaluation = evaluate(paths, truth)
    names = [scores.name for scores in evaluation.predictions]
    assert names == ["unet_map", "resunet_map", "unet_map_2", "other"]


def test_table_names_scores_and_ground(tmp_path: Path, truth: Path) -> None:
    probability = write_probability(tmp_path / "net[1].tif", TRUTH * 254, tag=0.42)
    binary = write(tmp_path / "binary.tif", np.zeros((3, 4)))
    console = Console(width=120)
    with console.capture() as captured:
        console.print(evaluate([probability, binary], truth).table())
    lines = captured.get().splitlines()
    row = next(line for line in lines if "net[1]" in line)
    assert [cell.strip() for cell in row.split("│")[2:7]] == ["1.000"] * 4 + ["0.42"]
    row = next(line for line in lines if "binary" in line)
    assert [cell.strip() for cell in row.split("│")[2:7]] == ["–", "0.000", "0.000", "0.000", "–"]
    text = " ".join(captured.get().split())
    assert "0.0012 km² scored, 33.33% of it landslide" in text


def test_pictures_without_a_position(
    tmp_path: Path, recwarn: pytest.WarningsRecorder, caplog: pytest.LogCaptureFixture
) -> None:
    place: dict[str, Any] = {"crs": None, "transform": Affine.scale(2, 2)}
    path = write(tmp_path / "map.tif", TRUTH, **place)
    target = write(tmp_path / "truth.tif", TRUTH, **place)
    evaluation = evaluate([path], target, out=tmp_path / "out")
    assert only(evaluation).f1 == 1
    assert evaluation.ground.km2 == pytest.approx(12 * 4 / 1e6)
    assert "no coordinate reference system" in caplog.text


# Pictures.


def test_error_classes() -> None:
    mapped = np.array([[True, False, True], [False, True, False]])
    labels = np.array([[1, 1, 0], [0, 255, 255]], np.uint8)
    expected = [[TP, FN, FP], [TN, NOT_SCORED, NOT_SCORED]]
    assert error_classes(mapped, labels).tolist() == expected


@pytest.mark.parametrize("core", [64, 700, 10_000])
def test_picture_never_loses_an_error(core: int) -> None:
    generator = np.random.default_rng(2)
    grid = Grid(CRS.from_user_input(UTM), PLACE, 40, 6000)
    classes = generator.choice(
        np.array([TN, TP, FN, FP, NOT_SCORED], np.uint8),
        grid.shape,
        p=[0.9, 0.04, 0.02, 0.02, 0.02],
    )
    picture = ErrorPicture(grid, grid.window)
    for window in cover(grid, core):
        picture.add(window, classes[window.slices])
    bins = np.arange(40) * 13 // 40, np.arange(6000) * 2000 // 6000
    expected = reference.pooled(classes, bins, [NOT_SCORED, TN, TP, FP, FN])
    assert picture.pixels().tolist() == expected


def test_small_maps_are_enlarged_by_whole_numbers_and_keep_their_shape_on_the_ground() -> None:
    degrees = Grid(CRS.from_epsg(4326), Affine(0.0001, 0, 10, 0, -0.0001, 60), 30, 40)
    picture = ErrorPicture(degrees, degrees.window)
    picture.add(degrees.window, np.zeros((30, 40), np.uint8))
    height, width = picture.pixels().shape
    assert height / width == pytest.approx(30 / 40 * 2, rel=0.02)  # 60 degrees north
    assert width % 40 == 0


def test_pr_curve_is_drawn_whatever_was_counted(tmp_path: Path) -> None:
    codes, labels = noisy(30, 40)
    histograms = [
        ScoreHistogram.of(codes, labels),
        ScoreHistogram.of(codes, np.minimum(labels, 0)),
        ScoreHistogram.empty(),
    ]
    for number, histogram in enumerate(histograms):
        path = tmp_path / f"{number}.png"
        write_pr_curve(histogram, 0.5, path)
        assert path.read_bytes().startswith(b"\x89PNG")


# Bad input.


def test_values_up_to_255_without_a_scale_are_refused(tmp_path: Path, truth: Path) -> None:
    path = write(tmp_path / "grey.tif", TRUTH * 255)
    with pytest.raises(RasterError, match=r"0 to 255 have no scale.*gdal_edit.py -scale 0.0039"):
        evaluate([path], truth, out=tmp_path / "out")
    assert sorted(file.name for file in tmp_path.iterdir()) == ["grey.tif", "truth.tif"]


@pytest.mark.parametrize("values", [TRUTH * 1.5, TRUTH - 9999.0])
def test_what_is_no_probability_is_refused(tmp_path: Path, truth: Path, values: Any) -> None:
    path = write(tmp_path / "map.tif", values, dtype="float32")
    with pytest.raises(RasterError, match="from 0 to 1 are expected, found"):
        evaluate([path], truth, threshold=0.5)


def test_negative_whole_numbers_point_to_nodata(tmp_path: Path, truth: Path) -> None:
    path = write(tmp_path / "map.tif", TRUTH - 9999, dtype="int16")
    with pytest.raises(RasterError, match="-a_nodata"):
        evaluate([path], truth)


def test_several_bands_are_refused(tmp_path: Path, truth: Path) -> None:
    path = tmp_path / "colours.tif"
    profile = {"driver": "GTiff", "count": 3, "dtype": "uint8", "height": 3, "width": 4}
    with rasterio.open(path, "w", **profile, crs=UTM, transform=PLACE) as dataset:
        dataset.write(np.zeros((3, 3, 4), np.uint8))
    with pytest.raises(RasterError, match="found 3 bands"):
        evaluate([path], truth)


def test_a_broken_threshold_tag_is_refused(tmp_path: Path, truth: Path) -> None:
    path = write_probability(tmp_path / "map.tif", TRUTH, tag="high")
    with pytest.raises(RasterError, match="'high'"):
        evaluate([path], truth)


@pytest.mark.parametrize("threshold", [0, -1, 1.5, math.nan])
def test_thresholds_out_of_range_are_refused(truth: Path, threshold: float) -> None:
    with pytest.raises(UsageError, match="threshold"):
        evaluate([truth], truth, threshold=threshold)


def test_no_prediction_is_refused(truth: Path) -> None:
    with pytest.raises(UsageError, match="no prediction"):
        evaluate([], truth)


def test_missing_files_are_named(tmp_path: Path, truth: Path) -> None:
    with pytest.raises(RasterError, match=r"nowhere\.tif: there is no such file"):
        evaluate([tmp_path / "nowhere.tif"], truth)
    with pytest.raises(InventoryError, match=r"nowhere\.gpkg: there is no such file"):
        evaluate([tmp_path / "nowhere.gpkg"], truth)
    with pytest.raises(InventoryError, match=r"gone\.gpkg: there is no such file"):
        evaluate([truth], tmp_path / "gone.gpkg")


def test_maps_of_elsewhere_are_refused(tmp_path: Path, truth: Path) -> None:
    first = write_probability(tmp_path / "first.tif", TRUTH * 254)
    far = Affine(10, 0, 500_000, 0, -10, 400_000)
    raster = write_probability(tmp_path / "far.tif", TRUTH, transform=far)
    with pytest.raises(DataError, match=r"none of the 12 px.*first\.tif 12.*far\.tif 0"):
        evaluate([first, raster], truth)
    polygons = write_polygons(tmp_path / "far.gpkg", [pixels(9000, 0, 5, 5)])
    with pytest.raises(DataError, match=r"far\.gpkg: none of its polygons touches the grid"):
        evaluate([polygons], truth)


def test_maps_of_the_other_side_of_the_earth_are_refused(tmp_path: Path, truth: Path) -> None:
    first = write_probability(tmp_path / "first.tif", TRUTH * 254)
    raster = write_probability(tmp_path / "far.tif", TRUTH, crs="EPSG:32718")
    with pytest.raises(DataError, match=r"far\.tif 0"):
        evaluate([first, raster], truth)


def test_nothing_left_to_score_says_why(tmp_path: Path, truth: Path) -> None:
    codes = np.full((3, 4), 255)
    codes[0, 0] = 254
    path = write_probability(tmp_path / "map.tif", codes)
    aoi = write_polygons(tmp_path / "aoi.gpkg", [pixels(1, 0, 2, 4)])
    out = tmp_path / "out"
    with pytest.raises(DataError, match=r"map\.tif 1, labelled by .* 12, .* usable 8\. Name"):
        evaluate([path], truth, aoi=aoi, out=out)
    assert not list(tmp_path.glob("*out*"))
    assert not list(tmp_path.glob(".*out*"))


def test_existing_outputs_are_kept(tmp_path: Path, truth: Path) -> None:
    path = write_probability(tmp_path / "map.tif", TRUTH * 254)
    out = tmp_path / "out"
    evaluate([path], truth, out=out)
    with pytest.raises(OutputError, match="--overwrite"):
        evaluate([path], truth, out=out)
    evaluate([path], truth, out=out, overwrite=True, threshold=0.9)
    assert json.loads((out / "scores.json").read_text())["predictions"][0]["threshold"] == 0.9


def test_only_folders_of_evaluate_are_replaced(tmp_path: Path, truth: Path) -> None:
    path = write_probability(tmp_path / "map.tif", TRUTH * 254)
    with pytest.raises(OutputError, match=r"holds no scores\.json"):
        evaluate([path], truth, out=tmp_path, overwrite=True)
    (tmp_path / "scores.json").write_text("{}")
    with pytest.raises(OutputError, match="lies in it"):
        evaluate([path], truth, out=tmp_path, overwrite=True)
    assert path.exists()
