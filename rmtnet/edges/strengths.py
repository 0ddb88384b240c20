"""Confidence intervals of the strengths of spikes that were found by a test."""

import math
from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from rmtnet.laws import spiked

Floats = NDArray[np.float64]
Counts = NDArray[np.intp]

_QUANTILE = 1.959963984540054  # of the normal law, 2.5 % beyond
# Deviations of an entry by which the singular value of a weak spike is beyond the least that is found: about four
# standard errors of theta.
_WEAK = 4
_DRAWS, _NODES = 640, 128
# Rows of the recursion from its limit down to the one of the spike, per cube root of the short side and besides.
_DEPTH = 6, 10


def intervals(squares: Floats, least: Floats, short: Counts, long: Counts, spread: float) -> Floats:
    """(spike, 2) theta, 95 %: the signals beside which neither larger nor smaller values were unlikely to be found.

    For a strong spike 1.96 standard errors to either side. For a weak one each tail of the largest singular value's
    law, *given that it is found*, holds more than 2.5 %: without the condition weak spikes, found just when noise makes
    them large, would be missed too often. That law is exact for Gaussian noise, and simulated; below the threshold it
    is hardly another than that of noise alone.

    Parameters
    ----------
    squares, least : (spike,) squared singular value, and that from which on it is found, over the noise's variance
    short, long : (spike,) sides that the other spikes leave
    spread : relative variance of the noise's fitted variance
    """
    strength, ratio = spiked.strength(squares / long, short / long), short / long
    reach = _QUANTILE * spiked.deviation(strength, ratio)
    found = np.sqrt(strength * long)[:, None] + np.stack([-reach, reach], axis=1)
    weak = np.sqrt(squares) < np.sqrt(least) + _WEAK
    for side in np.unique(short[weak]):
        these = weak & (short == side)
        found[these] = _of_weak(squares[these], least[these], int(side), int(long[these][0]), spread, found[these])
    return found


def _of_weak(squares: Floats, least: Floats, short: int, long: int, spread: float, start: Floats) -> Floats:
    blocks, own = np.unique(least, return_inverse=True)
    signals = _signals(np.append(squares, blocks), short, long, spread)
    here, found = np.tile(signals[: len(squares)], (2, 1)), np.tile(signals[len(squares) :][own], (2, 1))
    quantile = np.repeat([-_QUANTILE, _QUANTILE], len(squares))

    def excess(theta: Floats) -> tuple[Floats, Floats]:
        """Of the normal quantile of how often what is found is as large, nearly a straight line; and its slope."""
        value, slope = _conditional_quantile(theta[:, None] - here, theta[:, None] - found)
        return value - quantile, slope

    # Those below the threshold look nearly alike.
    threshold = np.full(2 * len(squares), (short * long) ** 0.25)
    theta = crossing(excess, threshold, start.T.ravel(), np.maximum(np.tile(np.sqrt(squares), 2) + 10, threshold))
    theta[: len(squares)][theta[: len(squares)] <= threshold[0]] = 0
    return theta.reshape(2, -1).T


def _conditional_quantile(here: Floats, found: Floats) -> tuple[Floats, Floats]:
    """(row,) normal quantile of one mixture (row, node) of normal tails over another; its slope in a shift of both."""
    from scipy.special import ndtr, ndtri

    large_enough = ndtr(found).mean(axis=1)
    tail = np.divide(ndtr(here).mean(axis=1), large_enough, out=np.zeros(len(here)), where=large_enough > 0)
    value = ndtri(np.minimum(tail, 1))
    of_here, of_found = (np.exp(-(part**2) / 2).mean(axis=1) for part in (here, found))
    with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
        return value, (of_here - tail * of_found) / (large_enough * np.exp(-(value**2) / 2))


def _signals(squares: Floats, short: int, long: int, spread: float) -> Floats:
    """(row, node) quantiles of what theta plus a normal entry must not exceed, lest the largest value exceed squares.

    Reflections bring a Gaussian matrix Z to bidiagonal form with independent chi-square squares, and a signal into its
    first row alone. With R the first entry of the resolvent of Z Z^T at x for the matrix without its first row and
    column, the largest eigenvalue is below x if that of the smaller matrix is, ``q = chi2(rows - 1) R < 1``, and the
    squared norm of the first row is below ``x (1 - q)``; then the resolvent's first entry is
    ``(1 - q) / (x (1 - q) - norm^2)``. The recursion forgets where it started: at the law's limit.
    """
    rng = np.random.default_rng(0)
    scale = rng.gamma(1 / spread, spread, size=_DRAWS) if spread > 0 else np.ones(_DRAWS)
    x = squares[:, None] * scale
    depth = min(short, _DEPTH[1] + int(_DEPTH[0] * short ** (1 / 3)))
    resolvent, least = _limit(x, short - depth, long - depth), np.full(x.shape, np.inf)
    # What has gone beyond once is counted out at the end: until then it may become infinite or NaN.
    with np.errstate(divide="ignore", over="ignore", invalid="ignore"):
        for rows in range(short - depth + 1, short + 1):
            rest = 1 - 2 * rng.standard_gamma((rows - 1) / 2, size=_DRAWS) * resolvent
            # Of the spike's own row one entry is left to the normal law.
            row = 2 * rng.standard_gamma((long - short + rows - (rows == short)) / 2, size=_DRAWS)
            left = x * rest - row  # not above 0 where the rest is not
            resolvent, least = rest / left, np.minimum(least, left)
    signals = np.where(least > 0, np.sqrt(np.maximum(left, 0) / scale), -np.inf)
    each = _DRAWS // _NODES
    return np.sort(signals, axis=1)[:, each // 2 :: each]


def _limit(squares: Floats, short: int, long: int) -> Floats:
    """The Stieltjes transform of the Marchenko-Pastur law, for unscaled matrices; that of the edge below it."""
    if short == 0:
        return np.zeros_like(squares)
    x = np.maximum(squares, (math.sqrt(short) + math.sqrt(long)) ** 2)
    middle = x + short - long
    # The root's other form: no difference of nearly equal numbers far from the edge.
    return 2 / (middle + np.sqrt(np.maximum(middle**2 - 4 * short * x, 0)))


def root(function: Callable[[Floats], Floats], low: Floats, high: Floats) -> Floats:
    """(row,) where functions (row, point), negative at low and not at high, change sign last: to 1/8^4 of the way."""
    rows = np.arange(len(low))
    for _ in range(4):
        points = np.linspace(low, high, 9, axis=1)
        negative = np.pad(function(points[:, 1:-1]) < 0, ((0, 0), (1, 0)), constant_values=True)
        last = 7 - negative[:, ::-1].argmax(axis=1)
        low, high = points[rows, last], points[rows, last + 1]
    return (low + high) / 2


def crossing(function: Callable[[Floats], tuple[Floats, Floats]], low: Floats, start: Floats, high: Floats) -> Floats:
    """(row,) where growing functions (row,), given with their slopes, are 0; low where they are not negative there.

    By Newton's method, and by halves where that leads away.
    """
    high = np.where(function(low)[0] < 0, high, low)
    here = np.clip(start, low, high)
    for _ in range(100):
        value, slope = function(here)
        low, high = np.where(value < 0, here, low), np.where(value < 0, high, here)
        with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
            there = here - value / slope
        before, here = here, np.where((low <= there) & (there <= high), there, (low + high) / 2)
        if np.all(np.abs(here - before) < 1e-6):
            break
    return here
