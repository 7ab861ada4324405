"""Training and mapping on a GPU: against a CPU, twice, continued, and where its memory ends."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import rasterio
import torch
from numpy.typing import NDArray
from safetensors.torch import load_file

import tiny
from landslip.geo.errors import DataError
from landslip.learn import train
from landslip.learn.batches import Batch
from landslip.learn.device import Compute
from landslip.learn.graphs import StepGraphs
from landslip.learn.plan import TrainOptions
from landslip.learn.recipes import recipe_named
from landslip.learn.train import train_model
from landslip.mapping.options import MapOptions
from landslip.mapping.scene_map import estimate_map, map_scene
from landslip.prepare.tile_set import TileSet

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no CUDA device")

GIB = 2**30


@pytest.fixture(scope="module")
def tiles(tmp_path_factory: pytest.TempPathFactory) -> TileSet:
    """Nine or so tiles of 64 px from a small valley."""
    return tiny.valley_tiles(tmp_path_factory.mktemp("valley"))


@pytest.fixture(scope="module")
def model(tiles: TileSet, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A network that has learnt a little, so that its probabilities are not all alike."""
    out = tmp_path_factory.mktemp("model") / "m.safetensors"
    train_model([tiles], out, options=quick())
    return out


@pytest.fixture
def scene(tiles: TileSet) -> Path:
    return tiles.folder.parent / "input" / "scene.tif"


@pytest.fixture
def little_memory() -> Iterator[None]:
    """The device as if half a gigabyte were left of it."""
    torch.cuda.empty_cache()
    total = torch.cuda.mem_get_info()[1]
    torch.cuda.set_per_process_memory_fraction((torch.cuda.memory_reserved() + GIB / 2) / total)
    yield
    torch.cuda.set_per_process_memory_fraction(1.0)
    torch.cuda.empty_cache()


def quick(**changes: Any) -> TrainOptions:
    recipe = recipe_named("modern", {"epochs": 2, "batch": 4, "crop": 64})
    options = TrainOptions(model="unet-small", recipe=recipe, device="cuda")
    return replace(options, **changes)


def mapped(scene: Path, model: Path, out: Path, **options: Any) -> NDArray[np.float32]:
    chosen = MapOptions(**{"core_px": 64, "as_float": True, **options})
    map_scene(scene, model, out, options=chosen)
    with rasterio.open(out / "probability.tif") as raster:
        plane: NDArray[np.float32] = raster.read(1)
    return plane


@pytest.mark.parametrize(("precision", "tolerance"), [("float32", 0.01), ("bf16", 0.05)])
@pytest.mark.parametrize("tta", [False, True])
def test_a_gpu_maps_what_a_cpu_maps(
    scene: Path, model: Path, tmp_path: Path, precision: str, tolerance: float, tta: bool
) -> None:
    here = mapped(scene, model, tmp_path / "cpu", device="cpu", precision="float32", tta=tta)
    there = mapped(scene, model, tmp_path / "gpu", device="cuda", precision=precision, tta=tta)
    assert np.array_equal(np.isnan(here), np.isnan(there))
    assert np.nanmax(np.abs(here - there)) < tolerance


def test_a_gpu_maps_the_same_bytes_twice(scene: Path, model: Path, tmp_path: Path) -> None:
    once, again = (
        mapped(scene, model, tmp_path / name, device="cuda") for name in ("once", "again")
    )
    assert np.array_equal(once, again, equal_nan=True)


def test_the_deadline_is_told_of_a_gpu(scene: Path, model: Path) -> None:
    found = estimate_map([scene], model, options=MapOptions(device="cuda"))
    assert found.seconds > 0
    assert found.memory_bytes > 0


@pytest.mark.parametrize("name", ["unet-small", "resunet", "library:unet/resnet34"])
def test_deterministic_training_continues_to_the_same_weights(
    tiles: TileSet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    whole, parts = tmp_path / "whole.safetensors", tmp_path / "parts.safetensors"
    options = quick(model=name, deterministic=True)
    train_model([tiles], whole, options=options)
    with monkeypatch.context() as patch:
        patch.setattr(train, "Interruption", lambda: tiny.StopAfter(3))
        with pytest.raises(KeyboardInterrupt):
            train_model([tiles], parts, options=options)
    train_model([tiles], parts, options=options)
    first, second = load_file(whole), load_file(parts)
    assert all(torch.equal(first[key], second[key]) for key in first)


@pytest.mark.parametrize("name", ["unet-small", "resunet", "library:unet/resnet34"])
@pytest.mark.parametrize("precision", ["float32", "bf16"])
def test_recorded_steps_learn_what_single_ones_learn(
    tiles: TileSet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, precision: str
) -> None:
    recorded, single = tmp_path / "recorded.safetensors", tmp_path / "single.safetensors"
    options = quick(model=name, precision=precision, deterministic=True)
    replays: list[bool] = []
    gradients = StepGraphs.gradients

    def spied(self: StepGraphs, batch: Batch) -> torch.Tensor | None:
        loss = gradients(self, batch)
        replays.append(loss is not None)
        return loss

    monkeypatch.setattr(StepGraphs, "gradients", spied)
    train_model([tiles], recorded, options=options)
    assert replays
    assert all(replays)
    monkeypatch.setattr(StepGraphs, "gradients", lambda self, batch: None)
    train_model([tiles], single, options=options)
    first, second = load_file(recorded), load_file(single)
    assert all(torch.allclose(first[key], second[key], rtol=0.01, atol=0.01) for key in first)


def test_a_network_that_asks_the_gpu_is_not_recorded() -> None:
    network = torch.nn.Conv2d(3, 1, 1).cuda()
    compute = Compute.choose("cuda", "float32")
    is_curious = True

    def learn(batch: Batch) -> torch.Tensor:
        loss: torch.Tensor = network(batch.images).mean()
        if is_curious:
            assert loss.item() < 1e9
        loss.backward()
        return loss.detach()

    def batch() -> Batch:
        images, labels = torch.rand(2, 3, 8, 8), torch.zeros(2, 8, 8, dtype=torch.uint8)
        return Batch(images=images, labels=labels, weights=None, tiles=("a", "b"))

    curious = StepGraphs(network, compute, learn)
    assert curious.gradients(batch()) is None
    assert curious.gradients(batch()) is None
    # What failed has left nothing behind: another is recorded, and follows its samples.
    is_curious = False
    steps = StepGraphs(network, compute, learn)
    for shown in (batch(), batch()):
        loss = steps.gradients(shown)
        assert loss is not None
        found = network.weight.grad
        assert found is not None
        assert torch.allclose(found.flatten().cpu(), shown.images.mean(dim=(0, 2, 3)), atol=1e-3)
        assert torch.allclose(loss, learn(shown.each(compute.send)), atol=1e-3)


@pytest.mark.parametrize("precision", ["float32", "fp16"])
def test_other_precisions_learn(tiles: TileSet, tmp_path: Path, precision: str) -> None:
    card = train_model([tiles], tmp_path / "m.safetensors", options=quick(precision=precision))
    assert precision in card.training["compute"]


def test_windows_shrink_where_the_memory_of_a_gpu_ends(
    tmp_path: Path, model: Path, little_memory: None, caplog: pytest.LogCaptureFixture
) -> None:
    values = tiny.noise(3, 6144, 6144)
    scene = tiny.write_scene(tmp_path / "large.tif", values, transform=tiny.transform_of(0.5))
    map_scene(
        scene, model, tmp_path / "map",
        options=MapOptions(device="cuda", core_px=6144, threshold=0.99, outline="pixels"),
    )  # fmt: skip
    assert "memory ran out: mapping in smaller windows" in caplog.text


def test_a_batch_that_does_not_fit_says_what_does(
    tiles: TileSet, tmp_path: Path, little_memory: None
) -> None:
    recipe = recipe_named("modern", {"epochs": 1, "steps": 20, "batch": 256, "crop": 128})
    with pytest.raises(DataError, match=r"Use --accumulate \d+"):
        train_model([tiles], tmp_path / "m.safetensors", options=quick(recipe=recipe))
