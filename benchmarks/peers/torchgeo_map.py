"""Run a network over a scene with TorchGeo (https://torchgeo.org); nothing is written.

    python torchgeo_map.py SCENE.tif WEIGHTS.pth OUT.tif

TorchGeo samples and loads windows; joining and writing what the network says of them is left to
its user. So the time is of reading and forward passes alone, and OUT is ignored: windows of
512 px every 448 px, one at a time as a `GeoDataModule` loads them unless it is told otherwise.
"""

from __future__ import annotations

import time

from common import Job, asked, report, unet

CALLS = ("grid_sampler",)
SIZE_PX, STRIDE_PX = 512, 448


def grid_sampler(job: Job) -> float:
    """Read every window and run the network on it; wall time (s)."""
    import torch
    from torch.utils.data import DataLoader
    from torchgeo.datasets import (  # type: ignore[import-not-found]
        RasterDataset,
        stack_samples,
    )
    from torchgeo.samplers import GridGeoSampler  # type: ignore[import-not-found]

    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    network = unet(job).to(device)
    start = time.perf_counter()
    dataset = RasterDataset(job.scene)
    sampler = GridGeoSampler(dataset, size=SIZE_PX, stride=STRIDE_PX)
    with torch.inference_mode():
        for batch in DataLoader(dataset, sampler=sampler, collate_fn=stack_samples):
            # As a data module scales images by default: mean 0, standard deviation 255.
            network(batch["image"].to(device) / 255).softmax(dim=1).cpu()
    return time.perf_counter() - start


def main() -> None:
    """Do what the command line asks."""
    job = asked(__doc__, CALLS)
    report("TorchGeo", "torchgeo", job, grid_sampler(job))


if __name__ == "__main__":
    main()
