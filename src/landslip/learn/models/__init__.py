"""The models by name: each a function from an image to logits of the same height and width.

A new model is a builder and one line in `MODELS`; `tests/test_models.py` then checks it.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

from torch import nn

from landslip.geo.errors import UsageError
from landslip.learn.models.library import STRIDE, AnySize, build_library_model, library_parts
from landslip.learn.models.resunet import ResUNet, ResUNetTable1
from landslip.learn.models.unet import UNet


@dataclass(frozen=True, kw_only=True)
class ModelEntry:
    """What the registry knows of a model."""

    build: Callable[[int, int], nn.Module]
    """Takes bands and outputs, both at least 1; the network maps float (B, bands, H, W) of any
    size to logits (B, outputs, H, W)."""

    stride: int
    """Windows of a map must begin at multiples of this many pixels, or they will not agree."""

    halo_px: int
    """Pixels that a window needs around its core for its result to agree with its neighbours'."""

    source: str
    """Where the network comes from."""


MODELS: dict[str, ModelEntry] = {
    "unet": ModelEntry(
        build=UNet,
        stride=16,
        halo_px=96,
        source="Ronneberger et al. 2015, arXiv:1505.04597",
    ),
    "unet-small": ModelEntry(
        build=partial(UNet, base_width=16),
        stride=16,
        halo_px=96,
        source="unet with a quarter of its width, for demonstrations and laptops",
    ),
    "resunet": ModelEntry(
        build=ResUNet,
        stride=32,
        halo_px=128,
        source="Qi et al. 2020, Remote Sensing 12(15), 2487: the authors' code",
    ),
    "resunet-table1": ModelEntry(
        build=ResUNetTable1,
        stride=32,
        halo_px=128,
        source="Qi et al. 2020, Remote Sensing 12(15), 2487: Table 1",
    ),
}
"""Name -> model."""

DEFAULT_MODEL = "library:unet/resnet34"
"""What is trained where nobody names a model."""


def model_entry(name: str) -> ModelEntry:
    """Look up a model: a name of `MODELS`, or "library:ARCH/ENCODER".

    Whether the library knows its architecture and encoder shows only when it is built.

    Raises:
        UsageError: There is no such model.
    """
    if name in MODELS:
        return MODELS[name]
    parts = library_parts(name)
    if parts is None:
        raise UsageError(
            f"Cannot find model '{name}'. "
            f"Choose one of {', '.join(MODELS)}, or library:ARCH/ENCODER."
        )
    architecture, encoder = parts
    return ModelEntry(
        build=partial(build_library_model, architecture, encoder),
        stride=STRIDE,
        halo_px=128,
        source=f"segmentation_models_pytorch: {architecture} with encoder {encoder}",
    )


def build_model(
    name: str, bands: int, outputs: int = 1, *, align_corners: bool = False
) -> nn.Module:
    """Build a model with random weights.

    Args:
        name: A name of `MODELS`, or "library:ARCH/ENCODER".
        bands: Channels of the image.
        outputs: Channels of the logits.
        align_corners: For `resunet` alone: upsample as the authors' own weights need it.

    Returns:
        A network that maps float (B, bands, H, W) of any size to logits (B, outputs, H, W).

    Raises:
        UsageError: There is no such model, or it cannot be built like this.
    """
    entry = model_entry(name)
    if bands < 1 or outputs < 1:
        raise UsageError(
            f"Cannot build model '{name}': expected at least 1 band and 1 output, "
            f"found {bands} and {outputs}. Name at least one band."
        )
    if not align_corners:
        return entry.build(bands, outputs)
    if name != "resunet":
        raise UsageError(
            f"Cannot build model '{name}' with align_corners: only 'resunet' has that option. "
            "Leave it out."
        )
    return ResUNet(bands, outputs, align_corners=True)


def encoder_of(network: nn.Module) -> nn.Module | None:
    """The part of a network that others train on other pictures; None where it has none."""
    if isinstance(network, AnySize):
        return network.network.get_submodule("encoder")
    return network.encoder if isinstance(network, ResUNet | ResUNetTable1) else None
