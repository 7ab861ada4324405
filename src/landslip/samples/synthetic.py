"""A made-up mountain valley after a storm, with its landslides: from a seed, with no download.

It is a sample to learn landslip with, to test it with, and to look at; it is no evidence of how
well a model does on real ground. What is made hard is what is hard outside: fresh landslides have
the colour of ploughed terraces, river gravel, dirt roads and old scars, some lie in shadow, and
trees stand in them. What tells them apart is their shape along the slope, their rough surface and
where they lie.

Light falls on a surface (terrain, tree crowns, roofs, boulders) painted with reflectances; haze,
clouds, the blur and the noise of the sensor follow. Rows count from north, x and y are metres
from the upper left corner of the scene, y pointing south.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt
from affine import Affine
from shapely import Polygon, box, get_parts, make_valid, simplify
from shapely.affinity import affine_transform

from landslip.geo.errors import UsageError
from landslip.samples.delivery import RATIO, as_delivered

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

Floats = npt.NDArray[np.float32]
Bools = npt.NDArray[np.bool_]
Numbers = npt.NDArray[np.int32]

BANDS = ("nir", "red", "green")
CRS = "EPSG:32648"
UPPER_LEFT_M = (402_000.0, 3_460_000.0)
"""Easting and northing of the scene's upper left corner: a mountain in Sichuan, by number only."""
MIN_SIDE_PX = 128
MAX_PIXEL_M = 1.0
"""Coarser pixels would show neither tree crowns nor small landslides."""

ELEVATION_PIXEL_M = 5.0
ELEVATION_MARGIN_M = 60.0
SCENE_HEIGHT_M = 512.0
"""Height of scene that the landforms below are sized for; they grow and shrink with the scene."""
RELIEF_M = 118.0
FLOOR_HALF_WIDTH_M = 34.0
RIVER_HALF_WIDTH_M = 13.0
RIVER_GRADIENT = 0.02

SUN_AZIMUTH_DEG = 138.0
SUN_ELEVATION_DEG = 48.0
SKY_LIGHT = 0.22
"""Light from the sky, as a share of full sunlight: all that ground in shadow receives."""

LANDSLIDES_PER_M2 = 105 / (512 * 768)
AREA_M2 = (40.0, 6000.0)
AREA_EXPONENT = 0.92
"""The number of landslides larger than A falls as A to the power of minus this."""
LEFT_SHARE = 0.65
"""Share of the scene's width that the checked squares cover; the rest is unseen ground."""

# Reflectance in nir, red, green.
CROWN = (0.44, 0.040, 0.066)
GRASS = (0.33, 0.085, 0.105)
CROP = (0.45, 0.048, 0.088)
STUBBLE = (0.27, 0.130, 0.125)
PLOUGHED = (0.250, 0.185, 0.142)
DEBRIS = (0.270, 0.205, 0.155)
ROCK = (0.265, 0.232, 0.200)
GRAVEL = (0.305, 0.265, 0.235)
WATER = (0.035, 0.075, 0.110)
DIRT_ROAD = (0.300, 0.250, 0.205)
ROOFS = ((0.34, 0.33, 0.33), (0.20, 0.18, 0.17), (0.28, 0.24, 0.15), (0.17, 0.18, 0.22))
CLOUD = (0.72, 0.76, 0.77)

GAIN_DN = (3600.0, 4300.0, 4300.0)
"""Digital numbers per unit of reflectance in full sunlight."""
HAZE_DN = (55.0, 115.0, 185.0)
MAX_DN = 4095


@dataclass(frozen=True, eq=False)
class Valley:
    """A made-up scene with all that is known of it."""

    image: npt.NDArray[np.uint16]
    """Digital numbers of a 12 bit sensor, (3, H, W): nir, red, green; 0 where nothing was seen."""
    transform: Affine
    """From (column, row) of the image to easting and northing in m."""
    crs: str
    elevation: Floats
    """Metres above the sea, (h, w), on a coarser grid that reaches beyond the scene."""
    elevation_transform: Affine
    """From (column, row) of the elevation to easting and northing in m."""
    labels: Bools
    """The truth, (H, W): True on landslides, also under clouds; False where nothing was seen."""
    landslides: tuple[Polygon, ...]
    """The outline of each landslide in the CRS, as an analyst would draw it."""
    checked: tuple[Polygon, ...]
    """Squares of ground in the CRS that an analyst has inspected: the left part of the scene."""
    cloud: Bools
    """(H, W): True under clouds and in their shadows."""

    @property
    def valid(self) -> Bools:
        """(H, W): True where the ground can be judged: seen, without cloud or cloud shadow."""
        return (self.image > 0).all(axis=0) & ~self.cloud


@dataclass(frozen=True)
class ValleyFiles:
    """Where `write_valley` has put a valley."""

    scene: Path
    """GeoTIFF, bands nir, red, green, uint16, nodata 0."""
    pan: Path
    """GeoTIFF, the same ground as one panchromatic band, uint16, nodata 0."""
    ms: Path
    """GeoTIFF, bands nir, red, green with pixels four times larger, uint16, nodata 0."""
    elevation: Path
    """GeoTIFF, one float32 band, m."""
    landslides: Path
    """GeoPackage, layer `landslides`."""
    checked: Path
    """GeoPackage, layer `checked`: inspected squares."""
    unusable: Path
    """GeoPackage, layer `unusable`: clouds and their shadows."""


def make_valley(
    size: tuple[int, int] = (1024, 1536), *, seed: int = 0, pixel_size_m: float = 0.5
) -> Valley:
    """Make up a mountain valley with landslides.

    Args:
        size: Height and width of the scene in pixels, each at least 128.
        seed: The same seed gives the same valley, to the last bit.
        pixel_size_m: Ground length of a pixel's side, at most 1 m.

    Returns:
        The valley. Of its landslides, 60 to 120 at the default size, most are small.

    Raises:
        UsageError: If the size or the pixel size cannot be used.
    """
    if min(size) < MIN_SIDE_PX or not 0 < pixel_size_m <= MAX_PIXEL_M:
        raise UsageError(
            f"Cannot make a valley: {size[0]} x {size[1]} pixels of {pixel_size_m} m were asked "
            f"for; it takes at least {MIN_SIDE_PX} x {MIN_SIDE_PX} pixels of at most "
            f"{MAX_PIXEL_M} m. Ask for more, or finer, pixels."
        )
    rng = np.random.default_rng(seed)
    elevation, land = _terrain(rng, size, pixel_size_m)
    _grow_forest(land, rng)
    _open_old_scars(land, rng)
    _cultivate(land, rng)
    bed = _let_river_flow(land, rng)
    _build_roads(land, rng)
    roofs = _build_villages(land, rng, bed)
    seen = _seen(size)
    numbers = _let_slopes_fail(land, rng, seen, bed | roofs)
    image, cloud = _photograph(land, rng)
    image[:, ~seen] = 0

    east_m, north_m = UPPER_LEFT_M
    to_crs = Affine(pixel_size_m, 0, east_m, 0, -pixel_size_m, north_m)
    elevation_to_crs = Affine(
        ELEVATION_PIXEL_M,
        0,
        east_m - ELEVATION_MARGIN_M,
        0,
        -ELEVATION_PIXEL_M,
        north_m + ELEVATION_MARGIN_M,
    )
    return Valley(
        image=image,
        transform=to_crs,
        crs=CRS,
        elevation=elevation,
        elevation_transform=elevation_to_crs,
        labels=numbers > 0,
        landslides=_outlines(numbers, to_crs),
        checked=_checked_squares(size, to_crs),
        cloud=cloud & seen,
    )


# --- noise and the ground floor of the picture -------------------------------------------------


def _noise(
    rng: np.random.Generator,
    shape: tuple[int, int],
    wavelength_px: npt.ArrayLike,
    roughness: float = 2.5,
) -> Floats:
    """Random field, mean 0 and deviation 1: its spectrum is flat up to 1/wavelength, then f^-r.

    The wavelength is one number, or two: down the rows and along the columns.
    """
    from scipy import fft

    along_rows, along_columns = np.broadcast_to(wavelength_px, 2)
    spectrum = fft.rfft2(rng.standard_normal(shape, dtype=np.float32))
    rows = np.fft.fftfreq(shape[0])[:, None] * along_rows
    columns = np.fft.rfftfreq(shape[1])[None, :] * along_columns
    spectrum *= ((1 + rows**2 + columns**2) ** (-roughness / 2)).astype(np.float32)
    spectrum[0, 0] = 0
    field: Floats = fft.irfft2(spectrum, s=shape)
    field /= field.std()
    return field


def _step(values: npt.NDArray[np.floating], low: float, high: float) -> Floats:
    """Rise smoothly from 0 at `low` to 1 at `high`."""
    t: Floats = np.clip((values - low) / (high - low), 0, 1).astype(np.float32)
    return t * t * (3 - 2 * t)


@dataclass(eq=False)
class _Land:
    """What the painters below share; they paint `reflectance` and raise `height_m`."""

    pixel_m: float
    x: Floats  # (1, W), m
    y: Floats  # (H, 1), m
    ground_m: Floats  # (H, W), elevation of the bare ground
    rise: Floats  # (2, H, W), metres of climb per metre south and east
    above_river_m: Floats  # (H, W)
    across_m: Floats  # (H, W), distance from the river, negative north of it
    visible: Floats  # (H, W), 0 where a mountain hides the sun
    size: float  # of landforms, 1 for a scene 512 m high
    reflectance: Floats  # (3, H, W)
    height_m: Floats  # (H, W), of what stands on the ground

    @property
    def shape(self) -> tuple[int, int]:
        return self.ground_m.shape[0], self.ground_m.shape[1]

    def noise(
        self,
        rng: np.random.Generator,
        wavelength_m: npt.ArrayLike,
        roughness: float = 2.5,
    ) -> Floats:
        return _noise(rng, self.shape, np.divide(wavelength_m, self.pixel_m), roughness)

    def paint(
        self,
        where: Bools,
        color: Sequence[float] | Floats,
        texture: Floats | float = 1.0,
        height_m: Floats | float = 0.0,
    ) -> None:
        """Lay a colour, (3,) or (3, H, W), times a texture over some pixels."""
        for band, value in zip(self.reflectance, color, strict=True):
            np.copyto(band, value * texture, where=where, casting="same_kind")
        np.copyto(self.height_m, height_m, where=where, casting="same_kind")


def _terrain(
    rng: np.random.Generator, size: tuple[int, int], pixel_m: float
) -> tuple[Floats, _Land]:
    """Raise the mountains: the elevation with its margin, and the land of the scene.

    Slopes steepen upwards from a flat valley floor and are cut into spurs and gullies.
    """
    from scipy.interpolate import RectBivariateSpline

    high_m, wide_m = size[0] * pixel_m, size[1] * pixel_m
    scale = high_m / SCENE_HEIGHT_M
    step, margin = ELEVATION_PIXEL_M, ELEVATION_MARGIN_M
    x = np.arange(-margin + step / 2, wide_m + margin, step)
    y = np.arange(-margin + step / 2, high_m + margin, step)
    shape = (len(y), len(x))

    bends = [(rng.uniform(0, 2 * np.pi), 1 / n**1.2, n * np.pi / 250) for n in (1, 2, 3)]

    def across(x_m: npt.NDArray[np.floating], y_m: npt.NDArray[np.floating]) -> Floats:
        x_m = x_m / scale
        river = sum(size * np.sin(k * x_m + phase) for phase, size, k in bends) * 20
        turn = sum(size * k * np.cos(k * x_m + phase) for phase, size, k in bends) * 20
        middle = 0.52 * SCENE_HEIGHT_M + 0.09 * (x_m - wide_m / scale / 2)
        offset = y_m / scale - middle - river
        away: Floats = (scale * offset / np.sqrt(1 + turn**2)).astype(np.float32)
        return away

    spurs = _noise(rng, shape, np.array([190, 105]) * scale / step, 3.0)
    crags = _noise(rng, shape, 75 * scale / step, 2.9)
    upslope = np.abs(across(x[None], y[:, None])) / scale - FLOOR_HALF_WIDTH_M
    t = np.clip(upslope / (SCENE_HEIGHT_M / 2 - FLOOR_HALF_WIDTH_M), 0, None)
    above = t**1.25 * RELIEF_M * (1 + 0.15 * spurs) + 2.2 * crags * np.minimum(3 * t, 1)
    above_river = np.maximum(above, 0) * scale
    fall = 900 - RIVER_GRADIENT * x[None]
    elevation = (above_river + fall).astype(np.float32)

    x_px = (np.arange(size[1]) + 0.5) * pixel_m
    y_px = (np.arange(size[0]) + 0.5) * pixel_m
    ground = RectBivariateSpline(y, x, elevation)(y_px, x_px).astype(np.float32)
    clear = RectBivariateSpline(y, x, _clearance_m(elevation, step, 250 * scale))
    land = _Land(
        pixel_m=pixel_m,
        x=x_px[None].astype(np.float32),
        y=y_px[:, None].astype(np.float32),
        ground_m=ground,
        rise=np.stack(np.gradient(ground, pixel_m)),
        above_river_m=ground - (900 - RIVER_GRADIENT * x_px[None]).astype(np.float32),
        across_m=across(x_px[None], y_px[:, None]),
        visible=_step(clear(y_px, x_px), -1.5, 1.5),
        size=scale,
        reflectance=np.zeros((3, *size), np.float32),
        height_m=np.zeros(size, np.float32),
    )
    return elevation, land


def _towards_sun() -> tuple[float, float]:
    """South and east parts of the unit vector on the ground that points to the sun."""
    azimuth = math.radians(SUN_AZIMUTH_DEG)
    return -math.cos(azimuth), math.sin(azimuth)


def _clearance_m(surface_m: Floats, pixel_m: float, reach_m: float) -> Floats:
    """How far the sun's ray passes above all that stands within reach; below 0 in shadow."""
    south, east = _towards_sun()
    climb = math.tan(math.radians(SUN_ELEVATION_DEG)) * pixel_m
    rows, columns = (np.arange(n) for n in surface_m.shape)
    clearance = np.full(surface_m.shape, np.inf, np.float32)
    for step in range(1, math.ceil(reach_m / pixel_m) + 1):
        row = np.clip(rows + round(step * south), 0, rows[-1])
        column = np.clip(columns + round(step * east), 0, columns[-1])
        above = surface_m + np.float32(step * climb) - surface_m[row][:, column]
        np.minimum(clearance, above, out=clearance)
    return clearance


# --- land cover --------------------------------------------------------------------------------


def _grow_forest(land: _Land, rng: np.random.Generator) -> None:
    """Cover everything with trees, tall ones above low ones, with glades of grass."""
    stands = land.noise(rng, 45)
    low_m, low_tone = _crowns(land, rng, 4.2, 6.5, 0.55)
    tall_m, tall_tone = _crowns(land, rng, 7.0, 9.5, 0.38)
    tall_m += 1.2 * stands
    tone = np.where(tall_m > low_m, tall_tone, low_tone) * (1 + 0.08 * stands)
    height_m = np.maximum(np.maximum(low_m, tall_m), 1.0)
    tone *= 1 + 0.05 * land.noise(rng, 1.5, 1.0)
    land.paint(np.ones(land.shape, bool), CROWN, tone, height_m)
    # Leafy and needle trees differ in the near infrared more than in red and green.
    land.reflectance[0] *= 1 + 0.14 * np.tanh(2 * land.noise(rng, 60))
    glade = stands + 0.5 * land.noise(rng, 12) < -1.9
    land.paint(glade, GRASS, 1 + 0.08 * land.noise(rng, 3))


def _crowns(
    land: _Land, rng: np.random.Generator, spacing_m: float, tall_m: float, bend: float
) -> tuple[Floats, Floats]:
    """Domes about scattered stems: height in m, and a tone that each crown has of its own."""
    from scipy import ndimage

    spacing = max(2, round(spacing_m / land.pixel_m))
    rows, columns = np.mgrid[0 : land.shape[0] : spacing, 0 : land.shape[1] : spacing]
    jitter = rng.integers(0, math.ceil(0.85 * spacing), (2, *rows.shape))
    rows = np.minimum(rows + jitter[0], land.shape[0] - 1)
    columns = np.minimum(columns + jitter[1], land.shape[1] - 1)
    no_stem = np.ones(land.shape, bool)
    no_stem[rows, columns] = False
    away_px, (row, column) = ndimage.distance_transform_edt(no_stem, return_indices=True)
    top_m = rng.normal(tall_m, 0.16 * tall_m, land.shape).astype(np.float32)[row, column]
    tone = np.exp(rng.normal(0, 0.10, land.shape)).astype(np.float32)[row, column]
    drop_m = np.float32(bend) * (away_px * land.pixel_m).astype(np.float32) ** 2
    # Less light comes from the gaps between crowns.
    return top_m - drop_m, tone * (1.12 - 0.45 * _step(drop_m, 0.5, 4.5))


def _open_old_scars(land: _Land, rng: np.random.Generator) -> None:
    """Leave old clearings in the forest, half grown over, some still bare."""
    cover = land.noise(rng, 34, 3.5)
    old = (cover > 1.8) & (land.above_river_m > 15 * land.size)
    grass = _step(land.noise(rng, 9) - 0.8 * (cover - 2.2), -1.2, 1.4)
    soil = np.array(PLOUGHED, np.float32)[:, None, None]
    mixed = soil + (np.array(GRASS, np.float32)[:, None, None] - soil) * grass
    land.paint(old, mixed, 1 + 0.06 * land.noise(rng, 4), 0.3 * grass)


def _fields(
    land: _Land, rng: np.random.Generator, strip: Floats, length_m: float
) -> tuple[Numbers, Floats]:
    """Divide strips (integer parts of `strip`) into parcels: crop of each, and a tone of each."""
    shifts = rng.uniform(0, length_m, 512)
    crops = rng.choice(4, (512, 64), p=(0.38, 0.18, 0.12, 0.32)).astype(np.int32)
    tones = rng.normal(1, 0.11, (512, 64)).astype(np.float32)
    row = np.floor(strip).astype(np.int32) % 512
    parcel = ((land.x + shifts[row]) / length_m).astype(np.int32) % 64
    return crops[row, parcel], tones[row, parcel]


def _cultivate(land: _Land, rng: np.random.Generator) -> None:
    """Farm the valley floor, and terraces that follow the contours of the lower slopes."""
    slope = np.hypot(*land.rise)
    patches = land.noise(rng, (60 * land.size, 110 * land.size), 3.0)
    floor = land.above_river_m < 3 * land.size
    terraced = (slope < 0.72) & (patches + 1.2 > land.above_river_m / (24 * land.size)) & ~floor
    strip = np.where(
        floor,
        250 + land.across_m / 11 + 0.15 * land.noise(rng, 60),
        land.above_river_m / 2.6 + 0.12 * land.noise(rng, 25),
    )
    crop, tone = _fields(land, rng, strip, 42.0)
    within = strip - np.floor(strip)
    furrows = 1 + 0.05 * np.sin(within * 2 * np.pi * 5)
    fine = tone * furrows * (1 + 0.04 * land.noise(rng, 2))
    farmed = terraced | floor
    # A terrace is flat: what the slope climbs within a strip is cut away, down to its bank.
    bench = np.where(terraced, -1.6 * within, 0).astype(np.float32)
    for kind, (color, grown_m) in enumerate(
        ((CROP, 0.9), (GRASS, 0.3), (STUBBLE, 0.2), (PLOUGHED, 0.0))
    ):
        land.paint(farmed & (crop == kind), color, fine, bench + grown_m)
    bank = farmed & (within < 0.14)
    land.paint(bank, GRASS, 0.8 + 0.1 * land.noise(rng, 3), bench + 0.6)
    hedge = farmed & (land.noise(rng, 14) > 2.0)
    land.paint(hedge, CROWN, 1.0, 4 + land.noise(rng, 4))


def _let_river_flow(land: _Land, rng: np.random.Generator) -> Bools:
    """Lay a gravel bed with braided water along the valley; returns where it lies."""
    size = min(land.size, 2.0)
    sway = land.noise(rng, 90 * size, 3.0)
    middle = land.across_m + 3 * size * sway
    half_m = RIVER_HALF_WIDTH_M * size * (1 + 0.2 * sway)
    bed = np.abs(middle) < half_m
    texture = 1 + 0.10 * land.noise(rng, 10) + 0.07 * land.noise(rng, 1.2, 1.0)
    land.paint(bed, GRAVEL, texture, 0.15 * land.noise(rng, 1.5, 1.5))
    shrubs = bed & (land.noise(rng, (6, 16)) > 1.5)
    land.paint(shrubs, GRASS, 0.9, 1.5)
    for share, swing in ((0.24, 0.6), (0.11, 0.75)):
        winding = np.tanh(1.4 * land.noise(rng, (300, 55 * size), 3.0))
        water = bed & (np.abs(middle / half_m - swing * winding) < share)
        land.paint(water, WATER, 1 + 0.15 * land.noise(rng, 5), -0.5)
    return bed


def _build_roads(land: _Land, rng: np.random.Generator) -> None:
    """Draw a road along the valley floor, and dirt tracks that follow contours on both sides."""
    grain = 1 + 0.05 * land.noise(rng, 2)
    offset = 0.74 * FLOOR_HALF_WIDTH_M * land.size + 2.5 * land.noise(rng, (900, 90), 3.0)
    land.paint(np.abs(land.across_m - offset) < 2.6, ROCK, 0.95 * grain)
    steepness = np.maximum(np.hypot(*land.rise), 0.15)
    for side, share in ((-1, rng.uniform(0.14, 0.24)), (1, rng.uniform(0.28, 0.42))):
        climb = share * RELIEF_M * land.size + 0.02 * land.x + 2 * land.noise(rng, 120, 3.0)
        away_m = np.abs(land.above_river_m - climb) / steepness
        land.paint((away_m < 1.9) & (side * land.across_m > 0), DIRT_ROAD, grain)


def _build_villages(land: _Land, rng: np.random.Generator, bed: Bools) -> Bools:
    """Set gabled houses beside the valley road, in a village and a hamlet; returns the roofs."""
    roofs = np.zeros(land.shape, bool)
    wide_m, high_m = land.x[0, -1], land.y[-1, 0]
    for middle, spread_m, houses in ((0.36, 34, 22), (0.86, 22, 9)):
        for _ in range(max(2, round(houses * min(land.size, 2.0)))):
            x_m = middle * wide_m + rng.normal(0, spread_m * land.size)
            column = int(np.clip(x_m / land.pixel_m, 0, land.shape[1] - 1))
            river_row = int(np.abs(land.across_m[:, column]).argmin())
            y_m = land.y[river_row, 0] + land.size * rng.uniform(16, 52)
            long_m, short_m, turn = rng.uniform(4, 7), rng.uniform(2.6, 4), rng.normal(0.1, 0.25)
            if y_m > high_m:
                continue
            u = (land.x - x_m) * math.cos(turn) + (land.y - y_m) * math.sin(turn)
            v = (land.y - y_m) * math.cos(turn) - (land.x - x_m) * math.sin(turn)
            house = (np.abs(u) < long_m) & (np.abs(v) < short_m)
            if (house & (roofs | bed)).any():
                continue
            color = ROOFS[rng.integers(len(ROOFS))]
            land.paint(house, color, rng.uniform(0.85, 1.15), 6.5 - 0.55 * np.abs(v))
            roofs |= house
    return roofs


# --- landslides --------------------------------------------------------------------------------


def _areas_m2(rng: np.random.Generator, count: int, largest_m2: float) -> list[float]:
    """Areas from a power law between two bounds, largest first; strata keep the sum steady."""
    rank = (np.arange(count) + rng.uniform(0, 1, count)) / count
    low, high = AREA_M2[0] ** -AREA_EXPONENT, largest_m2**-AREA_EXPONENT
    areas = (low + (high - low) * rank) ** (-1 / AREA_EXPONENT)
    return [float(area) for area in areas[::-1]]


def _descend(land: _Land, start: tuple[int, int], length_m: float) -> npt.NDArray[np.float64]:
    """Follow the steepest descent from a pixel: (n, 2) rows and columns, 1 m apart."""
    at = np.array(start, float)
    heading = np.zeros(2)
    path = [at]
    for _ in range(math.ceil(length_m)):
        row, column = int(at[0]), int(at[1])
        rise = land.rise[:, row, column].astype(float)
        slope = float(np.hypot(rise[0], rise[1]))
        if slope < 0.17:
            break
        heading = 0.75 * heading - 0.25 * rise / slope
        at = at + heading / np.hypot(*heading) / land.pixel_m
        if not (0 <= at[0] < land.shape[0] and 0 <= at[1] < land.shape[1]):
            break
        path.append(at)
    return np.array(path)


@dataclass(frozen=True, eq=False)
class _Footprint:
    """A landslide in the window of the scene that holds it."""

    window: tuple[slice, slice]
    inside_m: Floats
    """Metres inward from the smooth edge, negative outside."""
    along: Floats
    """0 at the crown, 1 at the toe."""
    across_m: Floats
    """Metres to the side of the path."""


def _footprint(path: npt.NDArray[np.float64], width_m: float, land: _Land) -> _Footprint:
    """Give a path its width: a narrow scar at the crown, a wider deposit at the toe."""
    share = np.linspace(0, 1, len(path))
    radius_px = width_m / 2 / land.pixel_m * (0.7 + 0.66 * share**1.2)
    reach = radius_px.max() + 4 / land.pixel_m
    top, left = np.maximum(np.floor(path.min(axis=0) - reach), 0).astype(int)
    bottom, right = np.ceil(path.max(axis=0) + reach).astype(int) + 1
    window = (slice(top, min(bottom, land.shape[0])), slice(left, min(right, land.shape[1])))
    rows, columns = np.ogrid[window]
    inside = np.full((rows.shape[0], columns.shape[1]), -np.inf, np.float32)
    along, across = np.zeros_like(inside), np.zeros_like(inside)
    heading = np.gradient(path, axis=0) * land.pixel_m
    for at, ahead, radius, part in zip(path, heading, radius_px, share, strict=True):
        south, east = (rows - at[0]).astype(np.float32), (columns - at[1]).astype(np.float32)
        depth = np.float32(radius) - np.sqrt(south**2 + east**2)
        nearer = depth > inside
        inside[nearer] = depth[nearer]
        along[nearer] = part
        across[nearer] = (south * np.float32(ahead[1]) - east * np.float32(ahead[0]))[nearer]
    return _Footprint(window, inside * land.pixel_m, along, across * land.pixel_m)


def _place(
    land: _Land, rng: np.random.Generator, area_m2: float, columns: tuple[int, int], taken: Bools
) -> _Footprint | None:
    """Find a steep slope between two columns that can let a landslide of this area go."""
    elongation = rng.uniform(3.5, 8.0)
    for attempt in range(400):
        # Where slopes are too short or too gentle, less and less will do.
        area_m2 *= 0.998
        length_m = math.sqrt(area_m2 * elongation)
        row, column = int(rng.integers(land.shape[0])), int(rng.integers(*columns))
        steep_enough = 0.85 - 0.0012 * attempt
        if taken[row, column] or np.hypot(*land.rise[:, row, column]) < steep_enough:
            continue
        path = _descend(land, (row, column), length_m)
        if len(path) < 0.75 * length_m:
            continue
        found = _footprint(path, area_m2 / len(path), land)
        if not (taken[found.window] & (found.inside_m > -2.5)).any():
            return found
    return None


def _let_slopes_fail(land: _Land, rng: np.random.Generator, seen: Bools, kept: Bools) -> Numbers:
    """Let landslides run, alike in density left and right; returns each pixel's number or 0."""
    numbers = np.zeros(land.shape, np.int32)
    ragged, rubble = land.noise(rng, 11, 2.8), land.noise(rng, 3.0, 1.3)
    clumps = land.noise(rng, 7, 3.0)
    streaks = _noise(rng, (256, 256), 4.0, 1.5)
    taken = kept | ~seen
    ground_m2 = land.ground_m.size * land.pixel_m**2
    count = max(4, round(LANDSLIDES_PER_M2 * ground_m2))
    border = round(LEFT_SHARE * land.shape[1])
    sides = ((0, border, LEFT_SHARE), (border, land.shape[1], 1 - LEFT_SHARE))
    filled = [0.0, 0.0]
    for area_m2 in _areas_m2(rng, count, min(AREA_M2[1], 0.03 * ground_m2)):
        # The next area goes to the side that would stay the emptier with it.
        side = min((0, 1), key=lambda s: (filled[s] + area_m2) / sides[s][2])
        found = _place(land, rng, area_m2, sides[side][:2], taken)
        if found is None:
            continue
        shape = _largest_piece(
            found.inside_m + min(0.25 * found.inside_m.max(), 2.0) * ragged[found.window]
        )
        shape &= seen[found.window] & (numbers[found.window] == 0)
        if shape.sum() * land.pixel_m**2 < 0.75 * AREA_M2[0]:
            continue
        taken[found.window] |= (found.inside_m > -2) | shape
        numbers[found.window][shape] = numbers.max() + 1
        columns = np.nonzero(shape)[1] + found.window[1].start
        filled[0] += float((columns < border).sum()) * land.pixel_m**2
        filled[1] += float((columns >= border).sum()) * land.pixel_m**2
        _strip(land, rng, found, shape, (rubble, clumps, streaks))
    return numbers


def _largest_piece(inside: Floats) -> Bools:
    """The largest connected piece of what is above 0, without holes."""
    from scipy import ndimage

    pieces, _ = ndimage.label(inside > 0)
    sizes = np.bincount(pieces.ravel())
    sizes[0] = 0
    filled: Bools = ndimage.binary_fill_holes(pieces == sizes.argmax())
    return filled


def _strip(
    land: _Land,
    rng: np.random.Generator,
    found: _Footprint,
    shape: Bools,
    textures: tuple[Floats, Floats, Floats],
) -> None:
    """Strip the forest from a landslide: rock at the crown, streaked debris, surviving trees."""
    from scipy import ndimage

    rubble, clumps, streaks = textures
    rough = rubble[found.window]
    length_m = 2 + found.along * max(shape.shape) * land.pixel_m
    at = np.stack([found.across_m / 0.7, length_m / 7]) + rng.uniform(0, 256, (2, 1, 1))
    streak = ndimage.map_coordinates(streaks, at, order=1, mode="grid-wrap")
    rock = _step(0.55 - 1.3 * found.along + 0.35 * rough + rng.normal(0, 0.25), 0, 0.6)
    debris = np.array(DEBRIS) * rng.normal(1, 0.05, 3)
    color = debris[:, None, None] + (np.array(ROCK) - debris)[:, None, None] * rock
    tone = rng.normal(1.0, 0.13) * np.exp(0.20 * streak + 0.09 * rough)
    survivors = clumps[found.window] + 0.3 * streak + 0.7 * found.along > rng.uniform(1.7, 3.0)
    bare = shape & ~survivors
    depth_m = np.minimum(found.inside_m, 2.0) * (0.8 - 1.2 * found.along) + 0.4
    window = found.window
    for band, value in zip(land.reflectance, color, strict=True):
        band[window][bare] = (value * tone)[bare]
    land.height_m[window][bare] = (0.45 * rough + 0.15 * streak - depth_m)[bare]
    land.height_m[window][shape & survivors] *= 0.6


# --- light, air and sensor ---------------------------------------------------------------------


def _photograph(land: _Land, rng: np.random.Generator) -> tuple[npt.NDArray[np.uint16], Bools]:
    """Light the land and take its picture: digital numbers (3, H, W), and cloud with shadow."""
    from scipy import ndimage

    south, east = _towards_sun()
    elevation = math.radians(SUN_ELEVATION_DEG)
    surface = land.ground_m + land.height_m
    down, right = np.gradient(ndimage.gaussian_filter(land.height_m, 0.6), land.pixel_m)
    # Leaves let light through: crowns are shaded more gently than hard ground.
    down, right = (np.arctan(0.7 * d) + r for d, r in zip((down, right), land.rise, strict=True))
    facing = math.sin(elevation) - math.cos(elevation) * (south * down + east * right)
    facing = np.maximum(facing / np.sqrt(1 + down**2 + right**2), 0) / math.sin(elevation)
    lit = _step(_clearance_m(surface, land.pixel_m, 12.0), -0.6, 0.2)
    thickness, shade = _clouds(land, rng)
    light = SKY_LIGHT + (1 - SKY_LIGHT) * facing * lit * land.visible * (1 - 0.85 * shade)

    image = np.empty((3, *land.shape), np.uint16)
    billows = 1 + 0.10 * land.noise(rng, 30)
    for band in range(3):
        seen = land.reflectance[band] * light
        seen += (CLOUD[band] * billows - seen) * thickness
        dn = ndimage.gaussian_filter(HAZE_DN[band] + GAIN_DN[band] * seen, 0.35 / land.pixel_m)
        dn += (3 + 0.25 * np.sqrt(dn)) * rng.standard_normal(land.shape, dtype=np.float32)
        image[band] = np.clip(np.rint(dn), 1, MAX_DN)
    cloud = ndimage.binary_dilation((thickness > 0.04) | (shade > 0.15), iterations=3)
    return image, ndimage.binary_fill_holes(cloud)


def _clouds(land: _Land, rng: np.random.Generator) -> tuple[Floats, Floats]:
    """Opacity of two clouds and darkness of their shadows, both 0 to 1."""
    south, east = _towards_sun()
    ragged = land.noise(rng, 50 * land.size)
    wide_m, high_m = land.x[0, -1], land.y[-1, 0]
    edge = np.full(land.shape, -9.0, np.float32)
    shadow = edge.copy()
    for (x0, x1), radius in (((0.15, 0.5), 40.0), ((0.72, 0.9), 26.0)):
        x_m = rng.uniform(x0, x1) * wide_m
        y_m = rng.choice([rng.uniform(0.12, 0.25), rng.uniform(0.78, 0.9)]) * high_m
        for field, away in ((edge, 0.0), (shadow, 62.0 * land.size)):
            u, v = land.x - x_m + away * east, land.y - y_m + away * south
            r = np.hypot(0.75 * u, v) / (radius * land.size)
            np.maximum(field, 1 - r + 0.22 * ragged, out=field)
    return _step(edge, 0.0, 0.55), _step(shadow, 0.0, 0.35)


def _seen(size: tuple[int, int]) -> Bools:
    """False in a wedge at the right where the sensor's track ended."""
    rows, columns = np.ogrid[: size[0], : size[1]]
    return columns < size[1] * (0.955 + 0.07 * rows / size[0])


# --- polygons and files ------------------------------------------------------------------------


def _checked_squares(size: tuple[int, int], to_crs: Affine) -> tuple[Polygon, ...]:
    """Squares, two high, that fill the left share of the scene as well as squares can."""
    width_px = int(LEFT_SHARE * size[1])
    across = max(1, round(width_px / (size[0] / 2)))
    side = min(size[0] // 2, width_px // across)
    squares = [
        box(column * side, row * side, (column + 1) * side, (row + 1) * side)
        for row in range(2)
        for column in range(across)
    ]
    return tuple(affine_transform(square, to_crs.to_shapely()) for square in squares)


def _outlines(numbers: Numbers, to_crs: Affine) -> tuple[Polygon, ...]:
    """Smooth polygons about the pixels of each number, within about a pixel of them."""
    import contourpy
    from scipy import ndimage

    pad = 4
    polygons = []
    scene = box(0, 0, numbers.shape[1], numbers.shape[0])
    for number, window in enumerate(ndimage.find_objects(numbers), start=1):
        if window is None:
            continue
        # Replicated at the scene's edge first, so that smoothing does not shrink a landslide there.
        rows, columns = (slice(max(part.start - pad, 0), part.stop + pad) for part in window)
        inside = ndimage.gaussian_filter((numbers[rows, columns] == number).astype(float), 1.0)
        contours = contourpy.contour_generator(
            np.arange(-0.5, inside.shape[1] + 1) + columns.start,
            np.arange(-0.5, inside.shape[0] + 1) + rows.start,
            np.pad(inside, 1),
        )
        rings = [Polygon(line) for line in contours.lines(0.5) if len(line) > 3]
        shell = max(rings, key=lambda ring: ring.area)
        parts = get_parts(simplify(make_valid(shell), 0.2).intersection(scene))
        outline = max(parts, key=lambda part: part.area)
        polygons.append(affine_transform(outline, to_crs.to_shapely()))
    return tuple(polygons)


def write_valley(valley: Valley, folder: Path) -> ValleyFiles:
    """Write a valley as files: what a person would bring to landslip.

    Args:
        valley: The valley.
        folder: Where to; made if it does not exist. Files of the same names are replaced.

    Returns:
        The paths written.
    """
    import rasterio
    from scipy import ndimage

    folder.mkdir(parents=True, exist_ok=True)
    files = ValleyFiles(
        scene=folder / "scene.tif",
        pan=folder / "pan.tif",
        ms=folder / "ms.tif",
        elevation=folder / "dem.tif",
        landslides=folder / "landslides.gpkg",
        checked=folder / "checked.gpkg",
        unusable=folder / "unusable.gpkg",
    )
    pan, coarse = as_delivered(valley.image)
    coarse_to_crs = valley.transform * Affine.scale(RATIO)
    for path, values, to_crs, nodata, names in (
        (files.scene, valley.image, valley.transform, 0, BANDS),
        (files.pan, pan, valley.transform, 0, ["pan"]),
        (files.ms, coarse, coarse_to_crs, 0, BANDS),
        (files.elevation, valley.elevation[None], valley.elevation_transform, None, ["elevation"]),
    ):
        count, height, width = values.shape
        shape = {"count": count, "height": height, "width": width, "dtype": values.dtype}
        place = {"crs": valley.crs, "transform": to_crs, "nodata": nodata}
        storage = {"driver": "GTiff", "tiled": True, "compress": "deflate"}
        with rasterio.open(path, "w", **shape, **place, **storage) as raster:
            raster.write(values)
            raster.descriptions = tuple(names)
    clouds, _ = ndimage.label(valley.cloud)
    _write_polygons(files.landslides, valley.landslides, valley.crs)
    _write_polygons(files.checked, valley.checked, valley.crs)
    _write_polygons(files.unusable, _outlines(clouds, valley.transform), valley.crs)
    return files


def _write_polygons(path: Path, polygons: Sequence[Polygon], crs: str) -> None:
    """Write one layer, named like the file, with a column `id` that counts from 1."""
    import geopandas as gpd

    path.unlink(missing_ok=True)
    numbers = np.arange(1, len(polygons) + 1)
    gpd.GeoDataFrame({"id": numbers}, geometry=list(polygons), crs=crs).to_file(
        path, layer=path.stem, driver="GPKG"
    )


def best_ndvi_f1(image: npt.NDArray[np.uint16], labels: Bools, valid: Bools) -> tuple[float, float]:
    """Find the best that one NDVI threshold can do: the baseline that a model has to beat.

    Args:
        image: (bands, H, W), the first two bands nir and red.
        labels: (H, W), True on landslides.
        valid: (H, W), True where pixels count.

    Returns:
        The threshold below which ground is called landslide, and the F1 score it reaches, the best
        of all thresholds on this very ground; both NaN if there is no landslide.
    """
    nir, red = image[0][valid].astype(np.float64), image[1][valid].astype(np.float64)
    ndvi = (nir - red) / np.maximum(nir + red, 1)
    order = np.argsort(ndvi, kind="stable")
    ndvi, hit = ndvi[order], labels[valid][order]
    if not hit.any():
        return math.nan, math.nan
    found = np.cumsum(hit)
    f1 = 2 * found / (np.arange(1, len(hit) + 1) + found[-1])
    # Equal values fall together, so a cut can only lie where the value changes.
    above = np.append(ndvi[1:], np.inf)
    f1[ndvi == above] = 0
    best = int(f1.argmax())
    return float(above[best]), float(f1[best])
