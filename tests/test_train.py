from __future__ import annotations

import csv
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import rasterio
import torch
from safetensors.torch import load_file

import tiny
from landslip.geo.errors import (
    BandError,
    DataError,
    MissingExtraError,
    ModelError,
    OutputError,
    TileSetError,
    UsageError,
)
from landslip.geo.output import only_process
from landslip.learn import checkpoint, train
from landslip.learn.card import load_card, write_safetensors
from landslip.learn.engine import AveragedWeights
from landslip.learn.losses import LOSSES, bce
from landslip.learn.models import DEFAULT_MODEL, build_model
from landslip.learn.models.unet import UNet
from landslip.learn.plan import TrainingPlan, TrainOptions
from landslip.learn.predict import score_model
from landslip.learn.recipes import RECIPES, Recipe, recipe_named
from landslip.learn.train import train_model
from landslip.prepare.split import TileOptions
from landslip.prepare.tile_set import TileSet
from landslip.prepare.tiles import make_tiles
from landslip.samples.synthetic import make_valley, write_valley

pytestmark = pytest.mark.usefixtures("hasty_halo")


@pytest.fixture(scope="module")
def tiles(tmp_path_factory: pytest.TempPathFactory) -> TileSet:
    """Nine or so tiles of 64 px from a small valley, UTM, 16 bit."""
    return tiny.valley_tiles(tmp_path_factory.mktemp("valley"))


def short(epochs: int, **settings: object) -> Recipe:
    return recipe_named("modern", {"epochs": epochs, "batch": 4, "crop": 64, **settings})


def quick(epochs: int, **changes: object) -> TrainOptions:
    options = TrainOptions(
        model="unet-small", recipe=short(epochs), precision="float32", device="cpu"
    )
    return replace(options, **changes)  # type: ignore[arg-type]


def test_interrupted_training_gives_the_same_weights(
    tiles: TileSet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole, parts = tmp_path / "whole.safetensors", tmp_path / "parts.safetensors"
    train_model([tiles], whole, options=quick(2))
    for steps in (2, 3):
        with monkeypatch.context() as patch:
            patch.setattr(train, "Interruption", lambda steps=steps: tiny.StopAfter(steps))
            with pytest.raises(KeyboardInterrupt):
                train_model([tiles], parts, options=quick(2))
        assert not parts.exists()
        assert (tmp_path / "parts.safetensors.partial" / "checkpoint.safetensors").exists()
    train_model([tiles], parts, options=quick(2))
    first, second = load_file(whole), load_file(parts)
    assert all(torch.equal(first[key], second[key]) for key in first)
    assert not (tmp_path / "parts.safetensors.partial").exists()


@pytest.mark.parametrize(("interval_s", "saves"), [(60.0, 2), (0.0, 4)])
def test_short_epochs_are_not_all_saved(
    tiles: TileSet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, interval_s: float, saves: int
) -> None:
    saved: list[int] = []
    save = checkpoint.Checkpoint.save

    def counted(self: checkpoint.Checkpoint, *values: Any) -> None:
        state = values[-1]
        if state.step == 0:
            saved.append(state.epoch)
        save(self, *values)

    monkeypatch.setattr(checkpoint.Checkpoint, "save", counted)
    monkeypatch.setattr(train, "SAVE_INTERVAL_S", interval_s)
    card = train_model([tiles], tmp_path / "m.safetensors", options=quick(4))
    assert (saved[0], saved[-1], len(saved)) == (1, 4, saves)
    # The best weights are there though they may never have been on the disk.
    counts = score_model(
        tmp_path / "m.safetensors", tiles, split="validation", device="cpu", precision="float32"
    )
    with (tmp_path / "m.history.csv").open() as file:
        best = max(float(row["f1"]) for row in csv.DictReader(file))
    assert counts.counts(card.threshold).f1 == pytest.approx(best, abs=1e-4)


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
        patch.setattr(train, "Interruption", lambda: tiny.StopAfter(1))
        with pytest.raises(KeyboardInterrupt):
            train_model([tiles], out, options=quick(2))
    with pytest.raises(OutputError, match=r"begun with other options \(seed = 0, now 1\)"):
        train_model([tiles], out, options=quick(2, seed=1))
    with pytest.raises(OutputError, match=r"\(balance = 0\.5, now 0\.2; jitter = 0\.1, now 0\.3\)"):
        train_model([tiles], out, options=quick(2, recipe=short(2, jitter=0.3, balance=0.2)))
    # What was refused has not touched it.
    partial = tmp_path / "model.safetensors.partial"
    kept = {path.name for path in partial.iterdir()}
    assert kept == {"options.json", "ground.json", "checkpoint.safetensors"}
    (partial / "checkpoint.safetensors").write_bytes(b"half of it")
    with pytest.raises(OutputError, match=r"checkpoint\.safetensors is damaged or lost"):
        train_model([tiles], out, options=quick(2))
    (partial / "options.json").unlink()
    with pytest.raises(OutputError, match=r"its options\.json is damaged or lost"):
        train_model([tiles], out, options=quick(2))


def test_the_same_model_elsewhere_continues_what_was_begun(
    tiles: TileSet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first, moved = tiny.tiny_model(tmp_path / "first.safetensors"), tmp_path / "moved.safetensors"
    out = tmp_path / "model.safetensors"
    with monkeypatch.context() as patch:
        patch.setattr(train, "Interruption", lambda: tiny.StopAfter(2))
        with pytest.raises(KeyboardInterrupt):
            train_model([tiles], out, options=quick(1, start=first))
    first.rename(moved)
    with pytest.raises(OutputError, match="begun with other options"):
        other = tiny.tiny_model(tmp_path / "other.safetensors", seed=1)
        train_model([tiles], out, options=quick(1, start=other))
    train_model([tiles], out, options=quick(1, start=moved))


def test_what_saved_nothing_gives_way_to_other_options(
    tiles: TileSet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "model.safetensors"

    def stopped(*_: Any) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(checkpoint.Checkpoint, "restore", stopped)
        with pytest.raises(KeyboardInterrupt):
            train_model([tiles], out, options=quick(1, bands=("red",)))
    assert (tmp_path / "model.safetensors.partial" / "ground.json").exists()
    card = train_model([tiles], out, options=quick(1))
    assert card.bands == tiles.bands


def test_two_processes_do_not_train_one_model(tiles: TileSet, tmp_path: Path) -> None:
    out = tmp_path / "model.safetensors"
    (tmp_path / ".model.123.partial.safetensors").touch()
    with (
        only_process(out),
        pytest.raises(OutputError, match=r"\.partial: another process is at work there"),
    ):
        train_model([tiles], out, options=quick(1))
    assert not list(tmp_path.iterdir())


def test_training_from_a_model_begins_with_its_weights(tiles: TileSet, tmp_path: Path) -> None:
    first, second = tmp_path / "first.safetensors", tmp_path / "second.safetensors"
    train_model([tiles], first, options=quick(1))
    tiny = short(1, learning_rate=1e-12, weight_decay=0.0)
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
    with pytest.raises(UsageError, match="Cannot find loss 'hinge'"):
        train_model([tiles], out, options=quick(1, recipe=short(1, loss="hinge")))
    with pytest.raises(OutputError, match=r"must end in \.safetensors"):
        train_model([tiles], tmp_path / "model.pth", options=quick(1))
    with pytest.raises(UsageError, match=r"unet-small with encoder_rate 0\.5: it has no encoder"):
        train_model([tiles], out, options=quick(1, recipe=short(1, encoder_rate=0.5)))
    assert not list(tmp_path.iterdir())


def test_a_network_that_pools_needs_more_than_one_sample(tiles: TileSet, tmp_path: Path) -> None:
    options = quick(
        1, model="library:deeplabv3plus/resnet18", recipe=short(1, batch=2), accumulate=2
    )
    with pytest.raises(UsageError, match=r"one sample at a time: .* --batch 2 or more, without"):
        train_model([tiles], tmp_path / "model.safetensors", options=options)


# What a training keeps, and when it ends.


def test_recipe_and_model_default_to_modern(tiles: TileSet) -> None:
    plan = TrainingPlan([tiles], TrainOptions())
    assert plan.recipe == RECIPES["modern"]
    assert plan.model == DEFAULT_MODEL
    assert plan.crop == 64  # no larger than the tiles


def test_training_from_a_model_is_fine_tuning_of_that_model(tiles: TileSet, tmp_path: Path) -> None:
    first = tmp_path / "first.safetensors"
    train_model([tiles], first, options=quick(1, bands=("red", "ndvi")))
    plan = TrainingPlan([tiles], TrainOptions(start=first))
    assert plan.model == "unet-small"
    assert plan.bands == ("red", "ndvi")
    assert plan.recipe == RECIPES["fine-tune"]


def test_fine_tuning_is_never_worse_than_its_start(tiles: TileSet, tmp_path: Path) -> None:
    first, second = tmp_path / "first.safetensors", tmp_path / "second.safetensors"
    before = train_model([tiles], first, options=quick(4))
    wild = short(2, learning_rate=30, schedule="step", drop_every=9, optimizer="sgd", momentum=0)
    after = train_model([tiles], second, options=quick(2, start=first, recipe=wild))
    assert after.training["best_epoch"] == 0
    assert after.scores["validation"] == before.scores["validation"]
    ours, theirs = load_file(second), load_file(first)
    assert all(torch.equal(ours[key], theirs[key]) for key in theirs)
    assert after.training["weights"] == f"model {first}"


def test_all_labelled_tiles_choose_the_threshold_of_a_fine_tuned_model(
    tiles: TileSet, tmp_path: Path
) -> None:
    first, second = tmp_path / "first.safetensors", tmp_path / "second.safetensors"
    train_model([tiles], first, options=quick(1, recipe=short(1, max_gradient_norm=0)))
    settings = {"steps": 4, "batch": 4, "crop": 64, "max_gradient_norm": 0}
    recipe = recipe_named("fine-tune", settings)
    card = train_model([tiles], second, options=quick(1, start=first, recipe=recipe))
    validation, training = (
        score_model(second, tiles, split=split, device="cpu", precision="float32")
        for split in ("validation", "train")
    )
    chosen = (validation + training).best_threshold()
    assert card.threshold == chosen != validation.best_threshold()
    counts = validation.counts(card.threshold)
    assert card.scores["validation"]["f1"] == pytest.approx(counts.f1, abs=1e-5)
    # Where nothing better is found, the start's own threshold stays, if that is the better one.
    better, third = tmp_path / "better.safetensors", tmp_path / "third.safetensors"
    before = train_model([tiles], better, options=quick(4))
    wild = replace(recipe, learning_rate=1.0, optimizer="sgd", momentum=0)
    kept = train_model([tiles], third, options=quick(1, start=better, recipe=wild))
    assert kept.training["best_epoch"] == 0
    assert kept.threshold == before.threshold
    assert kept.scores["validation"] == before.scores["validation"]


def test_training_ends_where_validation_stays_the_same(tiles: TileSet, tmp_path: Path) -> None:
    still = short(9, learning_rate=1e-12, weight_decay=0, fixed_statistics=True, patience=2)
    card = train_model([tiles], tmp_path / "model.safetensors", options=quick(9, recipe=still))
    assert card.training["best_epoch"] == 1
    assert card.training["epochs"] == 3


def test_best_weights_are_the_averaged_ones(
    tiles: TileSet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    kept: list[dict[str, torch.Tensor]] = []
    monkeypatch.setattr(
        AveragedWeights, "update",
        lambda self, step: kept.append(
            {key: value.clone() for key, value in self.followed.items()}
        ),
    )  # fmt: skip
    out = tmp_path / "model.safetensors"
    train_model([tiles], out, options=quick(1, recipe=short(1, ema=0.9)))
    # An average that takes nothing in stays what the network was at first.
    torch.manual_seed(0)
    first = build_model("unet-small", 3).state_dict()
    found = load_file(out)
    assert all(torch.equal(found[key], first[key]) for key in first)
    assert any(not torch.equal(kept[-1][key], first[key]) for key in first)


@pytest.mark.parametrize("parts", [1, 2])
def test_no_step_is_longer_than_its_gradients_may_be(
    tiles: TileSet, tmp_path: Path, parts: int
) -> None:
    norm, rate = 0.01, 0.5
    still = short(
        1, optimizer="sgd", momentum=0, weight_decay=0, ema=0, schedule="step", drop_every=9,
        learning_rate=rate, max_gradient_norm=norm,
    )  # fmt: skip
    out = tmp_path / "model.safetensors"
    train_model([tiles], out, options=quick(1, recipe=still, accumulate=parts))
    torch.manual_seed(0)
    first, found = build_model("unet-small", 3), load_file(out)
    moved = [(found[name] - weights).square().sum() for name, weights in first.named_parameters()]
    steps = -(-len(tiles.of("train")) // still.batch)
    assert 0 < torch.stack(moved).sum().sqrt() <= 1.01 * rate * norm * steps


def test_optional_bands_are_told_by_the_card(tiles: TileSet, tmp_path: Path) -> None:
    out = tmp_path / "model.safetensors"
    card = train_model([tiles], out, options=quick(1, optional=("nir",)))
    assert card.optional_bands == ("nir",)
    with pytest.raises(BandError, match="Cannot train with optional band 'slope'"):
        train_model([tiles], tmp_path / "b.safetensors", options=quick(1, optional=("slope",)))
    with pytest.raises(BandError, match="all bands are optional"):
        TrainingPlan([tiles], quick(1, bands=("red",), optional=("red",)))


def test_parts_of_a_batch_give_the_gradients_of_the_whole(tiles: TileSet, tmp_path: Path) -> None:
    same = {"loss": "bce", "fixed_statistics": True, "positive_weight": 1, "batch": 6}
    weights = []
    for parts in (1, 4):
        out = tmp_path / f"{parts}.safetensors"
        options = quick(1, recipe=short(1, **same), accumulate=parts)
        card = train_model([tiles], out, options=options)
        weights.append(load_file(out))
        assert card.training["recipe"]["batch"] == 6
    labelled = all(tile.valid_share == 1 for tile in tiles.of("train"))
    assert labelled, "the mean over pixels is that of the parts only where all are labelled"
    for key, value in weights[0].items():
        torch.testing.assert_close(weights[1][key], value, rtol=1e-2, atol=1e-3)


def test_history_tells_how_long_samples_were_waited_for(tiles: TileSet, tmp_path: Path) -> None:
    out = tmp_path / "model.safetensors"
    train_model([tiles], out, options=quick(1))
    with out.with_suffix(".history.csv").open() as file:
        row = next(csv.DictReader(file))
    assert 0 <= float(row["waited_s"]) < float(row["seconds"])


def test_tensorboard_is_written_where_asked(tiles: TileSet, tmp_path: Path) -> None:
    pytest.importorskip("tensorboard")
    events = tmp_path / "events"
    train_model([tiles], tmp_path / "m.safetensors", options=quick(2, tensorboard=events))
    assert sum(path.stat().st_size for path in events.iterdir()) > 300


def test_missing_tensorboard_is_named(
    tiles: TileSet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", None)
    with pytest.raises(MissingExtraError, match=r'pip install "landslip\[tensorboard\]"'):
        train_model([tiles], tmp_path / "m.safetensors", options=quick(1, tensorboard=tmp_path))


# What goes wrong.


def changed(tiles: TileSet, split: str, share: float) -> TileSet:
    """The tile set with another landslide share in all tiles of a side."""
    return replace(
        tiles,
        tiles=tuple(
            replace(tile, landslide_share=share) if tile.split == split else tile
            for tile in tiles.tiles
        ),
    )


@pytest.mark.parametrize("split", ["train", "validation"])
@pytest.mark.parametrize(
    ("share", "found"), [(0.0, "no landslide"), (1.0, "landslides and no background")]
)
def test_one_class_alone_is_refused(
    tiles: TileSet, tmp_path: Path, split: str, share: float, found: str
) -> None:
    out = tmp_path / "model.safetensors"
    with pytest.raises(TileSetError, match=f"Cannot train: the {split} tiles hold {found}"):
        train_model([changed(tiles, split, share)], out, options=quick(1))
    assert not list(tmp_path.iterdir())


def test_pixels_without_a_number_are_not_learnt_from(tmp_path: Path) -> None:
    files = write_valley(make_valley((256, 384), seed=1), tmp_path / "input")
    with rasterio.open(files.scene) as source:
        values, profile = source.read().astype(np.float32), source.profile
        names = source.descriptions
    values[:, 40:90, 40:90] = np.nan
    holed = tmp_path / "holed.tif"
    profile.update(dtype="float32", nodata=None)
    with rasterio.open(holed, "w", **profile) as target:
        target.write(values)
        target.descriptions = names
    options = TileOptions(size=64, stride=64, gap=0)
    tiles = make_tiles(holed, files.landslides, tmp_path / "tiles", options=options)
    out = tmp_path / "model.safetensors"
    card = train_model([tiles], out, options=quick(2))
    assert all(np.isfinite(low) and np.isfinite(high) for _, low, high in card.scaling)
    assert all(bool(value.isfinite().all()) for value in load_file(out).values())


def broken_after(steps: int) -> Any:
    """A loss that is no number after some steps."""
    left = [steps]

    def loss(*arguments: Any) -> torch.Tensor:
        left[0] -= 1
        return bce(*arguments) * (1 if left[0] >= 0 else float("nan"))

    return loss


def test_loss_that_is_no_number_names_the_batch_and_keeps_what_was_saved(
    tiles: TileSet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    options = quick(3, recipe=short(3, loss="bce"))
    whole, out = tmp_path / "whole.safetensors", tmp_path / "model.safetensors"
    train_model([tiles], whole, options=options)
    steps = len(TrainingPlan([tiles], options).ground(load_card(whole).scaling_of_bands).groups(0))
    with monkeypatch.context() as patch:
        patch.setitem(LOSSES, "bce", broken_after(steps + 1))
        with pytest.raises(DataError, match="the loss is nan in epoch 2, in the batch of tiles r"):
            train_model([tiles], out, options=options)
    saved = load_file(tmp_path / "model.safetensors.partial" / "checkpoint.safetensors")
    assert all(bool(value.isfinite().all()) for value in saved.values())
    train_model([tiles], out, options=options)
    first, second = load_file(whole), load_file(out)
    assert all(torch.equal(first[key], second[key]) for key in first)


@pytest.mark.parametrize(
    ("fits", "message"),
    [
        (2, "a batch of 4 samples of 64 px does not fit .* 2 at once do. Use --accumulate 2"),
        (0, "as few samples of 64 px as it can learn from do not fit .* Use --crop 32"),
    ],
)
def test_too_little_memory_says_what_would_fit(
    tiles: TileSet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fits: int, message: str
) -> None:
    inner = UNet.forward

    def hungry(self: UNet, image: torch.Tensor) -> torch.Tensor:
        if len(image) > fits:
            raise RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory")
        return inner(self, image)

    monkeypatch.setattr(UNet, "forward", hungry)
    with pytest.raises(DataError, match=message):
        train_model([tiles], tmp_path / "model.safetensors", options=quick(1))


def test_memory_that_runs_out_later_is_mended_by_the_advice(
    tiles: TileSet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "model.safetensors"
    inner, calls = UNet.forward, [0]

    def hungry(self: UNet, image: torch.Tensor) -> torch.Tensor:
        calls[0] += self.training
        if calls[0] > 4 and self.training and len(image) > 2:
            raise RuntimeError("MPS backend out of memory (MPS allocated: 9 GB)")
        return inner(self, image)

    with monkeypatch.context() as patch:
        patch.setattr(UNet, "forward", hungry)
        patch.setattr(train, "SAVE_INTERVAL_S", 0.0)
        with pytest.raises(DataError, match="Use --accumulate 2"):
            train_model([tiles], out, options=quick(3))
        assert (tmp_path / "model.safetensors.partial" / "checkpoint.safetensors").exists()
        card = train_model([tiles], out, options=quick(3, accumulate=2))
    assert card.training["accumulate"] == 2


def test_memory_that_is_too_little_to_score(
    tiles: TileSet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    inner = UNet.forward

    def hungry(self: UNet, image: torch.Tensor) -> torch.Tensor:
        if not self.training:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return inner(self, image)

    monkeypatch.setattr(UNet, "forward", hungry)
    with pytest.raises(DataError, match=r"Cannot score: .* Tile with a smaller --size"):
        train_model([tiles], tmp_path / "model.safetensors", options=quick(1))


def test_full_disk_leaves_the_last_checkpoint(
    tiles: TileSet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole, out = tmp_path / "whole.safetensors", tmp_path / "model.safetensors"
    train_model([tiles], whole, options=quick(3))
    saves = [0]

    def filling(weights: Any, path: Path, metadata: Any) -> None:
        saves[0] += 1
        if saves[0] == 4:
            path.write_bytes(b"half")
            raise OSError(28, "No space left on device")
        write_safetensors(weights, path, metadata)

    with monkeypatch.context() as patch:
        patch.setattr(checkpoint, "write_safetensors", filling)
        with pytest.raises(OutputError, match="the disk is full"):
            train_model([tiles], out, options=quick(3))
    train_model([tiles], out, options=quick(3))
    first, second = load_file(whole), load_file(out)
    assert all(torch.equal(first[key], second[key]) for key in first)


def command(tiles: TileSet, out: Path, *more: str) -> list[str]:
    words = [
        "train", str(tiles.folder), "--out", str(out), "--model", "unet-small", "--epochs", "3",
        "--batch", "4", "--crop", "64", "--loss", "bce", "--set", "fixed_statistics=true", "--set",
        "positive_weight=1", "--set", "balance=0", "--device", "cpu", "--precision", "float32",
    ]  # fmt: skip
    return [*words, *more]


def test_killed_training_continues_to_the_same_weights(tiles: TileSet, tmp_path: Path) -> None:
    whole, out = tmp_path / "whole.safetensors", tmp_path / "model.safetensors"
    words = [sys.executable, "-m", "landslip"]
    subprocess.run([*words, *command(tiles, whole)], check=True, capture_output=True)
    process = subprocess.Popen([*words, *command(tiles, out)], stderr=subprocess.DEVNULL)
    saved = tmp_path / "model.safetensors.partial" / "checkpoint.safetensors"
    while not saved.exists():
        assert process.poll() is None
        time.sleep(0.02)
    process.kill()
    process.wait()
    assert not out.exists()
    subprocess.run([*words, *command(tiles, out)], check=True, capture_output=True)
    first, second = load_file(whole), load_file(out)
    assert all(torch.equal(first[key], second[key]) for key in first)


def test_two_processes_learn_what_one_learns_and_continue(tiles: TileSet, tmp_path: Path) -> None:
    one, two = tmp_path / "one.safetensors", tmp_path / "two.safetensors"
    words = [sys.executable, "-m", "landslip"]
    subprocess.run([*words, *command(tiles, one)], check=True, capture_output=True)
    both = [
        sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2",
        "-m", "landslip",
    ]  # fmt: skip
    again = [*both, *command(tiles, two, "--accumulate", "2")]
    process = subprocess.Popen(again, stderr=subprocess.DEVNULL)
    saved = tmp_path / "two.safetensors.partial" / "checkpoint.safetensors"
    while not saved.exists():
        assert process.poll() is None
        time.sleep(0.02)
    # One of them dies; the other must not wait for it for ever.
    found = subprocess.run(["pgrep", "-P", str(process.pid)], capture_output=True, text=True)
    os.kill(int(found.stdout.split()[-1]), signal.SIGKILL)
    assert process.wait(60) != 0
    assert not two.exists()
    done = subprocess.run(again, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    first, second = load_file(one), load_file(two)
    assert load_card(two).training["processes"] == 2
    assert load_card(two).scores["validation"]["f1"] == pytest.approx(
        load_card(one).scores["validation"]["f1"], abs=0.02
    )
    for key, value in first.items():
        torch.testing.assert_close(second[key], value, rtol=0.02, atol=0.02)
