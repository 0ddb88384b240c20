"""Uncertainty of a fitted power law, for independent values."""

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from rmtnet import checks
from rmtnet.tails.power_law import PowerLawFit, checked, fit_power_law, scanned, tail_slope

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class PowerLawBootstrap:
    """What independent draws from a fitted power law say about the fit."""

    fit: PowerLawFit
    interval: tuple[float, float]
    """Of alpha, at the level asked for."""
    standard_error: float
    """Of alpha, the choice of xmin included."""
    p: float
    """Chance of a KS distance this large were the tail a power law; Clauset et al. rule the law out below 0.1."""


def bootstrap_power_law(
    values: ArrayLike,
    *,
    rng: int | np.random.Generator,
    xmin: float | None = None,
    min_tail: int = 10,
    resamples: int = 1000,
    level: float = 0.95,
) -> PowerLawBootstrap:
    """Interval of alpha and p-value of the power law, by refitting draws of what was fitted.

    A draw takes each value from the fitted law with probability ``tail / n`` and else one of the values below xmin
    [1]_ (section 4.1); xmin is chosen anew. The interval is the basic bootstrap's on the scale of ``ln(alpha - 1)``.
    All of it is for independent values: the eigenvalues of one matrix repel, and only :func:`assess_tail` knows what
    noise does.

    Parameters
    ----------
    values : (n,) array_like
    rng : source of the draws, or its seed; equal ones give equal results
    xmin, min_tail : as for :func:`fit_power_law`
    resamples : draws, at least 20; one of 384 values takes 0.3 ms, one of 10,000 up to 25
    level : chance that the interval holds alpha, in (0, 1)

    Raises
    ------
    ValueError
        As :func:`fit_power_law`, or if resamples or level is out of range.

    Notes
    -----
    Measured on Pareto values, 250 spectra of 299 draws each (standard error 1.1 to 1.5 %): 95 % intervals
    held alpha in 94 to 97 % of them (alpha 1.5, 2, 3 and 6, n from 300 to 600), and in 95 % where half of 400 values
    lay below the tail. The standard error for alpha 3, n = 384 was 0.154 on average; alpha scatters by 0.145 (3,000
    spectra), and the error for a known xmin is 0.12.

    References
    ----------
    .. [1] Clauset, Shalizi and Newman, SIAM Rev. 51 (2009) 661.
    """
    resamples, level, rng = checks.count(resamples, "resamples", 20), checks.level(level), checks.generator(rng)
    fit = fit_power_law(values, xmin=xmin, min_tail=min_tail)
    body = np.sort(checked(values))[: -fit.tail]
    draws = np.array([_redrawn(body, fit, min_tail if xmin is None else 0, rng) for _ in range(resamples)])
    slope, (slopes, distances) = fit.alpha - 1, draws.T
    high, low = np.quantile(slopes, [(1 + level) / 2, (1 - level) / 2])
    interval = (float(1 + slope**2 / high), float(1 + slope**2 / low))
    p = float((1 + np.sum(distances >= fit.ks_distance)) / (1 + resamples))
    return PowerLawBootstrap(fit, interval, float(np.std(slopes, ddof=1)), p)


def _redrawn(body: Floats, fit: PowerLawFit, min_tail: int, rng: np.random.Generator) -> tuple[float, float]:
    """``alpha - 1`` and KS distance of one draw; xmin stays if min_tail is 0."""
    count = len(body) + fit.tail
    # Two draws of a continuous law differ, and so have a slope.
    tail = max(2, int(rng.binomial(count, fit.tail / count)))
    logs = np.sort(rng.exponential(1 / (fit.alpha - 1), tail))
    if not min_tail:
        return tail_slope(logs)
    below = rng.choice(body, max(0, count - tail)) if len(body) else body
    logs = np.concatenate([np.sort(np.log(below[below > 0])) - math.log(fit.xmin), logs])
    return scanned(logs, min(min_tail, len(logs)))[1:]
