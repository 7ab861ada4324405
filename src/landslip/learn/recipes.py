"""The recipes by name: all settings of a training, each of which can be overridden.

A new recipe is one line in `RECIPES`.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from landslip.geo.errors import UsageError


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """Settings of a training."""

    epochs: int
    """Passes over the training tiles."""
    batch: int
    """Tiles in a step."""
    optimizer: str
    """`sgd` or `adamw`."""
    learning_rate: float
    """First (step) or largest (one-cycle) rate."""
    momentum: float = 0.9
    """Momentum of SGD, first beta of AdamW."""
    weight_decay: float = 0.0
    """L2 penalty (SGD) or decoupled decay (AdamW)."""
    schedule: str
    """`step`: a tenth every `drop_every` epochs; `one-cycle`: up, then down to nothing."""
    drop_every: int = 0
    """Epochs between two drops of `step`."""
    loss: str
    """Name in `LOSSES`."""
    quantised: bool = False
    """True: 16-bit input is rounded to 256 levels, as the paper's images are."""
    quarter_turns: bool = False
    """True: turned by 0, 90, 180 or 270 degrees beside being flipped."""
    source: str
    """Where the settings come from."""

    def __post_init__(self) -> None:
        if self.epochs < 1 or self.batch < 1 or self.learning_rate <= 0:
            raise UsageError(
                f"Cannot train with {self.epochs} epochs, batch {self.batch} and rate "
                f"{self.learning_rate:g}: all must be positive."
            )
        if self.schedule == "step" and self.drop_every < 1:
            raise UsageError("Cannot train: the schedule 'step' needs --drop-every of at least 1.")

    def rate(self, progress_epochs: float) -> float:
        """Learning rate after some epochs (a step's part counts as a part of an epoch)."""
        if self.schedule == "step":
            return float(self.learning_rate * 0.1 ** (int(progress_epochs) // self.drop_every))
        # Smith 2018, arXiv:1708.07120: a linear rise, then half a cosine down.
        share = progress_epochs / self.epochs
        rise = 0.15
        if share < rise:
            return self.learning_rate * (0.04 + 0.96 * share / rise)
        return self.learning_rate * max(
            0.5 * (1 + math.cos(math.pi * (share - rise) / (1 - rise))), 1e-3
        )


RECIPES: dict[str, Recipe] = {
    "paper": Recipe(
        epochs=200,
        batch=5,
        optimizer="sgd",
        learning_rate=1e-3,
        weight_decay=5e-5,
        schedule="step",
        drop_every=20,
        loss="bce",
        quantised=True,
        source="Qi et al. 2020, Remote Sensing 12(15), 2487, section 3.3",
    ),
    "quick": Recipe(
        epochs=20,
        batch=8,
        optimizer="adamw",
        learning_rate=2e-3,
        weight_decay=1e-2,
        schedule="one-cycle",
        loss="bce+dice",
        quarter_turns=True,
        source="AdamW (Loshchilov and Hutter 2019), one cycle (Smith 2018), BCE and Dice",
    ),
}


def recipe_named(name: str) -> Recipe:
    """A recipe by name.

    Raises:
        UsageError: There is none of that name.
    """
    if name not in RECIPES:
        raise UsageError(f"Cannot find recipe '{name}'. Choose one of {', '.join(RECIPES)}.")
    return RECIPES[name]
