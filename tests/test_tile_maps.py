import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import rasterio

import tiny
from landslip.geo.errors import TileSetError, UsageError
from landslip.learn.card import load_card, load_model, save_model
from landslip.learn.predict import score_model, scored_tiles
from landslip.learn.tile_maps import GAP_PX, evaluate_models
from landslip.prepare.tile_set import TileSet


@pytest.fixture
def tiles(tmp_path: Path) -> Path:
    return tiny.tiny_tiles(tmp_path / "tiles")


def model_at_its_middle(path: Path, tiles: Path, seed: int) -> Path:
    """An untrained model whose threshold maps a half of the test tiles."""
    tiny.tiny_model(path, seed=seed)
    scores = np.concatenate([scores.ravel() for scores, _ in scored_tiles(path, tiles)])
    card, network = load_model(path)
    path.unlink()
    save_model(path, network, card.model_copy(update={"threshold": float(np.median(scores))}))
    return path


def test_models_score_as_their_tiles_say(tiles: Path, tmp_path: Path) -> None:
    model = model_at_its_middle(tmp_path / "m.safetensors", tiles, 0)
    found = evaluate_models([model], tiles)
    (scores,) = found.predictions
    expected = score_model(model, tiles)
    np.testing.assert_array_equal(scores.histogram.landslide, expected.landslide)
    np.testing.assert_array_equal(scores.histogram.background, expected.background)
    assert scores.pixels == expected.counts(load_card(model).threshold)
    assert scores.path == str(model)
    assert found.reference == f"{tiles}, test"
    held = sum(bool((labels == 1).any()) for _, labels in scored_tiles(model, tiles))
    number = len(TileSet.open(tiles).of("test"))
    assert scores.blocks.scored == number
    assert scores.blocks.block_m == (16 + GAP_PX) * tiny.SIZE_M
    assert held <= len(scores.blocks.counts) <= number


def test_every_tile_is_a_block_of_its_own(tiles: Path, tmp_path: Path) -> None:
    model = model_at_its_middle(tmp_path / "m.safetensors", tiles, 0)
    (scores,) = evaluate_models([model], tiles, split="train").predictions
    cut = scores.threshold
    assert cut is not None
    expected = []
    for probability, labels in scored_tiles(model, tiles, split="train"):
        mapped = np.rint(probability * 254) >= np.ceil(254 * cut - 1e-9)
        tp, fp = (int((mapped & (labels == value)).sum()) for value in (1, 0))
        counts = [tp, fp, int((~mapped & (labels == 1)).sum())]
        if any(counts):
            expected.append(counts)
    assert scores.blocks.counts.tolist() == expected


def test_two_models_are_compared_on_tiles(tiles: Path, tmp_path: Path) -> None:
    first = model_at_its_middle(tmp_path / "a.safetensors", tiles, 0)
    second = model_at_its_middle(tmp_path / "b.safetensors", tiles, 1)
    out = tmp_path / "out"
    words = ("--model", first, "--model", second, "--tiles", tiles, "--split", "train")
    done = tiny.landslip("compare", *words, "--out", out)
    assert done.code == 0, done.err
    assert "b – a" in done.out
    record = json.loads((out / "scores.json").read_text(encoding="utf-8"))
    assert [each["path"] for each in record["predictions"]] == [str(first), str(second)]
    assert record["reference"] == f"{tiles}, train"
    with rasterio.open(out / "a_b_difference.tif") as raster:
        classes = raster.read(1)
    assert set(np.unique(classes)) >= {0, 3, 255}
    assert "/tmp/landslip" not in (out / "report.html").read_text(encoding="utf-8")
    done = tiny.landslip("evaluate", "--model", first, "--tiles", tiles)
    assert done.code == 0, done.err
    assert "a " in done.out


def test_what_cannot_be_evaluated(tiles: Path, tmp_path: Path) -> None:
    model = tiny.tiny_model(tmp_path / "m.safetensors")
    with pytest.raises(UsageError, match="no model is named"):
        evaluate_models([], tiles)
    with pytest.raises(TileSetError, match="no tiles of 'elsewhere'"):
        evaluate_models([model], tiles, split="elsewhere")
    bare = replace(TileSet.open(tiles), tiles=())
    with pytest.raises(TileSetError, match="no tiles of 'test'"):
        evaluate_models([model], bare)
    done = tiny.landslip("compare", "--model", model, "--model", model)
    assert done.code == 2
    assert "or --model with --tiles" in done.message
