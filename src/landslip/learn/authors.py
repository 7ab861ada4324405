"""Checkpoints of the paper's authors, read into our `resunet`.

The names of their tensors are those of their model.py and layers.py: torchvision's ResNet-50 at
the root, beside it `head`, `up1` to `up4` and `out`. Their train.py saves a dictionary with the
weights under "weights"; the weights themselves are not published in the repository.

Source:
    https://github.com/WenwenQi/Deep-Residual-U-Net-for-extracting-landslides, 2020-10-13.
"""

import re
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from landslip.geo.errors import ModelError
from landslip.geo.output import refuse_existing
from landslip.geo.raster import fingerprint
from landslip.learn.card import ModelCard, parameter_count, read_pickled_tensors, save_model
from landslip.learn.models import build_model, model_entry
from landslip.prepare.scaling import EIGHT_BIT

_NOTE = (
    "Converted from the authors' checkpoint. Image: 8-bit values / 255. The three outputs were "
    "trained on one and the same mask, read as a colour image. Built with align_corners=True. "
    "Equal to the authors' graph where height and width are multiples of 32; elsewhere they crop "
    "upsampled maps and we resize them."
)

# Registered in the authors' graph, never used by it: ResNet's classifier, two 3x3 convolutions
# in each decoder step.
_DEAD = re.compile(r"fc\.|up[1-4]\.conv\.")

# Ours -> theirs, replaced one after the other.
_THEIR_NAMES = (
    ("encoder.", ""),
    ("head.", "head.head."),
    (".join.", "."),
    (".up.reduce.", ".up.0."),
    (".residual.", ".add.add."),
    (".smooth.", ".add.smooth."),
    (".classify.", ".end."),
)

# Under which a checkpoint may keep its weights; the authors' is the first.
_WRAPPERS = ("weights", "state_dict", "model", "net")


@dataclass(frozen=True, kw_only=True)
class AuthorsReport:
    """What is known of a checkpoint of the authors, beside its weights."""

    ignored_keys: int
    """Tensors in the file that the authors' graph registers and never uses."""

    bands: tuple[str, ...] = ("green", "red", "nir")
    """In the order in which the network takes them: OpenCV turns NIR-R-G files around."""

    outputs: int = 3
    """Channels of the logits."""

    note: str = _NOTE
    """What a person should know before using the model."""


def read_authors_checkpoint(path: Path) -> tuple[nn.Module, AuthorsReport]:
    """Read a checkpoint of the paper's authors; no code inside the file is run.

    Args:
        path: Written by `torch.save`: a state dict, or a dictionary that holds one under
            "weights", "state_dict", "model" or "net"; with or without "module." before names.

    Returns:
        `resunet` with 3 outputs and align_corners, in evaluation mode, and what else is known.

    Raises:
        ModelError: The file cannot be read, holds more than tensors, or its tensors are not
            those of the authors' network.
    """
    found = _read_tensors(path)
    dead = {name for name in found if _DEAD.match(name)}

    model = build_model("resunet", 3, 3, align_corners=True)
    ours = model.state_dict()
    theirs = {name: _their_name(name) for name in ours}
    _check_names(path, {theirs[name]: ours[name] for name in ours}, found, dead)
    # PyTorch before 0.4.1 kept no count of batches; nothing that we run depends on it.
    model.load_state_dict({name: found.get(theirs[name], ours[name]) for name in ours})
    return model.eval(), AuthorsReport(ignored_keys=len(dead))


def _their_name(name: str) -> str:
    for ours, theirs in _THEIR_NAMES:
        name = name.replace(ours, theirs)
    return name


def _read_tensors(path: Path) -> dict[str, Tensor]:
    """Return the file's tensors under the authors' names."""
    content = read_pickled_tensors(path, f"read checkpoint {path}")
    if isinstance(content, dict):
        content = next((content[key] for key in _WRAPPERS if key in content), content)
    if not isinstance(content, dict) or not all(
        isinstance(name, str) and isinstance(value, Tensor) for name, value in content.items()
    ):
        raise ModelError(
            f"Cannot read checkpoint {path}: expected named tensors, alone or under "
            f"{', '.join(_WRAPPERS)}; found something else. Save it anew where it was trained, "
            "with torch.save(model.state_dict(), ...)."
        )
    return {name.removeprefix("module."): value for name, value in content.items()}


def _check_names(
    path: Path, expected: dict[str, Tensor], found: dict[str, Tensor], dead: set[str]
) -> None:
    missing = [
        name for name in expected if name not in found and not name.endswith(".num_batches_tracked")
    ]
    unexpected = [name for name in found if name not in expected and name not in dead]
    misshaped = [
        f"{name} {tuple(found[name].shape)} for {tuple(expected[name].shape)}"
        for name in expected
        if name in found and found[name].shape != expected[name].shape
    ]
    if not missing and not unexpected and not misshaped:
        return
    faults = [
        f"{len(names)} {kind} ({', '.join(names[:3])}{', ...' if len(names) > 3 else ''})"
        for kind, names in (
            ("missing", missing),
            ("unexpected", unexpected),
            ("of another shape", misshaped),
        )
        if names
    ]
    raise ModelError(
        f"Cannot convert checkpoint {path}: expected the {len(expected)} tensors of the authors' "
        f"ResU-Net, found {'; '.join(faults)}. "
        "Give a checkpoint that was trained with the authors' code."
    )


def convert_checkpoint(
    checkpoint: str | Path, out: str | Path, *, pixel_size_m: float = 0.5, overwrite: bool = False
) -> ModelCard:
    """Write a checkpoint of the paper's authors as a landslip model.

    Args:
        checkpoint: Their file (`.pth`).
        out: Model file to write (`.safetensors`).
        pixel_size_m: Pixel size that it learnt on (m); the paper's is .5.
        overwrite: Replace a file that exists.

    Returns:
        The card; its note says what a user must know.

    Raises:
        ModelError: The checkpoint cannot be used.
        OutputError: `out` exists, or cannot be written.
    """
    out = Path(out)
    refuse_existing(out, overwrite=overwrite)
    network, known = read_authors_checkpoint(Path(checkpoint))
    entry = model_entry("resunet")
    card = ModelCard(
        name=out.stem,
        architecture="resunet",
        hyperparameters={"outputs": known.outputs, "align_corners": True},
        framework_version=torch.__version__,
        total_parameters=parameter_count(network),
        bands=known.bands,
        scaling=tuple((band, *EIGHT_BIT) for band in known.bands),
        quantised=True,
        pixel_size_m=pixel_size_m,
        halo_px=entry.halo_px,
        stride_px=entry.stride,
        training={"converted_from": fingerprint(checkpoint)},
        note=f"{known.note} {known.ignored_keys} unused tensors of the file were left out; the "
        "mean of the three outputs is the score; the threshold is .5, as in their code.",
    )
    save_model(out, network, card, overwrite=overwrite)
    return card
