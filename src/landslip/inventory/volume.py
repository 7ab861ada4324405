"""How much material landslides may hold, from their areas: a range, and only on request."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from landslip.geo.errors import UsageError

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class PowerLaw:
    """log10 V = log10_alpha + gamma log10 A, with A in m2 and V in m3."""

    log10_alpha: float
    gamma: float
    log10_alpha_error: float = 0.0
    """One standard error; 0 where none is known."""
    gamma_error: float = 0.0
    """The same of the exponent."""

    def log10_volumes(self, log10_area: Floats) -> tuple[Floats, Floats]:
        """One standard error below and above, both coefficients taken as independent."""
        middle = self.log10_alpha + self.gamma * log10_area
        error = np.hypot(self.log10_alpha_error, self.gamma_error * log10_area)
        return middle - error, middle + error


@dataclass(frozen=True)
class Relation:
    """One or several power laws; volumes range from the lowest of them to the highest."""

    name: str
    laws: tuple[PowerLaw, ...]
    of: str
    """What it was fitted to."""
    source: str


_LARSEN = "Larsen, Montgomery, Korup 2010, Nature Geoscience 3, 247-251"
_SOIL = PowerLaw(-0.649, 1.262, 0.021, 0.009)
_BEDROCK = PowerLaw(-0.63, 1.41, 0.06, 0.02)

RELATIONS: dict[str, Relation] = {
    relation.name: relation
    for relation in (
        Relation("larsen-soil", (_SOIL,), "scars in soil", f"{_LARSEN}, table S1"),
        Relation("larsen-bedrock", (_BEDROCK,), "scars in bedrock", f"{_LARSEN}, table S1"),
        Relation(
            "larsen",
            (_SOIL, _BEDROCK),
            "scars in soil or bedrock, where nobody knows which",
            f"{_LARSEN}, table S1",
        ),
    )
}
"""By name."""


def volumes_m3(area_m2: Floats, relation: str) -> tuple[Floats, Floats]:
    """Low and high volume of landslides (m3), shape (N,) each.

    The range is that of the mean volume of landslides of one size: from one standard error of both
    coefficients below the lowest power law of the relation to one above the highest, the
    coefficients taken as independent. A single landslide may hold ten times more or less, so the
    range says more of a sum than of a landslide. Relations of scars overstate landslides whose
    outline includes the path below the scar.

    Args:
        area_m2: Areas (m2), shape (N,); volumes are NaN where they are not above 0.
        relation: A name in `RELATIONS`.

    Raises:
        UsageError: There is no such relation.
    """
    if relation not in RELATIONS:
        raise UsageError(
            f"Cannot tell volumes by the relation {relation}: there is none of that name. "
            f"Name one of {', '.join(RELATIONS)}."
        )
    areas = np.asarray(area_m2, dtype=np.float64)
    known = areas > 0
    log10_area = np.log10(areas, where=known, out=np.full(areas.shape, np.nan))
    ranges = [law.log10_volumes(log10_area) for law in RELATIONS[relation].laws]
    low = np.minimum.reduce([low for low, _ in ranges])
    high = np.maximum.reduce([high for _, high in ranges])
    return 10.0**low, 10.0**high
