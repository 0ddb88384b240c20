"""The Marchenko-Pastur law: eigenvalues of a matrix of independent noise.

With ``y`` the distance from the nearer edge in units of ``b - a``, the mass from that edge to there is::

    M(y) = 2 (near + far)^2 / pi * integral_0^y sqrt(s (1 - s)) / (near^2 + (far^2 - near^2) s) ds

where ``near : far`` are the square roots of the edges. Counted so, cdf and sf keep their relative accuracy.
"""

import math
from dataclasses import dataclass
from decimal import Decimal, localcontext
from functools import cached_property, lru_cache

import numpy as np
from numpy.polynomial import chebyshev, legendre
from numpy.typing import ArrayLike

from rmtnet import checks
from rmtnet.laws.elementwise import Floats, elementwise, places, quantiles

# Beyond them edges or densities are no floats, or the law is too narrow for its floats.
_RATIOS, VARIANCES = (1e-12, 1e12), (1e-300, 1e305)
_CHEBYSHEV = chebyshev.chebpts1(19)
_GAUSS, _WEIGHTS = legendre.leggauss(32)


@dataclass(frozen=True)
class MarchenkoPastur:
    """Law of the eigenvalues of ``X X^T / n``, X ``(m, n)`` with independent entries of mean 0.

    For ``ratio > 1`` a fraction ``1 - 1/ratio`` of the eigenvalues is 0, else none: ``atom``. Methods take
    array_like and keep its shape; a scalar gives a scalar, NaN gives NaN.

    Parameters
    ----------
    ratio : float
        ``m / n``, from 1e-12 to 1e12.
    variance : float
        Variance of the entries, from 1e-300 to 1e305 (over ratio, if that is above 1); eigenvalues are in its units.

    Raises
    ------
    ValueError
        If ratio or variance is out of its range.

    References
    ----------
    .. [1] Marchenko and Pastur, Math. USSR-Sbornik 1 (1967) 457.

    Examples
    --------
    >>> law = MarchenkoPastur(ratio=0.25)
    >>> law.edges
    (0.25, 2.25)
    """

    ratio: float
    variance: float = 1.0

    def __post_init__(self) -> None:
        object.__setattr__(self, "ratio", checks.number(self.ratio, "ratio", *_RATIOS))
        low, high = VARIANCES
        object.__setattr__(self, "variance", checks.number(self.variance, "variance", low, high / max(self.ratio, 1)))

    @property
    def edges(self) -> tuple[float, float]:
        """Lower and upper end ``variance * (1 -+ sqrt(ratio))^2`` of the continuous part."""
        return self._split_edges[0][0], self._split_edges[1][0]

    @property
    def atom(self) -> float:
        """Mass at 0."""
        return max(self.ratio - 1, 0.0) / self.ratio

    def pdf(self, x: ArrayLike) -> Floats:
        """Density of the continuous part, per unit eigenvalue; it integrates to ``1 - atom``."""
        return elementwise(self._density, x)

    def cdf(self, x: ArrayLike) -> Floats:
        """Fraction of eigenvalues at or below x, the atom included."""
        return elementwise(lambda x: self._weight * self._fraction(x, below=True) + self.atom * (x >= 0), x)

    def sf(self, x: ArrayLike) -> Floats:
        """Fraction of eigenvalues above x, ``1 - cdf(x)`` without its rounding near the upper edge."""
        return elementwise(lambda x: self._weight * self._fraction(x, below=False) + self.atom * (x < 0), x)

    def ppf(self, p: ArrayLike) -> Floats:
        """Eigenvalue below which a fraction p lies: 0 up to the atom, the inverse of cdf above it.

        Raises
        ------
        ValueError
            If a p lies outside [0, 1].
        """
        return quantiles(self._quantile, p)

    def mean(self) -> float:
        """Mean of the whole law, the atom included: ``variance``."""
        return self.variance

    def var(self) -> float:
        """Variance of the whole law, the atom included: ``ratio * variance^2``."""
        return checks.in_range(self.ratio * self.variance * self.variance, "var")

    def sample(self, size: int | tuple[int, ...], rng: int | np.random.Generator) -> Floats:
        """Independent draws from the law, shape `size`; unlike eigenvalues they do not repel."""
        return self.ppf(checks.generator(rng).random(size))

    @property
    def _weight(self) -> float:
        return min(1.0, 1 / self.ratio)

    @cached_property
    def _split_edges(self) -> tuple[tuple[float, float], tuple[float, float]]:
        # Each edge as a float rounded outward (so that edges have no mass beyond) and the rest rounded away:
        # x - edge then loses no digits, however narrow the law or close to 0 its lower edge.
        with localcontext(prec=80):
            root, variance = Decimal(self.ratio).sqrt(), Decimal(self.variance)
            lower, upper = variance * (1 - root) ** 2, variance * (1 + root) ** 2
            a, b = float(lower), float(upper)
            a, b = (math.nextafter(a, 0) if a > lower else a), (math.nextafter(b, math.inf) if b < upper else b)
            return (a, float(lower - Decimal(a))), (b, float(upper - Decimal(b)))

    @property
    def _width(self) -> float:
        return 4 * self.variance * math.sqrt(self.ratio)

    def _distances(self, x: Floats) -> tuple[Floats, Floats]:
        (lower, lower_rest), (upper, upper_rest) = self._split_edges
        return x - lower - lower_rest, upper - x + upper_rest

    def _density(self, x: Floats) -> Floats:
        lower, upper = self._distances(x)
        roots = np.sqrt(np.clip(lower, 0, self._width)) * np.sqrt(np.clip(upper, 0, self._width))
        at_zero = np.full_like(x, np.inf if self.edges[0] == 0 else 0)
        return np.divide(roots, x, out=at_zero, where=x != 0) / (2 * math.pi * self.variance * self.ratio) + 0.0

    def _fraction(self, x: Floats, *, below: bool) -> Floats:
        """Share of the continuous part below or above x, counted from the nearer edge."""
        lower, upper = self._distances(x)
        y = np.maximum(np.minimum(lower, upper), 0) / self._width
        mass = np.empty_like(y)
        for place, side, own in zip(places(lower < upper), _sides(self.ratio), (below, not below), strict=True):
            mass[place] = side.mass(y[place]) if own else 1 - side.mass(y[place])
        return mass

    def _quantile(self, p: Floats) -> Floats:
        (lower, lower_rest), (upper, upper_rest) = self._split_edges
        (near_lower, near_upper), x = _sides(self.ratio), np.empty_like(p)
        below, above = (p - self.atom) / self._weight, (1 - p) / self._weight
        left, right = places(below <= near_lower.mass(np.array([0.5])))
        x[left] = lower + (lower_rest + self._width * near_lower.distance(below[left]))
        x[right] = upper + (upper_rest - self._width * near_upper.distance(above[right]))
        x[below <= 0], x[above <= 0] = lower, upper
        x += 0 * p  # NaN passes: the search drops it
        return x * (p > self.atom) if self.atom else x


@dataclass(frozen=True)
class _Side:
    """M(y) of the module docstring and its inverse, for ``0 <= y <= 1/2``."""

    near: float
    far: float

    @cached_property
    def reach(self) -> float:
        """The series serves y up to here: the pole ``y = -near^2 / (far^2 - near^2)`` must stay away."""
        return self.near**2 / (self.near**2 + self.far**2) if self.near < 0.6 * self.far else 0.5

    def mass(self, y: Floats) -> Floats:
        if self.reach == 0.5:
            return self._series_mass(y)
        mass = self._closed_mass(y)
        close = np.flatnonzero(y <= self.reach)
        mass[close] = self._series_mass(y[close])
        return mass

    def distance(self, mass: Floats) -> Floats:
        """The y with ``M(y) = mass``."""
        # M ~ y^1.5 at the edge, and a power law is a straight line in logarithms: Newton's steps there
        # converge from any start; from the table (within 1e-3) two of them reach the last digit.
        first, step, log_y = self._table
        target = np.log(np.fmax(mass, 1e-300))
        place = np.clip((target - first) / step, 0, len(log_y) - 1.001)
        node = place.astype(np.intp)
        y = np.exp(log_y[node] + (place - node) * np.diff(log_y)[node])
        for _ in range(2):
            now = self.mass(y)
            slope = self._kernel(y) * np.sqrt(y * (1 - y)) * y / now
            y *= np.exp((target - np.log(now)) / slope)
        return y

    def _kernel(self, y: Floats) -> Floats:
        """``dM/dy`` without its ``sqrt(y (1 - y))``."""
        scale = 2 / math.pi * (self.near + self.far) ** 2
        return scale / (self.near**2 + (self.far**2 - self.near**2) * y)

    def _closed_mass(self, y: Floats) -> Floats:
        near, far, tangent = self.near, self.far, np.sqrt(y / (1 - y))
        own = (near**2 + far**2) * np.arctan(tangent) + (far**2 - near**2) * (1 - y) * tangent
        return 2 / math.pi / (far - near) ** 2 * (own - 2 * near * far * np.arctan(far / near * tangent))

    def _series_mass(self, y: Floats) -> Floats:
        """``y^1.5`` times a polynomial: the closed form cancels here."""
        w = y * (2 / self.reach) - 1
        total = np.full_like(w, self._coefficients[0])
        for coefficient in self._coefficients[1:].tolist():
            total *= w
            total += coefficient
        return total * y * np.sqrt(y)

    @cached_property
    def _coefficients(self) -> Floats:
        """Of ``M(y) / y^1.5`` in powers of ``2 y / reach - 1``: Chebyshev interpolation, 4e-15 off."""
        s = (_CHEBYSHEV[:, None] + 1) / 2 * self.reach * _GAUSS**2
        smooth = (self._kernel(s) * np.sqrt(1 - s) * _GAUSS**2) @ _WEIGHTS
        return np.asarray(np.linalg.solve(np.vander(_CHEBYSHEV), smooth))

    @cached_property
    def _table(self) -> tuple[float, float, Floats]:
        """First ``log M``, its step, and ``log y`` there."""
        log_y = np.linspace(math.log(1e-4 * self.reach), math.log(0.5), 1024)
        log_mass = np.log(self.mass(np.exp(log_y)))
        first, step = float(log_mass[0]), float(log_mass[-1] - log_mass[0]) / 1023
        return first, step, np.asarray(np.interp(first + step * np.arange(1024), log_mass, log_y))


@lru_cache(maxsize=256)
def _sides(ratio: float) -> tuple[_Side, _Side]:
    # At ratio 1 the lower edge is 0; the floor stands in for it: below any other ratio's, without 0 / 0.
    near = max(abs(1 - ratio) / (1 + math.sqrt(ratio)) ** 2, 1e-18)
    return _Side(near, 1.0), _Side(1.0, near)
