"""Architectures of segmentation_models_pytorch, under the name `library:ARCH/ENCODER`.

Source:
    https://github.com/qubvel-org/segmentation_models.pytorch
"""

from difflib import get_close_matches

import torch.nn.functional as F
from torch import Tensor, nn

from landslip.geo.errors import MissingExtraError, UsageError

STRIDE = 32
"""Input sizes must be multiples of this, in pixels; `AnySize` sees to it."""


class AnySize(nn.Module):
    """Lets a network that wants multiples of 32 px take any height and width.

    The image is repeated beyond its lower and right edge, so that the pixels keep their place
    in the network's grid; the logits are cropped again.
    """

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, image: Tensor) -> Tensor:
        """Map an image (B, bands, H, W) of any size to logits (B, outputs, H, W)."""
        height, width = image.shape[-2:]
        margins = (0, -width % STRIDE, 0, -height % STRIDE)
        # Not "reflect": that fails where the margin is wider than the image.
        logits: Tensor = self.network(F.pad(image, margins, mode="replicate"))
        return logits[..., :height, :width]


def build_library_model(architecture: str, encoder: str, bands: int, outputs: int) -> nn.Module:
    """Build an architecture of segmentation_models_pytorch with random weights.

    Args:
        architecture: A name of the library, such as "unet" or "deeplabv3plus".
        encoder: One of its encoders, such as "resnet18", or "tu-" and a name of timm.
        bands: Channels of the image.
        outputs: Channels of the logits.

    Returns:
        A network that maps (B, bands, H, W) of any size to logits (B, outputs, H, W).

    Raises:
        MissingExtraError: The library is not installed.
        UsageError: The library does not know the architecture or the encoder, or cannot join
            the two.
    """
    name = f"library:{architecture}/{encoder}"
    try:
        import segmentation_models_pytorch as smp
    except ModuleNotFoundError as error:
        if error.name != "segmentation_models_pytorch":
            raise
        raise MissingExtraError(
            f"Cannot build model '{name}': segmentation_models_pytorch is not installed. "
            'Install it with: pip install "landslip[library]"'
        ) from None

    architectures = sorted(smp.MODEL_ARCHITECTURES_MAPPING)
    if architecture not in architectures:
        raise UsageError(
            f"Cannot build model '{name}': there is no architecture '{architecture}'. "
            f"Choose one of {', '.join(architectures)}."
        )
    encoders = smp.encoders.get_encoder_names()
    if encoder not in encoders and not encoder.startswith("tu-"):
        near = get_close_matches(encoder, encoders) or ["resnet18", "resnet50", "efficientnet-b0"]
        raise UsageError(
            f"Cannot build model '{name}': there is no encoder '{encoder}'. "
            f"Choose one of the library's, such as {', '.join(near)}."
        )
    try:
        network = smp.create_model(
            architecture, encoder, encoder_weights=None, in_channels=bands, classes=outputs
        )
    except (KeyError, RuntimeError, ValueError) as error:
        # The library checks encoder against architecture and bands only while it builds.
        raise UsageError(
            f"Cannot build model '{name}' for {bands} bands: {error}. Choose another encoder."
        ) from error
    return AnySize(network)
