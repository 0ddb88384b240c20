"""Spectra of blocks with their spikes set apart, and extreme values in units of the noise that is left."""

import math
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from rmtnet.bulk import fit_bulk
from rmtnet.edges.noise import Noise
from rmtnet.edges.simulated import Tail

Floats = NDArray[np.float64]
Counts = NDArray[np.intp]
Variance = Literal["own", "shared"] | float

# From this short side on spikes are sought before one is tested, lest several hide each other.
_SOUGHT = 16


@dataclass(frozen=True)
class Cleared:
    """Squared singular values of equal blocks, of which the first ``spikes`` of each are no noise."""

    squares: Floats
    """(block, order) descending"""
    short: int
    long: int
    variance: Variance
    """Of the noise: each block's own, shared by all, or known."""
    spikes: Counts
    """(block,)"""

    def with_spikes(self, spikes: Counts) -> "Cleared":
        return replace(self, spikes=spikes)

    def suited(self, noise: Noise) -> "Cleared":
        """Without spikes if the noise is heavy-tailed: then its own entries, which were not cleared, are the null."""
        return self if not noise.heavy else self.with_spikes(np.zeros_like(self.spikes))

    def noise(self, kurtosis: float, tails: tuple[Tail, Tail] | None = None) -> Noise:
        sharing = {"own": 1.0, "shared": float(len(self.squares))}
        of = sharing[self.variance] if isinstance(self.variance, str) else math.inf
        return Noise(self.short, self.long, kurtosis, of, tails)

    def value(self, order: Counts) -> Floats:
        """(block,) the value of that order (0 first) as the largest of the noise left, over its mean square."""
        beyond = np.maximum(self.spikes, order + 1)
        value = self.squares[np.arange(len(order)), order]
        # Counted among the noise: a monotone function of its share of the trace, the law of which is known.
        total, entries = self._left(beyond)
        return self._over(value, total + value, entries + self.short + self.long - 2 * beyond + 1)

    def smallest(self) -> Floats:
        """(block,) smallest value over the mean square of the noise."""
        return self._over(self.squares[:, -1], *self._left(self.spikes))

    def _left(self, spikes: Counts) -> tuple[Floats, Floats]:
        """Sum of squares and entries of each block that so many spikes leave."""
        kept = np.arange(self.short) >= spikes[:, None]
        return (self.squares * kept).sum(axis=1), ((self.short - spikes) * (self.long - spikes)).astype(float)

    def _over(self, value: Floats, total: Floats, entries: Floats) -> Floats:
        if not isinstance(self.variance, str):
            return value / float(self.variance)
        if self.variance == "shared":
            others = self._left(self.spikes)
            total, entries = total + others[0].sum() - others[0], entries + others[1].sum() - others[1]
        return np.divide(value * entries, total, out=np.zeros_like(value), where=total > 0)


def cleared(values: Floats, out: int, width: int, variance: Variance) -> Cleared:
    """Of singular values (block, order), with the outliers of a first fit as spikes."""
    short, long = sorted((out, width))
    squares = np.sort(values, axis=1)[:, ::-1] ** 2
    # What is left of a matrix of low rank is rounding, not noise.
    squares[squares < (long * np.finfo(float).eps) ** 2 * squares[:, :1]] = 0
    bare = Cleared(squares, short, long, variance, np.zeros(len(squares), dtype=np.intp))
    if short < _SOUGHT and (variance != "shared" or squares.size < 4 * _SOUGHT):
        return bare
    groups = squares[None] if variance == "shared" else squares[:, None]
    return bare.with_spikes(np.concatenate([_outliers(group, short / long) for group in groups]))


def _outliers(squares: Floats, ratio: float) -> Counts:
    """How many of each block a fit to the pooled values leaves out."""
    try:
        fit = fit_bulk(squares.ravel(), ratio, blocks=len(squares))
    except (ValueError, RuntimeError):
        return np.zeros(len(squares), dtype=np.intp)
    least = np.sort(squares, axis=None)[squares.size - fit.outliers] if fit.outliers else math.inf
    return (squares >= least).sum(axis=1)
