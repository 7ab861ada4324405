"""How true outlines are, what splitting gives, terrain beside gdaldem, rules on Iburi, and speed.

Needs the data folder named by LANDSLIP_DATA, but for `speed`. Results are kept in
`experiments/inventory.json`.

    python benchmarks/inventory.py outlines [--geoai WHEEL]
    python benchmarks/inventory.py split
    python benchmarks/inventory.py terrain            (gdaldem and gdalwarp must be there)
    python benchmarks/inventory.py flags MODEL
    python benchmarks/inventory.py speed
    python benchmarks/inventory.py specks
"""

from __future__ import annotations

import argparse
import ast
import json
import logging
import os
import resource
import subprocess
import sys
import tempfile
import time
import zipfile
from collections.abc import Callable, Iterator
from contextlib import closing
from functools import partial
from pathlib import Path
from typing import Any

import geopandas as gpd
import numpy as np
import rasterio
import shapely
from numpy.typing import NDArray
from rasterio.features import shapes
from shapely.geometry import shape

import landslip
from landslip.geo.grid import Grid, Window
from landslip.geo.inventory import Area, areas_m2
from landslip.geo.probability import encode
from landslip.geo.raster import create_raster, grid_of, open_dataset, rasterio_window
from landslip.inventory.outlines import landslide_polygons
from landslip.inventory.pixels import ProbabilityFile, numbered
from landslip.inventory.relief import Terrain
from landslip.inventory.split import split_bodies
from landslip.samples.synthetic import make_valley
from runs import keep, parse

RESULTS = Path("experiments/inventory.json")
WORK = Path("local/inventory")
Polygons = NDArray[np.object_]
UTM_54 = "EPSG:32654"


def data(name: str) -> Path:
    """A file of the data folder."""
    return Path(os.environ["LANDSLIP_DATA"]) / name


def single(polygons: Any) -> Polygons:
    """Valid single polygons with an area."""
    parts = shapely.get_parts(shapely.make_valid(np.asarray(polygons, dtype=object)))
    return np.asarray(parts[(shapely.get_type_id(parts) == 3) & (shapely.area(parts) > 0)])


def reference(name: str) -> tuple[Grid, Polygons]:
    """The landslides of a place, and the pixels that they are mapped on."""
    if name == "valley":
        valley = make_valley((1024, 1536))
        grid = Grid(rasterio.CRS.from_string(valley.crs), valley.transform, 1024, 1536)
        return grid, single(valley.landslides)
    if name == "tianshui":
        with open_dataset(str(data("tianshui/scene.tif"))) as dataset:
            grid = grid_of(dataset)
        frame = gpd.read_file(data("tianshui/landslides.gpkg"))
        return grid, single(frame.to_crs(grid.crs.to_wkt() if grid.crs else None).geometry)
    with open_dataset(str(data("iburi/labels.tif"))) as dataset:
        grid, labels = grid_of(dataset), dataset.read(1)
    marked = labels == 1
    traced = shapes(marked.astype(np.uint8), mask=marked, transform=grid.transform)
    return grid, single([shape(each) for each, _ in traced])


def exact_map(polygons: Polygons, grid: Grid, path: Path) -> ProbabilityFile:
    """Write probabilities that fall from 1 to 0 across the outlines, one pixel wide."""
    to_pixels = ~grid.transform
    outline = shapely.boundary(shapely.union_all(polygons))
    moved = shapely.transform(outline, lambda xy: np.column_stack(to_pixels * xy.T))
    pieces = shapely.get_parts(shapely.segmentize(moved, 4.0))
    lines = np.concatenate([_segments(piece) for piece in pieces])
    tree = shapely.STRtree(lines)
    apart = single([shapely.union_all(polygons)])
    rows, cols = np.mgrid[: grid.height, : grid.width]
    points = shapely.points(cols.ravel() + 0.5, rows.ravel() + 0.5)
    near, distance = tree.query_nearest(points, max_distance=6, return_distance=True)
    far = np.full(points.size, 6.0)
    far[near[0]] = distance
    inside = numbered(apart, grid).ravel() > 0
    signed = np.where(inside, far, -far).reshape(grid.shape)
    return write_map(encode(1 / (1 + np.exp(-4 * signed))), grid, path)


def _segments(line: Any) -> Polygons:
    xy = shapely.get_coordinates(line)
    return np.asarray(shapely.linestrings(np.stack([xy[:-1], xy[1:]], axis=1)))


def write_map(codes: NDArray[np.uint8], grid: Grid, path: Path) -> ProbabilityFile:
    """Write codes as a map of landslip."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with create_raster(path, grid, bands=["probability"], dtype="uint8", nodata=255) as out:
        out.scales = (1 / 254,)
        out.write(codes, 1)
    return ProbabilityFile(path)


def polygonised(scene: ProbabilityFile) -> Polygons:
    """What GDAL's polygonise makes of the pixels from .5 on."""
    codes = scene.read(scene.grid.window)
    marked = ((codes >= 127) & (codes != 255)).astype(np.uint8)
    traced = shapes(marked, mask=marked == 1, transform=scene.grid.transform)
    return np.array([shape(each) for each, _ in traced], dtype=object)


def by_geoai(wheel: Path) -> Callable[[ProbabilityFile], Polygons]:
    """The function `raster_to_vector` of geoai, run alone, on the mask of pixels from .5 on."""
    with zipfile.ZipFile(wheel) as package:
        tree = ast.parse(package.read("geoai/utils/raster.py").decode())
    (body,) = (
        node for node in tree.body
        if isinstance(node, ast.FunctionDef) and node.name == "raster_to_vector"
    )  # fmt: skip
    names: dict[str, Any] = {
        "rasterio": rasterio, "features": rasterio.features, "shape": shape, "np": np, "gpd": gpd,
        "os": os, "Optional": Any, "List": list, "logger": logging.getLogger("geoai"),
    }  # fmt: skip
    body.returns = None
    for argument in body.args.args:
        argument.annotation = None
    exec(compile(ast.Module([body], []), str(wheel), "exec"), names)

    def found(scene: ProbabilityFile) -> Polygons:
        codes = scene.read(scene.grid.window)
        path = WORK / "mask.tif"
        with create_raster(path, scene.grid, bands=["mask"], dtype="uint8", nodata=None) as out:
            out.write(((codes >= 127) & (codes != 255)).astype(np.uint8), 1)
        return np.asarray(names["raster_to_vector"](str(path), min_area=0).geometry, dtype=object)

    return found


def outlines(wheel: Path | None) -> dict[str, Any]:
    """Vertices, validity and distance from the true outline, of every way to outline."""
    found: dict[str, Any] = {}
    for name in ("tianshui", "iburi", "valley"):
        grid, true = reference(name)
        scene = exact_map(true, grid, WORK / f"{name}.tif")
        ways: dict[str, Callable[[ProbabilityFile], Polygons]] = {
            "contour": contoured,
            "contour, simplified by half a pixel": partial(
                contoured, simplify_m=grid.pixel_size_m / 2
            ),
            "pixels": partial(contoured, outline="pixels"),
            "GDAL polygonise": polygonised,
        }
        if wheel is not None:
            ways["geoai raster_to_vector"] = by_geoai(wheel)
        found[name] = {way: _outlined(make(scene), true, grid) for way, make in ways.items()}
        for way, row in found[name].items():
            print(name, way, row)
    return found


def _outlined(polygons: Polygons, true: Polygons, grid: Grid) -> dict[str, float]:
    to_pixels = ~grid.transform
    lines = []
    for each in (polygons, true):
        line = shapely.boundary(shapely.union_all(shapely.make_valid(each)))
        moved = shapely.transform(line, lambda xy: np.column_stack(to_pixels * xy.T))
        lines.append(np.concatenate([_segments(part) for part in shapely.get_parts(moved)]))
    away = []
    for one, other in (lines, lines[::-1]):
        # Evenly along the outline: its own vertices would count more where there are many.
        lengths = shapely.length(one)
        ends = np.cumsum(lengths)
        places = np.arange(0.125, ends[-1], 0.25)
        at = np.minimum(np.searchsorted(ends, places), len(one) - 1)
        points = shapely.line_interpolate_point(one[at], places - (ends - lengths)[at])
        away.append(
            shapely.STRtree(other).query_nearest(points, return_distance=True, all_matches=False)[1]
        )
    apart = np.concatenate(away)
    one, other = shapely.STRtree(polygons).query(polygons, predicate="intersects")
    first = one < other
    valid = shapely.make_valid(polygons)
    shared = shapely.area(shapely.intersection(valid[one[first]], valid[other[first]]))
    area = (
        areas_m2(valid, grid.crs).sum()
        / areas_m2(single([shapely.union_all(true)]), grid.crs).sum()
    )
    return {
        "polygons": len(polygons),
        "vertices": int(shapely.get_num_coordinates(polygons).sum()),
        "valid": float(shapely.is_valid(polygons).mean()),
        "overlaps": int((shared > 1e-6 * abs(grid.transform.determinant)).sum()),
        "mean_px": round(float(apart.mean()), 3),
        "p95_px": round(float(np.quantile(apart, 0.95)), 3),
        "area_error_percent": round(100 * (float(area) - 1), 2),
    }


def split() -> dict[str, Any]:
    """How many bodies come back from a reference that was merged with its neighbours.

    Iburi's reference was traced along pixel edges and meets at corners, which contours join before
    anything is closed: there both are told, against it and against what contours make of it.
    """
    found = {}
    for name, reaches in (("tianshui", (1.0, 2.0)), ("iburi", (1.0, 1.5))):
        grid, true = reference(name)
        unit = 1.0 if name == "tianshui" else abs(grid.transform.e)
        joined = contoured(exact_map(true, grid, WORK / f"{name}.tif"))
        for reach in reaches:
            grown = shapely.union_all(true).buffer(reach * unit).buffer(-reach * unit)
            scene = exact_map(single([grown]), grid, WORK / "merged.tif")
            whole = contoured(scene)
            ways = {"merged": whole, "split": split_bodies(whole, scene)[0]}
            if name == "iburi":
                with closing(Terrain(str(data("iburi/dsm.tif")), grid)) as terrain:
                    ways["split with elevation"] = split_bodies(whole, scene, terrain=terrain)[0]
            key = f"{name}, closed by {reach:g} {'m' if name == 'tianshui' else 'px'}"
            for words, each in (("", true), (", corners joined", joined)):
                found[key + words] = {"reference": len(each)} | {
                    way: {"bodies": len(bodies), **_paired(bodies, each)}
                    for way, bodies in ways.items()
                }
                print(key + words, found[key + words])
    return found


def contoured(scene: ProbabilityFile, **options: Any) -> Polygons:
    """Outlines at .5."""
    return np.concatenate(list(landslide_polygons(scene, 0.5, **options)))


def _paired(polygons: Polygons, true: Polygons) -> dict[str, float]:
    """One-to-one pairs with an IoU of .5 or more, of which there can be only one each; F1."""
    one, other = shapely.STRtree(true).query(polygons, predicate="intersects")
    shared = shapely.area(shapely.intersection(polygons[one], true[other]))
    union = shapely.area(polygons[one]) + shapely.area(true[other]) - shared
    pairs = int((shared > 0.5 * union).sum())
    return {"back": pairs, "f1": round(2 * pairs / (len(polygons) + len(true)), 3)}


def terrain() -> dict[str, Any]:
    """Slope and aspect of Iburi's landslides beside gdaldem, on the same cells in UTM."""
    WORK.mkdir(parents=True, exist_ok=True)
    dem = WORK / "dsm_utm.tif"
    planes = {}
    warp = f"gdalwarp -q -overwrite -t_srs {UTM_54} -tr 30 30 -r bilinear".split()
    commands = [[*warp, str(data("iburi/dsm.tif")), str(dem)]]
    for kind in ("slope", "aspect"):
        commands.append(["gdaldem", kind, "-q", str(dem), str(WORK / f"{kind}.tif")])
    for command in commands:
        subprocess.run(command, check=True)
    for kind in ("slope", "aspect"):
        with rasterio.open(WORK / f"{kind}.tif") as file:
            planes[kind] = np.where(file.read_masks(1) > 0, file.read(1), np.nan)
    with open_dataset(str(dem)) as dataset:
        grid = grid_of(dataset)
    _, labels = reference("iburi")
    moved = gpd.GeoSeries(list(labels), crs="EPSG:4326").to_crs(UTM_54)
    polygons = single(moved)
    with closing(Terrain(str(dem), grid)) as model:
        relief = model.measured(polygons)
    numbers = numbered(polygons, grid)
    differences: dict[str, list[float]] = {"slope_mean": [], "slope_max": [], "aspect": []}
    for number in np.flatnonzero(relief.cells >= 4):
        inside = numbers == number + 1
        if not np.isfinite(planes["slope"][inside]).any():
            continue  # all of its cells lie beside the edge of gdaldem's rasters
        slope, aspect = planes["slope"][inside], np.radians(planes["aspect"][inside])
        aspect = aspect[np.isfinite(aspect)]
        mean = np.degrees(np.arctan2(np.sin(aspect).mean(), np.cos(aspect).mean()))
        turned = (relief.aspect_deg[number] - mean + 180) % 360 - 180
        differences["slope_mean"].append(abs(np.nanmean(slope) - relief.slope_mean_deg[number]))
        differences["slope_max"].append(abs(np.nanmax(slope) - relief.slope_max_deg[number]))
        differences["aspect"].append(abs(turned))
    return {"landslides": len(differences["aspect"])} | {
        name: {"median_deg": float(np.nanmedian(each)), "largest_deg": float(np.nanmax(each))}
        for name, each in differences.items()
    }


RULES = ("slope_mean_deg < {slope} -> flat", "area_m2 < {area} -> small")
SLOPES_DEG, AREAS_M2 = (0, 4, 6, 8, 10, 12, 14), (0, 300, 600, 1000)


def flags(model: Path) -> dict[str, Any]:
    """Landslides of Iburi with and without those that rules flag; rules chosen on the left part."""
    folder = WORK / "iburi_map"
    grid, true = reference("iburi")
    scene = landslip.open_scene(data("iburi/post.tif"), sensor="sentinel-2")
    if not folder.exists():
        landslip.map_scene(scene, model, folder)
    rules = WORK / "rules.txt"
    rules.write_text("area_m2 < 0 -> none\n")
    out = WORK / "iburi.gpkg"
    options = landslip.InventoryOptions(dem=data("iburi/dsm.tif"), rules=rules)
    landslip.vectorise(folder / "probability.tif", out, options=options, overwrite=True)
    frame = gpd.read_file(out, layer="landslides")
    with open_dataset(str(data("iburi/labels.tif"))) as dataset:
        labelled = dataset.read(1) != 255
    middle = grid.transform * (grid.width * 0.5, 0)
    tested = shapely.centroid(true)
    sides = {
        "chosen on": (frame["lon"] < middle[0], shapely.get_x(tested) < middle[0]),
        "tested on": (frame["lon"] >= middle[0], shapely.get_x(tested) >= middle[0]),
    }
    seen = _labelled(np.asarray(frame.geometry), labelled, grid)

    def scored(side: str, kept: NDArray[np.bool_]) -> dict[str, float]:
        here, there = sides[side]
        mapped = np.asarray(frame.geometry)[here.to_numpy() & kept & seen]
        return _found(mapped, true[there])

    best = max(
        ((slope, area) for slope in SLOPES_DEG for area in AREAS_M2),
        key=lambda pair: scored("chosen on", ~_flagged(frame, *pair))["f1"],
    )
    rules.write_text("\n".join(RULES).format(slope=best[0], area=best[1]) + "\n")
    options = landslip.InventoryOptions(
        dem=data("iburi/dsm.tif"), rules=rules, drop=("flat", "small")
    )
    moved = WORK / "iburi_dropped.gpkg"
    made = landslip.vectorise(folder / "probability.tif", moved, options=options, overwrite=True)
    dropped = set(gpd.read_file(moved, layer="dropped")["id"]) if made.dropped else set()
    kept = set(gpd.read_file(moved, layer="landslides")["id"])
    is_kept = frame["id"].isin(kept).to_numpy()
    ways = {
        "all": np.ones(len(frame), dtype=bool),
        "without flagged": is_kept,
        "without flat ones": ~_flagged(frame, best[0], 0),
        "without small ones": ~_flagged(frame, 0, best[1]),
    }
    return {
        "slope_below_deg": best[0], "area_below_m2": best[1],
        "nothing_lost": kept | dropped == set(frame["id"]) and not kept & dropped,
        "dropped": len(dropped),
        "without a slope": int(frame["slope_mean_deg"].isna().sum()),
        **{
            side: {
                **{way: scored(side, chosen) for way, chosen in ways.items()},
                "flagged": scored(side, ~is_kept),
            }
            for side in sides
        },
    }  # fmt: skip


def _flagged(frame: gpd.GeoDataFrame, slope: float, area: float) -> NDArray[np.bool_]:
    return np.asarray((frame["slope_mean_deg"] < slope) | (frame["area_m2"] < area))


def _labelled(polygons: Polygons, labelled: NDArray[np.bool_], grid: Grid) -> NDArray[np.bool_]:
    """Landslides of which most pixels have a label."""
    numbers = numbered(polygons, grid)
    inside = np.bincount(numbers.ravel(), minlength=len(polygons) + 1)[1:]
    known = np.bincount(numbers[labelled], minlength=len(polygons) + 1)[1:]
    return np.asarray(known > 0.5 * inside)


def _found(mapped: Polygons, true: Polygons) -> dict[str, float]:
    """Shares of landslides that are covered by half, of the reference and of the map."""

    def covered(some: Polygons, others: Polygons) -> int:
        one, other = shapely.STRtree(others).query(some, predicate="intersects")
        shared = shapely.area(shapely.intersection(some[one], others[other]))
        sums = np.bincount(one, weights=shared, minlength=len(some))
        return int((sums >= 0.5 * shapely.area(some)).sum())

    precision, recall = covered(mapped, true) / len(mapped), covered(true, mapped) / len(true)
    return {
        "mapped": len(mapped), "reference": len(true), "precision": round(precision, 3),
        "landslide": round(precision * len(mapped)),
        "recall": round(recall, 3), "f1": round(2 * precision * recall / (precision + recall), 3),
    }  # fmt: skip


def speed(height: int = 33_368, width: int = 22_900, number: int = 17_515) -> dict[str, Any]:
    """A full inventory with terrain of the paper's scene, in its own process."""
    path, dem = WORK / f"map_{height}x{width}.tif", WORK / f"dem_{height}x{width}.tif"
    if not dem.exists():
        _write_large(height, width, number, path, dem)
    return _timed([str(path), "--threshold", "0.5", "--dem", str(dem)])


def _write_large(height: int, width: int, number: int, path: Path, dem: Path) -> None:
    """Landslides of sizes as inventories have them, with soft edges; hills of 10 m cells below."""
    from scipy.ndimage import uniform_filter

    WORK.mkdir(parents=True, exist_ok=True)
    random = np.random.default_rng(0)
    transform = rasterio.Affine(0.5, 0, 500_000, 0, -0.5, 3_800_000)
    grid = Grid(rasterio.CRS.from_epsg(32648), transform, height, width)
    areas = np.minimum(1 / random.gamma(1.4, 1 / 600, number) + 10, 60_000)
    side = int(np.ceil(np.sqrt(number * height / width)))
    places = np.arange(number)
    step_y, step_x = height / side, width / (number // side + 1)
    x = (places // side + 0.5) * step_x + random.uniform(-0.2, 0.2, number) * step_x
    y = (places % side + 0.5) * step_y + random.uniform(-0.2, 0.2, number) * step_y
    discs = shapely.buffer(shapely.points(np.column_stack(transform * (x, y))), 1.0)
    long = random.uniform(1, 2, number)
    middles = shapely.get_coordinates(shapely.centroid(discs))
    xy, owner = shapely.get_coordinates(discs, return_index=True)
    radius = np.minimum(np.sqrt(areas / np.pi), 0.2 * min(step_x, step_y))
    stretch = np.column_stack([radius / long, radius * long])
    moved = shapely.set_coordinates(discs, (xy - middles[owner]) * stretch[owner] + middles[owner])
    area = Area(list(moved), grid)
    with create_raster(path, grid, bands=["probability"], dtype="uint8", nodata=255) as out:
        out.scales = (1 / 254,)
        for window in _strips(grid, 512):
            around = Window(window.row - 4, 0, window.height + 8, width)
            soft = uniform_filter(area.read(around).astype(np.float32) * 254, 5)[4:-4]
            out.write(np.rint(soft).astype(np.uint8), 1, window=rasterio_window(window))
    cells = Grid(grid.crs, transform * rasterio.Affine.scale(20), height // 20 + 1, width // 20 + 1)
    down, right = np.mgrid[: cells.height, : cells.width] * 10.0
    z = (
        1200
        + 300 * np.sin(right / 900)
        + 250 * np.cos(down / 700)
        + 40 * np.sin((right + down) / 130)
    )
    with create_raster(dem, cells, bands=["elevation"], dtype="float32", nodata=-9999) as out:
        out.write(z.astype(np.float32), 1)


def _strips(grid: Grid, rows: int) -> Iterator[Window]:
    for row in range(0, grid.height, rows):
        yield Window(row, 0, min(rows, grid.height - row), grid.width)


def specks() -> dict[str, Any]:
    """Half a million landslides of one pixel."""
    codes = np.zeros((1024, 2000), dtype=np.uint8)
    codes[::2, ::2] = 254
    transform = rasterio.Affine(10, 0, 400_000, 0, -10, 4_700_000)
    path = WORK / "specks.tif"
    write_map(codes, Grid(rasterio.CRS.from_epsg(32654), transform, 1024, 2000), path)
    return _timed([str(path), "--threshold", "0.5"])


def _timed(words: list[str]) -> dict[str, Any]:
    """Run `landslip vectorise`, with a sheet, in a process of its own."""
    with tempfile.TemporaryDirectory(dir=WORK) as name:
        out = Path(name) / "out.gpkg"
        command = [sys.executable, "-m", "landslip", "vectorise", *words, "--out", str(out),
                   "--sheet", str(Path(name) / "out.html")]  # fmt: skip
        begun = time.monotonic()
        done = subprocess.run(command, check=True, capture_output=True, text=True)
        seconds = time.monotonic() - begun
        used = resource.getrusage(resource.RUSAGE_CHILDREN)
        return {
            "said": done.stdout.strip().partition(":")[0],
            "seconds": round(seconds, 1),
            "processor_seconds": round(used.ru_utime + used.ru_stime, 1),
            "peak_mb": round(used.ru_maxrss / 1e3),
        }


def main() -> None:
    """Run one verb and keep what it found."""
    parser = argparse.ArgumentParser(description=__doc__)
    verbs = parser.add_subparsers(dest="verb", required=True)
    verbs.add_parser("outlines").add_argument("--geoai", type=Path, help="wheel of geoai-py 0.40.1")
    verbs.add_parser("flags").add_argument("model", type=Path)
    for name in ("split", "terrain", "speed", "specks"):
        verbs.add_parser(name)
    asked, _ = parse(parser)
    found = {
        "outlines": lambda: outlines(asked.geoai),
        "flags": lambda: flags(asked.model),
        "split": split, "terrain": terrain, "speed": speed, "specks": specks,
    }[asked.verb]()  # fmt: skip
    print(json.dumps(found, indent=1))
    keep(RESULTS, asked.verb, found)


if __name__ == "__main__":
    main()
