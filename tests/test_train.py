from __future__ import annotations

import csv
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from landslip.geo.errors import ModelError, OutputError, UsageError
from landslip.learn import train
from landslip.learn.batches import TrainingGround, crop_or_pad
from landslip.learn.card import load_card
from landslip.learn.predict import score_model
from landslip.learn.recipes import RECIPES, recipe_named
from landslip.learn.train import TrainOptions, train_model
from landslip.prepare.scaling import Scaling
from landslip.prepare.split import TileOptions
from landslip.prepare.tiles import TileSet, make_tiles
from landslip.samples.synthetic import make_valley, write_valley


@pytest.fixture(scope="module")
def tiles(tmp_path_factory: pytest.TempPathFactory) -> TileSet:
    """Nine or so tiles of 64 px from a small valley, UTM, 16 bit."""
    folder = tmp_path_factory.mktemp("valley")
    files = write_valley(make_valley((256, 384), seed=1), folder / "input")
    options = TileOptions(size=64, stride=64, gap=0)
    return make_tiles(files.scene, files.landslides, folder / "tiles", options=options)


def quick(epochs: int, **changes: object) -> TrainOptions:
    recipe = replace(recipe_named("quick"), epochs=epochs, batch=4)
    return replace(
        TrainOptions(model="unet-small", recipe=recipe, precision="float32", device="cpu"),
        **changes,  # type: ignore[arg-type]
    )


class _StopAtOnce:
    """Acts as somebody who presses Ctrl-C after a number of steps."""

    def __init__(self, steps: int) -> None:
        self.asked = False
        self.left = steps

    def __enter__(self) -> _StopAtOnce:
        return self

    def __exit__(self, *_: object) -> None:
        return

    def __getattribute__(self, name: str) -> object:
        if name == "asked":
            left = object.__getattribute__(self, "left") - 1
            object.__setattr__(self, "left", left)
            return left <= 0
        return object.__getattribute__(self, name)

    def stop_if_asked(self) -> None:
        if object.__getattribute__(self, "left") <= 0:
            raise KeyboardInterrupt


def test_interrupted_training_gives_the_same_weights(
    tiles: TileSet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole, parts = tmp_path / "whole.safetensors", tmp_path / "parts.safetensors"
    train_model([tiles], whole, options=quick(2))
    for steps in (2, 3):
        with monkeypatch.context() as patch:
            patch.setattr(train, "Interruption", lambda steps=steps: _StopAtOnce(steps))
            with pytest.raises(KeyboardInterrupt):
                train_model([tiles], parts, options=quick(2))
        assert not parts.exists()
        assert (tmp_path / "parts.safetensors.partial" / "checkpoint.safetensors").exists()
    train_model([tiles], parts, options=quick(2))
    first, second = load_file(whole), load_file(parts)
    assert all(torch.equal(first[key], second[key]) for key in first)
    assert not (tmp_path / "parts.safetensors.partial").exists()


def test_card_and_history_tell_what_happened(tiles: TileSet, tmp_path: Path) -> None:
    out = tmp_path / "model.safetensors"
    card = train_model([tiles], out, options=quick(2, seed=3, licence="CC0-1.0"))
    assert load_card(out) == card
    assert card.bands == ("nir", "red", "green")
    assert card.pixel_size_m == pytest.approx(0.5, rel=0.01)
    assert card.licence == "CC0-1.0"
    assert card.training["seed"] == 3
    assert set(card.scores) == {"validation", "test"}
    thresholds = [cut for cut, _, _ in card.pr_curve]
    assert thresholds == sorted(thresholds)
    with out.with_suffix(".history.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [row["epoch"] for row in rows] == ["1", "2"]
    assert out.with_suffix(".history.png").stat().st_size > 5000
    # The card's threshold is that of the largest F1: scoring again gives the card's score.
    counts = score_model(out, tiles, split="validation", device="cpu", precision="float32")
    assert counts.counts(card.threshold).f1 == pytest.approx(
        card.scores["validation"]["f1"], abs=1e-5
    )


def test_other_options_do_not_continue_unfinished_work(
    tiles: TileSet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "model.safetensors"
    with monkeypatch.context() as patch:
        patch.setattr(train, "Interruption", lambda: _StopAtOnce(1))
        with pytest.raises(KeyboardInterrupt):
            train_model([tiles], out, options=quick(2))
    with pytest.raises(OutputError, match=r"begun with other options \(seed = 0, now 1\)"):
        train_model([tiles], out, options=quick(2, seed=1))


def test_training_from_a_model_begins_with_its_weights(tiles: TileSet, tmp_path: Path) -> None:
    first, second = tmp_path / "first.safetensors", tmp_path / "second.safetensors"
    train_model([tiles], first, options=quick(1))
    tiny = replace(recipe_named("quick"), epochs=1, learning_rate=1e-12, weight_decay=0.0)
    train_model([tiles], second, options=quick(1, start=first, recipe=tiny))
    before, after = load_file(first), load_file(second)
    weights = [key for key in before if key.endswith("weight")]
    assert all(torch.allclose(before[key], after[key], atol=1e-6) for key in weights)
    with pytest.raises(ModelError, match="Cannot start from"):
        third = tmp_path / "third.safetensors"
        train_model([tiles], third, options=quick(1, start=first, bands=("nir", "ndvi")))


def test_indices_are_bands(tiles: TileSet, tmp_path: Path) -> None:
    out = tmp_path / "model.safetensors"
    card = train_model([tiles], out, options=quick(1, bands=("red", "ndvi")))
    assert card.bands == ("red", "ndvi")
    low, high = card.scaling[1][1:]
    assert -1 <= low < high <= 1


def test_names_that_are_unknown(tiles: TileSet, tmp_path: Path) -> None:
    out = tmp_path / "model.safetensors"
    with pytest.raises(UsageError, match="Choose one of unet, "):
        train_model([tiles], out, options=quick(1, model="segnet"))
    wrong = replace(recipe_named("quick"), loss="hinge")
    with pytest.raises(UsageError, match="Cannot find loss 'hinge'"):
        train_model([tiles], out, options=quick(1, recipe=wrong))
    with pytest.raises(UsageError, match="Cannot find recipe 'modern'"):
        recipe_named("modern")
    with pytest.raises(OutputError, match=r"must end in \.safetensors"):
        train_model([tiles], tmp_path / "model.pth", options=quick(1))


def test_paper_recipe_is_the_papers() -> None:
    paper = RECIPES["paper"]
    assert (paper.epochs, paper.batch, paper.momentum, paper.weight_decay) == (200, 5, 0.9, 5e-5)
    assert [paper.rate(epoch) for epoch in (0, 19.9, 20, 40)] == pytest.approx(
        [1e-3, 1e-3, 1e-4, 1e-5]
    )
    assert paper.loss == "bce"
    assert paper.quantised


def test_one_cycle_rises_and_falls() -> None:
    quick_ = RECIPES["quick"]
    rates = [quick_.rate(epoch / 10) for epoch in range(10 * quick_.epochs + 1)]
    peak = int(np.argmax(rates))
    assert max(rates) <= quick_.learning_rate * (1 + 1e-9)
    assert rates[:peak] == sorted(rates[:peak])
    assert rates[peak:] == sorted(rates[peak:], reverse=True)
    assert 0 < rates[-1] < 0.01 * quick_.learning_rate


def test_batches_hold_every_tile_as_often_as_its_weight(tiles: TileSet) -> None:
    scaling = Scaling((("nir", 0.0, 1.0),))
    heavy = tuple(
        (tiles, replace(tile, weight=3 if number == 0 else 1))
        for number, tile in enumerate(tiles.tiles[:5])
    )
    ground = TrainingGround(heavy, scaling, crop=64, quarter_turns=False, seed=0)
    groups = ground.groups(epoch=4, size=3)
    drawn = [tile for group in groups for _, tile in group]
    assert sorted(drawn) == [0, 0, 0, 1, 2, 3, 4]
    assert [len(group) for group in groups] == [3, 2, 2]
    assert groups == ground.groups(epoch=4, size=3)
    assert groups != ground.groups(epoch=5, size=3)


def test_samples_are_flipped_like_their_labels(tiles: TileSet) -> None:
    chosen = tuple((tiles, tile) for tile in tiles.tiles[:1])
    scaling = Scaling((("nir", 0.0, 4095.0),))
    ground = TrainingGround(chosen, scaling, crop=64, quarter_turns=True, seed=0)
    raster, labels = tiles.read(tiles.tiles[0], ["nir"])
    plain = scaling.apply(raster)[0]
    pairs = np.stack([plain, labels])
    allowed = [
        np.rot90(np.flip(pairs, 1) if flip else pairs, turn, (1, 2))
        for flip in (False, True)
        for turn in range(4)
    ]
    seen = set()
    for epoch in range(30):
        image, turned = ground.sample(epoch, 0, 0)
        matches = [n for n, pair in enumerate(allowed) if np.array_equal(pair, [image[0], turned])]
        assert matches
        seen.add(matches[0])
    assert len(seen) >= 6


def test_small_tiles_are_padded_with_unlabelled_ground() -> None:
    image = np.ones((2, 5, 40), dtype=np.float32)
    labels = np.ones((5, 40), dtype=np.uint8)
    padded, known = crop_or_pad(image, labels, 32, np.random.default_rng(0))
    assert padded.shape == (2, 32, 32)
    assert (known[5:] == 255).all()
    assert (known[:5] == 1).all()
    assert (padded[:, 5:] == 0).all()
