"""Several maps on the same ground, the report, and what QGIS is told."""

import json
import logging
import math
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pyogrio
import pytest
import rasterio
import shapely
from affine import Affine

import tiny
from landslip.assess.blocks import paired_scores
from landslip.assess.evaluate import evaluate
from landslip.assess.evaluation_report import write_evaluation_report
from landslip.assess.pictures import difference_classes
from landslip.assess.scores import PIXEL_SCORES
from landslip.geo.errors import DataError
from landslip.geo.styles import ClassStyle, polygon_style, raster_style
from test_evaluate import PLACE, pixels, write, write_polygons, write_probability

Maps = tuple[Path, Path, Path]


@pytest.fixture
def maps(tmp_path: Path) -> Maps:
    """A reference with a landslide in each of 64 blocks of 10 x 10 px, and two maps of it."""
    random = np.random.default_rng(0)
    labels = np.zeros((80, 80), np.uint8)
    for row, col in np.ndindex(8, 8):
        labels[10 * row + 2 : 10 * row + 7, 10 * col + 2 : 10 * col + 8] = 1
    good, bad = (
        np.where(random.random(labels.shape) < wrong, 1 - labels, labels) * np.uint8(254)
        for wrong in (0.05, 0.15)
    )
    return (
        write_probability(tmp_path / "bad.tif", bad),
        write_probability(tmp_path / "good.tif", good),
        write(tmp_path / "truth.tif", labels),
    )


def test_the_better_map_is_told(maps: Maps) -> None:
    bad, good, truth = maps
    found = evaluate([bad, good], truth, block_m=100, differences=True)
    (told,) = found.differences
    assert (told.first, told.second) == ("bad", "good")
    one, other = (scores.pixels for scores in found.predictions)
    for name, difference in told.scores.items():
        assert difference.difference == pytest.approx(getattr(other, name) - getattr(one, name))
        assert difference.interval is not None
        assert difference.interval.blocks == 64
        assert 0 < difference.interval.low < difference.difference < difference.interval.high
        assert difference.p == pytest.approx(1 / 2001)
    blocks = [scores.blocks for scores in found.predictions]
    assert all(len(each.counts) == each.scored == 64 for each in blocks)
    one_by_one = paired_scores(blocks[0].counts, blocks[1].counts, PIXEL_SCORES["f1"])
    assert told.scores["f1"] == one_by_one
    assert evaluate([bad, good], truth).differences == ()


def test_blocks_of_one_map_alone_are_compared_with_nothing(tmp_path: Path) -> None:
    labels = np.zeros((20, 20), np.uint8)
    labels[0:3, 0:3] = 1
    nothing = write_probability(tmp_path / "nothing.tif", np.zeros((20, 20), np.uint8))
    alarm = np.zeros((20, 20), np.uint8)
    alarm[0:3, 0:3] = alarm[15, 15] = 254
    path = write_probability(tmp_path / "alarm.tif", alarm)
    truth = write(tmp_path / "truth.tif", labels)
    found = evaluate([nothing, path], truth, block_m=100, differences=True)
    told = found.differences[0].scores["recall"]
    assert (told.difference, told.interval, told.p) == (1.0, None, None)
    assert math.isnan(found.differences[0].scores["precision"].difference)
    assert "No interval: 1 blocks hold landslides" in found.predictions[0].blocks.why_no_interval


def test_blocks_with_false_alarms_alone_are_no_landslides(tmp_path: Path) -> None:
    labels, codes = np.zeros((2, 60, 50), np.uint8)
    labels[2:5, 2::10] = 1
    codes[2:5, 2::10] = codes[6::10, 6::10] = 254
    path = write_probability(tmp_path / "map.tif", codes)
    truth = write(tmp_path / "truth.tif", labels)
    (scores,) = evaluate([path], truth, block_m=100).predictions
    assert (len(scores.blocks.counts), scores.blocks.with_landslides) == (30, 5)
    assert set(scores.blocks.intervals.values()) == {None}
    assert scores.blocks.medians["recall"] == 1
    assert scores.blocks.medians["f1"] == pytest.approx(6 / 7)
    labels[2::10, 2::10] = 1
    truth = write(tmp_path / "more.tif", labels)
    codes[50:] = 0
    codes[52, 2::10] = 254
    second = write_probability(tmp_path / "second.tif", codes)
    (scores,) = evaluate([second], truth, block_m=100).predictions
    assert scores.blocks.with_landslides == 30
    recall = scores.blocks.intervals["recall"]
    assert recall is not None
    assert recall.blocks == 30


def test_who_is_right() -> None:
    first = np.array([0, 1, 2, 3, 2, 3, 0, 255], np.uint8)
    second = np.array([0, 1, 1, 0, 2, 3, 3, 255], np.uint8)
    assert difference_classes(first, second).tolist() == [0, 0, 2, 2, 3, 3, 1, 255]


def test_compare_writes_a_report(maps: Maps, tmp_path: Path) -> None:
    bad, good, truth = maps
    out = tmp_path / "out"
    done = tiny.landslip("compare", bad, good, "--reference", truth, "--block", "100", "--out", out)
    assert done.code == 0, done.err
    assert "good – bad" in done.out
    with rasterio.open(out / "bad_good_difference.tif") as raster:
        classes = raster.read(1)
    wrong = []
    for path in (bad, good):
        with rasterio.open(path) as raster, rasterio.open(truth) as labels:
            wrong.append((raster.read(1) == 254) != (labels.read(1) == 1))
    np.testing.assert_array_equal(classes, wrong[0] * 2 + wrong[1])
    page = (out / "report.html").read_text(encoding="utf-8")
    assert "Which map is better" in page
    assert "Where bad and good differ" in page
    assert page.count("data:image/") == 11
    assert "http" not in page.replace("http-equiv", "")
    record = json.loads((out / "scores.json").read_text(encoding="utf-8"))
    assert record["differences"][0]["scores"]["f1"]["p"] == pytest.approx(1 / 2001)
    # Made again, it is the same page.
    (out / "report.html").unlink()
    assert tiny.landslip("report", out).code == 0
    assert (out / "report.html").read_text(encoding="utf-8") == page


def test_options_of_the_other_kind_are_refused(maps: Maps, tmp_path: Path) -> None:
    bad, good, truth = maps
    words = ("compare", bad, good, "--reference", truth)
    done = tiny.landslip(*words, "--tiles", tmp_path)
    assert done.code == 2
    assert "Cannot use --tiles: that is for models on tiles, and maps are named" in done.message
    done = tiny.landslip("evaluate", "--model", "m", "--tiles", "t", "--block", "50", "--aoi", "x")
    assert done.code == 2
    assert "Cannot use --aoi, --block: that is for maps, and models on tiles" in done.message
    done = tiny.landslip("evaluate", bad)
    assert done.code == 2
    assert "name predictions and --reference" in done.message


def test_a_file_with_a_style_has_one_layer(maps: Maps, tmp_path: Path) -> None:
    evaluate([maps[0]], maps[2], out=tmp_path / "out")
    errors = tmp_path / "out" / "bad_errors.gpkg"
    assert evaluate([maps[1]], errors).predictions[0].pixels.total == 6400


def test_zero_as_nodata_is_warned_of(
    maps: Maps, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = write(tmp_path / "mask.tif", np.eye(80), nodata=0)
    assert evaluate([path], maps[2]).ground.pixels == 80
    assert "mask.tif declares 0 as nodata" in caplog.text


def test_one_map_is_compared_with_nothing(maps: Maps) -> None:
    done = tiny.landslip("compare", maps[0], "--reference", maps[2])
    assert done.code == 2
    assert "name two or more" in done.err


@pytest.mark.parametrize("text", ["", "{}", '{"predictions": [{}]}'])
def test_a_report_of_no_evaluation_is_refused(tmp_path: Path, text: str) -> None:
    (tmp_path / "scores.json").write_text(text)
    with pytest.raises(DataError, match=r"it holds no scores\.json that this version"):
        write_evaluation_report(tmp_path)
    assert not (tmp_path / "report.html").exists()


def test_a_reference_without_landslides_is_said(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    nothing = write(tmp_path / "truth.tif", np.zeros((6, 6)))
    path = write_probability(tmp_path / "map.tif", np.full((6, 6), 254, np.uint8))
    found = evaluate([path], nothing, out=tmp_path / "out")
    assert "has no landslide on the ground that counts: recall is not defined" in caplog.text
    record = found.record()["predictions"][0]
    assert record["pixels"]["recall"] is None
    assert record["objects"]["detection"]["0.5"]["all"]["recall"] is None
    assert record["boundary"]["2_px"]["f1"] is None
    assert (tmp_path / "out" / "report.html").exists()


def test_another_grid_is_said(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = write_probability(tmp_path / "map.tif", np.full((6, 10), 254, np.uint8))
    coarse = write(tmp_path / "truth.tif", np.ones((3, 5)), transform=PLACE * Affine.scale(2))
    assert evaluate([path], coarse).predictions[0].pixels.tp == 60
    assert "truth.tif has other pixels, or another CRS: the nearest labels are used" in caplog.text
    caplog.clear()
    second = write_probability(
        tmp_path / "second.tif", np.full((3, 5), 254), transform=PLACE * Affine.scale(2)
    )
    assert evaluate([path, second], coarse).predictions[1].pixels.tp == 60
    assert "second.tif has other pixels, or another CRS: the nearest ones are" in caplog.text


def test_polygons_that_overlap_share_their_pixels(tmp_path: Path) -> None:
    path = write_probability(tmp_path / "map.tif", np.full((6, 10), 254, np.uint8))
    both = write_polygons(
        tmp_path / "both.gpkg", [pixels(1, 1, 2, 4), pixels(1, 3, 2, 4), pixels(1, 4, 1, 1)]
    )
    found = evaluate([path], both).predictions[0]
    assert found.pixels.tp == 2 * 6
    # The last one has the pixel that all three share.
    assert sorted(found.objects.reference.known_px.tolist()) == [1, 4, 7]


def test_outlines_edited_from_a_model_are_said(tmp_path: Path) -> None:
    path = write_probability(tmp_path / "map.tif", np.full((6, 10), 254, np.uint8))
    for number, status in enumerate(("unreviewed", "edited")):
        reference = write_polygons(
            tmp_path / f"{status}.gpkg", [pixels(1, 1, 2, 4)], status=[status]
        )
        out = tmp_path / status
        found = evaluate([path], reference, out=out)
        assert found.reference_reviewed == bool(number)
        page = (out / "report.html").read_text(encoding="utf-8")
        assert ("edited from a model" in page) == bool(number)


def test_the_reference_moved_by_a_pixel(tmp_path: Path) -> None:
    labels = np.zeros((12, 12), np.uint8)
    labels[4:8, 3:8] = 1
    path = write_probability(tmp_path / "map.tif", labels * np.uint8(254))
    found = evaluate([path], write(tmp_path / "truth.tif", labels))
    assert found.reference_shifted_f1 == pytest.approx(4 / 5)


def test_a_map_of_landslip_tells_where_it_comes_from(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    from landslip.mapping.options import MapOptions
    from landslip.mapping.scene_map import map_scene

    caplog.set_level(logging.INFO)
    scene = tiny.write_scene(tmp_path / "scene.tif")
    model = tiny.tiny_model(tmp_path / "m.safetensors")
    map_scene(scene, model, tmp_path / "map", options=MapOptions(threshold=0.5, device="cpu"))
    reference = tiny.write_inventory(tmp_path / "truth.gpkg", [(4, 4, 8, 8)])
    out = tmp_path / "out"
    evaluate([tmp_path / "map" / "probability.tif"], reference, out=out)
    record = json.loads((out / "scores.json").read_text(encoding="utf-8"))
    origin = record["predictions"][0]["map"]
    assert origin["scenes"] == ["scene"]
    assert origin["models"] == ["m"]
    page = (out / "report.html").read_text(encoding="utf-8")
    assert "Mapped by m from scene" in page
    assert (out / "probability_quicklook.png").exists()


# What QGIS is told -------------------------------------------------------------------------------


def test_styles_name_every_class() -> None:
    classes = {1: ClassStyle('found "TP" & <more>', (255, 214, 0)), 2: ClassStyle("b", (1, 2, 3))}
    palette = ElementTree.fromstring(raster_style(classes)).findall(".//paletteEntry")
    assert [entry.get("label") for entry in palette] == ['found "TP" & <more>', "b"]
    assert [entry.get("color") for entry in palette] == ["#ffd600", "#010203"]
    text = polygon_style("kind", {"TP": classes[1], "F'N": classes[2]})
    root = ElementTree.fromstring(text)
    renderer = root.find("renderer-v2")
    assert renderer is not None
    assert renderer.get("attr") == "kind"
    found = root.findall(".//category")
    assert [each.get("value") for each in found] == ["TP", "F'N"]
    symbols = {each.get("name") for each in root.findall(".//symbols/symbol")}
    assert {each.get("symbol") for each in found} == symbols


def test_error_polygons_carry_their_style(maps: Maps, tmp_path: Path) -> None:
    evaluate([maps[0]], maps[2], out=tmp_path / "out")
    path = tmp_path / "out" / "bad_errors.gpkg"
    assert pyogrio.list_layers(path)[:, 0].tolist() == ["errors", "layer_styles"]
    styles = pyogrio.read_dataframe(path, layer="layer_styles")
    assert styles["f_table_name"].tolist() == ["errors"]
    assert styles["useAsDefault"].tolist() == [True]
    assert 'value="FN"' in styles["styleQML"][0]
    errors = pyogrio.read_dataframe(path, layer="errors")
    assert shapely.is_valid(errors.geometry.to_numpy()).all()
    ElementTree.parse(tmp_path / "out" / "bad_errors.qml")
