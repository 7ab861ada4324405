"""Make the weights that all packages map with: a U-Net with two classes.

    python make_weights.py MODEL.safetensors WEIGHTS.pth
    python make_weights.py --seed 0 MODEL.safetensors WEIGHTS.pth
    python make_weights.py --seed 0 --architecture unet-small MODEL.safetensors

landslip's networks have one output, the other packages expect two classes. The head is therefore
doubled: the logit of background is 0, so that the softmax of landslide is landslip's sigmoid.

MODEL must be a U-Net of the library and take three bands as they are, 0 to 255, as the other
packages do. With --seed it is written first, with random weights: enough to measure time and
memory. Without WEIGHTS that is all. Only this needs landslip; the rest needs torch and safetensors.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import torch
from safetensors import safe_open
from torch import Tensor

ARCHITECTURE = "library:unet/resnet50"
"""Of a model with random weights, unless another is asked for."""
PREFIX = "network."
"""What landslip's names of a library's weights begin with."""


def two_classes(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """The state of a network of two classes from that of one output."""
    doubled = dict(state)
    for name in ("segmentation_head.0.weight", "segmentation_head.0.bias"):
        landslide = state[name]
        doubled[name] = torch.cat([torch.zeros_like(landslide), landslide])
    return doubled


def read_model(path: Path) -> dict[str, Tensor]:
    """The state of a model file's network, as segmentation_models_pytorch names it.

    Raises:
        SystemExit: It is another network, or it is shown other numbers than the files' / 255.
    """
    with safe_open(path, framework="pt") as file:
        card = json.loads(file.metadata()["landslip"])
        state = {name.removeprefix(PREFIX): file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    found = card["architecture"], card["hyperparameters"].get("outputs", 1)
    if not found[0].startswith("library:unet/") or found[1] != 1:
        raise SystemExit(f"{path}: expected a library:unet with 1 output, found {found}.")
    ranges = [(low, high) for _, low, high in card["scaling"]]
    if ranges != [(0, 255)] * 3 or card.get("quantised"):
        raise SystemExit(
            f"{path}: expected three bands scaled from 0 to 255 and not rounded, found {ranges}, "
            f"rounded: {card.get('quantised', False)}."
        )
    return state


def write_random_model(path: Path, architecture: str, seed: int, bands: tuple[str, ...]) -> None:
    """Write a landslip model with random weights."""
    from landslip.learn.card import ModelCard, parameter_count, save_model
    from landslip.learn.models import build_model, model_entry

    torch.manual_seed(seed)
    network = build_model(architecture, len(bands))
    entry = model_entry(architecture)
    card = ModelCard(
        name=f"random-{seed}",
        architecture=architecture,
        hyperparameters={"outputs": 1},
        total_parameters=parameter_count(network),
        bands=bands,
        scaling=tuple((band, 0, 255) for band in bands),
        pixel_size_m=0.5,
        halo_px=entry.halo_px,
        stride_px=entry.stride,
        note="Random weights: only for measuring time and memory.",
    )
    save_model(path, network, card, overwrite=True)


def main() -> None:
    """Do what the command line asks."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--seed", type=int, help="write MODEL first, with random weights")
    parser.add_argument("--architecture", default=ARCHITECTURE, help="with random weights")
    parser.add_argument("--bands", default="nir,red,green", help="with random weights")
    parser.add_argument("model", type=Path)
    parser.add_argument("weights", type=Path, nargs="?")
    asked = parser.parse_args()
    if asked.seed is not None:
        bands = tuple(asked.bands.split(","))
        write_random_model(asked.model, asked.architecture, asked.seed, bands)
    if asked.weights is not None:
        torch.save(two_classes(read_model(asked.model)), asked.weights)


if __name__ == "__main__":
    main()
