"""The same network over the same scene by landslip and by other packages, by turns.

Needs the data folder named by LANDSLIP_DATA and the environments of `benchmarks/peers/README.md`.
Results are kept in `experiments/mapping.json`.

    python benchmarks/mapping_peers.py speed [--side 4096] [--rounds 3]
    python benchmarks/mapping_peers.py seams --model M.safetensors

`speed`: a U-Net on ResNet-50 with random weights; landslip's time holds loading the weights, the
inventory and the picture, the others' only what `benchmarks/peers/README.md` says. `seams`: a
trained U-Net; what each gives against the forward of the whole scene at once, further from its
border than the network sees.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import rasterio

import landslip
from landslip.geo.grid import Window
from landslip.learn.card import load_model
from landslip.learn.device import Compute
from landslip.learn.predict import probabilities
from landslip.prepare.scaling import read_inputs
from mapping import RESULTS, WORK, differences, mapped_apart, scene_file
from runs import keep

SCRIPTS = Path("benchmarks/peers")
ENVIRONMENTS = Path("local/peers")
CALLS = (
    ("geoai", "semantic_segmentation"),
    ("geoai", "predict_geotiff"),
    ("rastervision", "predict_scene"),
    ("torchgeo", "grid_sampler"),
)
"""(package, what is called of it)."""


def weights_of(model: Path, *words: str) -> Path:
    """The weights of a landslip model as the other packages take them."""
    path = WORK / f"{model.stem}.pth"
    maker = [".venv/bin/python", str(SCRIPTS / "make_weights.py"), *words]
    subprocess.run([*maker, str(model), str(path)], check=True)
    return path


def mapped_by(
    package: str, call: str, scene: Path, weights: Path, encoder: str
) -> tuple[dict[str, Any], Path]:
    """Map with another package, in its environment; what it took, and what it wrote."""
    out = WORK / f"{package}_{call}.tif"
    out.unlink(missing_ok=True)
    command = [
        str(ENVIRONMENTS / package / "bin" / "python"), str(SCRIPTS / f"{package}_map.py"),
        "--call", call, "--encoder", encoder, str(scene), str(weights), str(out),
    ]  # fmt: skip
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(f"{package} {call} failed:\n{done.stderr[-2000:]}")
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found, out


def speed(side: int, rounds: int) -> dict[str, Any]:
    """Seconds and memory of each, and the median of the ratios to landslip in the same round."""
    model, scene = WORK / "random.safetensors", scene_file(side, side)
    weights = weights_of(model, "--seed", "0")
    # Random weights draw no landslides; their outlines must not be what is timed.
    options = {"scaling": "model", "threshold": 1.0}
    ours: list[dict[str, Any]] = []
    theirs: dict[tuple[str, str], list[dict[str, Any]]] = {call: [] for call in CALLS}
    for _ in range(rounds):
        ours.append(mapped_apart(scene, str(model), WORK / "ours", **options))
        print("landslip", ours[-1], flush=True)
        for package, call in CALLS:
            found, _ = mapped_by(package, call, scene, weights, "resnet50")
            theirs[package, call].append(found)
            print(package, call, found, flush=True)
    record: dict[str, Any] = {"megapixels": side * side / 1e6, "rounds": rounds, "landslip": ours}
    for (package, call), runs in theirs.items():
        ratios = [each["seconds"] / own["seconds"] for each, own in zip(runs, ours, strict=True)]
        record[f"{package} {call}"] = {
            "version": runs[0]["package_version"],
            "seconds": [each["seconds"] for each in runs],
            "peak_mb": [each["peak_mb"] for each in runs],
            "times_as_long": round(statistics.median(ratios), 2),
        }
    return record


def seams(model: Path, side: int, margin: int) -> dict[str, Any]:
    """Differences from the forward of the whole scene, `margin` pixels inside its border."""
    scene = scene_file(side, side)
    weights = weights_of(model)
    card, network = load_model(model)
    compute = Compute.choose(precision="float32")
    opened = landslip.open_scene(scene)
    image, _ = read_inputs(opened, Window(0, 0, side, side), card.scaling_of_bands, ())
    opened.close()
    inner = (slice(margin, side - margin),) * 2
    whole = probabilities(compute.place(network), image[None], compute, card.stride_px)[0][inner]
    record: dict[str, Any] = {
        "side": side, "margin": margin, "halo_px": card.halo_px,
        "share_between_.05_and_.95": float(((whole > 0.05) & (whole < 0.95)).mean()),
    }  # fmt: skip

    def compared(path: Path, band: int) -> dict[str, float]:
        with rasterio.open(path) as raster:
            found = raster.read(band)[inner]
        return differences(found, whole, np.isfinite(found))

    options = {"as_float": True, "core_px": 512, "precision": "float32", "scaling": "model"}
    mapped_apart(scene, str(model), WORK / "ours", **options)
    record["landslip"] = compared(WORK / "ours" / "probability.tif", 1)
    for package, call in CALLS:
        if package == "torchgeo":
            continue  # it joins nothing
        _, out = mapped_by(package, call, scene, weights, card.architecture.rpartition("/")[2])
        record[f"{package} {call}"] = compared(out, 2)
    return record


def main() -> None:
    """Measure one thing, keep it and print it."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("what", choices=("speed", "seams"))
    parser.add_argument("--model", type=Path, help="seams: a trained library:unet of three bands")
    parser.add_argument("--side", type=int, default=4096, help="rows and columns of the scene")
    parser.add_argument("--margin", type=int, default=256, help="seams: border left out (px)")
    parser.add_argument("--rounds", type=int, default=3)
    asked = parser.parse_args()
    if asked.what == "speed":
        found = speed(asked.side, asked.rounds)
        key = f"peers_{asked.side}"
    else:
        found = seams(asked.model, asked.side, asked.margin)
        key = f"peers_seams_{landslip.load_card(asked.model).architecture}"
    keep(RESULTS, key, {**found, "compute": Compute.choose().text})
    print(json.dumps(found, indent=1))


if __name__ == "__main__":
    main()
