"""Pansharpening: quality on real pairs, speed at the paper's size, and mapping while it runs.

Needs the data folder named by LANDSLIP_DATA. Figures are kept in `experiments/pansharpen.json`.

    python benchmarks/pansharpen.py quality
    python benchmarks/pansharpen.py speed             full size: 8 GB of disk
    python benchmarks/pansharpen.py speed --share .25
    python benchmarks/pansharpen.py mapping
    python benchmarks/pansharpen.py radiometry        on the made-up valley
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import rasterio
import rasterio.shutil
from affine import Affine
from numpy.typing import NDArray
from rasterio.windows import Window

import landslip
from landslip.geo.raster import DIGITAL, create_raster
from landslip.geo.reflectance import TOP_OF_ATMOSPHERE
from landslip.prepare.sharpen.fusion import METHODS
from landslip.prepare.sharpen.matching import SharpenOptions
from landslip.prepare.sharpen.pansharpen import open_pansharpened
from landslip.prepare.sharpen.quality import sharpen_quality

DATA = Path(os.environ["LANDSLIP_DATA"])
RESULTS = Path("experiments/pansharpen.json")
WORK = Path("local/pansharpen")
BANDS = ("blue", "green", "red", "nir")
PAN_SHAPE, MS_SHAPE = (22_900, 33_368), (6_940, 10_112)
"""The scene of Qi et al. 2020: 0.5 m and 1.65 m, ratio 3.3."""
PAN_SIZE_M = 0.5
THREADS = 2
CACHE_BYTES = 256 * 2**20


def keep(name: str, figures: dict[str, Any]) -> None:
    """Store the figures of a part."""
    found = json.loads(RESULTS.read_text()) if RESULTS.exists() else {}
    found[name] = figures
    RESULTS.write_text(json.dumps(found, indent=2, sort_keys=True) + "\n")
    print(json.dumps(figures, indent=2))


def quality() -> None:
    """Wald's protocol on both real pairs, with and without coregistration."""
    figures: dict[str, Any] = {}
    for number in (1, 2):
        for coregister in (False, True):
            scene = open_pansharpened(
                DATA / "pansharpen" / f"pan{number}.tif", DATA / "pansharpen" / f"ms{number}.tif",
                bands=BANDS, options=SharpenOptions(coregister=coregister),
            )  # fmt: skip
            found = sharpen_quality(scene, methods=METHODS)
            name = f"pair {number}, {'coregistered' if coregister else 'as delivered'}"
            figures[name] = {
                row.method: {
                    "ergas": round(row.ergas, 2), "sam_deg": round(row.sam_deg, 2),
                    "uiqi": round(row.mean_uiqi, 3),
                    "uiqi_by_band": {band: round(value, 3) for band, value in row.uiqi.items()},
                    "consistency_ergas": round(row.consistency_ergas, 2),
                    "pan_explained": round(row.pan_explained, 3),
                }
                for row in found.rows
            }  # fmt: skip
            shift = scene.misregistration
            assert shift is not None
            figures[name]["bands_should_move_px"] = [
                round(shift.rows_px, 2), round(shift.cols_px, 2), round(shift.spread_px, 2),
            ]  # fmt: skip
            scene.close()
    keep("quality", figures)


def mirrored(position: NDArray[np.floating], side: int) -> NDArray[np.intp]:
    """Pixels of a file of `side` px under positions that walk to and fro over it."""
    folded = np.floor(position).astype(np.intp) % (2 * side)
    pixels: NDArray[np.intp] = np.where(folded < side, folded, 2 * side - 1 - folded)
    return pixels


def write_mirrored(source: Path, out: Path, shape: tuple[int, int], size_m: float) -> None:
    """Write a large file by mirroring a real one; uncompressed tiles, as vendors deliver."""
    with rasterio.open(source) as file:
        small, profile = file.read(), file.profile
    corner = profile["transform"]
    # One ground for both files, whatever their pixels: positions in m, nearest pixel.
    rows, cols = (
        mirrored((np.arange(length) + 0.5) * size_m / corner.a, side)
        for length, side in zip(shape, small.shape[1:], strict=True)
    )
    profile |= {
        "driver": "GTiff", "height": shape[0], "width": shape[1], "tiled": True, "blockxsize": 512,
        "blockysize": 512, "compress": None, "bigtiff": "if_safer",
        "transform": Affine(size_m, 0, corner.c, 0, -size_m, corner.f),
    }  # fmt: skip
    with rasterio.open(out, "w", **profile) as file:
        for row in range(0, shape[0], 512):
            part = small[:, rows[row : row + 512]][:, :, cols]
            file.write(part, window=Window(0, row, shape[1], part.shape[1]))


def big_pair(share: float) -> tuple[Path, Path]:
    """Pan and bands of `share` of the paper's pixels."""
    side = share**0.5
    shapes = [(round(h * side), round(w * side)) for h, w in (PAN_SHAPE, MS_SHAPE)]
    ratio = PAN_SHAPE[0] / MS_SHAPE[0]
    files = WORK / f"pan_{share:g}.tif", WORK / f"ms_{share:g}.tif"
    WORK.mkdir(parents=True, exist_ok=True)
    for path, kind, shape, size_m in zip(
        files, ("pan1", "ms1"), shapes, (PAN_SIZE_M, PAN_SIZE_M * ratio), strict=True
    ):
        if not path.exists():
            write_mirrored(DATA / "pansharpen" / f"{kind}.tif", path, shape, size_m)
    return files


def gdal_vrt(pan: Path, ms: Path) -> Path:
    """GDAL's weighted Brovey of the same pair."""
    bands = "".join(
        f'<SpectralBand dstBand="{n}"><SourceFilename relativeToVRT="0">{ms.resolve()}'
        f"</SourceFilename><SourceBand>{n}</SourceBand></SpectralBand>"
        for n in range(1, 5)
    )
    path = WORK / "brovey.vrt"
    path.write_text(
        '<VRTDataset subClass="VRTPansharpenedDataset"><PansharpeningOptions>'
        "<Algorithm>WeightedBrovey</Algorithm><AlgorithmOptions><Weights>.25,.25,.25,.25</Weights>"
        f"</AlgorithmOptions><Resampling>Cubic</Resampling><NumThreads>{THREADS}</NumThreads>"
        "<SpatialExtentAdjustment>None</SpatialExtentAdjustment><PanchroBand><SourceFilename "
        f'relativeToVRT="0">{pan.resolve()}</SourceFilename><SourceBand>1</SourceBand>'
        f"</PanchroBand>{bands}</PansharpeningOptions></VRTDataset>"
    )
    return path


COPY = """
import sys, rasterio, rasterio.shutil
with rasterio.Env(GDAL_NUM_THREADS={threads}, GDAL_CACHEMAX={cache}):
    rasterio.shutil.copy(sys.argv[1], sys.argv[2], driver="GTiff", tiled=True, blockxsize=256,
        blockysize=256, compress="deflate", zlevel=1, predictor=2, num_threads={threads},
        photometric="minisblack", bigtiff="if_safer")
"""
TO_COG = """
import sys, rasterio, rasterio.shutil
with rasterio.Env(GDAL_CACHEMAX={cache}):
    rasterio.shutil.copy(sys.argv[1], sys.argv[2], driver="COG", compress="deflate", level=1,
        predictor="YES", overview_resampling="average", bigtiff="if_safer", num_threads={threads})
"""


def timed(command: list[str]) -> tuple[float, float, float]:
    """Wall time (s), peak memory (GB) and processor time (s) of a process."""
    begun = time.monotonic()
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    _, status, usage = os.wait4(process.pid, 0)
    if status:
        raise SystemExit(f"failed: {' '.join(command)}")
    wall = time.monotonic() - begun
    return wall, usage.ru_maxrss / 1e6, usage.ru_utime + usage.ru_stime


def speed(share: float, repeats: int) -> None:
    """Ours and GDAL's, one after the other, as whole processes."""
    pan, ms = big_pair(share)
    with rasterio.open(pan) as file:
        megapixels = file.width * file.height / 1e6
    mine, theirs, cog = (WORK / f"{name}.tif" for name in ("ours", "gdal", "cog"))
    own = [sys.executable, "-m", "landslip.cli", "-q", "pansharpen", str(pan), str(ms),
           "--bands", ",".join(BANDS), "--threads", str(THREADS), "--overwrite",
           "--out", str(mine)]  # fmt: skip
    script = COPY.format(threads=THREADS, cache=CACHE_BYTES)
    commands = {
        "gsa": [*own, "--method", "gsa"],
        "gdal brovey": [sys.executable, "-c", script, str(gdal_vrt(pan, ms)), str(theirs)],
        "brovey": [*own, "--method", "brovey"],
        "gs": [*own, "--method", "gs"],
    }
    runs: dict[str, list[tuple[float, float, float]]] = {name: [] for name in commands}
    for _ in range(repeats):
        for name, command in commands.items():
            theirs.unlink(missing_ok=True)
            runs[name].append(timed(command))
            print(name, f"{megapixels / runs[name][-1][0]:.1f} Mpx/s", runs[name][-1], flush=True)
    figures: dict[str, Any] = {"megapixels": round(megapixels, 1), "runs": repeats}
    for name, found in runs.items():
        seconds = [each[0] for each in found]
        ratios = [gdal[0] / own_[0] for own_, gdal in zip(found, runs["gdal brovey"], strict=True)]
        figures[name] = {
            "seconds": [round(value, 1) for value in seconds],
            "megapixels_a_second": round(megapixels / statistics.median(seconds), 1),
            "peak_gb": round(max(each[1] for each in found), 2),
            "processor_ns_a_pixel": round(
                statistics.median(each[2] for each in found) * 1e3 / megapixels
            ),
            "times_gdal": round(statistics.median(ratios), 2),
        }
    cog.unlink(missing_ok=True)
    to_cog = TO_COG.format(threads=THREADS, cache=CACHE_BYTES)
    wall, peak, _ = timed([sys.executable, "-c", to_cog, str(mine), str(cog)])
    figures["cog pass"] = {"seconds": round(wall, 1), "peak_gb": round(peak, 2)}
    for path in (mine, theirs, cog):
        path.unlink(missing_ok=True)
    keep(f"speed, {share:g} of the paper's scene", figures)


def mapping(repeats: int) -> None:
    """`map --pan --ms` against `map` of the file, with an untrained `resunet`."""
    import torch

    from landslip.learn.card import ModelCard, parameter_count, save_model
    from landslip.learn.models import build_model

    torch.manual_seed(0)
    network = build_model("resunet", 3)
    model = WORK / "untrained.safetensors"
    pan, ms = big_pair(0.004)
    model.unlink(missing_ok=True)
    bands = ("nir", "red", "green")
    card = ModelCard(
        name="untrained", architecture="resunet", total_parameters=parameter_count(network),
        bands=bands, scaling=tuple((band, 0.0, 1500.0) for band in bands), pixel_size_m=0.5,
        halo_px=128, stride_px=32, threshold=0.999,
    )  # fmt: skip
    save_model(model, network, card)
    sharp = WORK / "sharp.tif"
    landslip.pansharpen(pan, ms, sharp, bands=BANDS, overwrite=True).close()
    base = [sys.executable, "-m", "landslip.cli", "-q", "map", "--model", str(model),
            "--overwrite", "--scaling", "model"]  # fmt: skip
    pair = ["--pan", str(pan), "--ms", str(ms)]
    commands = {
        "file": [*base, str(sharp), "--out", str(WORK / "map_file")],
        "pair": [*base, *pair, "--bands", ",".join(BANDS), "--out", str(WORK / "map_pair")],
    }
    runs: dict[str, list[float]] = {"file": [], "pair": []}
    for _ in range(repeats):
        for name, command in commands.items():
            runs[name].append(timed(command)[0])
            print(name, f"{runs[name][-1]:.1f} s", flush=True)
    codes = [
        rasterio.open(WORK / f"map_{name}" / "probability.tif").read() for name in ("file", "pair")
    ]
    ratios = [sharp_ / file for file, sharp_ in zip(runs["file"], runs["pair"], strict=True)]
    with rasterio.open(pan) as file:
        megapixels = file.width * file.height / 1e6
    keep(
        "mapping while pansharpening",
        {
            "megapixels": round(megapixels, 2),
            "file_seconds": [round(value, 1) for value in runs["file"]],
            "pair_seconds": [round(value, 1) for value in runs["pair"]],
            "pair_over_file": round(statistics.median(ratios), 3),
            "same_codes": bool((codes[0] == codes[1]).all()),
        },
    )


def valley_as(path: Path, image: NDArray[Any], unit: str, transform: Affine) -> Path:
    """Write a version of the valley's image."""
    grid = landslip.Grid(rasterio.CRS.from_string("EPSG:32648"), transform, *image.shape[1:])
    path.unlink(missing_ok=True)
    with create_raster(
        path, grid, bands=("nir", "red", "green"), dtype=image.dtype.name, nodata=0,
        units=(unit,) * 3,
    ) as file:  # fmt: skip
        file.write(image)
    return path


def codes_of(scene: Path, model: Path, name: str, unusable: Path | None = None) -> Any:
    """Probability codes of a map, and what was chosen."""
    opened = landslip.open_scene(scene, unusable=unusable)
    landslip.map_scene(opened, model, WORK / name, overwrite=True)
    opened.close()
    record = json.loads((WORK / name / "run.json").read_text())
    with rasterio.open(WORK / name / "probability.tif") as file:
        return file.read(1).astype(int), record


def radiometry() -> None:
    """One scene in three kinds of numbers, and under cloud, through one trained model."""
    from scipy.ndimage import gaussian_filter

    WORK.mkdir(parents=True, exist_ok=True)
    valley = landslip.make_valley(seed=0)
    files = landslip.write_valley(valley, WORK / "valley")
    bits = np.where(valley.image > 0, np.maximum(np.rint(valley.image / 2), 1), 0)
    kinds: dict[str, tuple[NDArray[Any], str]] = {
        "11 bit": (bits.astype(np.uint16), DIGITAL),
        "times ten": ((10 * bits).astype(np.uint16), DIGITAL),
        "reflectance": ((bits * 2.3e-4).astype(np.float32), TOP_OF_ATMOSPHERE),
    }
    scenes = {
        name: valley_as(WORK / f"{name.replace(' ', '_')}.tif", image, unit, valley.transform)
        for name, (image, unit) in kinds.items()
    }
    model = WORK / "valley.safetensors"
    if not model.exists():
        recipe = landslip.recipe_named("modern", {"epochs": 8})
        landslip.train_on_scene(
            landslip.open_scene(scenes["11 bit"], unusable=files.unusable), files.landslides, model,
            checked=files.checked, tiling=landslip.TileOptions(size=128, stride=96, gap=64),
            options=landslip.TrainOptions(model="unet-small", recipe=recipe),
        )  # fmt: skip
    cut = landslip.load_card(model).threshold * 254
    figures: dict[str, Any] = {}
    base, _ = codes_of(scenes["11 bit"], model, "base", files.unusable)
    seen = base != 255
    for name in ("times ten", "reflectance"):
        for scaling in ("auto", "model"):
            opened = landslip.open_scene(scenes[name], unusable=files.unusable)
            options = landslip.MapOptions(scaling=scaling)
            landslip.map_scene(opened, model, WORK / "other", options=options, overwrite=True)
            record = json.loads((WORK / "other" / "run.json").read_text())
            with rasterio.open(WORK / "other" / "probability.tif") as file:
                other = file.read(1).astype(int)
            difference = np.abs(other - base)[seen] / 254
            figures[f"{name}, --scaling {scaling}"] = {
                "used": record["scaling"]["used"],
                "median_difference": float(np.median(difference)),
                "99th_percentile": round(float(np.percentile(difference, 99)), 4),
                "class_changed": round(float(((other >= cut) != (base >= cut))[seen].mean()), 6),
            }
    noise = gaussian_filter(np.random.default_rng(1).normal(size=base.shape), 30)
    cloud = noise > np.quantile(noise, 0.92)
    mask = WORK / "cloud.tif"
    grid = landslip.Grid(rasterio.CRS.from_string("EPSG:32648"), valley.transform, *cloud.shape)
    mask.unlink(missing_ok=True)
    with create_raster(mask, grid, bands=["cloud"], dtype="uint8") as file:
        file.write((cloud | valley.cloud).astype(np.uint8), 1)
    painted = np.where(cloud & (bits > 0), 1900, bits).astype(np.uint16)
    clouded = valley_as(WORK / "clouded.tif", painted, DIGITAL, valley.transform)
    under, record = codes_of(clouded, model, "clouded", mask)
    without, _ = codes_of(scenes["11 bit"], model, "masked", mask)
    outside = (under != 255) & seen
    beside = np.abs(under - base)[outside] / 254
    figures["8 % cloud and its mask"] = {
        "share": round(float(cloud.mean()), 3),
        "same_bytes_whatever_lies_under_the_mask": bool((under == without).all()),
        "outside_against_the_clear_scene": {
            "pixels_with_any_difference": round(float((beside > 0).mean()), 4),
            "class_changed": round(float(((under >= cut) != (base >= cut))[outside].mean()), 6),
            "median_difference": float(np.median(beside)),
        },
        "used": record["scaling"]["used"],
    }
    keep("radiometry", figures)


def main() -> None:
    """Run one part."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("part", choices=["quality", "speed", "mapping", "radiometry"])
    parser.add_argument("--share", type=float, default=1.0)
    parser.add_argument("--repeats", type=int, default=3)
    asked = parser.parse_args()
    parts: dict[str, Callable[[], None]] = {
        "quality": quality,
        "speed": lambda: speed(asked.share, asked.repeats),
        "mapping": lambda: mapping(asked.repeats),
        "radiometry": radiometry,
    }
    parts[asked.part]()


if __name__ == "__main__":
    main()
