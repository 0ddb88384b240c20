"""Tails of simulated statistics, and the simulated extreme eigenvalues of small noise matrices."""

import functools
import math
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from rmtnet import checks, nulls

Floats = NDArray[np.float64]

# Entries to simulate for one null, about a second's work: 250,000 matrices of 5 x 8, 15,000 of 20 x 32.
_BUDGET = 10_000_000
_FEWEST, _MOST = 5_000, 250_000
# From this long side on the rows of a small matrix are simulated by their norms and correlations.
_LONG = 1000
_FITTED, _MANY = 100, 2000
_PERMUTED = 100, 20_000
_SKEWNESS = 0.2935


@dataclass(frozen=True)
class Tail:
    """Upper tail of a simulated statistic: log p between points, and a straight line beyond the last.

    Straight, that is exponential, is heavier than the tails of extreme eigenvalues: extrapolated p-values err on the
    safe side.
    """

    points: Floats
    log_p: Floats
    rate: float
    draws: int

    @classmethod
    def of(cls, statistic: Floats) -> "Tail":
        """Of independent draws of the statistic: their ranks, or for few draws a gamma law with their moments."""
        values = np.sort(statistic)[::-1]
        slack = 1e-9 * abs(values[0]) + 1e-300
        if values[0] - values[-1] <= slack:
            # One row alone: its singular value is the trace in every draw.
            return cls(values[:1] + slack, np.zeros(1), 1 / slack, len(values))
        if len(values) < _MANY:
            return cls._matched(values)
        excess = float(np.mean(values[:_FITTED]) - values[_FITTED])
        ranks = np.unique(np.geomspace(_FITTED, len(values) - 1, 2000).astype(int))
        return cls(values[ranks][::-1], np.log((ranks + 0.5) / len(values))[::-1], 1 / max(excess, slack), len(values))

    @classmethod
    def _matched(cls, values: Floats) -> "Tail":
        """Of a shifted gamma law, which is close to Tracy-Widom [Chiani, J. Multivariate Anal. 129 (2014) 69]."""
        from scipy.special import gammainccinv

        centered = values - values.mean()
        deviation = float(np.sqrt(np.mean(centered**2)))
        # Less skewed than Tracy-Widom is the scatter of so few draws.
        skewness = max(float(np.mean(centered**3)) / deviation**3, _SKEWNESS)
        log_p = np.linspace(0, -30, 600)[1:]
        shape = 4 / skewness**2
        points = values.mean() + deviation * (gammainccinv(shape, np.exp(log_p)) - shape) / math.sqrt(shape)
        return cls(points, log_p, float((log_p[-2] - log_p[-1]) / (points[-1] - points[-2])), len(values))

    @property
    def fitted_below(self) -> float:
        """P-values below this one are extrapolated."""
        return max(_FITTED / self.draws, float(np.exp(self.log_p[-1])))

    def p(self, statistic: ArrayLike) -> Floats:
        """Probability of as large a statistic."""
        x = np.asarray(statistic, dtype=float)
        inside = np.interp(x, self.points, self.log_p, left=0.0)
        return np.exp(inside - self.rate * np.maximum(x - self.points[-1], 0))


@functools.lru_cache(maxsize=512)
def extreme_tails(short: int, long: int, kurtosis: float, sharing: float) -> tuple[Tail, Tail]:
    """Of the largest eigenvalue, and of minus the log of the smallest, in noise of fitted variance.

    Eigenvalues are squared singular values over the mean square of the entries of ``sharing`` matrices, of which one is
    simulated and the rest stand by a gamma law with the moments of their sum of squares (exact for Gaussian entries).
    """
    largest, smallest, squares = _extremes(short, long, kurtosis)
    rng = np.random.default_rng(1)
    entries, others = short * long, (sharing - 1) * short * long
    if sharing == math.inf:
        mean_square = np.ones_like(squares)
    elif sharing > 1 and kurtosis > 1:
        spread = kurtosis - 1
        mean_square = (squares + rng.gamma(others / spread, spread, size=squares.shape)) / (entries + others)
    else:
        mean_square = (squares + others) / (entries + others)
    # Of entries of gigantic kurtosis all may be 0.
    mean_square = np.where(mean_square > 0, mean_square, 1)
    return Tail.of(largest / mean_square), Tail.of(-np.log(np.maximum(smallest / mean_square, 1e-300)))


@functools.lru_cache(maxsize=2)
def _extremes(short: int, long: int, kurtosis: float) -> tuple[Floats, Floats, Floats]:
    """Largest and smallest squared singular values and sum of squares of simulated matrices with unit variance."""
    draws = int(np.clip(_BUDGET // (short * long), _FEWEST, _MOST))
    rng = np.random.default_rng(0)
    found = []
    for gram in _grams(short, long, kurtosis, draws, rng):
        values = np.linalg.eigvalsh(gram)
        found.append((values[:, -1], np.maximum(values[:, 0], 0), np.trace(gram, axis1=1, axis2=2)))
    largest, smallest, squares = (np.concatenate(part) for part in zip(*found, strict=True))
    return largest, smallest, squares


def _grams(short: int, long: int, kurtosis: float, draws: int, rng: np.random.Generator) -> Iterator[Floats]:
    """Stacks of simulated ``W W^T``."""
    if long < _LONG:
        for stack in nulls.draws_of((short, long), draws, rng, kurtosis=kurtosis):
            yield stack @ stack.mT
        return
    # Bartlett's triangle gives the correlations of Gaussian rows; with so long ones they are those of any entries,
    # whose kurtosis remains in the rows' norms.
    at_once = max(1, 2**21 // short**2)
    for first in range(0, draws, at_once):
        count = min(at_once, draws - first)
        triangle = np.tril(rng.normal(size=(count, short, short)), -1)
        diagonal = np.arange(short)
        triangle[:, diagonal, diagonal] = np.sqrt(rng.chisquare(long - diagonal, size=(count, short)))
        triangle /= np.linalg.norm(triangle, axis=-1, keepdims=True)
        norms = rng.gamma(long / (kurtosis - 1), kurtosis - 1, size=(count, short)) if kurtosis > 1 else float(long)
        triangle *= np.sqrt(norms)[..., None]
        yield triangle @ triangle.mT


def permuted_tails(pool: Floats, shape: tuple[int, int], *, shared: bool, seed: int) -> tuple[Tail, Tail]:
    """As :func:`extreme_tails`, of matrices ``shape`` with entries of ``pool`` in random order and with random signs.

    To these, iid noise with a symmetric law is indifferent: exact for any such law where the pool is one matrix, or the
    mean square is that of the whole pool (``shared``). Without the signs a mean other than 0, which is a spike,
    would be in the null as well.
    """
    rng, size = checks.generator(seed, "seed"), shape[0] * shape[1]
    draws = int(np.clip(_BUDGET // (7 * size), *_PERMUTED))
    once = max(1, 2**21 // pool.size)
    rounds, found = -(-draws * size // pool.size), []
    for first in range(0, rounds, once):
        flat = np.broadcast_to(pool, (min(once, rounds - first), pool.size))
        signs = 2.0 * rng.integers(0, 2, size=flat.shape, dtype=np.int8) - 1
        stack = (signs * rng.permuted(flat, axis=1)).reshape(-1, *shape)
        gram, squares = stack @ stack.mT, np.mean(stack**2, axis=(1, 2))
        values = np.linalg.eigvalsh(gram) / (np.mean(pool**2) if shared else squares[:, None])
        found.append(values[:, [0, -1]])
    smallest, largest = np.concatenate(found)[:draws].T
    return Tail.of(largest), Tail.of(-np.log(np.maximum(smallest, 1e-300)))
