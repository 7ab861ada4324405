"""Models as one function of a window: several at once, turned, and at several scales."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn

from landslip.geo.errors import UsageError
from landslip.geo.grid import Window
from landslip.geo.raster import Raster, Scene
from landslip.learn.calibration import Calibration
from landslip.learn.card import ModelCard
from landslip.learn.device import Compute
from landslip.learn.predict import forward
from landslip.prepare.scaling import Scaling, bands_at_hand, read_apart

SIMPLE_SCALES = tuple(
    sorted({Fraction(over, under) for over in range(1, 9) for under in range(1, 9)})
)
"""Scales at which images can be looked at: ratios of whole numbers up to 8."""
SCALE_TOLERANCE = 0.001
"""A scale is written with so many digits: 0.667 is two thirds, 0.7 is not."""
LARGEST_STRIDE_PX = 1024
"""Above this, windows that fit all scales would be too large to compute (px)."""
KERNEL_PX = 2
"""Reach of the interpolation there and back, in pixels of the coarser of the two images."""
TURNS = tuple((flipped, quarters) for flipped in (False, True) for quarters in range(4))
"""(flipped left to right, quarter turns after that): the eight ways to lay a square on itself."""


@dataclass(frozen=True)
class Member:
    """One model as it is used on a scene."""

    card: ModelCard
    """Its bands, stride and halo."""
    network: nn.Module
    """In evaluation mode, on the device."""
    scaling: Scaling
    """Whose numbers it is shown: all bands of the card, in its order."""


class Ensemble:
    """Models as one function from a window of a scene to probabilities: their mean, and its spread.

    Every model looks at the window at every scale and, if asked, in its eight flips and quarter
    turns, one after another, so that memory does not grow with them. All count alike.

    Args:
        members: At least one model; bands, strides and halos may differ.
        compute: Device and precision; the networks are on this device.
        tta: True: the mean over the eight flips and quarter turns of a window, which takes eight
            times as long.
        scales: Sizes of the image that the networks see, as shares of its own; their probabilities
            are brought back to its size and averaged. Time grows with the square of a scale.

    Raises:
        UsageError: No model; scales that are none, repeated, no simple ratios, or that would need
            windows at multiples of more than `LARGEST_STRIDE_PX`.
    """

    members: tuple[Member, ...]
    """The models, in the order given."""
    stride_px: int
    """Windows begin, and have sides, at multiples of this, in pixels of the scene."""
    halo_px: int
    """Pixels of the scene that a window needs around its core: a multiple of `stride_px`."""
    device: torch.device
    """Where the networks are."""

    def __init__(
        self,
        members: Sequence[Member],
        compute: Compute,
        *,
        tta: bool = False,
        scales: Sequence[float] = (1.0,),
    ) -> None:
        if not members:
            raise UsageError("Cannot predict with no model. Name at least one.")
        self.members = tuple(members)
        self.device = compute.device
        self._compute = compute
        self._turns = TURNS if tta else TURNS[:1]
        self._scales = exact_scales(scales)
        cards = [member.card for member in self.members]
        self.stride_px = _stride([card.stride_px for card in cards], self._scales)
        reach = max(_reach(card.halo_px, scale) for card in cards for scale in self._scales)
        self.halo_px = -(-reach // self.stride_px) * self.stride_px

    def read(
        self, scene: Scene, window: Window
    ) -> tuple[list[NDArray[np.float32]] | None, NDArray[np.bool_]]:
        """What every model is shown of a window; models with the same bands share one reading.

        Args:
            scene: Scene with all bands of the models but, maybe, optional ones.
            window: With its halo; what lies beyond the scene is mirrored from inside.

        Returns:
            Scaled images (C, H, W), one a model, each 0 where that model has no data, or None where
            no pixel is valid; valid (H, W), where the required bands of all models are.

        Raises:
            BandError: The scene lacks a band that is not optional.
            UsageError: The window lies outside the scene.
        """
        read: dict[tuple[tuple[str, ...], tuple[str, ...]], list[Raster]] = {}
        shown: list[list[Raster]] = []
        for member in self.members:
            optional = member.card.optional_bands
            bands = bands_at_hand(member.scaling.bands, scene.bands, optional)
            if (bands, optional) not in read:
                read[bands, optional] = read_apart(scene, window, bands, optional)
            shown.append(read[bands, optional])
        valid = np.logical_and.reduce([rasters[0].valid for rasters in shown])
        if not valid.any():
            return None, valid
        pairs = zip(self.members, shown, strict=True)
        return [member.scaling.apply_all(rasters) for member, rasters in pairs], valid

    def place(self, images: Sequence[NDArray[np.float32]]) -> list[Tensor]:
        """Scaled images (C, H, W) as (1, C, H, W) on the device, for `predict`.

        A GPU copies them while it computes others.
        """
        tensors = [torch.from_numpy(image[None]) for image in images]
        if self._compute.device.type == "cuda":
            tensors = [tensor.pin_memory() for tensor in tensors]
        return [self._compute.send(tensor) for tensor in tensors]

    def predict(
        self, images: Sequence[NDArray[np.float32] | Tensor]
    ) -> tuple[NDArray[np.float32], NDArray[np.float32] | None]:
        """Landslide probabilities of scaled images, and how far the models agree.

        Args:
            images: One (B, C, H, W) a model, of the same B, H and W, in memory or on the device.
                Windows agree with their neighbours where H and W are multiples of `stride_px`; of
                other sizes, sides are rounded at every scale and mirrored to the model's stride,
                and cut back.

        Returns:
            The mean over the models (B, H, W), 0 to 1; with several of them also the standard
            deviation of their probabilities (B, H, W), 0 to 0.5, by their number, not one less.
        """
        return mean_and_spread(self.launch(images))

    def launch(self, images: Sequence[NDArray[np.float32] | Tensor]) -> list[Tensor]:
        """Probabilities (B, H, W) of every model, as `predict` takes and averages them.

        They are on the device, and a GPU may still compute them.
        """
        return [
            self._scores(member, image) for member, image in zip(self.members, images, strict=True)
        ]

    def _scores(self, member: Member, images: NDArray[np.float32] | Tensor) -> Tensor:
        """Probabilities (B, H, W) of one model, the mean over the scales."""
        with torch.inference_mode():
            if not isinstance(images, Tensor):
                images = torch.from_numpy(np.ascontiguousarray(images))
            sent = self._compute.send(images)
            total = sent.new_zeros((len(sent), *sent.shape[-2:]))
            for scale in self._scales:
                total += self._at_scale(member, sent, scale)
            calibration = Calibration.of_card(member.card.calibration)
            mean = total / len(self._scales)
            return mean if calibration is None else calibration.apply(mean)

    def _at_scale(self, member: Member, images: Tensor, scale: Fraction) -> Tensor:
        """Probabilities (B, H, W) at one scale, the mean over the turns."""
        height, width = images.shape[-2:]
        sides = max(round(height * scale), 1), max(round(width * scale), 1)
        seen = _resized(images, sides)
        total = seen.new_zeros((len(seen), *sides))
        for turn in self._turns:
            turned = _turned(seen, turn)
            scores = forward(member.network, turned, self._compute, member.card.stride_px)
            total += _turned_back(scores, turn)
        # Weights of an interpolation may add up to a hair more than one.
        return _resized((total / len(self._turns))[:, None], (height, width))[:, 0].clamp(0, 1)


def mean_and_spread(
    scores: Sequence[Tensor],
) -> tuple[NDArray[np.float32], NDArray[np.float32] | None]:
    """Mean of the probabilities of some models and, of several, their standard deviation.

    Waits for a GPU that still computes them.
    """
    found = [plane.cpu().numpy() for plane in scores]
    if len(found) == 1:
        return found[0], None
    # In float32, three equal probabilities can have another mean, and so a spread.
    exact = np.stack(found).astype(np.float64)
    return exact.mean(axis=0).astype(np.float32), exact.std(axis=0).astype(np.float32)


def exact_scales(scales: Sequence[float]) -> tuple[Fraction, ...]:
    """Scales as exact ratios, in the order given.

    Raises:
        UsageError: None is given, one twice, or one is no ratio of whole numbers up to 8.
    """
    if not scales:
        raise UsageError("Cannot predict at no scale. Name at least one, such as 1.")
    exact: list[Fraction] = []
    for scale in scales:
        nearest = min(SIMPLE_SCALES, key=lambda simple: abs(simple - scale))
        if not abs(nearest - scale) <= SCALE_TOLERANCE:  # also where it is no number
            raise UsageError(
                f"Cannot predict at scale {scale:g}: expected a ratio of two whole numbers from 1 "
                f"to 8, such as 1, 0.5 or 0.667. Take the nearest, {_text(nearest)}."
            )
        if nearest in exact:
            raise UsageError(
                f"Cannot predict at scales {', '.join(f'{each:g}' for each in scales)}: "
                f"{_text(nearest)} is there twice. Name every scale once."
            )
        exact.append(nearest)
    return tuple(exact)


def _text(scale: Fraction) -> str:
    return f"{round(float(scale), 3):g}"


def _stride(strides_px: Sequence[int], scales: Sequence[Fraction]) -> int:
    """The least number of pixels that is a multiple of every stride at every scale."""
    stride = math.lcm(
        *(
            each * scale.denominator // math.gcd(each * scale.denominator, scale.numerator)
            for each in strides_px
            for scale in scales
        )
    )
    # The strides of the models alone are as they are.
    if stride > LARGEST_STRIDE_PX and any(scale != 1 for scale in scales):
        raise UsageError(
            f"Cannot predict at scales {', '.join(map(_text, scales))}: windows would begin at "
            f"multiples of {stride} px, {LARGEST_STRIDE_PX} px are the most. Take fewer scales, or "
            "halves and quarters."
        )
    return stride


def _reach(halo_px: int, scale: Fraction) -> int:
    """How far a pixel is seen by networks with a halo, in pixels of the unscaled image."""
    if scale == 1:
        return halo_px
    return math.ceil(halo_px / scale + KERNEL_PX * max(Fraction(1), 1 / scale))


def _resized(images: Tensor, sides: tuple[int, int]) -> Tensor:
    """Images (B, C, H, W) at another height and width, in float32; smaller ones are smoothed.

    Pixels are areas: corners fall on corners, so that windows at multiples of the stride agree.
    """
    if images.shape[-2:] == sides:
        return images
    return F.interpolate(images, size=sides, mode="bilinear", align_corners=False, antialias=True)


def _turned(images: Tensor, turn: tuple[bool, int]) -> Tensor:
    """Images (..., H, W) in one of `TURNS`; odd quarter turns change height and width."""
    flipped, quarters = turn
    return (images.flip(-1) if flipped else images).rot90(quarters, (-2, -1))


def _turned_back(images: Tensor, turn: tuple[bool, int]) -> Tensor:
    """What `_turned` has turned as it was before."""
    flipped, quarters = turn
    back = images.rot90(-quarters, (-2, -1))
    return back.flip(-1) if flipped else back
