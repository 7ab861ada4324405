"""The halo of networks whose need is known."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import nn

import tiny
from landslip.learn.card import load_card, load_model
from landslip.learn.device import Compute
from landslip.learn.halo import TOLERANCE, measured_halo, reach_px
from landslip.learn.models import build_model
from landslip.learn.plan import TrainOptions
from landslip.learn.predict import probabilities
from landslip.learn.recipes import recipe_named
from landslip.learn.train import train_model
from landslip.prepare.tile_set import TileSet

CPU = Compute(torch.device("cpu"), "float32")


def images(number: int, side: int, bands: int = 1) -> list[NDArray[np.float32]]:
    random = np.random.default_rng(0)
    return [random.random((bands, side, side), dtype=np.float32) for _ in range(number)]


class Reaching(nn.Module):
    """Sums over a square that reaches a number of pixels to all sides."""

    def __init__(self, reach: int) -> None:
        super().__init__()
        side = 2 * reach + 1
        self.sum = nn.Conv2d(1, 1, side, padding=reach, bias=False)
        nn.init.constant_(self.sum.weight, 4 / side)

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        out: torch.Tensor = self.sum(image - 0.5)
        return out


class LooksAtAll(nn.Module):
    """Every pixel depends on the mean of the window."""

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        return image + 50 * (image.mean(dim=(2, 3), keepdim=True) - 0.5)


REACHES = [(0, 0), (3, 4), (4, 4), (5, 8), (9, 12), (40, 16)]


@pytest.mark.parametrize(("reach", "expected"), REACHES)
@pytest.mark.parametrize("side", [5, 64])
def test_halo_is_the_reach_in_strides(reach: int, expected: int, side: int) -> None:
    found = measured_halo(Reaching(reach), images(5, side), CPU, 4, 8)
    assert (found.px, found.windows) == (expected, 5 if side == 5 else 64)
    assert (found.difference <= TOLERANCE) == (expected >= reach)


def test_reach_is_half_the_receptive_field() -> None:
    assert [reach_px(Reaching(reach), 1, 4) for reach in (0, 3, 9)] == [0, 4, 12]
    assert reach_px(build_model("unet-small", 2).eval(), 2, 16) == 96
    assert reach_px(LooksAtAll(), 1, 4) is None


def test_what_hardly_matters_is_cut() -> None:
    network = Reaching(9)
    with torch.no_grad():
        network.sum.weight *= 1e-4
    assert measured_halo(network, images(5, 64), CPU, 4, 8).px == 0


def test_networks_that_look_at_all_take_the_most(caplog: pytest.LogCaptureFixture) -> None:
    assert measured_halo(LooksAtAll(), images(5, 64), CPU, 4, 8).px == 16
    assert "16 px, the most that is tried" in caplog.text
    assert "because this network sees the whole window" in caplog.text
    caplog.clear()
    assert measured_halo(Reaching(40), images(5, 64), CPU, 4, 8).px == 16
    assert "because this network sees 40 px far" in caplog.text
    caplog.clear()
    # All that the network sees is never too little, and neither is what hardly matters.
    assert measured_halo(Reaching(16), images(5, 64), CPU, 4, 8).px == 16
    faint = Reaching(40)
    with torch.no_grad():
        faint.sum.weight[..., :24] *= 1e-4
        faint.sum.weight[..., -24:] *= 1e-4
        faint.sum.weight[..., :24, :] *= 1e-4
        faint.sum.weight[..., -24:, :] *= 1e-4
    found = measured_halo(faint, images(5, 64), CPU, 4, 8)
    assert found.px == 16
    assert 0 < found.difference <= TOLERANCE
    assert "the most that is tried" not in caplog.text


def test_without_windows_the_most_is_taken() -> None:
    assert measured_halo(Reaching(1), [], CPU, 4, 8).px == 16


def test_a_trained_model_knows_its_halo(tmp_path: Path) -> None:
    tiles, out = TileSet.open(tiny.tiny_tiles(tmp_path / "tiles")), tmp_path / "m.safetensors"
    recipe = recipe_named("modern", {"epochs": 1, "batch": 4})
    options = TrainOptions(model="unet-small", recipe=recipe, device="cpu", precision="float32")
    train_model([tiles], out, options=options)
    card, network = load_model(out)
    assert card.halo_px % card.stride_px == 0
    assert card.training["halo"]["windows"] == 16
    assert load_card(out).training["halo"]["difference"] <= TOLERANCE
    # Slow and obvious: every validation tile, mirrored, cut at this halo and at the largest.
    for tile in tiles.of("validation"):
        raster, _ = tiles.read(tile, card.bands)
        image = np.pad(card.scaling_of_bands.apply(raster), ((0, 0), (208, 208), (208, 208)),
                       "reflect")  # fmt: skip
        middle, cores = image.shape[-1] // 2, []
        for halo in (card.halo_px, 192):
            around = slice(middle - 16 - halo, middle + 16 + halo)
            scores = probabilities(network, image[None, :, around, around], CPU, 16)[0]
            cores.append(scores[halo : halo + 32, halo : halo + 32])
        assert np.abs(cores[0] - cores[1]).max() <= TOLERANCE
