"""How many landslides of which size an inventory holds: the verb `stats`."""

from __future__ import annotations

import csv
import json
import logging
import math
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import shapely
from numpy.typing import NDArray
from rasterio.crs import CRS
from rich.table import Table

from landslip import __version__
from landslip.geo.errors import InventoryError
from landslip.geo.inventory import areas_m2, read_inventory
from landslip.geo.output import refuse_existing, whole_folder

log = logging.getLogger(__name__)

FEWEST = 30
"""Landslides below which no distribution is fitted."""
DRAWS = 200
"""Bootstrap samples of the intervals."""
CANDIDATES = 100
"""Areas that are tried as the smallest of the power law."""
LEAST_TAIL = 20
"""Landslides that the tail of the power law must hold."""
BINS_A_DECADE = 6
ROUNDING = 1e-7
"""Share of the side of what was seen by which an edge and a landslide on it may lie apart."""
STATS_FILE = "stats.json"
Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Estimate:
    """A fitted number with its 95 % interval."""

    value: float
    low: float
    high: float


@dataclass(frozen=True)
class PowerLaw:
    """p(A) ~ A^-exponent for areas from `smallest_m2` on."""

    exponent: Estimate
    smallest_m2: Estimate
    """Area from which it holds; the inventory may be incomplete below."""
    landslides: int
    """From that area on."""


@dataclass(frozen=True)
class InverseGamma:
    """Density of areas: rises below the rollover, falls like a power law above."""

    rho: Estimate
    """Shape; the tail falls like A^-(rho + 1)."""
    a_m2: Estimate
    """Scale (m2)."""
    s_m2: Estimate
    """Shift (m2)."""
    rollover_m2: Estimate
    """The most frequent area (m2)."""


@dataclass(frozen=True, eq=False)
class FrequencyArea:
    """The sizes of an inventory."""

    areas_m2: Floats
    """Of all landslides that count, rising, shape (N,)."""
    cut_by_edge: int
    """Left out: nobody knows how large they are."""
    power_law: PowerLaw | None
    inverse_gamma: InverseGamma | None
    """None with too few landslides, as the power law."""

    @property
    def complete_from_m2(self) -> float:
        """Area from which nothing speaks against completeness: where the power law begins."""
        return math.nan if self.power_law is None else self.power_law.smallest_m2.value

    def bins(self) -> list[tuple[float, float, int, float]]:
        """Least and most area (m2), landslides, and density (1/m2) of ranges that hold any."""
        low, high = np.log10(self.areas_m2[[0, -1]])
        first = math.floor(low * BINS_A_DECADE)
        last = max(math.floor(high * BINS_A_DECADE) + 1, first + 1)
        edges = 10.0 ** (np.arange(first, last + 1) / BINS_A_DECADE)
        counts = np.histogram(self.areas_m2, edges)[0]
        density = counts / np.diff(edges) / len(self.areas_m2)
        rows = zip(edges[:-1], edges[1:], counts, density, strict=True)
        return [(float(a), float(b), int(n), float(p)) for a, b, n, p in rows if n]

    def table(self) -> Table:
        """The figures for people."""
        areas = self.areas_m2
        table = Table(caption="95 % intervals by bootstrap.", show_header=False)
        table.add_row("landslides", f"{len(areas):,}")
        table.add_row("cut by the edge of what was seen, left out", f"{self.cut_by_edge:,}")
        table.add_row("total area", f"{areas.sum():,.0f} m²")
        smallest, middle, largest = np.quantile(areas, (0, 0.5, 1))
        sizes = f"{smallest:,.3g}, {middle:,.4g}, {largest:,.6g} m²"
        table.add_row("smallest, median, largest", sizes)
        if self.power_law is not None:
            law = self.power_law
            table.add_row("power law, exponent", _text(law.exponent, ".2f"))
            table.add_row("power law, holds from", f"{_text(law.smallest_m2, ',.0f')} m²")
            complete = f"{self.complete_from_m2:,.0f} m²"
            table.add_row("complete, as far as that tells, from", complete)
            table.add_row("landslides from there on", f"{law.landslides:,}")
        if self.inverse_gamma is not None:
            gamma = self.inverse_gamma
            table.add_row("inverse gamma, rho", _text(gamma.rho, ".2f"))
            table.add_row("rollover, most frequent area", f"{_text(gamma.rollover_m2, ',.0f')} m²")
        if self.power_law is None:
            table.add_row("fits", f"none: fewer than {FEWEST} landslides")
        return table

    def record(self) -> dict[str, Any]:
        """The content of `stats.json`."""
        return {
            "landslides": len(self.areas_m2),
            "cut_by_edge": self.cut_by_edge,
            "area_m2": float(self.areas_m2.sum()),
            "median_m2": float(np.median(self.areas_m2)),
            "complete_from_m2": None if self.power_law is None else self.complete_from_m2,
            "power_law": None if self.power_law is None else asdict(self.power_law),
            "inverse_gamma": None if self.inverse_gamma is None else asdict(self.inverse_gamma),
            "landslip": __version__,
        }


def _text(estimate: Estimate, form: str) -> str:
    return f"{estimate.value:{form}} ({estimate.low:{form}}–{estimate.high:{form}})"


def inventory_statistics(
    inventory: str | Path,
    *,
    out: Path | None = None,
    seed: int = 0,
    overwrite: bool = False,
) -> FrequencyArea:
    """The frequency-area distribution of an inventory.

    Landslides that touch the edge of what was seen (layer `observed` of the file, where there is
    one) are cut, so their areas are not known; they are left out.

    Args:
        inventory: Polygons of any OGR format; those with `status = rejected` do not count.
        out: Folder for `frequency_area.svg`, `frequency_area.csv` and `stats.json`; None writes
            nothing.
        seed: Of the bootstrap.
        overwrite: Replace an older such folder.

    Raises:
        InventoryError: The file cannot be used, or holds no landslide.
        OutputError: `out` exists, or cannot be written.
    """
    if out is not None:
        refuse_existing(out, overwrite=overwrite, marker=STATS_FILE)
    frame, seen = read_inventory(inventory)
    shapes = np.asarray(frame.geometry.values)
    if not shapes.size:
        raise InventoryError(
            f"Cannot count sizes of {inventory}: all its landslides have the status rejected. Name "
            "an inventory with others."
        )
    cut = np.zeros(len(shapes), bool)
    if seen is not None:
        placed = seen if seen.crs == frame.crs else seen.to_crs(frame.crs)
        edge = shapely.boundary(shapely.union_all(np.asarray(placed.geometry)))
        shapely.prepare(edge)
        west, south, east, north = shapely.bounds(edge)
        cut = shapely.dwithin(shapes, edge, ROUNDING * max(east - west, north - south))
    crs = None if frame.crs is None else CRS.from_user_input(frame.crs)
    found = areas_m2(shapes[~cut], crs)
    found = found[found > 0]
    if not found.size:
        raise InventoryError(
            f"Cannot count sizes of {inventory}: none of its {len(shapes)} landslides is whole; "
            "all touch the edge of what was seen. Take an inventory of more ground."
        )
    result = frequency_area(found, cut_by_edge=int(cut.sum()), seed=seed)
    if out is not None:
        with whole_folder(out, STATS_FILE, overwrite=overwrite) as folder:
            _write(result, folder)
    return result


def frequency_area(
    areas: Floats, *, cut_by_edge: int = 0, seed: int = 0, draws: int = DRAWS
) -> FrequencyArea:
    """Fit a power law and an inverse gamma distribution to areas by maximum likelihood.

    Args:
        areas: Of landslides (m2), above 0, shape (N,).
        cut_by_edge: Landslides that were left out.
        seed: Of the bootstrap.
        draws: Samples of the bootstrap; 0: no intervals, in a small part of the time.

    Source: Malamud, Turcotte, Guzzetti, Reichenbach 2004, Earth Surface Processes and Landforms
        29(6), eq. 3 (inverse gamma); Clauset, Shalizi, Newman 2009, SIAM Review 51(4), eq. 3.1 and
        section 3.3 (exponent; smallest area by the least Kolmogorov-Smirnov distance).
    """
    areas = np.sort(areas)
    if len(areas) < FEWEST:
        log.warning("%d landslides are too few to fit a distribution (%d)", len(areas), FEWEST)
        return FrequencyArea(areas, cut_by_edge, None, None)
    random = np.random.default_rng(seed)
    samples = [np.sort(random.choice(areas, len(areas))) for _ in range(draws)]
    law, gamma = power_law(areas), inverse_gamma(areas)
    laws = np.array([power_law(sample) for sample in samples]).reshape(-1, 2)
    gammas = np.array([inverse_gamma(sample, gamma) for sample in samples]).reshape(-1, 3)

    def estimate(value: float, drawn: Floats) -> Estimate:
        if not len(drawn):
            return Estimate(value, math.nan, math.nan)
        low, high = np.quantile(drawn, (0.025, 0.975)).tolist()
        return Estimate(value, low, high)

    exponent, smallest = law
    rho, a, s = gamma
    return FrequencyArea(
        areas,
        cut_by_edge,
        PowerLaw(
            estimate(exponent, laws[:, 0]),
            estimate(smallest, laws[:, 1]),
            int((areas >= smallest).sum()),
        ),
        InverseGamma(
            estimate(rho, gammas[:, 0]),
            estimate(a, gammas[:, 1]),
            estimate(s, gammas[:, 2]),
            estimate(_mode(rho, a, s), _mode(gammas[:, 0], gammas[:, 1], gammas[:, 2])),
        ),
    )


def power_law(areas: Floats) -> tuple[float, float]:
    """Exponent and smallest area of the power law that fits best (rising areas)."""
    tail = areas[: max(len(areas) - LEAST_TAIL, 1)]
    tried = np.unique(np.quantile(tail, np.linspace(0, 1, CANDIDATES), method="nearest"))
    logs = np.log(areas)
    # Sums of all logarithms from a place on.
    above = np.cumsum(logs[::-1])[::-1]
    best = (math.inf, math.nan, math.nan)
    for smallest in tried:
        first = int(np.searchsorted(areas, smallest))
        number = len(areas) - first
        total = above[first] - number * math.log(smallest)
        if total <= 0:
            continue
        exponent = 1 + number / total
        fitted = 1 - np.exp((1 - exponent) * (logs[first:] - math.log(smallest)))
        steps = np.arange(number + 1) / number
        distance = max(np.abs(fitted - steps[:-1]).max(), np.abs(fitted - steps[1:]).max())
        if distance < best[0]:
            best = (float(distance), float(exponent), float(smallest))
    return best[1], best[2]


def inverse_gamma(
    areas: Floats, start: tuple[float, float, float] | None = None
) -> tuple[float, float, float]:
    """Shape rho, scale a (m2) and shift s (m2) of the best inverse gamma distribution."""
    from scipy.optimize import minimize
    from scipy.special import gammaln

    unit = float(np.median(areas))
    x = areas / unit
    least = float(x.min())

    def cost(weights: Floats) -> float:
        rho, a = np.exp(weights[:2])
        far = np.maximum(x - (least - math.exp(weights[2])), 1e-12)
        likelihood = rho * math.log(a) - gammaln(rho) - ((rho + 1) * np.log(far) + a / far).mean()
        return -float(likelihood)

    rho, a, s = start or (1.4, unit, 0.0)
    first = np.log([rho, a / unit, max(least - s / unit, 1e-6)])
    found = minimize(cost, first, method="Nelder-Mead", options={"maxiter": 2000, "xatol": 1e-6})
    rho, a = np.exp(found.x[:2])
    return float(rho), float(a * unit), float((least - math.exp(found.x[2])) * unit)


def _mode(rho: Any, a: Any, s: Any) -> Any:
    return a / (rho + 1) + s


def _write(found: FrequencyArea, folder: Path) -> None:
    with (folder / "frequency_area.csv").open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(["area_from_m2", "area_to_m2", "landslides", "density_per_m2"])
        writer.writerows(
            [f"{low:.6g}", f"{high:.6g}", number, f"{density:.6g}"]
            for low, high, number, density in found.bins()
        )
    draw_frequency_area(found, folder / "frequency_area.svg")
    text = json.dumps(found.record(), indent=2, allow_nan=False) + "\n"
    (folder / STATS_FILE).write_text(text, encoding="utf-8")


def draw_frequency_area(found: FrequencyArea, path: Path) -> None:
    """Draw the densities of areas and what was fitted to them, as SVG or PNG by its name."""
    import matplotlib as mpl
    from matplotlib.figure import Figure
    from scipy.special import gammaln

    figure = Figure(figsize=(7, 5), layout="constrained")
    axes = figure.add_subplot()
    middles = [math.sqrt(low * high) for low, high, *_ in found.bins()]
    densities = [density for *_, density in found.bins()]
    axes.plot(middles, densities, "o", color="#333333", markersize=5, label="inventory")
    x = np.geomspace(found.areas_m2[0], found.areas_m2[-1], 400)
    if found.inverse_gamma is not None:
        rho, a, s = (
            each.value for each in
            (found.inverse_gamma.rho, found.inverse_gamma.a_m2, found.inverse_gamma.s_m2)
        )  # fmt: skip
        far = np.maximum(x - s, 1e-12)
        logs = rho * math.log(a) - gammaln(rho) - (rho + 1) * np.log(far) - a / far
        text = f"inverse gamma, rollover {found.inverse_gamma.rollover_m2.value:,.0f} m²"
        axes.plot(x, np.exp(logs), color="#1c48d6", label=text)
    if found.power_law is not None:
        exponent, smallest = found.power_law.exponent.value, found.power_law.smallest_m2.value
        tail = x[x >= smallest]
        share = found.power_law.landslides / len(found.areas_m2)
        height = share * (exponent - 1) / smallest * (tail / smallest) ** -exponent
        text = f"power law, exponent {exponent:.2f}, from {smallest:,.0f} m²"
        axes.plot(tail, height, color="#d61818", linestyle="--", label=text)
    least = min(densities)
    axes.set(xscale="log", yscale="log", xlabel="Area of a landslide (m²)", ylim=(least / 3, None))
    axes.set_ylabel("Probability density (1/m²)")
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False)
    axes.set_title(f"{len(found.areas_m2):,} landslides", loc="left", fontsize=11)
    # The same file from the same inventory.
    with mpl.rc_context({"svg.hashsalt": "landslip"}):
        is_svg = path.suffix == ".svg"
        figure.savefig(path, dpi=110, metadata={"Date": None} if is_svg else None)
