"""Whatever is wrong with the input, one clear message says so, and nothing half-written is left.

Section 6 of the project's second issue, item by item, through the command line.
"""

from __future__ import annotations

import json
import os
import pickle
import shutil
import signal
import struct
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import rasterio
import shapely

import tiny

WORDS = tuple[str | Path, ...]


class Files:
    """Good files that bad ones are tried with; made once, never written to."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.scene = tiny.write_scene(folder / "scene.tif")
        self.inventory = tiny.write_inventory(folder / "landslides.gpkg")
        self.checked = tiny.write_inventory(folder / "checked.gpkg", [(0, 0, 64, 96)])
        self.model = tiny.tiny_model(folder / "model.safetensors")
        self.tiles = tiny.tiny_tiles(folder / "tiles")


@pytest.fixture(scope="module")
def good(tmp_path_factory: pytest.TempPathFactory) -> Files:
    return Files(tmp_path_factory.mktemp("good"))


def files_in(folder: Path) -> list[str]:
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*"))


def tile(scene: str | Path, inventory: str | Path, out: Path, *more: str | Path) -> WORDS:
    return ("tile", scene, "--inventory", inventory, "--out", out, "--size", "16", *more)


def train_scene(scene: str | Path, inventory: str | Path, out: Path, *more: str | Path) -> WORDS:
    return (
        "train", "--scene", scene, "--inventory", inventory, "--out", out, "--size", "16",
        "--model", "unet-small", "--recipe", "modern", "--epochs", "1", "--batch", "4", *more,
    )  # fmt: skip


def map_(scene: str | Path, model: str | Path, out: Path, *more: str | Path) -> WORDS:
    return ("map", scene, "--model", model, "--out", out, *more)


def state_of(folder: Path) -> dict[str, int]:
    """When each file was written, hidden ones included; unfinished training may stay."""
    return {
        name: (folder / name).stat().st_mtime_ns if (folder / name).is_file() else 0
        for name in files_in(folder)
        if ".safetensors.partial" not in name
    }


def refused(folder: Path, words: WORDS, *says: str | Path, code: int = 1) -> str:
    """The command ends with one message that says what and what to do, and changes nothing."""
    before = state_of(folder)
    done = tiny.landslip(*words)
    assert state_of(folder) == before
    assert done.code == code, done
    assert done.err.count("Error:") == 1, done.err
    assert "Traceback" not in done.err + done.out
    assert done.out == ""
    message = done.message
    assert message.startswith("Cannot "), message
    assert message.endswith((".", ")")), message
    # What is wrong, and one thing to do.
    assert ". " in message or "expected" in message, message
    for text in says:
        assert str(text) in message, (text, message)
    return message


# Scenes ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("verb", ["check", "tile", "train", "map"])
@pytest.mark.parametrize("kind", ["missing", "half", "header", "text", "no bands", "folder"])
def test_scenes_that_cannot_be_read(good: Files, tmp_path: Path, verb: str, kind: str) -> None:
    bad = tmp_path / ("bad.gpkg" if kind == "no bands" else "bad.tif")
    whole = tiny.write_scene(tmp_path / "whole.tif").read_bytes()
    says = "damaged or cut short"
    if kind == "missing":
        says = "there is no such file"
    elif kind == "half":
        bad.write_bytes(whole[: len(whole) // 2])
    elif kind == "header":
        bad.write_bytes(whole[:60])
        says = "Cannot"
    elif kind == "text":
        bad.write_text("This was to be a scene.\n" * 50)
        says = "not a raster that GDAL can read"
    elif kind == "no bands":
        # A container of several rasters is none itself.
        for table in ("first", "second"):
            with rasterio.open(
                bad, "w", driver="GPKG", count=1, dtype="uint8", width=32, height=32,
                crs=tiny.UTM, transform=tiny.transform_of(), RASTER_TABLE=table,
                **({"APPEND_SUBDATASET": "YES"} if table == "second" else {}),
            ) as out:  # fmt: skip
                out.write(np.ones((1, 32, 32), "uint8"))
        says = "it holds no bands. Name one of its parts: GPKG:"
    else:
        bad.mkdir()
        says = "not a raster"
    out = tmp_path / "out"
    words: dict[str, WORDS] = {
        "check": ("check", bad, "--inventory", good.inventory, "--out", tmp_path / "check.png"),
        "tile": tile(bad, good.inventory, out),
        "train": train_scene(bad, good.inventory, tmp_path / "out.safetensors"),
        "map": map_(bad, good.model, out),
    }
    refused(tmp_path, words[verb], bad, says)


def test_a_dem_or_a_scene_from_before_that_cannot_be_read(good: Files, tmp_path: Path) -> None:
    text = tmp_path / "dem.tif"
    text.write_text("no elevations")
    for option in ("--dem", "--pre", "--unusable", "--aoi"):
        refused(tmp_path, ("check", good.scene, option, text), text)
        refused(tmp_path, ("check", good.scene, option, tmp_path / "no.tif"), "no such file")
    refused(tmp_path, ("check", good.scene, "--add", f"{text}:height"), text)
    refused(tmp_path, ("check", good.scene, "--add", text.name), "FILE:name,name", code=2)


def test_a_dem_that_breaks_off_leaves_no_tiles(good: Files, tmp_path: Path) -> None:
    dem = tiny.write_scene(tmp_path / "dem.tif", bands=[None], dtype="float32")
    dem.write_bytes(dem.read_bytes()[:9000])
    words = tile(good.scene, good.inventory, tmp_path / "out", "--dem", dem)
    refused(tmp_path, words, dem, "damaged or cut short")


# Bands -------------------------------------------------------------------------------------------


def test_band_names_that_are_missing_or_wrong(good: Files, tmp_path: Path) -> None:
    bare = tiny.write_scene(tmp_path / "bare.tif", bands=[None] * 3)
    out = tmp_path / "out"
    for words in (tile(bare, good.inventory, out), map_(bare, good.model, out)):
        refused(tmp_path, words, bare, "does not name its 3 bands", "--bands")
        refused(tmp_path, (*words, "--bands", "nir,red"), "has 3, --bands names 2")
        refused(tmp_path, (*words, "--bands", "nir,red,red"), "two of its bands", "'red'")
        refused(tmp_path, (*words, "--bands", "-,-,-"), "left out")
        refused(tmp_path, (*words, "--bands", "nir,,red"), "a name is empty")
        refused(tmp_path, (*words, "--bands", "B8,B4,B3"), "B8", "--sensor")
        unknown = (*words, "--bands", "B8,B4,B99", "--sensor", "sentinel-2")
        refused(tmp_path, unknown, "B99")
        unknown = (*words, "--bands", "B4,B3,B2", "--sensor", "spot-5")
        refused(tmp_path, unknown, "'spot-5'", "landsat-5", code=2)


def test_a_model_for_other_bands(good: Files, tmp_path: Path) -> None:
    blue = tiny.write_scene(tmp_path / "rgb.tif", bands=("red", "green", "blue"))
    refused(
        tmp_path, map_(blue, good.model, tmp_path / "map"),
        "the model needs bands nir, red, green", "red, green, blue", "nir missing", "--bands",
    )  # fmt: skip
    other = tiny.tiny_model(tmp_path / "swir.safetensors", bands=("swir1",))
    refused(
        tmp_path, ("evaluate", "--model", other, "--tiles", good.tiles),
        other, "needs bands swir1", "nir, red, green",
    )  # fmt: skip
    refused(
        tmp_path,
        ("train", good.tiles, "--out", tmp_path / "m.safetensors", "--model", "unet-small",
         "--recipe", "modern", "--from", other),
        other, "swir1", "nir, red, green",
    )  # fmt: skip


def test_bands_to_learn_from_that_are_not_there(good: Files, tmp_path: Path) -> None:
    for use in ("swir1", "nir,swir1", "evi", ""):
        refused(
            tmp_path,
            ("train", good.tiles, "--out", tmp_path / "m.safetensors", "--model", "unet-small",
             "--recipe", "modern", "--use", use),
            use.split(",")[-1],
        )  # fmt: skip


def test_another_pixel_size_than_the_models(good: Files, tmp_path: Path) -> None:
    coarse = tiny.write_scene(tmp_path / "coarse.tif", transform=tiny.transform_of(20))
    refused(
        tmp_path, map_(coarse, good.model, tmp_path / "map"),
        "pixels are 20 m", "learnt on 10 m", "--pixel-size 10",
    )  # fmt: skip


# Polygons ----------------------------------------------------------------------------------------


def every_verb_with_polygons(good: Files, tmp_path: Path, polygons: Path) -> list[WORDS]:
    return [
        ("check", good.scene, "--inventory", polygons, "--out", tmp_path / "c.png"),
        tile(good.scene, polygons, tmp_path / "out"),
        tile(good.scene, good.inventory, tmp_path / "out", "--checked", polygons),
        train_scene(good.scene, polygons, tmp_path / "m.safetensors"),
        map_(good.scene, good.model, tmp_path / "out", "--aoi", polygons),
        map_(good.scene, good.model, tmp_path / "out", "--unusable", polygons),
    ]


def test_polygons_that_are_no_polygons(good: Files, tmp_path: Path) -> None:
    text = tmp_path / "text.gpkg"
    text.write_text("no polygons")
    lines = [shapely.LineString([tiny.transform_of() * p for p in ((0, 0), (40, 40), (9, 30))])]
    cases = {
        tmp_path / "missing.gpkg": "there is no such file",
        text: "not a vector file",
        tiny.write_inventory(tmp_path / "lines.gpkg", shapes=lines): "it holds LineString",
        tiny.write_inventory(tmp_path / "empty.gpkg", []): "holds no polygons",
        tiny.write_inventory(tmp_path / "nowhere.gpkg", crs=None): "no coordinate reference system",
    }
    for path, says in cases.items():
        for words in every_verb_with_polygons(good, tmp_path, path):
            refused(tmp_path, words, path, says)


def test_a_split_file_that_is_no_polygons(good: Files, tmp_path: Path) -> None:
    text = tmp_path / "text.gpkg"
    text.write_text("no polygons")
    words = tile(good.scene, good.inventory, tmp_path / "out", "--split", text)
    refused(tmp_path, words, text, "not a vector file")


def test_layers_that_leave_a_choice(good: Files, tmp_path: Path) -> None:
    import pyogrio

    path = tiny.write_inventory(tmp_path / "two.gpkg", layer="before")
    frame = pyogrio.read_dataframe(path)
    pyogrio.write_dataframe(frame, path, layer="after", append=True)
    refused(tmp_path, tile(good.scene, path, tmp_path / "o"), path, "before, after", "|layername=")
    bad = f"{path}|layername=during"
    refused(tmp_path, tile(good.scene, bad, tmp_path / "o"), "before, after", "|layername=")
    good_layer = f"{path}|layername=after"
    assert tiny.landslip(*tile(good.scene, good_layer, tmp_path / "o")).code == 0


@pytest.mark.parametrize(
    "where",
    [
        "next valley",
        "other zone",
        "antipodes",
        "pole",
        "metres as degrees",
    ],
)
def test_an_inventory_elsewhere_on_earth(good: Files, tmp_path: Path, where: str) -> None:
    path = tmp_path / "far.gpkg"
    if where == "next valley":
        shapes = [shapely.affinity.translate(tiny.box_at(tiny.LANDSLIDES[0]), 30_000, 0)]
        tiny.write_inventory(path, shapes=shapes)
    elif where == "other zone":
        tiny.write_inventory(path, crs="EPSG:32618")
    else:
        lon, lat = {
            "antipodes": (-40, -42.4),
            "pole": (0, 89.999),
            "metres as degrees": (4e5, 4.7e6),
        }[where]
        tiny.write_inventory(path, shapes=[shapely.box(lon, lat, lon + 0.001, lat + 0.001)],
                             crs="EPSG:4326")  # fmt: skip
    for words in (
        ("check", good.scene, "--inventory", path),
        tile(good.scene, path, tmp_path / "out"),
        tile(good.scene, good.inventory, tmp_path / "out", "--checked", path),
    ):
        refused(tmp_path, words, path)


def test_checked_areas_off_the_image(good: Files, tmp_path: Path) -> None:
    path = tiny.write_inventory(tmp_path / "checked.gpkg", [(0, 200, 30, 30)])
    for words in (
        ("check", good.scene, "--inventory", good.inventory, "--checked", path),
        tile(good.scene, good.inventory, tmp_path / "out", "--checked", path),
        train_scene(good.scene, good.inventory, tmp_path / "m.safetensors", "--checked", path),
    ):
        refused(tmp_path, words, path, "none of its 1 polygons touches the scene", "one place")


def test_areas_of_interest_off_the_image(good: Files, tmp_path: Path) -> None:
    path = tiny.write_inventory(tmp_path / "aoi.gpkg", [(0, 200, 30, 30)])
    refused(tmp_path, tile(good.scene, good.inventory, tmp_path / "out", "--aoi", path))
    refused(tmp_path, map_(good.scene, good.model, tmp_path / "out", "--aoi", path), "--aoi")


def test_polygons_that_cross_themselves_are_repaired_and_that_is_said(
    good: Files, tmp_path: Path
) -> None:
    bow = shapely.Polygon([tiny.transform_of() * p for p in ((4, 4), (12, 12), (12, 4), (4, 12))])
    assert not bow.is_valid
    shapes = [bow, *(tiny.box_at(box) for box in tiny.LANDSLIDES)]
    path = tiny.write_inventory(tmp_path / "bow.gpkg", shapes=shapes)
    done = tiny.landslip(*tile(good.scene, path, tmp_path / "out"))
    assert done.code == 0
    assert "Note: bow.gpkg: 1 polygons cross themselves and were repaired" in done.err
    assert "Traceback" not in done.err


# Label rasters -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("values", "says"),
    [((0, 1, 2), "found 0, 1, 2"), ((0, 255), "--positive 255"), ((3, 7), "found 3, 7"),
     ((0, 0.5, 1), "found 0, 0.5, 1"), ((-1, 1), "found -1, 1")],
)  # fmt: skip
def test_labels_with_other_values(
    good: Files, tmp_path: Path, values: tuple[float, ...], says: str
) -> None:
    dtype = "uint8" if all(value == abs(int(value)) for value in values) else "float32"
    plane = np.resize(np.array(values, dtype=dtype), (1, 64, 96))
    path = tiny.write_scene(tmp_path / "labels.tif", plane, bands=[None])
    for words in (
        ("check", good.scene, "--inventory", path),
        tile(good.scene, path, tmp_path / "out"),
        train_scene(good.scene, path, tmp_path / "m.safetensors"),
    ):
        refused(tmp_path, words, path, says, "--positive")


def test_positive_that_does_not_fit(good: Files, tmp_path: Path) -> None:
    plane = np.resize(np.array([0, 255], dtype="uint8"), (1, 64, 96))
    path = tiny.write_scene(tmp_path / "labels.tif", plane, bands=[None])
    words = tile(good.scene, path, tmp_path / "out", "--positive", "7")
    refused(tmp_path, words, path, "no pixel has the value 7")
    words = tile(good.scene, good.inventory, tmp_path / "out", "--positive", "1")
    refused(tmp_path, words, good.inventory, "these are polygons", code=2)


def test_labels_of_another_place(good: Files, tmp_path: Path) -> None:
    plane = np.resize(np.array([0, 1], dtype="uint8"), (1, 64, 96))
    far = tiny.transform_of(west=tiny.WEST + 50_000)
    path = tiny.write_scene(tmp_path / "labels.tif", plane, bands=[None], transform=far)
    refused(tmp_path, tile(good.scene, path, tmp_path / "out"), path, "no labelled pixel")
    path = tiny.write_scene(tmp_path / "plain.tif", plane, bands=[None], crs=None)
    refused(tmp_path, tile(good.scene, path, tmp_path / "out"), path)


# Tile sets ---------------------------------------------------------------------------------------


def train_tiles(*words: str | Path) -> WORDS:
    return ("train", *words, "--model", "unet-small", "--recipe", "modern", "--epochs", "1")


def test_tile_sets_that_do_not_go_together(good: Files, tmp_path: Path) -> None:
    blue = tiny.tiny_tiles(tmp_path / "blue", bands=("blue", "red", "green"))
    coarse = tiny.tiny_tiles(tmp_path / "coarse", size_m=30)
    out = tmp_path / "m.safetensors"
    refused(
        tmp_path, train_tiles(good.tiles, blue, "--out", out),
        good.tiles, blue, "nir, red, green and blue, red, green",
    )  # fmt: skip
    refused(tmp_path, train_tiles(good.tiles, coarse, "--out", out), coarse, "10 m and 30 m")


def test_folders_that_are_no_tile_sets(good: Files, tmp_path: Path) -> None:
    empty = tmp_path / "empty"
    empty.mkdir()
    for folder in (empty, tmp_path / "missing", good.scene):
        refused(tmp_path, train_tiles(folder, "--out", tmp_path / "m.safetensors"), folder)
        refused(tmp_path, ("evaluate", "--model", good.model, "--tiles", folder), folder)
    refused(
        tmp_path, ("evaluate", "--model", good.model, "--tiles", good.tiles, "--split", "holdout"),
        "'holdout'", "test, train, validation",
    )  # fmt: skip


def test_a_tile_that_is_damaged(good: Files, tmp_path: Path) -> None:
    tiles = tmp_path / "tiles"
    shutil.copytree(good.tiles, tiles)
    victim = sorted((tiles / "images").iterdir())[0]
    victim.write_bytes(victim.read_bytes()[:400])
    refused(tmp_path, train_tiles(tiles, "--out", tmp_path / "m.safetensors"), victim)


# Models ------------------------------------------------------------------------------------------


def damaged_model(good: Files, path: Path, kind: str) -> None:
    import torch
    from safetensors import safe_open
    from safetensors.torch import load_file, save_file

    whole = good.model.read_bytes()
    header = struct.unpack("<Q", whole[:8])[0]
    if kind == "pickle":
        path.write_bytes(pickle.dumps({"weights": [1.0]}))
    elif kind == "torch":
        torch.save({"weights": torch.zeros(2)}, path)
    elif kind == "half":
        path.write_bytes(whole[: len(whole) // 2])
    elif kind == "header":
        path.write_bytes(whole[: header // 2])
    elif kind == "empty":
        path.write_bytes(b"")
    elif kind == "text":
        path.write_text("not a model, only words about one")
    elif kind == "folder":
        path.mkdir()
    elif kind == "other":
        save_file(load_file(good.model), path)
    elif kind != "missing":
        with safe_open(good.model, framework="pt") as file:
            card = json.loads(file.metadata()["landslip"])
        changes = {"newer": {"format_version": "2.0"}, "unknown": {"architecture": "mamba"},
                   "weights": {"architecture": "unet"}}  # fmt: skip
        save_file(load_file(good.model), path, {"landslip": json.dumps(card | changes[kind])})


@pytest.mark.parametrize(
    ("kind", "says"),
    [("missing", "there is no such file"), ("folder", "there is no such file"),
     ("pickle", "it is a pickle"), ("torch", "it is a pickle"), ("half", "damaged or cut short"),
     ("header", "cut short"), ("empty", "cut short"), ("text", "no safetensors file"),
     ("other", "without a landslip card"), ("newer", "Update landslip"),
     ("unknown", "'mamba'"), ("weights", "do not fit unet with 3 bands")],
)  # fmt: skip
def test_models_that_cannot_be_used(good: Files, tmp_path: Path, kind: str, says: str) -> None:
    path = tmp_path / "bad.safetensors"
    damaged_model(good, path, kind)
    out = tmp_path / "out"
    if kind not in ("unknown", "weights"):
        refused(tmp_path, ("info", path), path, says)
    refused(tmp_path, map_(good.scene, path, out), path, says)
    refused(tmp_path, ("evaluate", "--model", path, "--tiles", good.tiles), path, says)


def test_starting_from_a_model_that_cannot_be_used(good: Files, tmp_path: Path) -> None:
    path = tmp_path / "bad.safetensors"
    damaged_model(good, path, "pickle")
    refused(
        tmp_path, train_tiles(good.tiles, "--out", tmp_path / "m.safetensors", "--from", path), path
    )


def test_checkpoints_that_hold_more_than_tensors(good: Files, tmp_path: Path) -> None:
    path = tmp_path / "authors.pth"
    out = tmp_path / "m.safetensors"
    refused(tmp_path, ("convert", path, "--out", out), path)
    path.write_bytes(pickle.dumps({"weights": Path("x")}, protocol=2))
    refused(tmp_path, ("convert", path, "--out", out), path)
    path.unlink()
    path.mkdir()
    refused(tmp_path, ("convert", path, "--out", out), path)


def test_checkpoints_that_are_text(good: Files, tmp_path: Path) -> None:
    path = tmp_path / "authors.pth"
    path.write_text("text")
    refused(tmp_path, ("convert", path, "--out", tmp_path / "m.safetensors"), path)


def test_models_are_written_as_safetensors_only(good: Files, tmp_path: Path) -> None:
    words = train_tiles(good.tiles, "--out", tmp_path / "model.pth")
    refused(tmp_path, words, "model.pth", "model.safetensors")


# Outputs -----------------------------------------------------------------------------------------


def test_outputs_that_exist(good: Files, tmp_path: Path) -> None:
    file = tmp_path / "kept.safetensors"
    file.write_text("kept")
    picture = tmp_path / "kept.png"
    picture.write_text("kept")
    folder = tmp_path / "kept"
    folder.mkdir()
    (folder / "notes.txt").write_text("kept")
    probability = tmp_path / "p.gpkg"
    shutil.copy(good.inventory, probability)
    commands: dict[Path, list[WORDS]] = {
        picture: [("check", good.scene, "--out", picture)],
        file: [
            train_tiles(good.tiles, "--out", file),
            train_scene(good.scene, good.inventory, file),
            ("convert", tmp_path / "a.pth", "--out", file),
        ],
        folder: [
            tile(good.scene, good.inventory, folder),
            map_(good.scene, good.model, folder),
            ("evaluate", probability, "--reference", good.inventory, "--like", good.scene,
             "--out", folder),
        ],
    }  # fmt: skip
    for path, all_words in commands.items():
        for words in all_words:
            refused(tmp_path, words, path, "exists already", "--overwrite")
    refused(tmp_path, tile(good.scene, good.inventory, file), file, "exists already")
    # Folders that landslip did not write are not replaced even when asked.
    for words in commands[folder]:
        refused(tmp_path, (*words, "--overwrite"), folder, "Name another output")


def test_a_finished_demo_is_kept(good: Files, tmp_path: Path) -> None:
    (tmp_path / "report.html").write_text("kept")
    refused(tmp_path, ("demo", "--out", tmp_path), "report.html", "exists already", "--overwrite")


def test_the_demo_keeps_out_of_other_folders(
    good: Files, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import landslip.demo

    def begun(*_: object, **__: object) -> None:
        pytest.fail("the demo began in a folder that it did not make")

    monkeypatch.setattr(landslip.demo, "make_valley", begun)
    (tmp_path / "map").mkdir()
    (tmp_path / "map" / "run.json").write_text("the map of another study")
    refused(tmp_path, ("demo", "--out", tmp_path), tmp_path)


def test_reviewed_landslides_are_never_replaced(good: Files, tmp_path: Path) -> None:
    import pyogrio

    words = map_(good.scene, good.model, tmp_path / "map", "--threshold", "0.01")
    assert tiny.landslip(*words).code == 0
    path = tmp_path / "map" / "landslides.gpkg"
    frame = pyogrio.read_dataframe(path, layer="landslides")
    assert len(frame)
    frame["status"] = "accepted"
    pyogrio.write_dataframe(frame, path, layer="landslides")
    refused(tmp_path, (*words, "--overwrite"), "reviewed")


@pytest.mark.skipif(
    not hasattr(os, "geteuid") or os.geteuid() == 0, reason="root may write everywhere"
)
def test_folders_that_may_not_be_written_to(good: Files, tmp_path: Path) -> None:
    locked = tmp_path / "locked"
    locked.mkdir()
    locked.chmod(0o500)
    refused(tmp_path, tile(good.scene, good.inventory, locked / "out"), "Permission denied")


def test_outputs_inside_a_file(good: Files, tmp_path: Path) -> None:
    inside = good.scene / "out"
    refused(good.folder, tile(good.scene, good.inventory, inside), inside)
    refused(good.folder, map_(good.scene, good.model, inside), inside)
    refused(good.folder, train_tiles(good.tiles, "--out", inside / "m.safetensors"), inside)
    refused(good.folder, ("check", good.scene, "--out", inside / "c.png"), inside)


# What a remedy says must work --------------------------------------------------------------------


def test_bands_that_differ_may_be_left_out_with_use(good: Files, tmp_path: Path) -> None:
    blue = tiny.tiny_tiles(tmp_path / "blue", bands=("blue", "red", "green"))
    words = train_tiles(good.tiles, blue, "--out", tmp_path / "m.safetensors")
    assert "--use" in refused(tmp_path, words)
    done = tiny.landslip(*words, "--use", "red,green")
    assert done.code == 0, done.err


def test_a_start_that_failed_does_not_block_the_next(good: Files, tmp_path: Path) -> None:
    words = train_tiles(good.tiles, "--out", tmp_path / "m.safetensors")
    refused(tmp_path, (*words, "--use", "red,swir1"), "swir1")
    done = tiny.landslip(*words, "--use", "red,green")
    assert done.code == 0, done.err


def test_unfinished_training_goes_on_with_its_own_scene_only(
    good: Files, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from landslip.learn import train

    out = tmp_path / "m.safetensors"
    other = tiny.write_scene(tmp_path / "other.tif", seed=9)
    monkeypatch.setattr(train, "Interruption", lambda: tiny.StopAfter(1))
    assert tiny.landslip(*train_scene(good.scene, good.inventory, out)).code == 130
    refused(tmp_path, train_scene(other, good.inventory, out), "begun with")


def test_wrong_options_are_refused_before_the_work(
    good: Files, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from landslip.mapping import run

    def begun(*_: object, **__: object) -> None:
        pytest.fail("mapping began")

    monkeypatch.setattr(run.MapRun, "compute", begun)
    words = map_(good.scene, good.model, tmp_path / "map")
    refused(tmp_path, (*words, "--outline", "bezier"), "'bezier'", code=2)


# A full disk -------------------------------------------------------------------------------------

FULL_DISK = """
import json, resource, signal, sys
sys.dont_write_bytecode = True
sys.path.insert(0, {tests!r})
import matplotlib.font_manager, torch, tiny
import landslip.learn.train, landslip.mapping.scene_map, landslip.prepare.tiles
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
for words, limit in json.load(sys.stdin):
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, resource.RLIM_INFINITY))
    done = tiny.landslip(*words)
    print(json.dumps([done.code, done.err]), flush=True)
"""


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no limit to the size of files")
def test_a_full_disk(good: Files, tmp_path: Path) -> None:
    # Files may grow to a limit and no further, which fails as a full disk does; several limits,
    # so that it happens with the first pixels, with the last ones, and in the index.
    out, picture, model = tmp_path / "out", tmp_path / "c.png", tmp_path / "m.safetensors"
    mapped = tmp_path / "map"
    commands: list[tuple[WORDS, int]] = [
        (tile(good.scene, good.inventory, out), 300),
        (tile(good.scene, good.inventory, out), 1_500),
        (tile(good.scene, good.inventory, out), 30_000),
        (map_(good.scene, good.model, out), 300),
        (map_(good.scene, good.model, out, "--float"), 3_000),
        (map_(good.scene, good.model, mapped), 30_000),
        (train_tiles(good.tiles, "--out", model), 300),
        (train_tiles(good.tiles, "--out", model), 1_000_000),
        (("check", good.scene, "--out", picture), 9_000),
    ]
    script = FULL_DISK.format(tests=str(Path(__file__).parent))
    asked = json.dumps([[list(map(str, words)), limit] for words, limit in commands])
    done = subprocess.run(
        [sys.executable, "-c", script], input=asked, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    outcomes = [json.loads(line) for line in done.stdout.splitlines()]
    for (words, limit), (code, err) in zip(commands, outcomes, strict=True):
        assert code == 1, (words, limit, err)
        assert err.count("Error:") == 1, (words, limit, err)
        assert "Cannot write" in err, (words, limit, err)
        assert "Traceback" not in err, (words, limit, err)
    # The windows of the last map were done before the disk was full.
    assert [path.name for path in tmp_path.iterdir()] == ["map.partial"]
    # With room again, the same commands finish.
    assert tiny.landslip(*map_(good.scene, good.model, mapped)).code == 0
    shutil.rmtree(mapped)
    assert state_of(tmp_path) == {}
    again = tiny.landslip(*train_tiles(good.tiles, "--out", model))
    assert again.code == 0, again.err
    assert model in finished(tmp_path)


def finished(folder: Path) -> list[Path]:
    """The files of a folder, none of which is hidden or unfinished."""
    assert [name for name in files_in(folder) if "partial" in name or name.startswith(".")] == []
    return sorted(folder.iterdir())


# Ctrl-C ------------------------------------------------------------------------------------------


def stopped_when(ready: Callable[[], bool], words: WORDS) -> tuple[int, str, str]:
    """Start a command, press Ctrl-C when it is so far, and wait for its end."""
    process = tiny.start(*words)
    try:
        deadline = time.monotonic() + 120
        while not ready():
            assert process.poll() is None, process.communicate()
            assert time.monotonic() < deadline, "waited for two minutes"
            time.sleep(0.02)
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=120)
    finally:
        process.kill()
    return process.returncode, out, err


@pytest.mark.skipif(sys.platform == "win32", reason="Windows sends no SIGINT to one process")
def test_ctrl_c_in_training_loses_nothing(good: Files, tmp_path: Path) -> None:
    out = tmp_path / "m.safetensors"
    words = (
        "train", good.tiles, "--out", out, "--model", "unet-small", "--recipe", "modern",
        "--epochs", "6", "--device", "cpu", "--precision", "float32",
    )  # fmt: skip
    saved = tmp_path / "m.safetensors.partial" / "checkpoint.safetensors"
    code, _, err = stopped_when(saved.exists, words)
    assert code == 130, err
    assert "Traceback" not in err
    assert "the same command continues" in err
    assert not out.exists()
    assert [path.name for path in tmp_path.iterdir()] == ["m.safetensors.partial"]
    done = tiny.landslip(*words)
    assert done.code == 0, done.err
    assert "continuing in epoch" in done.err
    assert out in finished(tmp_path)
    rows = (tmp_path / "m.history.csv").read_text().splitlines()[1:]
    assert [row.split(",")[0] for row in rows] == [str(number) for number in range(1, 7)]
    # A finished model is not trained again.
    refused(tmp_path, words, out, "exists already")


@pytest.mark.skipif(sys.platform == "win32", reason="Windows sends no SIGINT to one process")
def test_ctrl_c_in_mapping_keeps_what_is_done(good: Files, tmp_path: Path) -> None:
    scene = tiny.write_scene(tmp_path / "large.tif", tiny.noise(3, 2000, 2000, "uint8"))
    words = map_(scene, good.model, tmp_path / "map", "--device", "cpu")
    journal = tmp_path / "map.partial" / "journal.json"
    code, out, err = stopped_when(journal.exists, words)
    assert code == 130, err
    assert "Traceback" not in err
    assert "the same command continues" in err
    assert out == ""
    assert sorted(path.name for path in tmp_path.iterdir()) == ["large.tif", "map.partial"]
    assert any((tmp_path / "map.partial" / "done.bin").read_bytes())
