from __future__ import annotations

import os
from collections import Counter
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from affine import Affine
from numpy.typing import NDArray

import tiny
from landslip.geo import parallel
from landslip.geo.grid import Grid
from landslip.geo.parallel import default_memory_bytes, default_threads
from landslip.geo.raster import Raster
from landslip.learn.batches import Draw, ScoringGround, TrainingGround
from landslip.learn.recipes import recipe_named
from landslip.prepare.scaling import FILLER, Scaling
from landslip.prepare.tile_set import Tile, TileSet

PLAIN = {"crop": 0, "balance": 0, "jitter": 0, "positive_weight": 1, "batch": 3}


@dataclass(frozen=True)
class Arrays:
    """Acts as a tile set whose tiles are arrays in memory."""

    labels: tuple[NDArray[np.uint8], ...]
    hard_pixels: NDArray[np.bool_] | None = None

    def read(self, tile: Tile, bands: list[str]) -> tuple[Raster, NDArray[np.uint8]]:
        labels = self.labels[int(tile.name)]
        height, width = labels.shape
        row, col = np.mgrid[:height, :width]
        values = np.stack([1 + row * 100 + col + 10_000 * n for n in range(len(bands))])
        grid = Grid(None, Affine.scale(1, -1), height, width)
        known = labels != 255
        return Raster(values.astype(np.float32) * known, known, tuple(bands), grid), labels

    def hard(self, tile: Tile) -> NDArray[np.bool_]:
        shape = self.labels[int(tile.name)].shape
        return np.zeros(shape, dtype=bool) if self.hard_pixels is None else self.hard_pixels


def ground(
    *labels: NDArray[np.uint8],
    crop: int = 16,
    weights: tuple[int, ...] = (),
    hard: NDArray[np.bool_] | None = None,
    bands: tuple[str, ...] = ("red",),
    settings: dict[str, Any] | None = None,
    **changes: Any,
) -> TrainingGround:
    arrays: Any = Arrays(labels, hard)
    tiles = tuple(
        (
            arrays,
            Tile(
                str(n), "train", each.shape[0], each.shape[1],
                float((each == 1).sum() / max((each != 255).sum(), 1)),
                float((each != 255).mean()), weights[n] if weights else 1,
            ),
        )
        for n, each in enumerate(labels)
    )  # fmt: skip
    return TrainingGround(
        tiles=tiles, scaling=Scaling(tuple((band, 0.0, 65_536.0) for band in bands)), crop=crop,
        recipe=recipe_named("modern", PLAIN | (settings or {})), seed=0, cache_bytes=10**8,
        **changes,
    )  # fmt: skip


def nothing(height: int = 16, width: int = 16) -> NDArray[np.uint8]:
    return np.zeros((height, width), dtype=np.uint8)


def with_slide(size: int = 16, at: int = 4, px: int = 2) -> NDArray[np.uint8]:
    labels = nothing(size, size)
    labels[at : at + px, at : at + px] = 1
    return labels


def test_epoch_shows_every_tile_as_often_as_its_weight() -> None:
    made = ground(*[nothing()] * 5, weights=(3, 1, 1, 1, 1))
    groups = made.groups(4)
    assert sorted(draw.tile for group in groups for draw in group) == [0, 0, 0, 1, 2, 3, 4]
    assert [len(group) for group in groups] == [3, 2, 2]
    assert [draw.position for group in groups for draw in group] == list(range(7))
    assert groups == made.groups(4)
    assert groups != made.groups(5)


def test_epochs_of_small_ground_are_several_passes_where_steps_count() -> None:
    tiles = [nothing()] * 5
    made = ground(*tiles, settings={"steps": 100, "epochs": 1, "batch": 4})
    shown = Counter(name for batch in made.batches(0) for name in batch.tiles)
    assert set(shown.values()) == {4}  # 20 epochs of 5 steps
    assert made.recipe.epochs_of(len(made.groups(0))) == 20
    large = ground(*tiles * 40, settings={"steps": 100, "epochs": 1, "batch": 4})
    assert len(large.groups(0)) == 50


def test_large_tiles_are_drawn_as_often_as_they_hold_crops() -> None:
    made = ground(nothing(64, 64), nothing(16, 16), nothing(32, 16))
    assert Counter(draw.tile for group in made.groups(0) for draw in group) == {0: 16, 1: 1, 2: 2}


def test_half_of_the_draws_are_around_landslides() -> None:
    made = ground(with_slide(), *[nothing()] * 7, settings={"balance": 0.5})
    for epoch in range(5):
        draws = [draw for group in made.groups(epoch) for draw in group]
        assert Counter(draw.on_landslide for draw in draws) == {True: 4, False: 4}
        assert {draw.tile for draw in draws if draw.on_landslide} == {0}
    # Over a few epochs all the other ground is shown, too.
    others = {
        draw.tile
        for epoch in range(20)
        for group in made.groups(epoch)
        for draw in group
        if not draw.on_landslide
    }
    assert others == set(range(8))


def test_without_any_landslide_nothing_is_balanced() -> None:
    made = ground(*[nothing()] * 4, settings={"balance": 0.5})
    assert not any(draw.on_landslide for group in made.groups(0) for draw in group)


def test_small_landslides_are_shown_as_often_as_large_ones() -> None:
    labels = nothing(256, 256)
    labels[10:12, 10:12] = 1
    labels[100:200, 100:200] = 1
    made = ground(labels, settings={"balance": 1})
    small = 0
    for position in range(200):
        _, shown, _ = made.sample(0, Draw(position, 0, True))
        assert (shown == 1).any()
        small += int((shown == 1).sum() <= 4)
    assert 70 < small < 130


def test_false_alarms_are_shown_by_all_draws_but_one_of_their_tile() -> None:
    hard = np.zeros((200, 200), dtype=bool)
    hard[150, 30] = True
    made = ground(nothing(200, 200), weights=(3,), hard=hard)
    # Values name their pixel: 1 + 100 row + column.
    number = 1 + 100 * 150 + 30
    shown = sum(
        bool(np.isclose(made.sample(0, Draw(n, 0, False))[0] * 65_536, number, atol=0.4).any())
        for n in range(300)
    )
    assert 160 < shown < 240


def test_samples_are_turned_as_their_labels() -> None:
    labels = np.random.default_rng(0).integers(0, 2, (16, 16)).astype(np.uint8)
    made = ground(labels)
    tile = made.tiles[0]
    raster, _ = tile[0].read(tile[1], ["red"])
    pairs = np.stack([made.scaling.apply(raster)[0], labels])
    allowed = [
        np.rot90(np.flip(pairs, 1) if flip else pairs, turn, (1, 2))
        for flip in (False, True)
        for turn in range(4)
    ]
    seen = set()
    for epoch in range(60):
        image, turned, weights = made.sample(epoch, Draw(0, 0, False))
        assert weights is None
        seen.add([np.array_equal(pair, [image[0], turned]) for pair in allowed].index(True))
    assert seen == set(range(8))


def test_small_tiles_are_padded_with_unlabelled_ground() -> None:
    made = ground(np.ones((5, 40), dtype=np.uint8), crop=32, settings={"quarter_turns": False})
    image, labels, _ = made.sample(0, Draw(0, 0, False))
    assert image.shape == (1, 32, 32)
    assert (labels == 255).sum() == 27 * 32
    assert (labels == 1).sum() == 5 * 32
    assert not image[0][labels == 255].any()


def test_light_changes_bands_but_not_terrain_and_nothing_invalid() -> None:
    labels = nothing()
    labels[:4] = 255
    settings = {"jitter": 0.1, "quarter_turns": False}
    made = ground(labels, bands=("red", "slope"), settings=settings, unlit=("slope",))
    still = replace(made, recipe=replace(made.recipe, jitter=0.0))
    changes = []
    for epoch in range(200):
        image, _, _ = made.sample(epoch, Draw(0, 0, False))
        assert image.min() >= 0
        assert image.max() <= 1
        plain, _, _ = still.sample(epoch, Draw(0, 0, False))
        assert np.count_nonzero(image[0] == 0) >= 4 * 16
        assert sorted(image[1].ravel()) == sorted(plain[1].ravel())
        changes.append(float(image[0].max() - plain[0].max()))
    assert 0.01 < np.std(changes) < 0.1


def test_optional_bands_are_taken_away_in_their_share_of_samples() -> None:
    made = ground(
        nothing(), bands=("red", "slope"), settings={"band_dropout": 0.3}, optional=("slope",)
    )
    images = [made.sample(epoch, Draw(0, 0, False))[0] for epoch in range(300)]
    gone = sum(bool((image[1] == FILLER).all()) for image in images)
    assert 65 < gone < 115
    assert not any((image[0] == FILLER).all() for image in images)


def test_optional_bands_of_one_file_are_taken_away_together() -> None:
    optional = ("pre_red", "pre_nir", "slope")
    made = ground(
        nothing(), bands=("red", *optional), settings={"band_dropout": 0.3}, optional=optional
    )
    images = [made.sample(epoch, Draw(0, 0, False))[0] for epoch in range(300)]
    gone = np.array([[(band == FILLER).all() for band in image] for image in images])
    assert not gone[:, 0].any()
    assert (gone[:, 1] == gone[:, 2]).all()
    assert 65 < gone[:, 1].sum() < 115
    assert 10 < (gone[:, 1] & gone[:, 3]).sum() < 50  # .09 of 300: each file by itself


def test_landslides_count_more_up_to_a_cap() -> None:
    labels = with_slide(16, px=4)  # one pixel in 16
    capped = ground(labels, settings={"positive_weight": 3})
    _, shown, weights = capped.sample(0, Draw(0, 0, False))
    assert weights is not None
    assert set(weights[shown == 1]) == {3.0}
    assert set(weights[shown == 0]) == {1.0}
    free = ground(labels, settings={"positive_weight": 100})
    _, shown, weights = free.sample(0, Draw(0, 0, False))
    assert weights is not None
    assert set(weights[shown == 1]) == {15.0}


def test_processes_share_every_batch() -> None:
    made = ground(*[nothing()] * 7, settings={"batch": 4})
    whole = [batch.tiles for batch in made.batches(0)]
    parts = [[batch.tiles for batch in made.batches(0, rank=n, world=2)] for n in (0, 1)]
    for both, first, second in zip(whole, *parts, strict=True):
        assert set(both) == {*first, *second}
        # Equal shares: a process with more parts than another would wait for it for ever.
        assert len(first) == len(second) == 2


@pytest.mark.parametrize("workers", [1, 4])
def test_batches_are_the_same_whatever_the_workers_and_the_start(workers: int) -> None:
    made = ground(*[with_slide(48)] * 6, settings={"balance": 0.5, "jitter": 0.1})
    first = list(made.batches(2))
    again = list(made.batches(2, first=3, workers=workers))
    for one, other in zip(first[3:], again, strict=True):
        assert one.tiles == other.tiles
        assert one.images.equal(other.images)
        assert one.labels.equal(other.labels)


def reads_of(
    ground_type: type[TrainingGround | ScoringGround], monkeypatch: pytest.MonkeyPatch
) -> list[int]:
    """A list that grows by the number of every tile that is read from now on."""
    read: list[int] = []
    inner = ground_type._read

    def counted(self: Any, number: int) -> object:
        read.append(number)
        return inner(self, number)

    monkeypatch.setattr(ground_type, "_read", counted)
    return read


def test_cache_holds_no_more_than_its_bound(monkeypatch: pytest.MonkeyPatch) -> None:
    made = ground(*[nothing(32, 32)] * 6)
    read = reads_of(TrainingGround, monkeypatch)
    for _ in range(3):
        for number in range(6):
            made.sample(0, Draw(0, number, False))
    assert read == list(range(6))
    one_tile = made._cache._held // 6
    small = replace(made, cache_bytes=2 * one_tile)
    for _ in range(2):
        for number in range(6):
            small.sample(0, Draw(0, number, False))
            assert small._cache._held <= 2 * one_tile
    assert len(read) == 6 + 6 + 4


def scoring_ground(folder: Path, **changes: Any) -> ScoringGround:
    tiles = TileSet.open(tiny.tiny_tiles(folder))
    return ScoringGround(
        tiles=tuple((tiles, tile) for tile in tiles.of("validation")),
        scaling=Scaling(tuple((band, 0.0, 200.0) for band in tiles.bands)), **changes,
    )  # fmt: skip


def test_scored_tiles_come_in_order_and_in_batches_of_some_pixels(tmp_path: Path) -> None:
    made = scoring_ground(tmp_path / "tiles")
    single = list(made.batches(1))
    assert [labels.shape for _, labels in single] == [(1, 16, 16)] * len(made.tiles)
    grouped = list(made.batches(3 * 16 * 16, workers=3))
    assert [len(labels) for _, labels in grouped][:-1] == [3] * (len(made.tiles) // 3)
    for n in (0, 1):
        ones, groups = ([pair[n] for pair in pairs] for pairs in (single, grouped))
        np.testing.assert_array_equal(np.concatenate(ones), np.concatenate(groups))
    for (tile_set, tile), (_, labels) in zip(made.tiles, single, strict=True):
        seen = np.where(tile_set.first_seen(tile), tile_set.read(tile)[1], 255)
        np.testing.assert_array_equal(labels[0], seen)


def test_scored_tiles_are_read_once_where_memory_allows(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    read = reads_of(ScoringGround, monkeypatch)
    made = scoring_ground(tmp_path / "tiles", cache_bytes=10**8)
    for _ in range(3):
        list(made.batches(1))
    assert read == list(range(len(made.tiles)))
    forgetful = replace(made, cache_bytes=0)
    for _ in range(2):
        list(forgetful.batches(1))
    assert len(read) == 3 * len(made.tiles)


def test_memory_is_that_of_the_container_shared_among_processes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = default_memory_bytes()
    limit = tmp_path / "memory.max"
    monkeypatch.setattr(parallel, "MEMORY_LIMITS", (limit, tmp_path / "none"))
    limit.write_text("max\n")
    assert default_memory_bytes() >= whole
    limit.write_text("1000000\n")
    assert default_memory_bytes() == 1_000_000
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "4")
    assert default_memory_bytes() == 250_000
    assert default_threads() == max((len(os.sched_getaffinity(0))) // 4, 1)
