"""Variance of the noise from the eigenvalues that spikes leave over."""

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Literal

import numpy as np

from rmtnet.laws import MarchenkoPastur, formulas
from rmtnet.laws.marchenko_pastur import Floats
from rmtnet.laws.tracy_widom import TracyWidom

Method = Literal["moment", "median", "quantiles", "likelihood"]

# Chance that noise loses its largest eigenvalue to the outliers: 5 % would find more of the weak spikes, but the
# confidence intervals of small matrices would miss the variance in 7 of 100.
_LEVEL = 0.01


@dataclass(frozen=True)
class Rest:
    """What spikes leave over: each takes one row and one column from the noise of its block."""

    count: int
    """Eigenvalues in all."""
    blocks: int
    ratio: float
    outliers: int

    @property
    def kept(self) -> int:
        return self.count - self.outliers

    @property
    def long(self) -> float:
        """Long side of a whole block; eigenvalues are squared singular values over it."""
        return self.count / self.blocks / self.ratio

    @property
    def sides(self) -> tuple[float, float]:
        """Short and long side of what is left of a block, on average."""
        return self.kept / self.blocks, self.long - self.outliers / self.blocks

    @property
    def entries(self) -> float:
        """Entries left in all blocks."""
        short, long = self.sides
        return self.blocks * short * long

    def law(self, variance: float) -> MarchenkoPastur:
        """Of the eigenvalues that are left, still over the whole long side."""
        short, long = self.sides
        return MarchenkoPastur(short / long, variance * long / self.long)

    def edge(self, variance: float) -> float:
        """What the largest eigenvalue of noise, of all blocks, hardly exceeds in 1 of 100 spectra."""
        largest, scale = formulas.wishart_edge(*(max(side, 1) for side in self.sides))
        # The variance is a fitted one; 2.33 is the normal law's 99 % point.
        fitted = 2.33 * largest * math.sqrt(2 / self.entries)
        return float(variance * (largest + math.hypot(_allowance(self.blocks) * scale, fitted)) / self.long)


@lru_cache
def _allowance(blocks: int) -> float:
    return float(TracyWidom(1).isf(_LEVEL / blocks))


def middle_slope(values: Floats, rest: Rest) -> float:
    """Regression through the origin of the middle 60 % on the quantiles of their law."""
    middle, quantiles = _middle_quantiles(rest.kept, rest.law(1.0))
    return float(quantiles @ values[middle] / (quantiles @ quantiles))


@lru_cache(maxsize=256)
def _middle_quantiles(count: int, law: MarchenkoPastur) -> tuple[slice, Floats]:
    # Blocks and steps of one shape share them.
    share = (np.arange(count) + 0.5) / count
    first, last = np.searchsorted(share, [0.2 - 1e-12, 0.8 + 1e-12])
    return slice(int(first), int(last)), law.ppf(share[first:last])


def median(values: Floats, rest: Rest) -> float:
    """The median over the law's."""
    return float(np.median(values[: rest.kept]) / rest.law(1.0).ppf(0.5))


def moment(values: Floats, rest: Rest) -> float:
    """Mean square of the noise: what is left, over its entries less the share of noise that outliers took along.

    A spike of strength t takes one row, one column, and ``m / t`` entries more: the trace of ``noise + spike`` is that
    of the noise plus t, and the outlier holds ``(1 + t) (ratio + t) / t`` of it.
    """
    short, long = (side + 1 for side in rest.sides)
    total = float(values[: rest.kept].sum()) * rest.long
    spikes = values[rest.kept :] * (rest.long / long)

    def corrected(variance: float) -> float:
        strengths = formulas.strength(spikes / variance, short / long)
        return total / (rest.entries - short * float(np.sum(1 / strengths)))

    return _fixed_point(corrected, total / rest.entries) if rest.outliers else total / rest.entries


def _fixed_point(step: Callable[[float], float], start: float) -> float:
    """Where steps from a positive number lead; the first that is not positive and finite ends them."""
    before, here = math.nan, start
    for _ in range(100):
        if not 0 < here < math.inf:
            break
        there = step(here)
        if abs(there - here) <= 1e-13 * abs(there):
            return there
        shrink = (there - here) / (here - before)
        # Steps that shrink by one factor are summed at once (Aitken); the next two start anew.
        if abs(shrink) < 0.5:
            before, here = math.nan, there + (there - here) * shrink / (1 - shrink)
        else:
            before, here = here, there
    return here


ESTIMATORS: dict[Method, Callable[[Floats, Rest], float]] = {
    "moment": moment,
    "median": median,
    "quantiles": middle_slope,
    "likelihood": moment,
}


def estimate(method: Method, values: Floats, rest: Rest) -> float:
    """Variance of the noise; a ValueError where it is 0."""
    variance = ESTIMATORS[method](values, rest)
    if not variance > 0:
        raise ValueError("the middle 60 % of the eigenvalues are 0, so is their variance: is the layer dead?")
    return variance


def with_likely_ratio(values: Floats, rest: Rest) -> Rest:
    """The ratio of greatest likelihood, if the kept eigenvalues are those of a Wishart matrix.

    The law's parameters are the variance and the long side ``n``; the mean of ``log(x)`` less the log of the mean
    is sufficient for the latter.
    """
    from scipy.optimize import brentq
    from scipy.special import digamma

    kept = values[: rest.kept]
    found = float(np.mean(np.log(kept)) - math.log(np.mean(kept)))
    below = np.arange(rest.kept)

    def excess(long: float) -> float:
        return float(np.mean(digamma((long - below) / 2))) - math.log(long / 2) - found

    longest = 1e6 * rest.kept
    if excess(rest.kept) > 0:
        long = float(rest.kept)
    else:
        if excess(longest) < 0:
            raise ValueError("the eigenvalues are too equal for any ratio: give the ratio of the sides")
        long = brentq(excess, rest.kept, longest, xtol=1e-9, rtol=1e-13)
    return replace(rest, ratio=rest.count / (long + rest.outliers))


def start_ratio(values: Floats) -> float:
    """Of the law whose quantiles the middle of the spectrum follows best."""
    share = (np.arange(len(values)) + 0.5) / len(values)
    middle = (share >= 0.2) & (share <= 0.8)

    def correlation(ratio: float) -> float:
        quantiles = MarchenkoPastur(ratio).ppf(share[middle])
        return float(quantiles @ values[middle] / math.sqrt(quantiles @ quantiles))

    return float(max(np.geomspace(1e-3, 1, 61), key=correlation))
