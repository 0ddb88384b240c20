"""The Tracy-Widom laws: the largest eigenvalue of large noise matrices, centred and scaled.

With ``V`` the integral operator of kernel ``Ai((x + y) / 2 + s) / 2`` on ``x, y > 0`` (its square is the Airy
operator), ``F_1(s) = det(1 - V)``, ``F_2 = det(1 - V) det(1 + V)`` and ``F_4 = (det(1 - V) + det(1 + V)) / 2``.
Right of ``s = -2`` the survival function is summed from the eigenvalues of V, so that nothing cancels. On the left they
crowd at 1; there ``q(s)``, the Hastings-McLeod solution of ``q'' = s q + 2 q^3``, gives ::

    log F_2 = -I,   log F_1 = -(I + J) / 2,   log F_4 = -I / 2 + log cosh(J / 2)
    I(s) = integral_s^inf (y - s) q(y)^2 dy,   J(s) = integral_s^inf q(y) dy

Both sides are kept as Chebyshev series of the logarithm.
"""

import math
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.polynomial import Chebyshev, chebyshev, legendre
from numpy.typing import ArrayLike

from rmtnet import checks
from rmtnet.laws import formulas
from rmtnet.laws.elementwise import Floats, elementwise, places, quantiles, symmetry_class

_MIDDLE, _FAR = -2.0, 6.0
# Beyond them the smaller probability is no float any more.
_START, _STOP = -30.0, 110.0


@dataclass(frozen=True)
class TracyWidom:
    """Law of the largest eigenvalue of a large noise matrix at the edge of its bulk, centred and scaled.

    Real entries have ``beta = 1``, complex 2, quaternion 4. ``beta = 4`` is in the scaling ``s / sqrt(2)`` of [1]_:
    mean -2.306884893, variance 0.517724. Methods take array_like and keep its shape; a scalar gives a scalar, NaN
    gives NaN.

    Parameters
    ----------
    beta : int
        1, 2 or 4.

    Raises
    ------
    ValueError
        If beta is none of these.

    Notes
    -----
    Relative error of cdf and sf against 25 digits or more: below 1e-11, from probabilities of 1 down to 1e-300 (beta 4:
    to 1e-40, and 1e-9 from there on). The first call of a process takes a tenth of a second.

    References
    ----------
    .. [1] Tracy and Widom, Commun. Math. Phys. 177 (1996) 727.
    .. [2] Ferrari and Spohn, J. Phys. A 38 (2005) L557: ``F_1 = det(1 - V)``.
    .. [3] Bornemann, Math. Comp. 79 (2010) 871: such determinants by quadrature.

    Examples
    --------
    >>> round(float(TracyWidom(beta=1).ppf(0.95)), 4)
    0.9793
    """

    beta: int = 1

    def __post_init__(self) -> None:
        object.__setattr__(self, "beta", symmetry_class(self.beta))

    def pdf(self, x: ArrayLike) -> Floats:
        """Density."""
        return elementwise(self._density, x)

    def cdf(self, x: ArrayLike) -> Floats:
        """Probability of a value at or below x."""
        return elementwise(lambda x: self._probability(x, below=True), x)

    def sf(self, x: ArrayLike) -> Floats:
        """Probability of a value above x, ``1 - cdf(x)`` to full relative accuracy: the p-value of x."""
        return elementwise(lambda x: self._probability(x, below=False), x)

    def ppf(self, p: ArrayLike) -> Floats:
        """The inverse of cdf.

        Raises
        ------
        ValueError
            If a p lies outside [0, 1].
        """
        return quantiles(lambda p: self._quantile(p, 1 - p), p)

    def isf(self, p: ArrayLike) -> Floats:
        """The inverse of sf, for p down to the smallest float; raises as ppf does."""
        return quantiles(lambda p: self._quantile(1 - p, p), p)

    def mean(self) -> float:
        """Mean: -1.2065335745820, -1.7710868074116, -2.306884893."""
        return _moments(self.beta)[0]

    def var(self) -> float:
        """Variance: 1.6077810345810, 0.8131947928329, 0.517724."""
        return _moments(self.beta)[1]

    def sample(self, size: int | tuple[int, ...], rng: int | np.random.Generator) -> Floats:
        """Independent draws, shape `size`."""
        return self.ppf(checks.generator(rng).random(size))

    @property
    def _scale(self) -> float:
        return math.sqrt(2) if self.beta == 4 else 1.0

    def _standard(self, x: Floats) -> Floats:
        return np.clip(x, _START, _STOP) * self._scale

    def _density(self, x: Floats) -> Floats:
        logarithm, slope = _log_law(self.beta, self._standard(x))
        return np.exp(logarithm) * np.abs(slope) * self._scale

    def _probability(self, x: Floats, *, below: bool) -> Floats:
        s = self._standard(x)
        return _share(s, _log_law(self.beta, s)[0], below=below)

    def _quantile(self, below: Floats, above: Floats) -> Floats:
        """The x with cdf `below` and sf `above`, each the better one where it is small."""
        s = np.empty_like(below)
        (split,) = np.exp(_log_law(self.beta, np.array([np.nextafter(_MIDDLE, _START)]))[0])
        for place, share, left in zip(places(below < split), (below, above), (True, False), strict=True):
            s[place] = _root(self.beta, np.log(np.fmax(share[place], 5e-324)), left=left)
        s[below == 0], s[above == 0] = -np.inf, np.inf
        return s / self._scale + 0 * below  # NaN passes: the search drops it


def tail_and_density(x: Floats) -> tuple[Floats, Floats]:
    """Of ``TracyWidom(1)`` at flat x, at the cost of one of them."""
    s = np.clip(x, _START, _STOP)
    logarithm, slope = _log_law(1, s)
    return _share(s, logarithm, below=False), np.exp(logarithm) * np.abs(slope)


def _share(s: Floats, logarithm: Floats, *, below: bool) -> Floats:
    return np.where((s < _MIDDLE) == below, np.exp(logarithm), -np.expm1(logarithm))


@lru_cache(maxsize=3)
def _moments(beta: int) -> tuple[float, float]:
    nodes, weights = legendre.leggauss(160)
    mass = TracyWidom(beta).pdf(14 * nodes) * 14 * weights
    mean = float(mass @ (14 * nodes))
    return mean, float(mass @ (14 * nodes - mean) ** 2)


def _log_law(beta: int, s: Floats) -> tuple[Floats, Floats]:
    """Log cdf left of the middle, log sf right of it, and its slope in s."""
    s = np.clip(s, _START, _STOP)
    value, slope = np.empty_like(s), np.empty_like(s)
    *near, far = _series(beta)
    piece = np.searchsorted([series.stop for series in near], s, side="right")
    for index, series in enumerate(near):
        # A series takes as long for no point as for a hundred.
        if (place := np.flatnonzero(piece == index)).size:
            value[place], slope[place] = series(s[place])
    if (place := np.flatnonzero(piece == len(near))).size:
        w, root = s[place] ** -1.5, np.sqrt(s[place])
        decay, (rest, rest_slope) = 1 if beta == 1 else 2, far(w)
        value[place] = rest + beta / 2 * np.log(w) - decay * 2 / 3 * root**3
        slope[place] = -1.5 * w / s[place] * rest_slope - 0.75 * beta / s[place] - decay * root
    return value, slope


@dataclass(frozen=True)
class _Series:
    """A Chebyshev series and its derivative, evaluated together."""

    start: float
    stop: float
    coefficients: Floats
    """(order, 2)"""

    @classmethod
    def of(cls, series: Chebyshev) -> "_Series":
        start, stop = series.domain.tolist()
        return cls(start, stop, np.stack([series.coef, np.append(series.deriv().coef, 0)], axis=1))

    def __call__(self, s: Floats) -> Floats:
        w = (2 * s - self.start - self.stop) / (self.stop - self.start)
        return np.asarray(chebyshev.chebval(w, self.coefficients))


def _root(beta: int, target: Floats, *, left: bool) -> Floats:
    """Where `_log_law` takes the target value, on one side of the middle."""
    s_table, log_table = _table(beta, left)
    s = np.interp(target, log_table, s_table)
    for _ in range(3):
        value, slope = _log_law(beta, s)
        s = np.clip(s - (value - target) / slope, s_table.min(), s_table.max())
    return s


@lru_cache(maxsize=6)
def _table(beta: int, left: bool) -> tuple[Floats, Floats]:
    """Places and their ascending logarithms."""
    end = np.nextafter(_MIDDLE, _START)
    s = np.linspace(_START, end, 1000) if left else np.linspace(_STOP, _MIDDLE, 4000)
    return s, _log_law(beta, s)[0]


@lru_cache(maxsize=3)
def _series(beta: int) -> tuple[_Series, ...]:
    """Series of log cdf, log cdf, log sf, and, right of `_FAR`, of log sf less its asymptotics in ``w = s^-1.5``.

    Each with its derivative.
    """
    left = _painleve(beta)

    def far(w: Floats) -> Floats:
        s, decay = w ** (-2 / 3), 1 if beta == 1 else 2
        # Below the floor only its products with itself are lost: 1e-100 of the sum.
        floor = np.maximum(np.exp(-2 / 3 / w), 1e-100)
        return np.log(_sf(beta, floor * _eigenvalues(s, scaled=True)) / floor**decay / w ** (beta / 2))

    found = (
        Chebyshev.interpolate(left, 40, [_START, -12.0]),
        Chebyshev.interpolate(left, 40, [-12.0, _MIDDLE]),
        Chebyshev.interpolate(lambda s: np.log(_sf(beta, _eigenvalues(s, scaled=False))), 32, [_MIDDLE, _FAR]),
        Chebyshev.interpolate(far, 20, [_STOP**-1.5, _FAR**-1.5]),
    )
    return tuple(_Series.of(series) for series in found)


def _eigenvalues(s: Floats, *, scaled: bool, order: int = 32) -> Floats:
    """Eigenvalues of V at each s, (order, s) by decreasing size, in units of ``exp(-2/3 s^1.5)`` if scaled."""
    from scipy.special import airy, airye

    nodes, weights = legendre.leggauss(order)
    upper, lower = np.tril_indices(order)
    # The kernel falls by 1e-17 from x = 0 to the reach.
    reach = 2 * ((60 + np.maximum(s, 0) ** 1.5) ** (2 / 3) - s)
    x = reach[:, None] * (nodes + 1) / 2
    z = (x[:, upper] + x[:, lower]) / 2 + s[:, None]
    kernel = airye(z)[0] * np.exp(-2 / 3 * (z**1.5 - s[:, None] ** 1.5)) if scaled else airy(z)[0]
    matrix = np.zeros((len(s), order, order))
    matrix[:, upper, lower] = kernel / 2 * np.sqrt(weights[upper] * weights[lower]) * reach[:, None] / 2
    values = np.asarray(np.linalg.eigvalsh(matrix, UPLO="L"))
    return np.take_along_axis(values, np.argsort(-np.abs(values), axis=1), axis=1).T


def _sf(beta: int, values: Floats) -> Floats:
    """``1 - F`` from the eigenvalues of V, without cancellation."""
    if beta < 4:
        return -np.expm1(np.sum(np.log1p(-(values**beta)), axis=0))
    even, odd = np.zeros_like(values[0]), np.zeros_like(values[0])
    for value in values:  # of prod(1 + value t) at t = 1 the even powers, less the leading 1, and the odd
        even, odd = even + value * odd, odd + value * (1 + even)
    return -even


@lru_cache(maxsize=3)
def _painleve(beta: int) -> Chebyshev:
    """Log cdf on ``[_START, _FAR]`` from the Hastings-McLeod solution, as the module docstring has it."""
    from scipy.special import airy

    s, q, integral = _hastings_mcleod()
    beyond, weights = legendre.leggauss(40)  # of _FAR, where q is Ai to the last digit
    y, weights = _FAR + 6 * (beyond + 1), 6 * weights
    ai = airy(y)[0]
    j = weights @ ai - integral @ q
    i = weights @ (ai**2 * (y - s[:, None])).T + integral @ (integral @ q**2)
    log_cdf = {1: -(i + j) / 2, 2: -i, 4: -i / 2 + np.logaddexp(j / 2, -j / 2) - math.log(2)}[beta]
    values = chebyshev.chebvander(chebyshev.chebpts2(len(s)), len(s) - 1)
    return Chebyshev(np.linalg.solve(values, log_cdf), [_START, _FAR])


def _hastings_mcleod(order: int = 200) -> tuple[Floats, Floats, Floats]:
    """Nodes s on ``[_START, _FAR]``, q there, and the matrix of the integral from _FAR to s.

    By collocation of q = a line between its known ends + the twice integrated second derivative.
    """
    from scipy.special import airy

    nodes, half = chebyshev.chebpts2(order), (_FAR - _START) / 2
    series = chebyshev.chebint(np.eye(order)) @ np.linalg.inv(chebyshev.chebvander(nodes, order - 1))
    integral = half * (chebyshev.chebvander(nodes, order) @ series)
    integral -= integral[-1]
    s, share = _FAR + half * (nodes - 1), (1 - nodes) / 2
    # An error at the left end falls like exp(-7 (s - _START)): the leading term serves.
    ends = airy(_FAR)[0], math.sqrt(-_START / 2)
    twice = integral @ integral
    twice -= np.outer(share, twice[0])
    q = np.sqrt(np.logaddexp(0, -s) / 2)
    for _ in range(8):  # of Newton's method: 6 reach the last digit
        residual = ends[0] + (ends[1] - ends[0]) * share + twice @ (s * q + 2 * q**3) - q
        q += np.linalg.solve(np.eye(order) - twice * (s + 6 * q**2), residual)
    return s, q, np.asarray(integral)


def wishart_edge(short: ArrayLike, long: ArrayLike) -> tuple[Floats, Floats]:
    """Centre and scale of the largest eigenvalue of ``X X^T``, X ``(short, long)`` Gaussian with variance 1.

    Less the centre and over the scale it follows ``TracyWidom(1)``, with an error of order ``short^(-2/3)`` [1]_.

    References
    ----------
    .. [1] Ma, Bernoulli 18 (2012) 322, after Johnstone, Ann. Statist. 29 (2001) 295.
    """
    sides = checks.real(short, "short"), checks.real(long, "long")
    if min(np.min(side, initial=1) for side in sides) < 1:
        raise ValueError(f"sides must be at least 1, got {min(side.min() for side in sides)}")
    return formulas.wishart_edge(*sides)
