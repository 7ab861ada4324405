"""What the scripts that run other packages share; needs nothing of landslip."""

from __future__ import annotations

import argparse
import json
import resource
import sys
import time
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import nn

STARTED = time.perf_counter()
"""When the process began, but for the start of Python itself."""


@dataclass(frozen=True)
class Job:
    """What is mapped with which weights, to where, and by which call of the package."""

    scene: Path
    weights: Path
    out: Path
    call: str
    encoder: str = "resnet50"


def asked(purpose: str | None, calls: tuple[str, ...]) -> Job:
    """Read the command line; the first call is the default."""
    parser = argparse.ArgumentParser(
        description=purpose, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--call", choices=calls, default=calls[0])
    parser.add_argument("--encoder", default="resnet50", help="of the U-Net")
    parser.add_argument("scene", type=Path, help="GeoTIFF, three bands of uint8")
    parser.add_argument("weights", type=Path, help="what make_weights.py wrote")
    parser.add_argument("out", type=Path, help="probabilities, where the call writes any")
    return Job(**vars(parser.parse_args()))


def unet(job: Job, activation: str | None = None) -> nn.Module:
    """The U-Net of two classes, ready to predict; it returns logits without an activation."""
    import segmentation_models_pytorch as smp
    import torch

    network: nn.Module = smp.Unet(
        job.encoder, encoder_weights=None, in_channels=3, classes=2, activation=activation
    )
    network.load_state_dict(torch.load(job.weights, weights_only=True, map_location="cpu"))
    return network.eval()


def report(system: str, package: str, job: Job, seconds: float) -> None:
    """Print the line that the benchmark reads.

    Args:
        system: Name for people.
        package: Name at PyPI.
        job: What was done.
        seconds: Wall time of the mapping, without imports and without loading the weights (s).
    """
    line = {
        "system": system,
        "call": job.call,
        "encoder": job.encoder,
        "seconds": round(seconds, 3),
        "total_seconds": round(time.perf_counter() - STARTED, 3),
        "peak_mb": round(_peak_mb(resource.RUSAGE_SELF), 1),
        # Of the largest process that was started and has ended, such as a reader of windows.
        "peak_child_mb": round(_peak_mb(resource.RUSAGE_CHILDREN), 1),
        "package_version": version(package),
        "torch_version": version("torch"),
    }
    print(json.dumps(line), flush=True)


def _peak_mb(who: int) -> float:
    peak = resource.getrusage(who).ru_maxrss
    return peak / (1e6 if sys.platform == "darwin" else 1e6 / 1024)
