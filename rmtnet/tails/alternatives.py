"""Other laws for the same tail."""

import functools
import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from rmtnet.tails.power_law import PowerLawFit, checked

Floats = NDArray[np.float64]

_ALTERNATIVES = ("exponential", "lognormal", "truncated_power_law")


@dataclass(frozen=True)
class LikelihoodRatio:
    """A power law against another law on the same tail."""

    log_ratio: float
    """Log-likelihood of the power law less that of the alternative: positive where the power law fits better."""
    normalized: float
    """``log_ratio`` over its standard deviation (Vuong): normal (0, 1) if both laws are equally far from the truth."""
    p: float
    """Two-sided; for the truncated power law, of the power law against it."""


def likelihood_ratios(values: ArrayLike, fit: PowerLawFit) -> dict[str, LikelihoodRatio]:
    """The power law against an exponential, a lognormal and a truncated power law, each fitted to the same tail.

    All are laws of ``x >= xmin``, by maximum likelihood. The first two meet Vuong's test. The power law is the
    truncated one without its cut-off, so twice the log ratio is held against chi-square (1), as [1]_ does; p is up to
    twice too large, for a cut-off cannot be negative. A tail that spreads wider than a power law has the power law
    itself as its best lognormal [2]_ or truncated power law: ratio 0, p 1.

    Parameters
    ----------
    values : (n,) array_like
    fit : of these values

    Raises
    ------
    ValueError
        If fit is of other values, or the tail spans more than 300 decades.

    References
    ----------
    .. [1] Clauset, Shalizi and Newman, SIAM Rev. 51 (2009) 661, section 5; Vuong, Econometrica 57 (1989) 307.
    .. [2] del Castillo, Ann. Inst. Statist. Math. 46 (1994) 57: the truncated normal law of ln x.
    """
    array = np.sort(checked(values))
    tail = array[array >= fit.xmin]
    logs = np.maximum(np.log(tail) - math.log(fit.xmin), 0)
    # The second as the first has it, but for the rounding of the logarithms.
    if len(tail) != fit.tail or abs(np.mean(logs) - 1 / (fit.alpha - 1)) > 1e-9 * np.mean(logs) + 1e-12:
        raise ValueError(f"fit must be of values, but theirs has other values from xmin={fit.xmin} on: fit them anew")
    if logs[-1] > 690:
        raise ValueError(f"the tail must span at most 300 decades, got {fit.xmin} to {tail[-1]}")
    own = math.log(fit.alpha - 1) - fit.alpha * logs
    laws = (_exponential(logs), _lognormal(logs, own), _truncated(logs, own))
    pairs = zip(_ALTERNATIVES, laws, strict=True)
    return {name: _vuong(own - law, nested=name == "truncated_power_law") for name, law in pairs}


def _vuong(difference: Floats, *, nested: bool) -> LikelihoodRatio:
    total, spread = float(np.sum(difference)), float(np.std(difference)) * math.sqrt(len(difference))
    normalized = total / spread if spread > 0 else 0.0
    # Survival functions of chi-square (1) at 2 |total| and of |normal (0, 1)|.
    p = math.erfc(math.sqrt(abs(total))) if nested else math.erfc(abs(normalized) / math.sqrt(2))
    return LikelihoodRatio(total, normalized, p)


def _exponential(logs: Floats) -> Floats:
    """Log density of ``x / xmin``, as all below."""
    excess = np.expm1(logs)
    mean = float(np.mean(excess))
    return -math.log(mean) - excess / mean


def _lognormal(logs: Floats, power_law: Floats) -> Floats:
    """``y = ln x`` is normal on ``y >= 0``: its first two moments equal those of the sample."""
    from scipy.optimize import brentq
    from scipy.special import erfcx

    def hazard(start: float) -> float:
        return float(math.sqrt(2 / math.pi) / erfcx(start / math.sqrt(2)))

    def ratio(start: float) -> float:
        """``E y^2 / (E y)^2`` of a standard normal beyond `start`, less its start: 1 (far left) to 2 (far right)."""
        return (1 - start * hazard(start) + start**2) / (hazard(start) - start) ** 2

    mean = float(np.mean(logs))
    wanted = float(np.mean((logs / mean) ** 2))
    if wanted >= ratio(1e3):
        return power_law
    start = brentq(lambda start: ratio(start) - wanted, -1e6, 1e3, xtol=1e-12)
    sigma = mean / (hazard(start) - start)
    beyond = start + logs / sigma
    return -(beyond**2 - start**2) / 2 - math.log(sigma / hazard(start)) - logs


def _truncated(logs: Floats, power_law: Floats) -> Floats:
    """``x^-alpha exp(-rate x)``: Newton's method on its concave likelihood, from the exponential law."""
    slope, unit = 1 / float(np.mean(logs)), float(np.mean(np.expm1(logs)))
    if slope > 1 and unit >= 1 / (slope - 1):
        return power_law  # The likelihood falls with the rate, from 0 on.
    if unit < 1e-6:
        return _lognormal(logs, power_law)  # Over so short a tail both are normal laws of ln x, cut off at 0.
    # In units of the mean excess, whose square may exceed float64.
    sample, point = np.array([1 / slope, 1.0]), np.array([0.0, 1.0])
    log_norm, mean, covariance = _truncated_moments(0.0, 1.0, unit)
    for _ in range(200):
        step = np.linalg.solve(covariance, mean - sample)
        gain = float(step @ (mean - sample))
        if gain < 1e-14:
            break
        point, (log_norm, mean, covariance) = _climbed(point, step, sample, log_norm, gain, unit)
    law = -point[0] * logs - point[1] * (np.expm1(logs) / unit) - log_norm
    # A cut-off far beyond the tail is not found, and gains nothing over none.
    return law if np.sum(law) > np.sum(power_law) else power_law


def _climbed(
    point: Floats, step: Floats, sample: Floats, log_norm: float, gain: float, unit: float
) -> tuple[Floats, tuple[float, Floats, Floats]]:
    """The farthest of the halved steps that keeps the rate positive and gains likelihood."""
    length = 1.0 if point[1] + step[1] > 0 else -0.9 * point[1] / step[1]
    while True:
        new = point + length * step
        moments = _truncated_moments(new[0], new[1], unit)
        gained = log_norm - moments[0] - float((new - point) @ sample)
        if gained >= 0.1 * length * gain or length < 1e-9:
            return new, moments
        length /= 2


def _truncated_moments(alpha: float, rate: float, unit: float) -> tuple[float, Floats, Floats]:
    """Log of ``integral_1^oo x^-alpha exp(-rate y) dx``, ``y = (x - 1) / unit``; mean and covariance of (ln x, y)."""
    slope = 1 - alpha

    def height(u: float) -> float:
        return slope * u - rate * (math.expm1(min(u, 700.0)) / unit)

    # Concave in u = ln x: from its mode on either side to where it is exp(-45) of it.
    mode = max(0.0, math.log(slope / rate) + math.log(unit)) if slope > 0 else 0.0
    low, high = _fallen(height, mode, -1.0), _fallen(height, mode, 1.0)
    nodes, weights = _gauss()
    u = np.concatenate([low + (mode - low) * nodes, mode + (high - mode) * nodes])
    density = np.concatenate([(mode - low) * weights, (high - mode) * weights])
    statistics = np.stack([u, np.expm1(np.minimum(u, 700)) / unit])
    density *= np.exp(slope * u - rate * statistics[1] - height(mode))
    total = float(np.sum(density))
    mean = statistics @ density / total
    centred = statistics - mean[:, None]
    return height(mode) + math.log(total), mean, (centred * density) @ centred.T / total


def _fallen(height: Callable[[float], float], mode: float, side: float) -> float:
    """Where a concave function has fallen by 45 from its mode, or 0."""
    top, width = height(mode), 1e-12
    while height(mode + side * width) > top - 45 and 0 < mode + side * width < 1400:
        width *= 1.5
    return max(0.0, mode + side * width)


@functools.cache
def _gauss() -> tuple[Floats, Floats]:
    nodes, weights = np.polynomial.legendre.leggauss(128)
    return (nodes + 1) / 2, weights / 2
