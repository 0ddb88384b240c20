"""Trends over training: the drift of a series, and the first step at which a layer leaves the noise."""

import functools
import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from rmtnet import checks

Floats = NDArray[np.float64]
# Autocorrelations at which the noise is simulated; an estimate is rounded up to one of them.
_AUTOCORRELATIONS = (-0.9, -0.6, -0.3, 0.0, 0.2, 0.4, 0.5, 0.6, 0.7, 0.8, 0.85, 0.88, 0.91, 0.94, 0.97, 0.99, 0.999)


@dataclass(frozen=True)
class Drift:
    """Slope of a series over steps, its error robust to autocorrelation."""

    slope: float
    """Of the values per step, or per unit of log(step)."""
    standard_error: float
    """Newey-West; for strong autocorrelation still too small, unlike the interval."""
    p_value: float
    """Of no drift, two-sided; at least 1 / (draws + 1)."""
    low: float
    high: float
    autocorrelation: float
    """Of neighbouring values about the line, for which p-value and interval hold: an upper estimate."""


@dataclass(frozen=True)
class Deterioration:
    """How far a ratio has fallen, as a fraction of its start: 0.03 for 3 %, negative where it has risen."""

    fall: float
    """Along the fitted line, from the first to the last step."""
    low: float
    """Minus infinity where a rise may exceed 1.8e308."""
    high: float
    observed: float
    """1 - last / first."""
    deepest: float
    """1 - lowest / first."""
    deepest_step: float
    drift: Drift
    """Of log(ratio)."""


def drift(
    steps: ArrayLike,
    values: ArrayLike,
    *,
    log_steps: bool = False,
    level: float = 0.95,
    draws: int = 4000,
    seed: int = 0,
) -> Drift:
    """Least-squares slope of a series over steps, with errors robust to autocorrelation.

    The standard error is Newey and West's [1]_ with n / 4 lags: many, so that correlations of any shape are seen. The
    normal law is then no null for ``slope / standard_error`` [2]_. It is simulated: the same statistic of
    autoregressive Gaussian noise at the same steps, with an autocorrelation one standard error above the one found,
    which is freed of its bias [3]_.

    Parameters
    ----------
    steps : (n,) ascending, evenly spaced (their logarithms, with `log_steps`): autocorrelation is between neighbours
    values : (n,), n >= 10; the logarithm of a ratio, for one
    log_steps : regress on log(step)
    level : probability of the interval, in (0, 1)
    draws, seed : of the simulated noise, kept for the next series at the same steps

    Raises
    ------
    ValueError
        If the two are not 1-D of one length, shorter than 10, not finite, or if steps do not ascend.

    Notes
    -----
    False alarms at 5 %, of 4,000 series of first order autoregressive noise (standard error 0.35 %):

    ====  =====  ===  ===  ===  ===  ====  ====
    n     -0.5   0    0.3  0.6  0.8  0.9   0.95
    ====  =====  ===  ===  ===  ===  ====  ====
    20    2.9    4.3  4.7  5.2  8.1  10.2  13.6
    50    4.0    4.1  3.9  3.5  4.4  6.1   9.7
    100   4.2    4.7  4.3  4.3  3.8  4.2   5.7
    200   3.5    4.5  4.8  4.1  4.1  3.8   4.0
    500   5.2    6.1  5.0  4.7  4.7  4.5   3.8
    ====  =====  ===  ===  ===  ===  ====  ====

    It fails where a series holds but two or three independent values: below 50 steps with strong autocorrelation, and
    for a random walk (12 to 16 %). White noise on top of a slow wander hides it: 14, 9 and 7 % for n = 50, 200 and 500
    with as much of either and autocorrelation 0.9. Smooth noise (moving averages) gives 1 to 4 %.

    References
    ----------
    .. [1] Newey, West, Econometrica 55 (1987) 703.
    .. [2] Kiefer, Vogelsang, Econometric Theory 21 (2005) 1130.
    .. [3] Shaman, Stine, Journal of the American Statistical Association 83 (1988) 842: ``-(2 + 4 r) / n``.
    """
    from statsmodels.regression.linear_model import OLS

    checks.level(level)
    x, y = _series(steps, values)
    if log_steps and x[0] <= 0:
        raise ValueError(f"steps must be positive with log_steps, got {x[0]}: leave it out")
    draws = checks.count(draws, "draws")
    largest = float(np.abs(y).max()) or 1.0
    y = y / largest - np.mean(y / largest)
    size = float(np.abs(y).max())
    if size <= 1e-14:  # constant but for rounding
        return Drift(0.0, 0.0, 1.0, 0.0, 0.0, 0.0)
    x, unit = _centred(np.log(x) if log_steps else x)
    lags = {"maxlags": _lags(len(x)), "use_correction": False}
    fit = OLS(y / size, np.column_stack([np.ones_like(x), x])).fit(cov_type="HAC", cov_kwds=lags)
    slope, error = float(fit.params[1]), float(fit.bse[1])
    autocorrelation = _autocorrelation(np.asarray(fit.resid))
    null = _null_statistics(x.tobytes(), autocorrelation, draws, seed)
    as_far = draws - np.searchsorted(null, abs(slope) / max(error, 1e-14))
    reach = error * float(np.quantile(null, level))
    parts = np.array([slope, error, reach, slope - reach, slope + reach])
    with np.errstate(over="ignore"):
        slope, error, reach, low, high = checks.in_range(parts * size * largest / unit, "the slope").tolist()
    return Drift(slope, error, float(as_far + 1) / (draws + 1), low, high, autocorrelation)


def deterioration(
    steps: ArrayLike,
    ratio: ArrayLike,
    *,
    log_steps: bool = False,
    level: float = 0.95,
    draws: int = 4000,
    seed: int = 0,
) -> Deterioration:
    """How far a sister's variance ratio has fallen from its own start (paper A, A-F6).

    Parameters
    ----------
    steps, ratio : (n,), n >= 10; ratios are positive
    log_steps, level, draws, seed : as for :func:`drift`, which is taken of ``log(ratio)``

    Notes
    -----
    The interval is that of a straight line among autocorrelated noise: a ratio that falls and rises again has a wide
    one, and `deepest` says how far it went. How other seeds would fall, only other seeds can tell.
    """
    x, y = _series(steps, ratio)
    if np.min(y) <= 0:
        raise ValueError(f"ratio must be positive, got {np.min(y)}")
    line = drift(x, np.log(y), log_steps=log_steps, level=level, draws=draws, seed=seed)
    span = math.log(x[-1] / x[0]) if log_steps else x[-1] - x[0]
    lowest = int(np.argmin(y))
    with np.errstate(over="ignore"):
        fall, low, high = -np.expm1(np.array([line.slope, line.high, line.low]) * span)
        observed, deepest = 1 - y[[-1, lowest]] / y[0]
    checks.in_range(np.array([fall, observed]), "the ratio over its start")
    return Deterioration(float(fall), float(low), float(high), float(observed), float(deepest), float(x[lowest]), line)


def corrected(p: ArrayLike, *, method: str = "holm") -> Floats:
    """p-values corrected for their number, over all layers and steps at once.

    Parameters
    ----------
    p : (...) in [0, 1]; NaN (no test) stays NaN and does not count
    method : of statsmodels' ``multipletests``.  "holm" bounds the chance of any false alarm, whatever the dependence;
        "fdr_bh" the share of false ones among the alarms (independent or positively dependent), "fdr_by" under any
        dependence.

    Returns
    -------
    (...) compare them with the level wanted

    Raises
    ------
    ValueError
        If a p-value is outside [0, 1], or statsmodels does not know the method.
    """
    from statsmodels.stats.multitest import multipletests

    values = checks.floats(p, "p")
    tested = ~np.isnan(values)
    if not np.all((values[tested] >= 0) & (values[tested] <= 1)):
        raise ValueError(f"p must lie in [0, 1] or be NaN, got {values[tested].min()} to {values[tested].max()}")
    if tested.any():
        try:
            values[tested] = multipletests(values[tested], method=method)[1]
        except (AttributeError, ValueError):
            raise ValueError(f"method must be one that statsmodels' multipletests knows, got {method!r}") from None
    return values


def first_departure(
    p: ArrayLike, steps: ArrayLike, *, level: float = 0.05, method: str = "holm", consecutive: int = 1
) -> Floats:
    """The first step at which each layer leaves the null.

    Parameters
    ----------
    p : (..., step) p-values of layers over steps; NaN where there is no test
    steps : (step,) ascending
    level : of the corrected p-values
    method : of the correction over all layers and steps, see :func:`corrected`
    consecutive : steps in a row that must be rejected; the first of them is given, and a step without test ends a row

    Returns
    -------
    (...) a step, or NaN for a layer that never leaves

    Notes
    -----
    With "holm" the chance that any layer of noise leaves is at most `level`, however the tests depend on each other:
    measured 5.0 % for independent ones (2,000 draws of 20 layers and 50 steps), 2.3 % where neighbouring steps
    correlate by 0.9. "fdr_bh": 5.2 and 2.6 % when all is noise, and more false departures beside true ones.
    """
    checks.level(level)
    values, places = checks.floats(p, "p"), checks.floats(steps, "steps")
    if values.ndim == 0 or places.shape != values.shape[-1:] or not np.all(np.diff(places) > 0):
        raise ValueError(f"steps must ascend, one for each of p's last axis, got {places.shape} for {values.shape}")
    consecutive = checks.count(consecutive, "consecutive")
    if values.shape[-1] < consecutive:
        return np.full(values.shape[:-1], np.nan)
    rejected = corrected(values, method=method) <= level
    rows = np.lib.stride_tricks.sliding_window_view(rejected, consecutive, axis=-1).all(axis=-1)
    return np.where(rows.any(axis=-1), places[rows.argmax(axis=-1)], np.nan)


def _series(steps: ArrayLike, values: ArrayLike) -> tuple[Floats, Floats]:
    x, y = checks.floats(steps, "steps"), checks.floats(values, "values")
    if x.ndim != 1 or x.shape != y.shape or len(x) < 10:
        raise ValueError(f"steps and values must be 1-D and of one length >= 10, got {x.shape} and {y.shape}")
    if not (np.isfinite(x).all() and np.isfinite(y).all()):
        raise ValueError("steps and values must be finite: leave out steps without a value")
    if not np.all(np.diff(x) > 0):
        raise ValueError("steps must ascend, each once")
    return x, y


def _centred(x: Floats) -> tuple[Floats, float]:
    """Between -1 and 1 about its mean, and the unit."""
    x = x - x.mean()
    unit = float(np.abs(x).max())
    return x / unit, unit


def _lags(count: int) -> int:
    return count // 4


def _autocorrelation(residuals: Floats) -> float:
    """Of neighbours, freed of its bias, one standard error up, and rounded up to one that is simulated."""
    count, power = len(residuals), float(residuals @ residuals)
    found = float(residuals[1:] @ residuals[:-1]) / power if power > 0 else 0.0
    upper = found + (2 + 4 * found) / count + math.sqrt((1 - found**2) / count)
    return next((step for step in _AUTOCORRELATIONS if step >= upper), _AUTOCORRELATIONS[-1])


@functools.lru_cache(maxsize=256)
def _null_statistics(centred: bytes, autocorrelation: float, draws: int, seed: int) -> Floats:
    """``|slope / standard_error|`` of autoregressive noise, ascending."""
    from scipy.signal import lfilter

    x = np.frombuffer(centred)
    rng, found = np.random.default_rng(seed), []
    at_once = max(1, 2**20 // len(x))
    for first in range(0, draws, at_once):
        noise = rng.normal(size=(min(at_once, draws - first), len(x)))
        noise[:, 0] /= math.sqrt(1 - autocorrelation**2)
        found.append(np.abs(_slope_statistic(x, lfilter([1.0], [1.0, -autocorrelation], noise))))
    statistics = np.sort(np.concatenate(found))
    statistics.flags.writeable = False
    return statistics


def _slope_statistic(x: Floats, y: Floats) -> Floats:
    """Slope over its Newey-West standard error, of many series (..., n) at once; x is centred."""
    y = y - y.mean(axis=-1, keepdims=True)
    slope = y @ x / (x @ x)
    scores = np.cumsum((y - slope[..., None] * x) * x, axis=-1)
    # Bartlett's weights are the overlaps of sliding windows: their squared sums, ends padded with zeros.
    window = _lags(len(x)) + 1
    sums = np.pad(scores, [(0, 0)] * (y.ndim - 1) + [(window, window - 1)], mode="constant")
    sums[..., len(x) + window :] = scores[..., -1:]
    power = np.sum((sums[..., window:] - sums[..., :-window]) ** 2, axis=-1) / window
    return slope * (x @ x) / np.sqrt(power)
