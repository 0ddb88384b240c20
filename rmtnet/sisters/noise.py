"""What the ratios of a sister to R are when its entries are noise."""

import functools
import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from rmtnet import checks, nulls, spectra
from rmtnet.sisters.intervals import log_variance_error
from rmtnet.sisters.ratios import Floats, mean_deviation, singular_value_ratio

Shape = tuple[int, int, int]


@dataclass(frozen=True)
class NullDeviation:
    """Mean deviations that noise shows: draws of :func:`mean_deviation`."""

    values: Floats
    """(draw,) ascending."""

    @property
    def mean(self) -> float:
        return float(self.values.mean())

    @property
    def standard_deviation(self) -> float:
        """Of one noise matrix."""
        return float(self.values.std(ddof=1))

    @property
    def standard_error(self) -> float:
        """Of the mean."""
        return self.standard_deviation / math.sqrt(len(self.values))

    def quantile(self, p: ArrayLike) -> Floats:
        return np.asarray(np.quantile(self.values, checks.real(p, "p")))

    def p_value(self, deviation: ArrayLike) -> Floats:
        """Share of noise that deviates as much or more, the layer counted with it: at least ``1 / (draws + 1)``."""
        deviation = checks.floats(deviation, "deviation")
        below = np.searchsorted(self.values, deviation, side="left")
        p = (len(self.values) - below + 1) / (len(self.values) + 1)
        return np.where(np.isnan(deviation), np.nan, p)


@dataclass(frozen=True)
class SisterNull:
    """Singular-value ratios that a sister of pure noise shows, by order."""

    mean: Floats
    """(order,)"""
    low: Floats
    """(order,) quantile ``(1 - level) / 2`` at each order by itself."""
    high: Floats
    band_low: Floats
    """(order,) with ``band_high``: holds whole curves of noise, all orders at once, with probability ``level``."""
    band_high: Floats
    deviation: NullDeviation


def sister_null(
    blocks: int,
    out: int,
    width: int,
    *,
    reference: Shape | None = None,
    ratio: float | None = None,
    kurtosis: float = 3.0,
    level: float = 0.9,
    draws: int | None = None,
    seed: int = 0,
) -> SisterNull:
    """Singular-value ratios and mean deviations of a sister whose entries are noise; kept for the next call.

    Each draw is compared as a layer is: with the mean of ``ordered_null(*reference, seed=seed)``, scaled by the
    variance that one layer of noise of the reference's shape happens to have. The draws are others than those of R, so
    what R's mean lacks in precision is in the result and does not bias it.

    Parameters
    ----------
    blocks, out, width : the sister's blocks, each (out, width)
    reference : (block, out, in) of R; by default the sister's own, and then R has the sister's own variance
    ratio : of the sister's variance to the reference's; by default their long sides' inverse ratio, which gives both
        the same law (b for b equal blocks of a dense reference)
    kurtosis : of the entries of the layers; those of R are Gaussian
    level : probability of the bands
    draws : by default 16 (large matrices) to 1000 (small ones)
    seed : of R and of the draws; equal seeds give equal results, and a layer and its transpose the same

    Raises
    ------
    ValueError
        If the two have not the same number of singular values, a number is out of its range, or `level` asks for
        quantiles that so few draws do not have.
    """
    checks.level(level)
    own, other = _landscape((blocks, out, width)), _landscape(reference or (blocks, out, width))
    if own[0] * own[1] != other[0] * other[1] or math.prod(own) < 2:
        raise ValueError(
            f"blocks {(blocks, out, width)} and reference {reference} must have the same number of singular values, and"
            " more than one entry"
        )
    ratio = other[2] / own[2] if ratio is None else ratio
    if not 0 < ratio < math.inf:
        raise ValueError(f"ratio must be positive and finite, got {ratio}")
    if checks.kurtosis(kurtosis) > math.prod(own):
        raise ValueError(f"kurtosis must be at most the number of entries, {math.prod(own)}, got {kurtosis}")
    draws = int(np.clip(2e10 / (math.prod(own) * own[1]), 16, 1000)) if draws is None else draws
    if draws < 3 or _rank(draws, level) > draws:
        raise ValueError(
            f"level {level} needs more draws than {draws}: {max(3, _rank(level / (1 - level), level))} at least"
        )
    key = (own, None if reference is None else other, float(ratio), float(kurtosis))
    return _bands(_simulated_ratios(*key, draws, seed), level)


def null_mean_deviation(blocks: int, out: int, width: int, **options: Any) -> NullDeviation:
    """What :func:`mean_deviation` is for a sister of pure noise (A-F7); parameters as for :func:`sister_null`.

    For 500 x 800: 0.0026 for a dense layer against R of its own variance; for 5, 10, 20, 50 and 100 Gaussian blocks
    against a dense reference 0.006, 0.009, 0.015, 0.030 and 0.054, uniform ones 0.006, 0.008, 0.011, 0.020 and 0.032.
    """
    return sister_null(blocks, out, width, **options).deviation


def _landscape(shape: Shape) -> Shape:
    if min(shape) < 1:
        raise ValueError(f"blocks, out and width must be at least 1, got {shape}")
    return shape[0], min(shape[1:]), max(shape[1:])


@functools.lru_cache(maxsize=32)
def _simulated_ratios(own: Shape, other: Shape | None, ratio: float, kurtosis: float, draws: int, seed: int) -> Floats:
    """(draw, order) ratios of noise to the mean of R, every draw in the units of its reference."""
    null = nulls.ordered_null(*(other or own), seed=seed)
    rng = np.random.default_rng([seed, *own])
    found = []
    for stack in nulls.draws_of(own, draws, rng, kurtosis=kurtosis):
        values = spectra.aggregate(spectra.singular_values(stack, method="gram"))[0]
        if other is None:
            variance = spectra.variance(stack)
        else:
            spread = log_variance_error(kurtosis, math.prod(other))
            variance = rng.gamma(1 / spread, spread, size=len(stack)) / ratio
        found.append(singular_value_ratio(values, null.mean, variance))
    return np.concatenate(found)


def _rank(draws: float, level: float) -> int:
    """Of the draw that a new one does not pass with probability ``level``; the last bits of both are noise."""
    return math.ceil((draws + 1) * level - 1e-9)


def _bands(ratios: Floats, level: float) -> SisterNull:
    tails = [(1 - level) / 2, (1 + level) / 2]
    low, high = np.quantile(ratios, tails, axis=0, method="weibull")
    mean, spread, draws = ratios.mean(axis=0), ratios.std(axis=0, ddof=1), len(ratios)
    # Each draw against the others, as a new layer stands against all of them.
    off = ratios - mean
    left = np.sqrt(np.maximum((draws - 1) * spread**2 - draws / (draws - 1) * off**2, 0) / (draws - 2))
    furthest = np.max(np.abs(off) * draws / (draws - 1) / np.maximum(left, 1e-300), axis=1)
    reach = np.sort(furthest)[_rank(draws, level) - 1] * spread
    deviation = NullDeviation(np.sort(mean_deviation(ratios)))
    for shared in (mean, low, high, deviation.values):
        shared.flags.writeable = False
    return SisterNull(mean, low, high, mean - reach, mean + reach, deviation)
