"""How fast, how exact, how small and how safe mapping is.

Needs the data folder named by LANDSLIP_DATA; scenes of any size are repeated out of its strip.
Results are kept in `experiments/mapping.json`.

    python benchmarks/mapping.py rate --model M.safetensors     end to end against the bare forward
    python benchmarks/mapping.py seams --model M.safetensors    against the untiled forward
    python benchmarks/mapping.py layouts --model M.safetensors  computed twice, by memory
    python benchmarks/mapping.py cores --model M.safetensors    forward passes alone, by core
    python benchmarks/mapping.py sizes --model M.safetensors    seconds and memory by megapixels
    python benchmarks/mapping.py bf16 --model M.safetensors     against float32
    python benchmarks/mapping.py halo --model M.safetensors --tiles DIR     as training measures it
    python benchmarks/mapping.py kills --model M.safetensors    killed and continued: same bytes
    python benchmarks/mapping.py cluster --model M.safetensors  one and two Dask workers
    python benchmarks/mapping.py stages --model M.safetensors   the paper's scene, step by step
"""

from __future__ import annotations

import argparse
import hashlib
import itertools
import json
import os
import random
import shutil
import signal
import statistics
import subprocess
import sys
import time
from collections import defaultdict
from collections.abc import Callable
from contextlib import closing
from dataclasses import asdict
from pathlib import Path
from typing import Any
from unittest import mock
from xml.sax.saxutils import escape

import numpy as np
import rasterio
import rasterio.shutil
import torch
from numpy.typing import NDArray
from torch.utils.flop_counter import FlopCounterMode

import landslip
from landslip.geo.grid import Window
from landslip.geo.output import whole_file
from landslip.geo.parallel import in_order
from landslip.geo.windows import spread
from landslip.learn.allocation import freed_memory_kept
from landslip.learn.batches import ScoringGround
from landslip.learn.card import load_model, save_model
from landslip.learn.device import PRECISIONS, Compute
from landslip.learn.halo import IMAGES, measured_halo
from landslip.learn.memory import peak_bytes
from landslip.learn.models import model_entry
from landslip.learn.predict import probabilities
from landslip.mapping.run import MapRun
from landslip.prepare.scaling import read_inputs
from runs import keep, read_results

RESULTS = Path("experiments/mapping.json")
WORK = Path("local/mapping")
KEEPING = {
    "MALLOC_ARENA_MAX": "1",
    "MALLOC_MMAP_MAX_": "0",
    "MALLOC_TRIM_THRESHOLD_": "1000000000000",
}
"""Environment of Dask workers that keep the memory they free, as landslip does on its own."""
DATE = "2026-01-01T00:00:00.000Z"
"""Date of the GeoPackages whose bytes are compared."""


def valid_strip() -> Path:
    """The Tianshui strip with all pixels valid; made once."""
    path = WORK / "strip.tif"
    if not path.exists():
        WORK.mkdir(parents=True, exist_ok=True)
        with rasterio.open(Path(os.environ["LANDSLIP_DATA"]) / "tianshui" / "scene.tif") as strip:
            profile = strip.profile | {"tiled": True, "blockxsize": 256, "blockysize": 256}
            with whole_file(path) as partial, rasterio.open(partial, "w", **profile) as out:
                out.write(np.maximum(strip.read(), 1))
                out.descriptions = strip.descriptions
    return path


def repeated_scene(height: int, width: int) -> Path:
    """The strip again and again, as a VRT that takes no space."""
    path = WORK / f"scene_{height}x{width}.vrt"
    with rasterio.open(valid_strip()) as strip:
        rows, cols = strip.shape
        bands = []
        for number, name in enumerate(strip.descriptions, 1):
            sources = [
                f'<SimpleSource><SourceFilename relativeToVRT="1">strip.tif</SourceFilename>'
                f"<SourceBand>{number}</SourceBand>"
                f'<SrcRect xOff="0" yOff="0" xSize="{cols}" ySize="{rows}"/>'
                f'<DstRect xOff="{col}" yOff="{row}" xSize="{cols}" ySize="{rows}"/></SimpleSource>'
                for row in range(0, height, rows)
                for col in range(0, width, cols)
            ]
            bands.append(
                f'<VRTRasterBand dataType="Byte" band="{number}"><Description>{name}</Description>'
                f"{''.join(sources)}</VRTRasterBand>"
            )
        corner = ", ".join(str(value) for value in strip.transform.to_gdal())
        path.write_text(
            f'<VRTDataset rasterXSize="{width}" rasterYSize="{height}">'
            f"<SRS>{escape(strip.crs.to_wkt())}</SRS><GeoTransform>{corner}</GeoTransform>"
            f"{''.join(bands)}</VRTDataset>"
        )
    return path


def scene_file(height: int, width: int) -> Path:
    """The same as a GeoTIFF; made once."""
    path = WORK / f"scene_{height}x{width}.tif"
    if not path.exists():
        with whole_file(path) as partial:
            rasterio.shutil.copy(
                repeated_scene(height, width), partial, driver="GTiff", tiled=True, bigtiff="yes"
            )
    return path


CHILD = """
import json, sys, time
import geopandas, landslip, landslip.mapping.pictures, landslip.mapping.scene_map as scene_map
import segmentation_models_pytorch, torch
from landslip.geo.parallel import peak_memory_bytes
scene, model, out, options = json.loads(sys.argv[1])
finish, marks = scene_map.finish, []
def timed(*arguments):
    marks[:] = time.monotonic(), peak_memory_bytes() / 1e6
    return finish(*arguments)
scene_map.finish = timed
begun = time.monotonic()
landslip.map_scene(scene, model, out, options=landslip.MapOptions(**options))
ended = time.monotonic()
print(json.dumps({
    "seconds": ended - begun, "windows_s": marks[0] - begun, "files_s": ended - marks[0],
    "windows_peak_mb": marks[1], "peak_mb": peak_memory_bytes() / 1e6,
    "gpu_mb": torch.cuda.max_memory_reserved() / 1e6,
}))
"""


OFTEN = "from landslip.mapping import unfinished\nunfinished.SYNC_S = 0.2\n"
"""Marks what is done more often than every ten seconds, so that kills hit all of a short map."""


def command_of(scene: Path, model: str, out: Path, before: str = "", **options: Any) -> list[str]:
    """A process that maps and tells seconds and memory."""
    asked = json.dumps([str(scene), model, str(out), options])
    return [sys.executable, "-c", before + CHILD, asked]


def mapped_apart(scene: Path, model: str, out: Path, **options: Any) -> dict[str, Any]:
    """Map in a process of its own; seconds without its imports, and its largest memory."""
    shutil.rmtree(out, ignore_errors=True)
    done = subprocess.run(
        command_of(scene, model, out, **options), capture_output=True, text=True, check=True
    )
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    found["layout"] = json.loads((out / "run.json").read_text())["layout"]
    return found


def rate(model: str, side: int, rounds: int) -> dict[str, Any]:
    """Seconds of mapping against those of the forward passes alone, by turns."""
    scene = scene_file(side, side)
    card, network = load_model(model)
    compute = Compute.choose()
    network = compute.place(network)
    ends, forwards = [], []
    layout: dict[str, int] = {}
    for _ in range(rounds):
        found = mapped_apart(scene, model, WORK / "rate")
        ends.append(found["seconds"])
        layout = found["layout"]
        forwards.append(forward_seconds(network, len(card.bands), layout, side, compute))
    ratio = statistics.median(b / a for a, b in zip(ends, forwards, strict=True))
    return {
        "megapixels": side * side / 1e6, "layout": layout, "mapping_s": ends,
        "forward_s": forwards, "share_of_forward_rate": round(ratio, 3),
    }  # fmt: skip


def forward_seconds(
    network: torch.nn.Module, bands: int, layout: dict[str, int], side: int, compute: Compute
) -> float:
    """All windows of a scene through the network, from memory."""
    height = layout["core_height"] + 2 * layout["halo"]
    width = layout["core_width"] + 2 * layout["halo"]
    number = -(-side // layout["core_height"]) * -(-side // layout["core_width"])
    image = torch.rand(1, bands, height, width)
    with torch.inference_mode(), compute.autocast(), freed_memory_kept():
        sent = compute.send(image)
        network(sent)
        wait_for(compute)
        begun = time.monotonic()
        for _ in range(number):
            network(sent)
        wait_for(compute)
        return time.monotonic() - begun


def wait_for(compute: Compute) -> None:
    """Until a GPU has done what it was sent."""
    if compute.device.type == "cuda":
        torch.cuda.synchronize()


def stages(model: str, height: int, width: int, rounds: int) -> dict[str, Any]:
    """Seconds of a large scene: windows read alone, forward passes alone, and all together."""
    path = repeated_scene(height, width)
    scene = landslip.open_scene(path)
    run = MapRun([scene], model, landslip.MapOptions())
    layout = run.layout(scene.grid)
    cores, mapper = layout.cores(scene.grid), run.mapper(run.grounds[0], layout, None)
    begun = time.monotonic()
    for _ in in_order(mapper.read, cores, mapper.readers):
        pass
    reading = time.monotonic() - begun
    card, network = load_model(model)
    network = run.compute_with.place(network)
    shape = 1, len(card.bands), *layout.shape
    with torch.inference_mode(), run.compute_with.autocast(), freed_memory_kept():
        sent = run.compute_with.send(torch.rand(shape))
        with FlopCounterMode(display=False) as flops:
            network(sent)
        wait_for(run.compute_with)
        begun = time.monotonic()
        for _ in cores:
            network(sent)
        wait_for(run.compute_with)
        forward = time.monotonic() - begun
    del sent
    scene.close()
    found: dict[str, Any] = {
        "megapixels": round(height * width / 1e6), "windows": len(cores),
        "layout": asdict(layout), "readers": mapper.readers,
        "reading_alone_s": round(reading, 1), "forward_alone_s": round(forward, 1),
        "tflops_of_forward": round(flops.get_total_flops() * len(cores) / forward / 1e12, 1),
        "tflops_of_a_matrix_product": round(matrix_tflops(run.compute_with), 1),
    }  # fmt: skip
    each = [mapped_apart(path, model, WORK / "stages") for _ in range(rounds)]
    for what in ("seconds", "windows_s", "files_s", "peak_mb", "gpu_mb"):
        found[what] = round(statistics.median(one[what] for one in each), 1)
    return found | {"rounds": rounds}


def matrix_tflops(compute: Compute) -> float:
    """What the device reaches on large matrices in the precision that it maps in."""
    side = 8192 if compute.device.type == "cuda" else 2048
    dtype = PRECISIONS[compute.precision]
    one, other = torch.randn(2, side, side, device=compute.device).to(dtype)
    one @ other
    wait_for(compute)
    begun = time.monotonic()
    for _ in range(10):
        one @ other
    wait_for(compute)
    return 10 * 2 * side**3 / (time.monotonic() - begun) / 1e12


def seams(model: str) -> dict[str, Any]:
    """The strip mapped in small windows against the untiled forward, before rounding."""
    scene_path = Path(os.environ["LANDSLIP_DATA"]) / "tianshui" / "scene.tif"
    card, network = load_model(model)
    compute = Compute.choose(precision="float32")
    network = compute.place(network)
    scene = landslip.open_scene(scene_path)
    # Ground around the strip is mirrored alike in both; one more halo, so that it is no border.
    halo = -(-2 * max(card.halo_px, 128) // card.stride_px) * card.stride_px
    whole = Window(0, 0, *scene.grid.shape).grown(halo)
    image, valid = read_inputs(scene, whole, card.scaling_of_bands, card.optional_bands)
    untiled = probabilities(network, image[None], compute, card.stride_px)[0]
    inner = Window(0, 0, *scene.grid.shape).relative_to(whole).slices
    untiled, valid = untiled[inner], valid[inner]
    doubtful = float(((untiled > 0.05) & (untiled < 0.95))[valid].mean())
    found: dict[str, Any] = {"halo_px": card.halo_px, "share_between_.05_and_.95": doubtful}
    for core in (256, 512, 1024):
        out = WORK / "seams"
        shutil.rmtree(out, ignore_errors=True)
        options = landslip.MapOptions(
            as_float=True, core_px=core, precision="float32", scaling="model"
        )
        landslip.map_scene(scene, model, out, options=options)
        with rasterio.open(out / "probability.tif") as raster:
            mapped = raster.read(1)
        found[f"core {core}"] = differences(mapped, untiled, valid)
    scene.close()
    return found


def differences(
    one: NDArray[np.float32], other: NDArray[np.float32], valid: NDArray[np.bool_]
) -> dict[str, float]:
    """Largest and mean difference where both know something."""
    apart = np.abs(one - other)[valid & np.isfinite(one)]
    return {"largest": float(apart.max()), "mean": float(apart.mean())}


def halo(model: str, tiles: str, out: str | None) -> dict[str, Any]:
    """The halo of a model, on the tiles that training would take; `out`: the model that knows."""
    tile_set, (card, network) = landslip.TileSet.open(tiles), load_model(model)
    compute = Compute.choose()
    chosen = [
        (tile_set, tile)
        for side in ("validation", "train")
        for tile in spread(tile_set.of(side), IMAGES // 2)
    ]
    ground = ScoringGround(
        tiles=tuple(chosen), scaling=card.scaling_of_bands, optional=card.optional_bands
    )
    images = [image[0] for image, _ in ground.batches(1)]
    guess = model_entry(card.architecture).halo_px
    begun = time.process_time()
    found = measured_halo(compute.place(network), images, compute, card.stride_px, guess)
    if out is not None:
        known = card.model_copy(update={"halo_px": found.px})
        save_model(Path(out), network, known, overwrite=True)
    return {**asdict(found), "processor_seconds": round(time.process_time() - begun)}


def bf16(model: str, side: int) -> dict[str, Any]:
    """Probabilities in bf16 against float32 in the middle of the strip's unseen ground."""
    card, network = load_model(model)
    found = []
    with closing(landslip.open_scene(valid_strip())) as scene:
        window = Window(0, scene.grid.width - side - 300, min(side, scene.grid.height), side)
        image, _ = read_inputs(scene, window, card.scaling_of_bands, card.optional_bands)
    for precision in ("float32", "bf16"):
        compute = Compute.choose(precision=precision)
        placed = compute.place(network)
        found.append(probabilities(placed, image[None], compute, card.stride_px)[0])
    doubtful = float(((found[0] > 0.05) & (found[0] < 0.95)).mean())
    return {
        "window_px": found[0].shape, "share_between_.05_and_.95": doubtful,
        **differences(found[1], found[0], np.ones_like(found[0], bool)),
    }  # fmt: skip


def layouts(model: str) -> dict[str, Any]:
    """Pixels computed for each pixel kept, on the paper's scene, by the memory allowed."""
    found: dict[str, Any] = {"halo_px": landslip.load_card(model).halo_px}
    scene = landslip.open_scene(repeated_scene(33_368, 22_900))
    for memory_gb in (4, 8, 16):
        options = landslip.MapOptions(memory_gb=memory_gb, scaling="model")
        layout = MapRun([scene], model, options).layout(scene.grid)
        height, width = layout.shape
        computed = height * width * len(layout.cores(scene.grid))
        found[f"{memory_gb} GB"] = {
            "core_px": (layout.core_height, layout.core_width),
            "computed_for_kept": round(computed / (scene.grid.height * scene.grid.width), 3),
        }
    scene.close()
    return found


def cores(model: str, cores_px: list[int], rounds: int) -> dict[str, Any]:
    """Seconds of forward passes for each Mpx kept, in windows with cores of several sizes."""
    card, network = load_model(model)
    compute = Compute.choose()
    network = compute.place(network)
    measured: dict[int, list[float]] = {core: [] for core in cores_px}
    bytes_per_px = peak_bytes(network, (1, len(card.bands), 256, 256)) / 256**2
    # As many passes as keep the ground of the largest core, at least two.
    most = max(cores_px)
    for _ in range(rounds):
        for core, seconds in measured.items():
            layout = {"core_height": core, "core_width": core, "halo": card.halo_px}
            side = core * max(round(most / core), 2)
            spent = forward_seconds(network, len(card.bands), layout, side, compute)
            seconds.append(spent / (side * side / 1e6))
    return {
        "halo_px": card.halo_px,
        **{
            str(core): {
                "computed_for_kept": round((1 + 2 * card.halo_px / core) ** 2, 3),
                "s_per_mpx_kept": round(statistics.median(seconds), 3),
                "GB": round(bytes_per_px * (core + 2 * card.halo_px) ** 2 / 1e9, 2),
            }
            for core, seconds in measured.items()
        },
    }  # fmt: skip


def sizes(
    model: str, megapixels: list[float], memory_gb: float | None, rounds: int, aspect: float = 1.457
) -> dict[str, Any]:
    """Seconds and memory by the size of the scene, with the shape of the paper's; medians."""
    found = dict(read_results(RESULTS).get(f"sizes_{landslip.load_card(model).architecture}", {}))
    allowed = "" if memory_gb is None else f" Mpx in {memory_gb:g} GB"
    for size in megapixels:
        width = round((size * 1e6 / aspect) ** 0.5)
        scene = repeated_scene(round(width * aspect), width)
        key = f"{size:g}{allowed}"
        each = [
            mapped_apart(scene, model, WORK / "sizes", memory_gb=memory_gb) for _ in range(rounds)
        ]
        medians = {
            what: statistics.median(one[what] for one in each)
            for what in ("seconds", "files_s", "windows_peak_mb", "peak_mb")
        }
        found[key] = {**medians, "layout": each[0]["layout"], "rounds": rounds}
        print(key, found[key], flush=True)
    return found


def digest(folder: Path) -> str:
    """Of the raster and the inventory."""
    names = ("probability.tif", "landslides.gpkg")
    content = b"".join((folder / name).read_bytes() for name in names)
    return hashlib.sha256(content).hexdigest()


def kills(model: str, times: int, side: int) -> dict[str, Any]:
    """Kill a map at random moments until it was killed so often; it must end in the same bytes."""
    os.environ["OGR_CURRENT_DATE"] = DATE
    scene, out = scene_file(side, side), WORK / "kills"
    options: dict[str, Any] = {"core_px": 128}
    whole = mapped_apart(scene, model, out, **options)
    expected, chance = digest(out), random.Random(0)
    killed, maps, same, moments = 0, 0, 0, []
    while killed < times:
        shutil.rmtree(out, ignore_errors=True)
        partial = out.with_name(f"{out.name}.partial")
        shutil.rmtree(partial, ignore_errors=True)
        while True:
            process = subprocess.Popen(
                command_of(scene, model, out, OFTEN, **options),
                stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
            )  # fmt: skip
            try:
                process.wait(timeout=chance.uniform(2.0, whole["seconds"] + 4.0))
            except subprocess.TimeoutExpired:
                process.send_signal(signal.SIGKILL)
                process.wait()
                killed += 1
                done = partial / "done.bin"
                moments.append(
                    round(float(np.fromfile(done, np.uint8).mean()), 2) if done.exists() else 0.0
                )
                continue
            # It may have been killed when the map was there, before it ended.
            assert process.returncode == 0 or out.exists(), "a continued map failed"
            break
        maps += 1
        same += digest(out) == expected
        print(f"killed {killed} times, {same} of {maps} maps the same", flush=True)
    leftovers = [path.name for path in WORK.iterdir() if ".kills" in path.name]
    return {
        "killed": killed, "maps": maps, "same_bytes": same, "share_done_when_killed": moments,
        "hidden_leftovers": leftovers, "seconds_uninterrupted": whole["seconds"],
    }  # fmt: skip


def cluster(model: str, side: int, rounds: int) -> dict[str, Any]:
    """Here, then on one and on two Dask workers of one thread each, by turns; medians.

    The workers start as they are, and in the environment that docs/mapping.md recommends.
    """
    import distributed

    os.environ["OGR_CURRENT_DATE"] = DATE
    os.environ["OMP_NUM_THREADS"] = "1"
    scene, same = scene_file(side, side), True
    options: dict[str, Any] = {"core_px": 512}
    seconds: dict[str, list[float]] = defaultdict(list)
    for _ in range(rounds):
        here = mapped_apart(scene, model, WORK / "here", **options)
        seconds["here, one thread"].append(here["seconds"])
        for workers, keeping in itertools.product((1, 2), (False, True)):
            with (
                mock.patch.dict(os.environ, KEEPING if keeping else {}),
                distributed.LocalCluster(
                    n_workers=workers, threads_per_worker=1, dashboard_address=None
                ) as local,
            ):
                out = WORK / f"workers{workers}"
                asked = {**options, "cluster": local.scheduler_address}
                found = mapped_apart(scene, model, out, **asked)
            who = f"{workers} workers{' that keep memory' if keeping else ''}"
            seconds[who].append(found["seconds"])
            same &= digest(out) == digest(WORK / "here")
    medians = {who: statistics.median(each) for who, each in seconds.items()}
    return {**medians, "same bytes": same, "rounds": rounds}


VERBS: dict[str, Callable[[argparse.Namespace], dict[str, Any]]] = {
    "rate": lambda asked: rate(asked.model, asked.side, asked.rounds),
    "seams": lambda asked: seams(asked.model),
    "bf16": lambda asked: bf16(asked.model, asked.side),
    "halo": lambda asked: halo(asked.model, asked.tiles, asked.out),
    "cores": lambda asked: cores(asked.model, asked.cores, asked.rounds),
    "layouts": lambda asked: layouts(asked.model),
    "sizes": lambda asked: sizes(asked.model, asked.megapixels, asked.memory, asked.rounds),
    "kills": lambda asked: kills(asked.model, asked.times, asked.side),
    "cluster": lambda asked: cluster(asked.model, asked.side, asked.rounds),
    "stages": lambda asked: stages(asked.model, asked.height, asked.width, asked.rounds),
}


def main() -> None:
    """Measure one thing, keep it and print it."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("what", choices=tuple(VERBS))
    parser.add_argument("--model", required=True, help="model file")
    parser.add_argument("--tiles", help="tile set that a model learnt from")
    parser.add_argument("--out", help="halo: the model again, with the halo that was measured")
    parser.add_argument("--side", type=int, default=2048, help="rows and columns of the scene")
    parser.add_argument("--height", type=int, default=33_368, help="stages: rows (the paper's)")
    parser.add_argument("--width", type=int, default=22_900, help="stages: columns")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--cores", type=int, nargs="+", default=[256, 384, 512, 768, 1024, 1536])
    parser.add_argument("--times", type=int, default=50, help="kills")
    parser.add_argument("--megapixels", type=float, nargs="+", default=[1, 4, 16, 64])
    parser.add_argument("--memory", type=float, help="sizes: what mapping may take (GB)")
    asked = parser.parse_args()
    found = VERBS[asked.what](asked)
    architecture = landslip.load_card(asked.model).architecture
    record = {**found, "model": architecture, "compute": Compute.choose().text}
    keep(RESULTS, f"{asked.what}_{architecture}", record)
    print(json.dumps(record, indent=1))


if __name__ == "__main__":
    main()
