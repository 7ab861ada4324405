"""Map a scene with Raster Vision (https://rastervision.io), as its pipeline predicts.

    python rastervision_map.py SCENE.tif WEIGHTS.pth OUT.tif

Windows of 512 px every 256 px, whose class scores are averaged ("smooth" labels). Batches of 8 and
4 reading processes are its defaults; so is that a raster of classes is written besides the scores.
"""

from __future__ import annotations

import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING

from common import Job, asked, report, unet

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

CALLS = ("predict_scene",)
SIZE_PX, STRIDE_PX = 512, 256


def probability(path: Path) -> NDArray[np.float32]:
    """Landslide probability (0 to 1) that was written: the second of two classes."""
    import rasterio

    with rasterio.open(path) as file:
        found: NDArray[np.float32] = file.read(2)
    return found


def predict_scene(job: Job) -> float:
    """Map, and write scores and classes; wall time (s)."""
    from rastervision.core.data import (  # type: ignore[import-not-found]
        ClassConfig,
        RasterioSource,
        Scene,
        SemanticSegmentationLabelStore,
    )
    from rastervision.core.rv_pipeline import (  # type: ignore[import-not-found]
        SemanticSegmentationPredictOptions,
    )
    from rastervision.pytorch_learner import (  # type: ignore[import-not-found]
        SemanticSegmentationGeoDataConfig,
        SemanticSegmentationLearner,
        SemanticSegmentationLearnerConfig,
    )
    from rastervision.pytorch_learner.utils import (  # type: ignore[import-not-found]
        predict_scene_ss,
    )

    classes = ClassConfig(names=["background", "landslide"], null_class="background")
    # Every window is resized to `img_sz`: its default, 256 px, would show the network a scene of
    # half the resolution.
    data = SemanticSegmentationGeoDataConfig(class_config=classes, img_channels=3, img_sz=SIZE_PX)
    learner = SemanticSegmentationLearner(
        cfg=SemanticSegmentationLearnerConfig(data=data),
        model=unet(job),
        training=False,
    )
    options = SemanticSegmentationPredictOptions(chip_sz=SIZE_PX, stride=STRIDE_PX)
    # A new folder, because scores that are found in one are averaged with the new ones.
    with tempfile.TemporaryDirectory(dir=job.out.parent) as folder:
        start = time.perf_counter()
        source = RasterioSource(str(job.scene))
        store = SemanticSegmentationLabelStore(
            uri=folder,
            crs_transformer=source.crs_transformer,
            class_config=classes,
            smooth_output=True,
        )
        scene = Scene("scene", source, label_store=store)
        store.save(predict_scene_ss(learner, scene, options))
        seconds = time.perf_counter() - start
        (Path(folder) / "scores.tif").replace(job.out)
    return seconds


def main() -> None:
    """Do what the command line asks."""
    job = asked(__doc__, CALLS)
    report("Raster Vision", "rastervision-core", job, predict_scene(job))


if __name__ == "__main__":
    main()
