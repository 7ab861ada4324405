"""A model file explains itself: weights in safetensors, and a card in its metadata."""

from __future__ import annotations

import json
import math
import os
import pickle
import struct
from pathlib import Path
from typing import Annotated, Any, Self

import torch
from pydantic import BaseModel, ConfigDict, Field, model_validator
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_file
from torch import nn

from landslip.geo.errors import ModelError, UsageError
from landslip.geo.output import whole_file
from landslip.learn.models import build_model
from landslip.prepare.scaling import Scaling

FORMAT_VERSION = "1.0"
CARD_KEY = "landslip"
"""Key of the card in the metadata of the safetensors file."""


class ModelCard(BaseModel):
    """What a model needs to be used, and what is known of it.

    Names follow the STAC Machine Learning Model extension where it has them. Unknown fields are
    kept; a higher major version is refused.
    """

    model_config = ConfigDict(frozen=True, extra="allow")

    format_version: str = FORMAT_VERSION
    """Version of this list of fields."""
    name: str
    """Name of the model, for people and for the inventory's attributes."""
    architecture: str
    """Name in `MODELS`, or `library:ARCH/ENCODER`."""
    hyperparameters: dict[str, Any] = {}
    """Arguments of the builder: outputs, align_corners."""
    framework: str = "pytorch"
    """Always pytorch."""
    framework_version: str = ""
    """Version of torch that trained it."""
    total_parameters: int
    """Number of weights that were learnt."""
    bands: Annotated[tuple[str, ...], Field(min_length=1)]
    """Bands in the order of the network's input."""
    optional_bands: tuple[str, ...] = ()
    """Bands that may be missing."""
    scaling: tuple[tuple[str, float, float], ...]
    """(band, low, high): low becomes 0, high becomes 1."""
    percentiles: tuple[tuple[str, float, float], ...] = ()
    """(band, low, high): percentiles 0.5 and 99.5 of the usable ground that was learnt from; empty
    where they were not measured."""
    units: tuple[str, ...] = ()
    """Units of `bands`: digital number, reflectance, m, deg, ...; empty where not known."""
    sensor: str = ""
    """Sensor of the ground, as in `--sensor`; empty where not known."""
    quantised: bool = False
    """Scaled values are rounded to 256 levels."""
    pixel_size_m: Annotated[float, Field(gt=0, allow_inf_nan=False)]
    """Pixel size of the training ground (m)."""
    threshold: Annotated[float, Field(ge=0, le=1)] = 0.5
    """Probability from which ground counts as landslide: largest F1 on validation."""
    pr_curve: tuple[tuple[float, float, float], ...] = ()
    """(threshold, precision, recall) on validation; thresholds where both are defined."""
    halo_px: Annotated[int, Field(ge=0)]
    """Pixels that a window needs around its core."""
    stride_px: Annotated[int, Field(ge=1)]
    """Windows begin at multiples of this."""
    calibration: dict[str, Any] | None = None
    """How scores become probabilities; None: they are model scores."""
    landslide_share: float | None = None
    """Share of landslide pixels in the training ground."""
    training: dict[str, Any] = {}
    """Recipe, settings, seed, epochs, ground and its hashes."""
    scores: dict[str, dict[str, float | None]] = {}
    """precision, recall, f1, iou by split, pooled over pixels."""
    licence: str = ""
    """Licence of the weights; empty where nobody stated one."""
    note: str = ""
    """What a user must know."""

    @model_validator(mode="after")
    def _scales_its_bands(self) -> Self:
        """A network that is fed other bands than it learnt would be wrong without a word."""
        if tuple(band for band, _, _ in self.scaling) != self.bands:
            raise ValueError("scaling names other bands than bands, or another order")
        if not all(-math.inf < low < high < math.inf for _, low, high in self.scaling):
            raise ValueError("scaling needs finite low < high")
        measured = tuple(band for band, _, _ in self.percentiles)
        if measured and measured != self.bands:
            raise ValueError("percentiles names other bands than bands, or another order")
        if not all(-math.inf < low < high < math.inf for _, low, high in self.percentiles):
            raise ValueError("percentiles needs finite low < high")
        if not set(self.optional_bands) < set(self.bands):
            raise ValueError("optional_bands must be some of bands, and not all")
        if self.units and len(self.units) != len(self.bands):
            raise ValueError(f"units has {len(self.units)} entries for {len(self.bands)} bands")
        return self

    @property
    def required_bands(self) -> tuple[str, ...]:
        """Bands without which the model cannot be used."""
        return tuple(band for band in self.bands if band not in self.optional_bands)

    def threshold_for(self, recall: float | None = None) -> float:
        """A threshold by the curve of validation.

        Args:
            recall: The highest threshold that finds at least this share of the landslide pixels;
                None: where precision and recall lie closest together, so that what is missed and
                what is wrongly mapped have the same area.

        Raises:
            UsageError: The share is not above 0 and up to 1, or no threshold reaches it.
            ModelError: The model has no curve.
        """
        if recall is not None and not 0 < recall <= 1:
            raise UsageError(
                f"Cannot choose a threshold for a recall of {recall:g}: it must be above 0 and up "
                "to 1."
            )
        if not self.pr_curve:
            raise ModelError(
                f"Cannot choose a threshold for {self.name}: its card has no curve of precision "
                "and recall. Name the threshold with --threshold."
            )
        if recall is None:
            return min(self.pr_curve, key=lambda point: abs(point[1] - point[2]))[0]
        enough = [threshold for threshold, _, found in self.pr_curve if found >= recall]
        if not enough:
            most = max(found for *_, found in self.pr_curve)
            raise UsageError(
                f"Cannot choose a threshold for {self.name}: on validation it finds at most "
                f"{most:.3f} of the landslide pixels, {recall:g} was asked for. Ask for less."
            )
        return max(enough)

    @property
    def scaling_of_bands(self) -> Scaling:
        """The scaling as a function of rasters."""
        return Scaling(self.scaling, self.quantised)


def parameter_count(network: nn.Module) -> int:
    """Number of learnt weights."""
    return sum(weights.numel() for weights in network.parameters())


def save_model(path: Path, network: nn.Module, card: ModelCard, *, overwrite: bool = False) -> None:
    """Write weights and card into one safetensors file.

    Raises:
        OutputError: The file exists, or cannot be written.
    """
    # safetensors refuses channels-last tensors.
    weights = {
        key: value.detach().cpu().contiguous() for key, value in network.state_dict().items()
    }
    with whole_file(path, overwrite=overwrite) as partial:
        write_safetensors(weights, partial, {CARD_KEY: card.model_dump_json()})


def write_safetensors(
    weights: dict[str, torch.Tensor], path: Path, metadata: dict[str, str]
) -> None:
    """Write tensors down to the disk; where it fails, OSError is raised as by other writes."""
    try:
        save_file(weights, path, metadata)
    except SafetensorError as error:
        raise OSError(_errno_in(str(error)), str(error)) from error
    # A name must not come before its bytes: what it replaces is lost then. Windows wants "+".
    with path.open("r+b") as file:
        os.fsync(file.fileno())


def _errno_in(text: str) -> int:
    """The system's error number that safetensors writes into its message, 0 if none."""
    _, found, rest = text.partition("os error ")
    digits = rest.split(")")[0]
    return int(digits) if found and digits.isdigit() else 0


def load_card(path: str | Path) -> ModelCard:
    """Read only the card of a model file.

    Raises:
        ModelError: No such file, a pickle, cut short, not of landslip, or of a newer format.
    """
    path = Path(path)
    _refuse_other_files(path)
    try:
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
    except (SafetensorError, OSError) as error:
        raise ModelError(
            f"Cannot open model {path}: the file is damaged or cut short ({error}). "
            "Copy or train it again."
        ) from error
    if CARD_KEY not in metadata:
        raise ModelError(
            f"Cannot use model {path}: it is a safetensors file without a landslip card. "
            "Use a file that landslip train wrote."
        )
    try:
        found = json.loads(metadata[CARD_KEY])
        version = str(found.get("format_version", "0"))
        if int(version.split(".")[0]) > int(FORMAT_VERSION.split(".")[0]):
            raise ModelError(
                f"Cannot use model {path}: its card has format {version}, this landslip reads "
                f"{FORMAT_VERSION}. Update landslip."
            )
        return ModelCard.model_validate(found)
    except ModelError:
        raise
    except (ValueError, AttributeError) as error:
        first = str(error).splitlines()
        raise ModelError(
            f"Cannot use model {path}: its card is damaged ({'; '.join(first[:3])}). "
            "Train or copy it again."
        ) from error


def _refuse_other_files(path: Path) -> None:
    if not path.is_file():
        raise ModelError(
            f"Cannot open model {path}: there is no such file. Check its name and folder."
        )
    with path.open("rb") as file:
        head = file.read(9)
    size = path.stat().st_size
    if len(head) == 9 and head[8:] == b"{" and struct.unpack("<Q", head[:8])[0] + 8 <= size:
        return
    # The length of a header may begin as pickles do; a brace tells where a header follows.
    if len(head) == 9 and head[8:] != b"{" and (head[:2] == b"PK" or head[:1] == b"\x80"):
        raise ModelError(
            f"Cannot open model {path}: it is a pickle, which can run any code, and pickles are "
            "never loaded. The paper authors' checkpoints are read by landslip convert."
        )
    raise ModelError(
        f"Cannot open model {path}: it is no safetensors file, or cut short ({size} bytes). "
        "Copy or train it again."
    )


def read_pickled_tensors(path: Path, what: str) -> Any:
    """What `torch.save` wrote, of tensors alone; no code inside the file is run.

    Args:
        path: Of any suffix.
        what: What is done with which file, for errors: "read checkpoint a.pth".

    Raises:
        ModelError: The file is not there, is broken, or holds more than tensors.
    """
    try:
        return torch.load(path, weights_only=True, map_location="cpu")
    except OSError as error:
        raise ModelError(f"Cannot {what}: {error.strerror}. Check the path.") from error
    except (
        # What unpickling raises on broken files, by Python's documentation.
        pickle.UnpicklingError, AttributeError, EOFError, ImportError, IndexError, KeyError,
        RuntimeError, TypeError, ValueError,
    ) as error:  # fmt: skip
        # PyTorch's own message advises to switch its safety off; keep it out of ours.
        raise ModelError(
            f"Cannot {what}: expected a PyTorch file with tensors alone, found other objects, "
            "which could run any code, or a broken file. Save it anew where it was trained, with "
            "torch.save(model.state_dict(), ...)."
        ) from error


def load_model(path: str | Path) -> tuple[ModelCard, nn.Module]:
    """Rebuild a network from its file, ready to predict (evaluation mode, on the CPU).

    Raises:
        ModelError: The file cannot be used.
    """
    card = load_card(path)
    try:
        network = build_model(
            card.architecture,
            len(card.bands),
            int(card.hyperparameters.get("outputs", 1)),
            align_corners=bool(card.hyperparameters.get("align_corners", False)),
        )
    except (TypeError, ValueError) as error:
        reason = str(error).partition(". ")[0]
        raise ModelError(
            f"Cannot use model {path}: this landslip cannot build its network ({reason}). "
            "Update landslip, or copy the model again."
        ) from error
    try:
        network.load_state_dict(load_file(Path(path)))
    except (RuntimeError, SafetensorError, OSError) as error:
        raise ModelError(
            f"Cannot use model {path}: its weights do not fit {card.architecture} with "
            f"{len(card.bands)} bands ({str(error).splitlines()[0]}). Train or copy it again."
        ) from error
    return card, network.eval()
