"""Map a scene with geoai-py (https://opengeoai.org), at its defaults.

    python geoai_map.py --call semantic_segmentation SCENE.tif WEIGHTS.pth OUT.tif
    python geoai_map.py --call predict_geotiff SCENE.tif WEIGHTS.pth OUT.tif

`semantic_segmentation`: windows of 512 px that overlap by 256 px, weighted by the distance to the
window's edge. `predict_geotiff`: windows of 256 px that overlap by 64 px, weighted by a spline;
`predict_geotiff_512` is the same with windows of 512 px.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from common import Job, asked, report, unet

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

CALLS = ("semantic_segmentation", "predict_geotiff", "predict_geotiff_512")


def probability(path: Path) -> NDArray[np.float32]:
    """Landslide probability (0 to 1) that a call wrote: the second of its two classes."""
    import rasterio

    with rasterio.open(path) as file:
        found: NDArray[np.float32] = file.read(2)
    return found


def semantic_segmentation(job: Job) -> float:
    """Map, write probabilities and, as the call always does, classes; wall time (s).

    The call itself builds the network and loads the weights; the time is of what it does then.
    """
    from geoai import train  # type: ignore[import-not-found]

    seconds: list[float] = []

    def timed(mapping: Callable[..., Any]) -> Callable[..., Any]:
        def run(*args: Any, **options: Any) -> Any:
            start = time.perf_counter()
            result = mapping(*args, **options)
            seconds.append(time.perf_counter() - start)
            return result

        return run

    train.semantic_inference_on_geotiff = timed(train.semantic_inference_on_geotiff)
    train.semantic_segmentation(
        input_path=str(job.scene),
        output_path=str(job.out.with_name(f"{job.out.stem}_classes.tif")),
        model_path=str(job.weights),
        encoder_name=job.encoder,
        probability_path=str(job.out),
    )
    return seconds[0]


def predict_geotiff(job: Job, **options: int) -> float:
    """Map and write what the network returns, here probabilities; wall time (s)."""
    from geoai.inference import predict_geotiff  # type: ignore[import-not-found]

    network = unet(job, activation="softmax2d")
    start = time.perf_counter()
    predict_geotiff(network, str(job.scene), str(job.out), num_classes=2, **options)
    return time.perf_counter() - start


def main() -> None:
    """Do what the command line asks."""
    job = asked(__doc__, CALLS)
    if job.call == "semantic_segmentation":
        seconds = semantic_segmentation(job)
    elif job.call == "predict_geotiff":
        seconds = predict_geotiff(job)
    else:
        seconds = predict_geotiff(job, tile_size=512)
    report("geoai", "geoai-py", job, seconds)


if __name__ == "__main__":
    main()
