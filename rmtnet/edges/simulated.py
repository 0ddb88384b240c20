"""Tails of simulated statistics, and the simulated extreme eigenvalues of small noise matrices."""

import functools
import math
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from rmtnet import nulls

Floats = NDArray[np.float64]

# Entries to simulate for one null: a million matrices of 5 x 8, ten thousand of 64 x 64.
_BUDGET = 40_000_000
_FEWEST, _MOST = 5_000, 1_000_000
# From this long side on the rows of a small matrix are simulated by their norms and correlations.
_LONG = 1000
_FITTED = 100


@dataclass(frozen=True)
class Tail:
    """Upper tail of a simulated statistic: log p between ranks, and beyond the last hundred draws a straight line.

    Straight, that is exponential, is heavier than the tails of extreme eigenvalues: extrapolated p-values err on the
    safe side.
    """

    points: Floats
    log_p: Floats
    rate: float
    draws: int

    @classmethod
    def of(cls, statistic: Floats) -> "Tail":
        """Of independent draws of the statistic."""
        values = np.sort(statistic)[::-1]
        if values[0] - values[-1] <= 1e-9 * abs(values[0]):
            # One row alone: its singular value is the trace in every draw.
            return cls(
                values[:1] + 1e-9 * abs(values[0]), np.zeros(1), 1 / (1e-9 * abs(values[0]) + 1e-300), len(values)
            )
        fitted = max(1, min(_FITTED, len(values) // 20))
        excess = float(np.mean(values[:fitted]) - values[fitted])
        ranks = np.unique(np.geomspace(fitted, len(values) - 1, 2000).astype(int))
        log_p = np.log((ranks + 0.5) / len(values))
        return cls(values[ranks][::-1], log_p[::-1], 1 / max(excess, 1e-12 * abs(values[fitted]), 1e-300), len(values))

    @property
    def fitted_below(self) -> float:
        """P-values below this one are extrapolated."""
        return float(np.exp(self.log_p[-1]))

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


def permuted_tail(pool: Floats, shape: tuple[int, int], end: str, *, draws: int, rng: np.random.Generator) -> Tail:
    """Of the largest, or of minus the log of the smallest, eigenvalue of matrices with the entries of ``pool``.

    In random order and with random signs, to which iid noise with a symmetric law is indifferent: exact for any such
    law. Without the signs a mean other than 0, which is a spike, would be in the null as well. Eigenvalues are squared
    singular values over the pool's mean square.
    """
    size = shape[0] * shape[1]
    rounds = -(-draws * size // pool.size)
    found = []
    for first in range(0, rounds, 1000):
        flat = np.broadcast_to(pool, (min(1000, rounds - first), pool.size))
        signs = 2.0 * rng.integers(0, 2, size=flat.shape, dtype=np.int8) - 1
        stack = (signs * rng.permuted(flat, axis=1)).reshape(-1, *shape)
        values = np.linalg.eigvalsh(stack @ stack.mT)
        found.append(values[:, -1] if end == "largest" else values[:, 0])
    eigenvalues = np.concatenate(found) / np.mean(pool**2)
    return Tail.of(eigenvalues if end == "largest" else -np.log(np.maximum(eigenvalues, 1e-300)))
