"""The recipes by name: all settings of a training, each of which can be overridden.

A new recipe is one line in `RECIPES`.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from typing import Any

from landslip.geo.errors import UsageError

OPTIMIZERS = ("sgd", "adamw")
SCHEDULES = ("step", "one-cycle")
THRESHOLD_GROUNDS = ("validation", "all")
ONE_CYCLE_RISE = 0.15
"""Share of a training in which the rate of `one-cycle` rises."""


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """Settings of a training."""

    epochs: int
    """Passes over the training ground, each followed by scoring; with `steps`, the fewest."""
    steps: int = 0
    """Steps to take at least, for grounds so small that a pass says little; 0: `epochs` decides. An
    epoch then shows small ground several times, so that there are 20 at most."""
    batch: int
    """Samples in a step."""
    optimizer: str
    """`sgd` or `adamw`."""
    learning_rate: float
    """First (step) or largest (one-cycle) rate."""
    encoder_rate: float = 1.0
    """Rate of the encoder's weights as a share of `learning_rate`; 0: they stay as they are."""
    momentum: float = 0.9
    """Momentum of SGD, first beta of AdamW."""
    weight_decay: float = 0.0
    """L2 penalty (SGD) or decoupled decay (AdamW)."""
    max_gradient_norm: float = 0.0
    """Norm of the gradients of all weights to which larger ones are shortened; 0: none are."""
    schedule: str
    """`step`: a tenth every `drop_every` epochs; `one-cycle`: up, then down to nothing."""
    drop_every: int = 0
    """Epochs between two drops of `step`."""
    ema: float = 0.0
    """Share of the averaged weights that a step keeps; 0: no average."""
    patience: int = 0
    """Epochs without a better F1 on validation after which training ends; 0: never."""
    threshold_ground: str = "validation"
    """Tiles that choose the threshold, by the largest F1: `validation`, or `all`, those that train,
    too: of a handful of tiles, what is held out says too little."""
    fixed_statistics: bool = False
    """True: batch normalisation keeps the means and variances that it began with."""
    loss: str
    """Name in `LOSSES`."""
    positive_weight: float = 1.0
    """Most that a landslide pixel counts in the loss, compared with background; the balance of the
    ground decides below that."""
    quantised: bool = False
    """True: 16-bit input is rounded to 256 levels, as the paper's images are."""
    crop: int = 0
    """Rows and columns of a sample (px); 0: those of the tiles."""
    balance: float = 0.0
    """Share of the samples that are drawn around a landslide; 0: as the ground is."""
    quarter_turns: bool = False
    """True: turned by 0, 90, 180 or 270 degrees beside being flipped."""
    jitter: float = 0.0
    """Standard deviation of the change in gain (relative) and offset of scaled bands; a third of
    its variance is each band's own."""
    band_dropout: float = 0.0
    """Share of the samples in which an optional band is taken away: all of the scene from before,
    or of the elevation model, together."""
    source: str
    """Where the settings come from."""

    def __post_init__(self) -> None:
        if self.epochs < 1 or self.batch < 1 or not 0 < self.learning_rate < math.inf:
            raise UsageError(
                f"Cannot train with {self.epochs} epochs, batch {self.batch} and rate "
                f"{self.learning_rate:g}: all must be positive."
            )
        for name, known in (
            ("optimizer", OPTIMIZERS),
            ("schedule", SCHEDULES),
            ("threshold_ground", THRESHOLD_GROUNDS),
        ):
            if getattr(self, name) not in known:
                raise UsageError(
                    f"Cannot train with {name} '{getattr(self, name)}': expected "
                    f"{' or '.join(known)}."
                )
        if (self.schedule == "step") != (self.drop_every >= 1):
            raise UsageError(
                f"Cannot train with schedule '{self.schedule}' and --drop-every "
                f"{self.drop_every}: 'step' needs at least 1, 'one-cycle' takes none. "
                "Correct one of them."
            )
        for name, low, high in _LIMITS:
            if not low <= getattr(self, name) <= high:
                raise UsageError(
                    f"Cannot train with {name} {getattr(self, name):g}: expected {low:g} to "
                    f"{high:g}. Correct it."
                )

    def rate(self, passed: float, epochs: int) -> float:
        """Learning rate after `passed` of `epochs` epochs."""
        if self.schedule == "step":
            # A hair more, so that 20 epochs are 20 whatever the rounding.
            drops = int(passed * (1 + 1e-9)) // self.drop_every
            return float(self.learning_rate * 0.1**drops)
        share = passed / epochs
        # Smith 2018, arXiv:1708.07120: a linear rise, then half a cosine down.
        if share < ONE_CYCLE_RISE:
            return self.learning_rate * (0.04 + 0.96 * share / ONE_CYCLE_RISE)
        fallen = (share - ONE_CYCLE_RISE) / (1 - ONE_CYCLE_RISE)
        return self.learning_rate * max(0.5 * (1 + math.cos(math.pi * fallen)), 1e-3)

    def epochs_of(self, steps_an_epoch: int) -> int:
        """Epochs on a ground of so many steps."""
        return max(self.epochs, -(-self.steps // steps_an_epoch))


_LIMITS = (
    ("steps", 0, math.inf),
    ("encoder_rate", 0, 1),
    ("momentum", 0, 0.9999),
    ("weight_decay", 0, 1),
    ("max_gradient_norm", 0, math.inf),
    ("ema", 0, 0.99999),
    ("patience", 0, math.inf),
    ("positive_weight", 1, 100),
    ("crop", 0, 8192),
    ("balance", 0, 1),
    ("jitter", 0, 1),
    ("band_dropout", 0, 1),
)
"""Settings with the least and the most that they may be."""


RECIPES: dict[str, Recipe] = {
    "modern": Recipe(
        epochs=60,
        batch=8,
        optimizer="adamw",
        learning_rate=2e-3,
        weight_decay=1e-2,
        max_gradient_norm=1.0,
        schedule="one-cycle",
        ema=0.99,
        loss="bce+dice",
        positive_weight=3.0,
        crop=256,
        balance=0.5,
        quarter_turns=True,
        jitter=0.1,
        band_dropout=0.3,
        source="AdamW (Loshchilov and Hutter 2019), one cycle (Smith 2018), gradients of norm 1 at "
        "most (Pascanu et al. 2013), BCE and Dice, averaged weights (Izmailov et al. 2018); chosen "
        "by benchmarks/accuracy.py",
    ),
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
}
RECIPES["fine-tune"] = replace(
    RECIPES["modern"],
    epochs=1,
    steps=120,
    learning_rate=5e-4,
    ema=0.98,
    fixed_statistics=True,
    threshold_ground="all",
    source="`modern` for a model that exists and 5 to 50 tiles of new ground",
)
"""Name -> recipe. `fine-tune` is what `modern` becomes for a model to start from."""


def recipe_named(name: str, settings: Mapping[str, object] | None = None) -> Recipe:
    """A recipe by name, with some of its settings changed.

    Args:
        name: Key of `RECIPES`.
        settings: Field of `Recipe` -> value; texts are converted, as the command line gives them.
            Epochs without steps end a training that the recipe would end by its steps.

    Raises:
        UsageError: There is no recipe or setting of that name, or a value is out of range.
    """
    if name not in RECIPES:
        raise UsageError(f"Cannot find recipe '{name}'. Choose one of {', '.join(RECIPES)}.")
    recipe = RECIPES[name]
    known = [field.name for field in fields(Recipe) if field.name != "source"]
    changes: dict[str, Any] = {}
    for key, value in (settings or {}).items():
        if key not in known:
            raise UsageError(
                f"Cannot set '{key}': a recipe has {', '.join(known)}. Correct the name."
            )
        changes[key] = _converted(key, value, getattr(recipe, key))
    if "epochs" in changes:
        changes.setdefault("steps", 0)
    return replace(recipe, **changes)


def _converted(key: str, value: object, like: object) -> object:
    """A setting in the type that it has."""
    if not isinstance(value, str) or isinstance(like, str):
        return value
    words = {"true": True, "false": False} if isinstance(like, bool) else {}
    try:
        return words[value.lower()] if words else type(like)(value)  # type: ignore[call-arg]
    except (KeyError, ValueError):
        whole = "a whole number" if isinstance(like, int) else "a number"
        expected = "true or false" if words else whole
        raise UsageError(
            f"Cannot set {key} to '{value}': expected {expected}, such as {like}."
        ) from None
