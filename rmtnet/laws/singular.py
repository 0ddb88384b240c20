"""The Marchenko-Pastur law for singular values."""

import math
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import ArrayLike

from rmtnet.laws.elementwise import Floats, elementwise
from rmtnet.laws.marchenko_pastur import MarchenkoPastur


@dataclass(frozen=True)
class MarchenkoPasturSingular:
    """Law of the singular values of ``X / sqrt(n)``, X ``(m, n)`` with independent entries of mean 0.

    They are the roots of the eigenvalues of ``X X^T / n``, whose law is :class:`MarchenkoPastur`: m of them, so for
    ``ratio > 1`` a fraction ``1 - 1/ratio`` is 0. For ``ratio = 1`` it is the quarter circle. Singular values of a
    weight follow it after division by ``sqrt(max(out, in))``. Methods take array_like and keep its shape; a scalar
    gives a scalar, NaN gives NaN.

    Parameters
    ----------
    ratio : float
        ``m / n``, from 1e-12 to 1e12.
    variance : float
        Variance of the entries, from 1e-300 to 1e305 (over ratio, if that is above 1); singular values are in units of
        its square root.

    Raises
    ------
    ValueError
        If ratio or variance is out of its range.

    References
    ----------
    .. [1] Marchenko and Pastur, Math. USSR-Sbornik 1 (1967) 457.

    Examples
    --------
    >>> MarchenkoPasturSingular(ratio=0.25).edges
    (0.5, 1.5)
    """

    ratio: float
    variance: float = 1.0

    def __post_init__(self) -> None:
        for name in ("ratio", "variance"):
            object.__setattr__(self, name, getattr(self._squares, name))

    @property
    def edges(self) -> tuple[float, float]:
        """Lower and upper end ``sqrt(variance) * |1 -+ sqrt(ratio)|`` of the continuous part."""
        lower, upper = self._squares.edges
        return math.sqrt(lower), math.sqrt(upper)

    @property
    def atom(self) -> float:
        """Mass at 0."""
        return self._squares.atom

    def pdf(self, x: ArrayLike) -> Floats:
        """Density of the continuous part, per unit singular value; it integrates to ``1 - atom``."""
        return elementwise(self._density, x)

    def cdf(self, x: ArrayLike) -> Floats:
        """Fraction of singular values at or below x, the atom included."""
        return elementwise(lambda x: self._squares.cdf(self._signed_square(x)), x)

    def sf(self, x: ArrayLike) -> Floats:
        """Fraction of singular values above x, ``1 - cdf(x)`` without its rounding near the upper edge."""
        return elementwise(lambda x: self._squares.sf(self._signed_square(x)), x)

    def ppf(self, p: ArrayLike) -> Floats:
        """Singular value below which a fraction p lies: 0 up to the atom; ValueError if a p lies outside [0, 1]."""
        return np.sqrt(self._squares.ppf(p))

    def mean(self) -> float:
        """Mean of the whole law, the atom included: ``sqrt(variance) 2F1(-1/2, 1/2; 2; ratio)`` for ``ratio <= 1``."""
        shape = min(self.ratio, 1 / self.ratio)
        return math.sqrt(self.variance) / math.sqrt(max(self.ratio, 1.0)) * (1 - _deficit(shape))

    def var(self) -> float:
        """Variance of the whole law, the atom included: ``variance - mean^2``."""
        if self.ratio > 1:
            return self.variance - self.mean() ** 2
        deficit = _deficit(self.ratio)
        return self.variance * deficit * (2 - deficit)

    def sample(self, size: int | tuple[int, ...], rng: int | np.random.Generator) -> Floats:
        """Independent draws from the law, shape `size`; unlike singular values they do not repel."""
        return np.sqrt(self._squares.sample(size, rng))

    @cached_property
    def _squares(self) -> MarchenkoPastur:
        return MarchenkoPastur(self.ratio, self.variance)

    def _signed_square(self, x: Floats) -> Floats:
        # Below 0 lies nothing, above the edge neither: clipped, the square of no float overflows.
        x = np.clip(x, -self.edges[1], 2 * self.edges[1])
        return x * np.abs(x)

    def _density(self, x: Floats) -> Floats:
        lower, upper = self.edges
        s = np.clip(x, lower, upper)
        # Down to 0, for ratio 1, the second factor stays 1.
        hard = np.divide(np.sqrt(s - lower) * np.sqrt(s + lower), s, out=np.ones_like(s), where=s != 0)
        shape = np.sqrt(upper - s) * np.sqrt(upper + s) * hard
        return shape / self.variance / (math.pi * self.ratio) * ~((x < 0) | (x > upper))


def _deficit(ratio: float) -> float:
    """``1 - 2F1(-1/2, 1/2; 2; ratio)``: what the mean lacks to 1, by its series where the subtraction would cancel."""
    if ratio > 0.5:
        from scipy.special import hyp2f1

        return float(1 - hyp2f1(-0.5, 0.5, 2, ratio))
    k = np.arange(60)
    return float(-np.sum(np.cumprod((k - 0.5) * (k + 0.5) / ((k + 2) * (k + 1)) * ratio)))
