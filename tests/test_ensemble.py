from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
import torch
from affine import Affine
from numpy.typing import NDArray
from rasterio.crs import CRS
from torch import nn

from landslip.geo.errors import BandError, UsageError
from landslip.geo.grid import Grid, Window
from landslip.geo.raster import Raster
from landslip.learn.card import ModelCard
from landslip.learn.device import Compute
from landslip.learn.ensemble import Ensemble, Member
from landslip.learn.models import build_model
from landslip.learn.predict import probabilities
from landslip.prepare.scaling import Scaling, read_inputs

CPU = Compute(torch.device("cpu"), "float32")
RGN = ("nir", "red", "green")
TURNS = [(flipped, quarters) for flipped in (False, True) for quarters in range(4)]


def card_of(bands: Sequence[str], **changes: Any) -> ModelCard:
    fields: dict[str, Any] = {
        "name": "test", "architecture": "unet-small", "total_parameters": 1, "bands": tuple(bands),
        "scaling": tuple((band, 0.0, 200.0) for band in bands), "pixel_size_m": 10.0,
        "halo_px": 96, "stride_px": 16,
    }  # fmt: skip
    return ModelCard(**(fields | changes))


def member_of(network: nn.Module, bands: Sequence[str] = RGN, **changes: Any) -> Member:
    card = card_of(bands, **changes)
    return Member(card, network.eval(), card.scaling_of_bands)


def unet(bands: int = 3, outputs: int = 1, seed: int = 0) -> nn.Module:
    """A real network whose probabilities span most of 0 to 1, as after training."""
    torch.manual_seed(seed)
    network = build_model("unet-small", bands, outputs)
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.momentum = 1.0
    with torch.no_grad():
        logits = network.train()(torch.rand(2, bands, 64, 64))
        classify = network.get_submodule("classify")
        assert isinstance(classify, nn.Conv2d)
        classify.weight *= 1.5 / logits.std()
    return network.eval()


def random_images(*shape: int, seed: int = 0) -> NDArray[np.float32]:
    return np.random.default_rng(seed).random(shape, dtype=np.float32)


def turned(images: NDArray[np.float32], flipped: bool, quarters: int) -> NDArray[np.float32]:
    images = images[..., ::-1] if flipped else images
    return np.rot90(images, quarters, (-2, -1))


def turned_back(images: NDArray[np.float32], flipped: bool, quarters: int) -> NDArray[np.float32]:
    back = np.rot90(images, -quarters, (-2, -1))
    return back[..., ::-1] if flipped else back


class Point(nn.Module):
    """The first band is the logit of its pixel; counts its passes."""

    passes = 0

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        self.passes += 1
        return images[:, :1]


class Always(nn.Module):
    """The same probability everywhere."""

    def __init__(self, probability: float) -> None:
        super().__init__()
        self.logit = float(np.log(probability / (1 - probability)))

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return torch.full_like(images[:, :1], self.logit)


# One model, once ----------------------------------------------------------------------------------


@pytest.mark.parametrize(("height", "width"), [(48, 80), (37, 50), (5, 9)])
@pytest.mark.parametrize(("bands", "outputs"), [(3, 1), (1, 2)])
def test_one_model_is_what_it_is_alone(height: int, width: int, bands: int, outputs: int) -> None:
    network = unet(bands, outputs)
    images = random_images(2, bands, height, width)
    mean, spread = Ensemble([member_of(network, RGN[:bands])], CPU).predict([images])
    expected = probabilities(network, images, CPU, 16)
    assert spread is None
    assert mean.shape == (2, height, width)
    assert mean.dtype == np.float32
    assert mean.tobytes() == expected.tobytes()
    assert np.ptp(mean) > 0.3


def test_passes_are_as_few_as_asked_for() -> None:
    for tta, scales, passes in ((False, (1.0,), 1), (True, (1.0,), 8), (True, (1, 0.5), 16)):
        network = Point()
        Ensemble([member_of(network)], CPU, tta=tta, scales=scales).predict(
            [random_images(1, 3, 32, 48)]
        )
        assert network.passes == passes


# Turned -------------------------------------------------------------------------------------------


def test_the_mean_over_turns_is_that_of_each_turned_by_hand() -> None:
    network = unet()
    images = random_images(2, 3, 48, 80)
    expected = np.mean(
        [
            turned_back(
                probabilities(network, turned(images, *turn).copy(), CPU, 16), *turn
            )
            for turn in TURNS
        ],
        axis=0,
    )  # fmt: skip
    mean, _ = Ensemble([member_of(network)], CPU, tta=True).predict([images])
    once, _ = Ensemble([member_of(network)], CPU).predict([images])
    assert np.abs(mean - expected).max() < 1e-6
    assert np.abs(once - expected).max() > 0.01


@pytest.mark.parametrize("turn", TURNS)
@pytest.mark.parametrize(("scales", "shape"), [((1,), (37, 50)), ((1, 0.5), (64, 96))])
def test_turned_images_give_turned_probabilities(
    turn: tuple[bool, int], scales: tuple[float, ...], shape: tuple[int, int]
) -> None:
    ensemble = Ensemble([member_of(unet())], CPU, tta=True, scales=scales)
    images = random_images(1, 3, *shape)
    mean, _ = ensemble.predict([images])
    found, _ = ensemble.predict([turned(images, *turn)])
    assert np.abs(found - turned(mean, *turn)).max() < 1e-5


def test_turns_are_turned_back_exactly() -> None:
    images = random_images(1, 3, 32, 48)
    once, _ = Ensemble([member_of(Point())], CPU).predict([images])
    mean, _ = Ensemble([member_of(Point())], CPU, tta=True).predict([images])
    assert np.allclose(mean, once, rtol=0, atol=1e-6)


# At scales ----------------------------------------------------------------------------------------


def test_half_scale_is_a_triangle_there_and_a_line_back() -> None:
    """Written out with the weights of both kernels, away from the border."""
    images = 6 * random_images(1, 1, 1, 64) * np.ones((64, 1), dtype=np.float32)
    found, _ = Ensemble([member_of(Point(), ["nir"])], CPU, scales=[0.5]).predict([images])
    row = images[0, 0, 0].astype(np.float64)
    half = (row[1:-4:2] + 3 * row[2:-3:2] + 3 * row[3:-2:2] + row[4:-1:2]) / 8  # from pixel 2 on
    seen = 1 / (1 + np.exp(-half))
    back = np.stack([0.25 * seen[:-2] + 0.75 * seen[1:-1], 0.75 * seen[1:-1] + 0.25 * seen[2:]], 1)
    assert found.shape == (1, 64, 64)
    assert np.abs(found[0, 10, 4 : 4 + back.size] - back.ravel()).max() < 1e-6
    assert np.ptp(found[0], axis=0).max() < 1e-6


def test_scales_count_alike() -> None:
    images = random_images(1, 3, 64, 96)
    member = member_of(unet())
    one, half, double = (
        Ensemble([member], CPU, scales=[scale]).predict([images])[0] for scale in (1, 0.5, 2)
    )
    mean, _ = Ensemble([member], CPU, scales=(1, 0.5, 2)).predict([images])
    assert np.abs(mean - (one + half + double) / 3).max() < 1e-6
    assert np.abs(one - half).max() > 0.05
    assert np.abs(one - double).max() > 0.05


@pytest.mark.parametrize("scales", [(0.5,), (1, 2), (0.667, 0.25), (8,), (0.125,)])
def test_certainty_stays_within_0_and_1(scales: tuple[float, ...]) -> None:
    images = np.full((1, 3, 30, 41), 200, dtype=np.float32)
    mean, _ = Ensemble([member_of(Point())], CPU, tta=True, scales=scales).predict([images])
    assert mean.shape == (1, 30, 41)
    assert mean.max() <= 1
    assert mean.min() > 1 - 1e-6


@pytest.mark.parametrize(
    ("sizes", "scales", "stride_px", "halo_px"),
    [
        ([(16, 96)], (1,), 16, 96),
        ([(32, 70)], (1,), 32, 96),
        ([(16, 96)], (1, 0.5), 32, 224),  # 196 rounded up
        ([(16, 96)], (1, 2), 16, 96),  # the halo at double scale is 50
        ([(16, 96)], (2,), 8, 56),
        ([(16, 96)], (0.667,), 24, 168),  # 147 rounded up; 24 px are 16 at two thirds
        ([(16, 96), (32, 128)], (1,), 32, 128),
        ([(16, 96), (24, 0)], (1,), 48, 96),
        ([(16, 96), (32, 128)], (1, 0.75), 128, 256),  # 174 rounded up
        ([(1, 0)], (1,), 1, 0),
        ([(1, 0)], (0.5,), 2, 4),
        ([(2048, 0)], (1,), 2048, 0),
    ],
)
def test_stride_and_halo_serve_all_models_and_scales(
    sizes: list[tuple[int, int]], scales: tuple[float, ...], stride_px: int, halo_px: int
) -> None:
    members = [member_of(Point(), stride_px=stride, halo_px=halo) for stride, halo in sizes]
    ensemble = Ensemble(members, CPU, scales=scales)
    assert (ensemble.stride_px, ensemble.halo_px) == (stride_px, halo_px)


@pytest.mark.parametrize(
    ("tta", "scales"), [(False, (1, 0.5)), (False, (1, 2)), (False, (0.667,)), (True, (1,))]
)
def test_windows_agree_with_the_untiled_network(tta: bool, scales: tuple[float, ...]) -> None:
    ensemble = Ensemble([member_of(unet())], CPU, tta=tta, scales=scales)
    stride, halo = ensemble.stride_px, ensemble.halo_px
    core = 2 * stride
    # The window lies inside the whole, so that none of its borders is one of the whole.
    height, width = core + 2 * halo + 2 * stride, core + 2 * halo + 3 * stride
    values = 200 * random_images(3, height, width)
    scene = scene_of(values)

    def predicted(window: Window) -> NDArray[np.float32]:
        images, _ = ensemble.read(scene, window)
        assert images is not None
        mean, _ = ensemble.predict([image[None] for image in images])
        found: NDArray[np.float32] = mean[0]
        return found

    whole = predicted(scene.grid.window)
    window = Window(halo + stride, halo + stride, core, core)
    expected = whole[window.slices]

    def error(margin: int) -> float:
        found = predicted(window.grown(margin))[margin : margin + core, margin : margin + core]
        return float(np.abs(found - expected).max())

    assert np.ptp(expected) > 0.3
    assert error(halo) < 1e-4
    assert error(0) > 0.02  # so the test would see a halo that is too small


def test_a_window_off_the_stride_does_not_agree() -> None:
    ensemble = Ensemble([member_of(unet())], CPU, scales=(1, 0.5))
    images = random_images(1, 3, 320, 320)
    whole, _ = ensemble.predict([images])
    part, _ = ensemble.predict([images[..., 16:, 16:]])
    assert np.abs(part[0, 120:160, 120:160] - whole[0, 136:176, 136:176]).max() > 1e-3


@pytest.mark.parametrize(
    ("scales", "message"),
    [
        (
            (1, 0.7),
            "Cannot predict at scale 0.7: expected a ratio of two whole numbers from 1 to 8, such "
            "as 1, 0.5 or 0.667. Take the nearest, 0.714.",
        ),
        ((0,), "scale 0: .* Take the nearest, 0.125."),
        ((-1,), "scale -1: .* Take the nearest, 0.125."),
        ((9,), "scale 9: .* Take the nearest, 8."),
        ((float("nan"),), "scale nan: expected"),
        ((float("inf"),), "scale inf: expected"),
        (
            (1, 0.5, 1.0),
            "Cannot predict at scales 1, 0.5, 1: 1 is there twice. Name every scale once.",
        ),
        ((0.667, 2 / 3), "0.667 is there twice"),
        ((), "Cannot predict at no scale. Name at least one, such as 1."),
        (
            (1, 0.2, 0.333, 0.143),
            "Cannot predict at scales 1, 0.2, 0.333, 0.143: windows would begin at multiples of "
            "1680 px, 1024 px are the most. Take fewer scales, or halves and quarters.",
        ),
    ],
)
def test_scales_that_cannot_be(scales: tuple[float, ...], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        Ensemble([member_of(Point())], CPU, scales=scales)


def test_every_nearest_scale_can_be_taken_as_it_is_written() -> None:
    for text in ("0.125", "0.286", "0.571", "0.714", "0.857", "1.143", "1.333", "2.667", "8"):
        Ensemble([member_of(Point())], CPU, scales=[float(text)])


# Several models -----------------------------------------------------------------------------------


def test_models_count_alike_and_their_spread_is_known() -> None:
    members = [member_of(Always(probability)) for probability in (0.2, 0.5, 0.9)]
    images = random_images(2, 3, 16, 32)
    mean, spread = Ensemble(members, CPU).predict([images] * 3)
    assert spread is not None
    assert mean.shape == spread.shape == (2, 16, 32)
    assert mean.dtype == spread.dtype == np.float32
    assert mean == pytest.approx(np.full(mean.shape, 1.6 / 3))
    assert spread == pytest.approx(
        np.full(mean.shape, np.sqrt((0.04 + 0.25 + 0.81) / 3 - 1.6**2 / 9))
    )


def test_equal_models_have_no_spread() -> None:
    member = member_of(unet())
    images = random_images(1, 3, 32, 48)
    mean, spread = Ensemble([member] * 3, CPU).predict([images] * 3)
    alone, _ = Ensemble([member], CPU).predict([images])
    assert np.array_equal(mean, alone)
    assert spread is not None
    assert not spread.any()


def test_no_model() -> None:
    with pytest.raises(UsageError, match=r"Cannot predict with no model\. Name at least one\."):
        Ensemble([], CPU)


# Reading ------------------------------------------------------------------------------------------


def scene_of(
    values: NDArray[Any], valid: NDArray[np.bool_] | None = None, bands: Sequence[str] = RGN
) -> Raster:
    height, width = values.shape[1:]
    transform = Affine(10, 0, 400_000, 0, -10, 4_700_000)
    valid = np.ones((height, width), dtype=bool) if valid is None else valid
    values = np.where(valid, values, 0)
    return Raster(values, valid, tuple(bands), Grid(CRS.from_epsg(32654), transform, height, width))


class Counted:
    """A scene that keeps what was asked of it; green is known on the left half alone."""

    def __init__(self, scene: Raster) -> None:
        self.scene, self.grid, self.bands = scene, scene.grid, scene.bands
        self.asked: list[tuple[str, ...]] = []

    def read(self, window: Window, bands: Sequence[str]) -> Raster:
        self.asked.append(tuple(bands))
        raster = self.scene.read(window, bands)
        if "green" not in bands:
            return raster
        valid = raster.valid.copy()
        valid[:, self.grid.width // 2 - window.col :] = False
        return Raster(np.where(valid, raster.values, 0), valid, raster.bands, raster.grid)


def noisy_scene() -> Counted:
    valid = np.ones((40, 64), dtype=bool)
    valid[3:9, 4:10] = False
    return Counted(scene_of(200 * random_images(3, 40, 64), valid))


def test_every_model_is_shown_its_own_bands_and_numbers() -> None:
    scene = noisy_scene()
    members = [
        member_of(Point(), ["nir", "red"]),
        member_of(Point(), ["red", "slope", "green", "nir"], optional_bands=("slope", "green")),
        member_of(Point(), ["ndvi"], quantised=True),
        Member(card_of(["nir", "red"]), Point(), Scaling((("nir", 5, 50), ("red", 0, 300)))),
    ]
    window = Window(-8, -8, 48, 64)
    images, valid = Ensemble(members, CPU).read(scene, window)
    assert images is not None
    for member, image in zip(members, images, strict=True):
        alone, seen = read_inputs(scene, window, member.scaling, member.card.optional_bands)
        assert image.tobytes() == alone.tobytes()
        assert np.array_equal(valid, seen)  # green is optional, and takes no ground away


def test_models_with_the_same_bands_share_a_reading() -> None:
    scene = noisy_scene()
    same = [
        Member(card_of(["nir", "red"]), Point(), Scaling((("nir", low, 200), ("red", low, 200))))
        for low in (0, 10, 20)
    ]
    images, _ = Ensemble([*same, member_of(Point(), ["red"])], CPU).read(scene, scene.grid.window)
    assert scene.asked == [("nir", "red"), ("red",)]
    assert images is not None
    assert [len(image) for image in images] == [2, 2, 2, 1]


def test_ground_is_valid_where_it_is_for_every_model() -> None:
    scene = noisy_scene()
    members = [member_of(Point(), ["nir"]), member_of(Point(), ["green"])]
    images, valid = Ensemble(members, CPU).read(scene, scene.grid.window)
    expected = scene.scene.valid.copy()
    expected[:, 32:] = False
    assert np.array_equal(valid, expected)
    assert images is not None
    assert images[0][0, :, 32:].any()  # a model is shown what it knows
    assert not images[1][0, :, 32:].any()


def test_ground_that_one_model_cannot_see_is_not_predicted() -> None:
    members = [member_of(Point(), ["nir"]), member_of(Point(), ["green"])]
    images, valid = Ensemble(members, CPU).read(noisy_scene(), Window(0, 32, 16, 16))
    assert images is None
    assert valid.shape == (16, 16)
    assert not valid.any()


def test_a_band_that_a_model_needs_is_missing() -> None:
    members = [member_of(Point(), ["nir"]), member_of(Point(), ["slope"])]
    with pytest.raises(BandError, match="slope"):
        Ensemble(members, CPU).read(noisy_scene(), Window(0, 0, 16, 16))


def test_models_of_other_bands_and_strides_predict_together() -> None:
    scene = noisy_scene()
    first, second = member_of(unet(2), ["nir", "red"]), member_of(unet(3, seed=1), stride_px=32)
    window = Window(0, 0, 32, 32)
    images, _ = Ensemble([first, second], CPU).read(scene, window)
    assert images is not None
    batches = [image[None] for image in images]
    mean, spread = Ensemble([first, second], CPU, tta=True).predict(batches)
    one, _ = Ensemble([first], CPU, tta=True).predict(batches[:1])
    other, _ = Ensemble([second], CPU, tta=True).predict(batches[1:])
    assert spread is not None
    assert np.abs(mean - (one + other) / 2).max() < 1e-6
    assert np.abs(spread - np.abs(one - other) / 2).max() < 1e-6
