"""Start an encoder from weights that were learnt elsewhere, whatever the bands.

Source:
    The first convolution is adapted as timm does it (`adapt_input_conv`): what it sums up to keeps
    its size when bands are added. Unlike there, bands go by name.
"""

import logging
import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file
from torch import Tensor, nn

from landslip.geo.errors import ModelError, UsageError
from landslip.geo.raster import fingerprint
from landslip.learn.card import CARD_KEY, load_card, read_pickled_tensors
from landslip.learn.models import encoder_of
from landslip.learn.models.library import library_parts, pretrained_encoder

log = logging.getLogger(__name__)

COLOURS = ("red", "green", "blue")
"""Order of the three channels that pretrained encoders take."""

_NESTED = ("state_dict", "model_state_dict", "model", "encoder")
_PREFIXES = re.compile(r"^((module|network|model|backbone|encoder|encoder_q)\.)+")


@dataclass(frozen=True, kw_only=True)
class _Weights:
    """Weights of an encoder, from a file or from the library."""

    tensors: dict[str, Tensor]
    """By plain name."""
    bands: tuple[str, ...]
    """Channels of the first convolution; empty where nobody wrote them down."""
    origin: str
    """For errors and for the card."""


def load_encoder_weights(network: nn.Module, name: str, source: str, bands: Sequence[str]) -> str:
    """Replace the weights of a network's encoder by ones that were learnt elsewhere.

    The first convolution gets one plane of weights a band: a band that the source names takes its
    own, any other the mean of all; then all are multiplied by (bands of the source) / (bands), so
    that their sum keeps its size. Sources of three channels are taken to be red, green, blue.

    Args:
        network: Built by `build_model(name, len(bands))`; changed in place.
        name: "resunet", "resunet-table1" or "library:ARCH/ENCODER".
        source: The library's name of the weights, such as "imagenet", which may be downloaded; or a
            file: `.safetensors` (a landslip model, too) or what `torch.save` writes, of which
            tensors alone are read. In a file the tensors may lie under "state_dict", "model",
            "model_state_dict" or "encoder" and carry prefixes such as "module." or "backbone.".
        bands: Names of the network's bands, in its order.

    Returns:
        One line for the model's card: what was loaded, and how the first convolution was adapted.

    Raises:
        UsageError: The network has no such encoder, or the library no such weights.
        ModelError: Weights cannot be read or downloaded, or are those of another encoder.
    """
    encoder = encoder_of(network)
    if encoder is None:
        raise UsageError(
            f"Cannot load encoder weights into model '{name}': it has no encoder that others "
            "train. Choose resunet, resunet-table1 or library:ARCH/ENCODER, or leave the weights "
            "out."
        )
    # Both ResU-Nets have the encoder of this network.
    architecture, encoder_name = library_parts(name) or ("unet", "resnet50")
    if Path(source).suffix:
        found = _from_file(Path(source))
    else:
        state, origin = pretrained_encoder(architecture, encoder_name, source)
        found = _Weights(tensors=_by_plain_name(state, origin), bands=COLOURS, origin=origin)
    stems = _stems(encoder, len(bands), name)
    order = _order(found, stems, bands)

    state = encoder.state_dict()
    unfit = []
    for key, own in state.items():
        tensor = found.tensors.get(_plain_name(key))
        if tensor is not None and key in stems and tensor.shape[1:2] == (len(order),):
            tensor = _adapted(tensor.to(own.dtype), order, bands)
        if tensor is not None and tensor.shape == own.shape:
            state[key] = tensor
        elif not key.endswith("num_batches_tracked"):
            unfit.append(key)
    if unfit:
        raise _misfit(found, state, unfit, name)
    encoder.load_state_dict(state)
    first = "as it was" if tuple(bands) == order else f"adapted to {', '.join(bands)}"
    return (
        f"encoder {encoder_name} from {found.origin}; "
        f"first convolution ({', '.join(order)}) {first}"
    )


def _stems(encoder: nn.Module, bands: int, name: str) -> list[str]:
    """Weights of the convolutions that are given the image itself; mobileone has two of them."""
    image = torch.zeros(1, bands, 64, 64)
    stems: list[str] = []

    def note(key: str, _module: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        if inputs[0] is image:
            stems.append(f"{key}.weight")

    hooks = [
        module.register_forward_pre_hook(partial(note, key))
        for key, module in encoder.named_modules()
        if isinstance(module, nn.Conv2d)
    ]
    learning = encoder.training
    with torch.no_grad():
        encoder.eval()(image)
    encoder.train(learning)
    for hook in hooks:
        hook.remove()
    if not stems:
        raise UsageError(
            f"Cannot load encoder weights into model '{name}': its encoder has no convolution that "
            "takes the bands themselves. Choose another encoder, or leave the weights out."
        )
    return stems


def _order(found: _Weights, stems: list[str], bands: Sequence[str]) -> tuple[str, ...]:
    """Bands of the source's first convolution."""
    stem = found.tensors.get(_plain_name(stems[0]))
    channels = stem.shape[1] if stem is not None and stem.ndim == 4 else len(COLOURS)
    if len(found.bands) == channels:
        return found.bands
    if channels == len(COLOURS):
        return COLOURS
    if channels == len(bands):
        log.warning(
            "The first convolution of %s has %d channels without names: they are taken to be %s, "
            "in this order.", found.origin, channels, ", ".join(bands),
        )  # fmt: skip
        return tuple(bands)
    raise ModelError(
        f"Cannot load encoder weights {found.origin}: expected a first convolution of 3 channels "
        f"(red, green, blue) or of {len(bands)} ({', '.join(bands)}), found {channels}. "
        "Choose other weights, or as many bands."
    )


def _adapted(weight: Tensor, order: Sequence[str], bands: Sequence[str]) -> Tensor:
    """Turn a first convolution (out, order, kH, kW) into one of the bands (out, bands, kH, kW)."""
    mean = weight.mean(dim=1)
    planes = [weight[:, order.index(band)] if band in order else mean for band in bands]
    return torch.stack(planes, dim=1) * (len(order) / len(bands))


def _misfit(found: _Weights, state: dict[str, Tensor], unfit: list[str], name: str) -> ModelError:
    total = sum(not key.endswith("num_batches_tracked") for key in state)
    tensor = found.tensors.get(_plain_name(unfit[0]))
    instead = "nothing of that name" if tensor is None else f"{tuple(tensor.shape)}"
    return ModelError(
        f"Cannot load encoder weights {found.origin}: {total - len(unfit)} of the {total} tensors "
        f"of the encoder of '{name}' are in it; the first missing is {unfit[0]}, expected "
        f"{tuple(state[unfit[0]].shape)}, found {instead}. Choose weights of that encoder, or "
        "with --model the encoder of these weights."
    )


def _plain_name(key: str) -> str:
    # timm writes "stages.0" in its files and "stages_0" in a network that gives features.
    return _PREFIXES.sub("", key).replace("_", ".")


def _by_plain_name(state: dict[str, Tensor], origin: str) -> dict[str, Tensor]:
    plain: dict[str, Tensor] = {}
    for key, tensor in state.items():
        known = plain.setdefault(_plain_name(key), tensor)
        if known is not tensor and not torch.equal(known, tensor):
            raise ModelError(
                f"Cannot load encoder weights {origin}: expected one tensor named "
                f"{_PREFIXES.sub('', key)}, found several under other prefixes. Save those of "
                "the encoder alone, with torch.save(encoder.state_dict(), ...)."
            )
    return plain


def _from_file(path: Path) -> _Weights:
    if not path.is_file():
        raise ModelError(
            f"Cannot load encoder weights {path}: there is no such file. Check its name and folder."
        )
    bands: tuple[str, ...] = ()
    if path.suffix == ".safetensors":
        state, bands = _read_safetensors(path)
    else:
        state = _tensors_in(read_pickled_tensors(path, f"load encoder weights {path}"), path)
    origin = f"{path.name} (sha256 {str(fingerprint(path)['sha256'])[:16]})"
    return _Weights(tensors=_by_plain_name(state, origin), bands=bands, origin=origin)


def _read_safetensors(path: Path) -> tuple[dict[str, Tensor], tuple[str, ...]]:
    """Tensors, and the bands of a landslip model."""
    try:
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
        state: dict[str, Tensor] = load_file(path)
    except (SafetensorError, OSError) as error:
        raise ModelError(
            f"Cannot load encoder weights {path}: the file is no safetensors file, damaged or cut "
            f"short ({error}). Copy it again."
        ) from error
    return state, load_card(path).bands if CARD_KEY in metadata else ()


def _tensors_in(content: Any, path: Path) -> dict[str, Tensor]:
    while isinstance(content, dict) and (
        inner := next((k for k in _NESTED if isinstance(content.get(k), dict)), None)
    ):
        content = content[inner]
    entries = content.items() if isinstance(content, dict) else ()
    state = {str(key): value for key, value in entries if isinstance(value, Tensor)}
    if not state:
        held = ", ".join(str(key) for key, _ in entries) or type(content).__name__
        raise ModelError(
            f"Cannot load encoder weights {path}: expected named tensors, alone or under "
            f"{', '.join(_NESTED)}; found {held}. Save it anew where it was trained, with "
            "torch.save(model.state_dict(), ...)."
        )
    return state
