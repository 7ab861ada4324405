"""Architectures of segmentation_models_pytorch, under the name `library:ARCH/ENCODER`.

Source:
    https://github.com/qubvel-org/segmentation_models.pytorch
"""

from difflib import get_close_matches

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from landslip.geo.errors import ModelError, UsageError

STRIDE = 32
"""Input sizes must be multiples of this, in pixels; `AnySize` sees to it."""

_LEAST_PX = {"pan": 128}  # its decoder halves the map of 1/16 three times


class AnySize(nn.Module):
    """Lets a network that wants multiples of 32 px take any height and width.

    The image is repeated beyond its lower and right edge, so that the pixels keep their place
    in the network's grid; the logits are cropped again.

    Args:
        network: Maps (B, bands, H, W) to (B, outputs, H, W) where H and W are multiples of 32.
        least_px: The smallest height and width that it takes, a multiple of 32.
    """

    def __init__(self, network: nn.Module, least_px: int = STRIDE) -> None:
        super().__init__()
        self.network = network
        self.least_px = least_px

    def forward(self, image: Tensor) -> Tensor:
        """Map an image (B, bands, H, W) of any size to logits (B, outputs, H, W)."""
        height, width = image.shape[-2:]
        down, right = (max(-side % STRIDE, self.least_px - side) for side in (height, width))
        # Not "reflect": that fails where the margin is wider than the image.
        logits: Tensor = self.network(F.pad(image, (0, right, 0, down), mode="replicate"))
        return logits[..., :height, :width]


def library_parts(name: str) -> tuple[str, str] | None:
    """Architecture and encoder of "library:ARCH/ENCODER"; None for any other name."""
    kind, _, rest = name.partition(":")
    architecture, _, encoder = rest.partition("/")
    return (architecture, encoder) if kind == "library" and architecture and encoder else None


def build_library_model(architecture: str, encoder: str, bands: int, outputs: int) -> nn.Module:
    """Build an architecture of segmentation_models_pytorch with random weights.

    `deeplabv3`, `deeplabv3plus`, `pan` and `upernet` normalise a map of one pixel by the batch:
    in training mode they fail (ValueError of torch) on a batch of a single image. These, `pspnet`
    and transformers also look at the whole window, so that no halo makes windows agree exactly.

    Args:
        architecture: A name of the library, such as "unet" or "deeplabv3plus".
        encoder: One of its encoders, such as "resnet18", or "tu-" and a name of timm; `dpt` takes
            timm's vision transformers alone.
        bands: Channels of the image.
        outputs: Channels of the logits.

    Returns:
        A network that maps (B, bands, H, W) of any size to logits (B, outputs, H, W).

    Raises:
        UsageError: The library does not know the architecture or the encoder, cannot join the
            two, or the network does not take every multiple of 32 px.
    """
    import segmentation_models_pytorch as smp

    name = f"library:{architecture}/{encoder}"
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
    least_px = _LEAST_PX.get(architecture, STRIDE)
    try:
        network = AnySize(_create(architecture, encoder, None, bands, outputs), least_px)
        if encoder.startswith("tu-"):
            # timm has encoders of one fixed size, or with patches of 14 px, which only running
            # them tells; the library's own take every multiple of 32 px.
            with torch.no_grad():
                network.eval()(torch.zeros(1, bands, least_px, least_px + STRIDE))
    except (
        AssertionError, AttributeError, IndexError, KeyError, RuntimeError, TypeError, ValueError,
    ) as error:  # fmt: skip
        raise UsageError(
            f"Cannot build model '{name}' for {bands} bands: {_reason(error)}. "
            "Choose another encoder."
        ) from error
    return network.train()


def _reason(error: Exception) -> str:
    first = str(error).strip().partition("\n")[0].rstrip(".")
    return first or type(error).__name__


def _create(
    architecture: str, encoder: str, weights: str | None, bands: int, outputs: int
) -> nn.Module:
    import segmentation_models_pytorch as smp

    # timm's transformers take one size only unless they are told.
    options = {"dynamic_img_size": True} if architecture == "dpt" else {}
    network: nn.Module = smp.create_model(
        architecture,
        encoder,
        # For timm the name of the encoder says which weights.
        encoder_weights=True if weights and encoder.startswith("tu-") else weights,
        in_channels=bands,
        classes=outputs,
        **options,
    )
    return network


def pretrained_encoder(
    architecture: str, encoder: str, weights: str
) -> tuple[dict[str, Tensor], str]:
    """Download an encoder's weights, or take them from the library's cache.

    Args:
        architecture: A name of the library; it may say how the encoder is built.
        encoder: One of its encoders.
        weights: The library's name of the weights, such as "imagenet". timm's encoders ("tu-")
            know "imagenet" alone: the weights that their name stands for.

    Returns:
        The encoder's state for three bands, red, green and blue; and where it is from.

    Raises:
        UsageError: The library has no such weights for the encoder.
        ModelError: They cannot be downloaded.
    """
    places = _places(encoder)
    if weights not in places:
        raise UsageError(
            f"Cannot load encoder weights '{weights}' for {encoder}: the library has "
            f"{', '.join(places) or 'none'}. Choose one of its names, or a file with its ending "
            "(.safetensors, .pth, .pt, .bin): --encoder-weights FILE."
        )
    repository, revision = places[weights]
    try:
        _ask_hub(repository, revision)
        network = _create(architecture, encoder, weights, 3, 1)
    except Exception as error:  # the hub's client raises those of requests, httpx or httpx2
        raise ModelError(
            f"Cannot download encoder weights '{weights}' for {encoder}: "
            f"tried https://huggingface.co/{repository}, found {_reason(error)}. "
            "Download its model.safetensors elsewhere and name it: --encoder-weights FILE."
        ) from error
    state: dict[str, Tensor] = network.get_submodule("encoder").state_dict()
    return state, f"'{weights}' of segmentation_models_pytorch ({repository})"


def _places(encoder: str) -> dict[str, tuple[str, str | None]]:
    """Names of an encoder's weights -> repository and revision at the Hugging Face hub."""
    import segmentation_models_pytorch as smp
    import timm

    name = encoder.removeprefix("tu-")
    if name == encoder:
        known = smp.encoders.encoders[encoder]["pretrained_settings"]
        return {key: (place["repo_id"], place["revision"]) for key, place in known.items()}
    # Asked for weights that it does not have, timm only logs that it leaves them random.
    if not timm.models.is_model_pretrained(name):
        return {}
    place = timm.models.get_pretrained_cfg(name)
    return {"imagenet": (place.hf_hub_id, None)} if place and place.hf_hub_id else {}


def _ask_hub(repository: str, revision: str | None) -> None:
    """Fail at once where the hub cannot be reached: the library would try for minutes."""
    from huggingface_hub import get_hf_file_metadata, hf_hub_url, try_to_load_from_cache

    if try_to_load_from_cache(repository, "model.safetensors", revision=revision) is None:
        get_hf_file_metadata(hf_hub_url(repository, "config.json", revision=revision), timeout=10)
