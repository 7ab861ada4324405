from __future__ import annotations

import numpy as np
import pytest

from landslip.geo.errors import UsageError
from landslip.learn.recipes import RECIPES, recipe_named


def test_paper_recipe_is_the_papers() -> None:
    paper = RECIPES["paper"]
    assert (paper.epochs, paper.batch, paper.momentum, paper.weight_decay) == (200, 5, 0.9, 5e-5)
    rates = [paper.rate(epoch, 200) for epoch in (0, 19.9, 20, 40, 60, 140)]
    assert rates == pytest.approx([1e-3, 1e-3, 1e-4, 1e-5, 1e-6, 1e-10])
    assert paper.loss == "bce"
    assert paper.quantised
    # Nothing that the paper does not tell of.
    assert (paper.ema, paper.balance, paper.jitter, paper.crop) == (0, 0, 0, 0)
    assert not paper.quarter_turns


@pytest.mark.parametrize("epochs", [3, 7, 20, 60])
def test_rate_drops_at_the_beginning_of_an_epoch(epochs: int) -> None:
    recipe = recipe_named("paper", {"epochs": epochs, "drop_every": 1})
    rates = [recipe.rate(epoch, epochs) for epoch in range(epochs)]
    assert rates == pytest.approx([1e-3 * 0.1**epoch for epoch in range(epochs)])


def test_one_cycle_rises_and_falls() -> None:
    recipe = RECIPES["modern"]
    rates = [recipe.rate(step, 1000) for step in range(1001)]
    peak = int(np.argmax(rates))
    assert max(rates) <= recipe.learning_rate * (1 + 1e-9)
    assert rates[:peak] == sorted(rates[:peak])
    assert rates[peak:] == sorted(rates[peak:], reverse=True)
    assert 0 < rates[-1] < 0.01 * recipe.learning_rate


def test_steps_decide_where_a_pass_is_short() -> None:
    recipe = recipe_named("fine-tune", {"steps": 400})
    assert recipe.epochs_of(2) == 200
    assert recipe.epochs_of(3) == 134
    assert recipe.epochs_of(1000) == 1
    assert RECIPES["modern"].epochs_of(1000) == RECIPES["modern"].epochs


def test_epochs_take_the_place_of_steps() -> None:
    recipe = recipe_named("fine-tune", {"epochs": 10})
    assert (recipe.epochs_of(2), recipe.epochs_of(1000)) == (10, 10)
    both = recipe_named("fine-tune", {"epochs": 10, "steps": 50})
    assert (both.epochs_of(2), both.epochs_of(1000)) == (25, 10)


def test_drops_count_epochs_where_steps_decide() -> None:
    recipe = recipe_named("paper", {"steps": 100, "epochs": 1, "drop_every": 20})
    assert recipe.epochs_of(2) == 50
    rates = [recipe.rate(epoch, 50) for epoch in (19.5, 20, 40)]
    assert rates == pytest.approx([1e-3, 1e-4, 1e-5])


def test_settings_are_converted_as_they_are_typed() -> None:
    recipe = recipe_named(
        "paper", {"ema": "0.5", "epochs": "3", "quarter_turns": "True", "loss": "focal"}
    )
    assert (recipe.ema, recipe.epochs, recipe.quarter_turns, recipe.loss) == (0.5, 3, True, "focal")


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"lr": "1"}, "Cannot set 'lr': a recipe has epochs, "),
        ({"source": "me"}, "Cannot set 'source'"),
        ({"epochs": "1.5"}, "Cannot set epochs to '1.5': expected a whole number"),
        ({"ema": "high"}, "Cannot set ema to 'high': expected a number"),
        ({"quarter_turns": "1"}, "Cannot set quarter_turns to '1': expected true or false"),
        ({"epochs": 0}, "all must be positive"),
        ({"learning_rate": "nan"}, "all must be positive"),
        ({"ema": 1.0}, "Cannot train with ema 1: expected 0 to 0.99999"),
        ({"jitter": "nan"}, "Cannot train with jitter nan: expected 0 to 1"),
        ({"optimizer": "adam"}, "Cannot train with optimizer 'adam': expected sgd or adamw"),
        ({"schedule": "cosine"}, "Cannot train with schedule 'cosine': expected step or one-cycle"),
        ({"schedule": "step"}, "'step' needs at least 1"),
        ({"drop_every": 5}, "'one-cycle' and --drop-every 5: .* 'one-cycle' takes none"),
    ],
)
def test_settings_that_cannot_be(settings: dict[str, object], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        recipe_named("modern", settings)


def test_unknown_recipe() -> None:
    with pytest.raises(UsageError, match=r"Cannot find recipe 'quick'\. Choose one of modern"):
        recipe_named("quick")
