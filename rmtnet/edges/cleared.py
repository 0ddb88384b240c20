"""Spectra of blocks with their spikes set apart, and extreme values in units of the noise that is left."""

import math
from dataclasses import dataclass, replace
from functools import lru_cache
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

    @property
    def alive(self) -> NDArray[np.bool_]:
        """(block,) that are not all 0: dead ones have no noise."""
        return self.squares[:, 0] > 0

    @property
    def groups(self) -> list[NDArray[np.intp]]:
        """Blocks that are not all 0, those of one fitted variance together."""
        alive = np.flatnonzero(self.alive)
        return [alive] if self.variance == "shared" else list(alive[:, None])

    def with_spikes(self, spikes: Counts) -> "Cleared":
        return replace(self, spikes=spikes)

    def suited(self, noise: Noise) -> "Cleared":
        """Without spikes if the noise is heavy-tailed: then its own entries, which were not cleared, are the null."""
        return self if not noise.heavy else self.with_spikes(np.zeros_like(self.spikes))

    def noise(self, kurtosis: float, tails: tuple[Tail, Tail] | None = None) -> Noise:
        sharing = {"own": 1.0, "shared": float(np.count_nonzero(self.alive))}
        of = sharing[self.variance] if isinstance(self.variance, str) else math.inf
        return Noise(self.short, self.long, kurtosis, of, tails)

    def value(self, order: Counts) -> Floats:
        """(block, ...) value of that order (0 first), over the mean square of itself and what other spikes leave."""
        return self.relative(
            np.take_along_axis(self.squares, order, axis=1), np.maximum(self.spikes[:, None], order + 1)
        )

    def relative(self, value: Floats, beyond: Counts) -> Floats:
        """(block, ...) value over the mean square of itself and what so many spikes, itself among them, leave."""
        # Counted among the noise: a monotone function of its share of the trace, the law of which is known.
        total, entries = self._left(beyond)
        return self._over(value, total + value, entries + self.short + self.long - 2 * beyond + 1)

    def smallest(self) -> Floats:
        """(block,) smallest value over the mean square of the noise."""
        return self._over(self.squares[:, -1:], *self._left(self.spikes[:, None]))[:, 0]

    def _left(self, spikes: Counts) -> tuple[Floats, Floats]:
        """(block, ...) sum of squares and entries of each block that so many spikes leave."""
        sums = np.zeros((len(self.squares), self.short + 1))
        sums[:, :-1] = np.cumsum(self.squares[:, ::-1], axis=1)[:, ::-1]
        entries = (self.short - spikes) * (self.long - spikes) * self.alive[:, None]
        return np.take_along_axis(sums, spikes, axis=1), entries.astype(float)

    def _over(self, value: Floats, total: Floats, entries: Floats) -> Floats:
        if not isinstance(self.variance, str):
            return value / max(float(self.variance), 1e-300)
        if self.variance == "shared":
            others = self._left(self.spikes[:, None])
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
    for group in bare.groups:
        bare.spikes[group] = _outliers(squares[group], short / long)
    return bare


def _outliers(squares: Floats, ratio: float) -> Counts:
    """How many of each block a fit to the pooled values leaves out."""
    count = _fitted_outliers(squares.tobytes(), len(squares), ratio)
    least = np.sort(squares, axis=None)[squares.size - count] if count else math.inf
    return (squares >= least).sum(axis=1)


@lru_cache(maxsize=16)
def _fitted_outliers(squares: bytes, blocks: int, ratio: float) -> int:
    # The tests of both ends and the count of spikes ask for the same fit.
    try:
        return fit_bulk(np.frombuffer(squares), ratio, blocks=blocks).outliers
    except (ValueError, RuntimeError):
        return 0
