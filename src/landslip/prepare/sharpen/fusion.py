"""The arithmetic of pansharpening: moments of a scene, and how detail is added to its bands.

All methods share one form. A low-resolution pan is simulated from all bands, and what the true pan
shows beyond it is added to every band, or multiplied into it (Brovey). Statistics belong to the
whole scene; after them every pixel is computed alone.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Self

import numpy as np
from numpy.typing import NDArray

from landslip.geo.errors import DataError, UsageError

METHODS = ("gs", "gsa", "brovey")
"""Gram-Schmidt, adaptive Gram-Schmidt, weighted Brovey."""

Doubles = NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class Moments:
    """Count, means and covariances of N variables; those of two parts add with `+`.

    Source: Chan, Golub, LeVeque 1979, Updating formulae for computing sample variances, eq. 2.1.
    """

    count: int
    """Observations."""
    mean: Doubles
    """Shape (N,)."""
    scatter: Doubles
    """Sums of products of deviations from the mean, shape (N, N)."""

    @classmethod
    def of(cls, planes: NDArray[np.floating], valid: NDArray[np.bool_] | None = None) -> Self:
        """Moments of observations, shape (N, ...), where `valid`, shape (...), is True.

        Sums run in one order, whatever else the machine does.
        """
        if valid is not None and not valid.all():
            planes = planes[:, valid]
        planes = np.asarray(planes, dtype=np.float64).reshape(len(planes), -1)
        variables, count = planes.shape
        if count == 0:
            return cls(0, np.zeros(variables), np.zeros((variables, variables)))
        mean = planes.mean(axis=1)
        centred = planes - mean[:, None]
        # Not a matrix product: its sums may run in another order with other threads.
        return cls(count, mean, np.einsum("in,jn->ij", centred, centred))

    def __add__(self, other: Moments) -> Moments:
        count = self.count + other.count
        if count == 0:
            return self
        step = other.mean - self.mean
        mean = self.mean + step * (other.count / count)
        between = np.outer(step, step) * (self.count * other.count / count)
        return Moments(count, mean, self.scatter + other.scatter + between)

    @property
    def covariance(self) -> Doubles:
        """Shape (N, N), over the count."""
        return self.scatter / max(self.count, 1)


@dataclass(frozen=True)
class Fusion:
    """How one scene is sharpened.

    With ``I = intercept + sum_k weights_k up(M_k)``:

    - gs, gsa: ``out_k = up(M_k) + gains_k (pan_scale P + pan_offset - I)``,
    - brovey: ``out_k = up(M_k) P / I``, and ``up(M_k)`` where I is not positive.

    Source: Laben and Brower 2000, US 6,011,875 (gs, in closed form); Aiazzi, Baronti, Selva 2007,
        IEEE TGRS 45(10), eqs. 8-11 (gsa); Gillespie et al. 1987 (brovey, with weights as in GDAL).
    """

    method: str
    """One of `METHODS`."""
    weights: tuple[float, ...]
    """Share of every band in the simulated pan."""
    intercept: float = 0.0
    """Constant of the simulated pan (digital numbers)."""
    gains: tuple[float, ...] = ()
    """Detail that every band takes; empty for brovey."""
    pan_scale: float = 1.0
    """Slope that matches the pan to the simulated one."""
    pan_offset: float = 0.0
    """Offset that matches the pan to the simulated one."""

    def apply(
        self,
        pan: NDArray[np.floating],
        upsampled: NDArray[np.floating],
        chosen: Sequence[int] | None = None,
    ) -> NDArray[np.floating]:
        """Sharpen pixels.

        Args:
            pan: Shape (H, W).
            upsampled: All bands on the pan's grid, shape (C, H, W), of the same type.
            chosen: Numbers of the bands to give; None for all.

        Returns:
            Shape (bands, H, W), of the type of `upsampled`; not rounded.
        """
        numbers = range(len(upsampled)) if chosen is None else chosen
        return np.stack([p.copy() for p in self.finish(pan, self.mix(upsampled, numbers), numbers)])

    def mix(self, bands: NDArray[np.floating], chosen: Sequence[int]) -> NDArray[np.floating]:
        """All that a sharp pixel takes from the bands, before or after they are upsampled.

        Sums of bands may be upsampled as well as bands, and there are fewer coarse pixels: gs and
        gsa need ``M_k + gains_k (pan_offset - I)``, brovey the bands and the simulated pan.

        Args:
            bands: All bands, shape (C, H, W).
            chosen: Numbers of the bands to give.

        Returns:
            Shape (K, H, W): a plane a chosen band, and for brovey the simulated pan.
        """
        kind = bands.dtype.type
        simulated = np.full(bands.shape[1:], kind(self.intercept))
        # One operation after the other: then no pixel depends on its neighbours in memory.
        for weight, plane in zip(self.weights, bands, strict=True):
            simulated += plane * kind(weight)
        if self.method == "brovey":
            return np.stack([*(bands[number] for number in chosen), simulated])
        missing = kind(self.pan_offset) - simulated
        return np.stack([bands[number] + missing * kind(self.gains[number]) for number in chosen])

    def finish(
        self,
        pan: NDArray[np.floating],
        mixed: NDArray[np.floating],
        chosen: Sequence[int],
    ) -> Iterator[NDArray[np.floating]]:
        """Add what the pan gives to what `mix` made, upsampled.

        Gives a plane (H, W) a chosen band, in one piece of memory that the next plane overwrites.
        """
        kind = mixed.dtype.type
        plane = np.empty(pan.shape, dtype=mixed.dtype)
        if self.method == "brovey":
            simulated = mixed[-1]
            ratio = np.ones(pan.shape, dtype=mixed.dtype)
            bright = simulated > 0
            np.divide(pan, simulated, out=ratio, where=True if bright.all() else bright)
            for base in mixed[:-1]:
                yield np.multiply(base, ratio, out=plane)
            return
        for number, base in zip(chosen, mixed, strict=True):
            np.multiply(pan, kind(self.gains[number] * self.pan_scale), out=plane)
            plane += base
            yield plane


def require_method(method: str, weights: Sequence[float] | None) -> None:
    """Raise UsageError for an unknown method, and for weights where a method finds its own."""
    if method not in METHODS:
        raise UsageError(
            f"Cannot pansharpen by '{method}': expected one of {', '.join(METHODS)}. "
            "Correct --method."
        )
    if method == "gsa" and weights is not None:
        raise UsageError(
            "Cannot pansharpen by gsa with --weights: it finds them by regression. "
            "Leave them out, or use --method gs."
        )


def fit(
    method: str,
    bands: Moments,
    pan: Moments | None = None,
    weights: Sequence[float] | None = None,
) -> Fusion:
    """The fusion of a scene from its statistics.

    Args:
        method: One of `METHODS`.
        bands: Of the C bands and the pan averaged to their pixels, C + 1 variables.
        pan: Of the pan at its own pixels, one variable; gs needs it.
        weights: Shares of the bands in the simulated pan, for gs and brovey; None: equal.

    Raises:
        DataError: Pan or bands are constant, so there is nothing to match.
        UsageError: An unknown method, or weights that do not fit.
    """
    count = len(bands.mean) - 1
    require_method(method, weights)
    if method == "gsa":
        shares, intercept = _regressed(bands)
    else:
        shares, intercept = _given(weights, count), 0.0
    if method == "brovey":
        return Fusion("brovey", tuple(shares.tolist()))
    covariance = bands.covariance[:count, :count]
    with_simulated = covariance @ shares
    variance = float(shares @ with_simulated)
    if not variance > 1e-12 * float(np.abs(covariance).max(initial=0)):
        raise DataError(
            "Cannot pansharpen: the bands do not vary where pan and bands are valid, or are not "
            "like the pan at all. Look at the files with landslip check."
        )
    gains = tuple((with_simulated / variance).tolist())
    if method == "gsa":
        # The regression has matched mean and slope already.
        return Fusion("gsa", tuple(shares.tolist()), intercept, gains)
    assert pan is not None
    deviation = float(np.sqrt(pan.covariance[0, 0]))
    if deviation == 0:
        raise DataError(
            f"Cannot pansharpen: the pan is {pan.mean[0]:g} everywhere on valid ground. "
            "Check that it is the right file."
        )
    scale = float(np.sqrt(variance)) / deviation
    offset = float(shares @ bands.mean[:count]) - scale * float(pan.mean[0])
    return Fusion("gs", tuple(shares.tolist()), 0.0, gains, scale, offset)


def _given(weights: Sequence[float] | None, count: int) -> Doubles:
    """Shares that sum to 1."""
    if weights is None:
        return np.full(count, 1 / count)
    shares = np.array(weights, dtype=np.float64)
    if len(shares) != count or not (shares >= 0).all() or not 0 < shares.sum() < np.inf:
        raise UsageError(
            f"Cannot simulate the pan with weights {', '.join(f'{w:g}' for w in weights)}: "
            f"expected {count} numbers, one a band, none negative, not all 0. Correct --weights."
        )
    shares /= shares.sum()
    return shares


def _regressed(moments: Moments) -> tuple[Doubles, float]:
    """Least squares of the averaged pan on the bands: weights and intercept."""
    covariance = moments.covariance
    spread = np.sqrt(np.diag(covariance)[:-1])
    scale = np.where(spread > 0, spread, 1)
    # In standard deviations, so that the cut-off for dependent bands does not know their units.
    system = covariance[:-1, :-1] / np.outer(scale, scale)
    solved, *_ = np.linalg.lstsq(system, covariance[:-1, -1] / scale, rcond=1e-10)
    weights: Doubles = solved / scale
    return weights, float(moments.mean[-1] - weights @ moments.mean[:-1])


def share_explained(moments: Moments) -> float:
    """Share of the last variable's variance that the others explain linearly (R2); NaN if none."""
    covariance = moments.covariance
    total = float(covariance[-1, -1])
    if total == 0:
        return float("nan")
    weights, _ = _regressed(moments)
    return float(weights @ covariance[:-1, -1]) / total
