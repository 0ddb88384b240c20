"""Brody's law of spacings, fitted by maximum likelihood.

With ``k = parameter + 1`` and ``c = Gamma(1 + 1/k)`` the density of a spacing s is ``k c (c s)^(k-1) exp(-(c s)^k)``: a
Weibull law of mean 1, and ``(c s)^k`` is exponentially distributed.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from rmtnet import checks
from rmtnet.local.levels import Floats

_SHAPES = (0.02, 200.0)
# Moments of X = (1 - E) ln E with E exponential: its variance, and its covariance with 1 - E.
_VARIANCE, _COVARIANCE = np.pi**2 / 6 + (1 - np.euler_gamma) ** 2, 1 - np.euler_gamma
_NORMAL_95 = 1.959963984540054


@dataclass(frozen=True)
class BrodyFit:
    """Brody's law fitted to spacings, one for each stack of blocks."""

    parameter: Floats
    """(...) 0 for Poisson levels, 1 for Wigner's surmise; not held to that range."""
    standard_error: Floats
    """(...) of the parameter, were the spacings independent."""
    low: Floats
    """(...) lower end of the 95 % interval."""
    high: Floats
    """(...) upper end of the 95 % interval."""
    count: int
    """Spacings fitted."""


def fit_brody(spacings: ArrayLike) -> BrodyFit:
    """Brody parameter by maximum likelihood, jointly over the spacings of all blocks.

    Parameters
    ----------
    spacings : (..., block, n) or (n,) array_like
        Nearest-neighbour spacings of unfolded levels, of mean 1, as :func:`rmtnet.local.spacings` gives.

    Raises
    ------
    TypeError
        If spacings are not real.
    ValueError
        If there are fewer than 2, if they are not finite or not positive (levels that coincide have density 0 or
        infinity under every parameter but 0: leave them out, and trim spikes), if they do not have mean 1, or if they
        are so equal or unequal that no parameter in [-0.98, 199] fits.

    Notes
    -----
    The density ``p(s) = (1 + b) a s^b exp(-a s^(1 + b))``, ``a = Gamma((b + 2) / (b + 1))^(b + 1)``, is an
    interpolation [1]_ without a theory behind it; GOE levels and singular values of noise come out near 0.95, not 1
    (200 levels). Few spacings bias it upwards: +0.02 for 100, +0.06 for 50, +0.14 for 20 that were divided by their
    own mean.

    The standard error is that of independent spacings divided by their mean; for those that were not, it is 4 to 8 %
    too large from b = 0.8 to 2. The interval is symmetric in ``ln(1 + b)`` and covers 94.4 to 96.4 % (b = 0 to 2, 50
    spacings or more; 92.5 % for 20). Neighbouring spacings of real spectra are anticorrelated (-0.27 in the GOE), but
    b hardly feels it: the true scatter is 0.93 (GOE of 200 levels) to 1.05 (Wishart, 80 x 128 and 200 x 300) of the
    standard error.

    References
    ----------
    .. [1] Brody, Lett. Nuovo Cimento 7 (1973) 482.

    Examples
    --------
    >>> fit = fit_brody(np.random.default_rng(0).exponential(size=4000))
    >>> bool(fit.low < 0 < fit.high)
    True
    """
    values = checks.real(spacings, "spacings")
    values = values.reshape(*values.shape[:-2], -1)
    _check(values)
    shape = brody_shape(values)
    if np.any((shape <= _SHAPES[0] * 1.001) | (shape >= _SHAPES[1] * 0.999)):
        raise ValueError("no Brody parameter in [-0.98, 199] fits: the spacings are nearly equal, or most are nearly 0")
    count = values.shape[-1]
    error = np.sqrt(_variance(shape) / count)
    factor = np.exp(_NORMAL_95 * error / shape)
    return BrodyFit((shape - 1)[()], error[()], (shape / factor - 1)[()], (shape * factor - 1)[()], count)


def brody_shape(spacings: Floats) -> Floats:
    """The shape k of largest likelihood for each row (..., n), held to [0.02, 200]."""
    from scipy.special import digamma, gammaln

    logs = np.log(np.maximum(spacings, 1e-300))
    average = logs.mean(axis=-1)
    low, high = (np.full(average.shape, np.log(end)) for end in _SHAPES)
    log_shape = np.zeros(average.shape)
    for _ in range(100):
        shape = np.exp(log_shape)
        shift, slope = gammaln(1 + 1 / shape), -digamma(1 + 1 / shape) / shape
        reduced = logs + shift[..., None]
        with np.errstate(over="ignore"):
            power = np.exp(shape[..., None] * reduced)
            score = 1 / shape + average + shift + slope - (power * (reduced + slope[..., None])).mean(axis=-1)
        low, high = np.where(score > 0, log_shape, low), np.where(score > 0, high, log_shape)
        step = score / (shape * _information(shape, slope))
        newton = log_shape + np.clip(step, -1, 1)
        inside = (newton > low) & (newton < high)
        moved = np.where(inside, newton, (low + high) / 2)
        if np.all(np.abs(moved - log_shape) < 1e-11):
            break
        log_shape = moved
    return np.exp(moved)


def _information(shape: Floats, slope: Floats) -> Floats:
    """Fisher information of the shape at mean 1."""
    return _VARIANCE / shape**2 + 2 * slope * _COVARIANCE / shape + slope**2


def _variance(shape: Floats) -> Floats:
    """Of the estimate from spacings divided by their mean, times their number."""
    from scipy.special import digamma, gamma

    slope = -digamma(1 + 1 / shape) / shape
    information = _information(shape, slope)
    spread = gamma(1 + 2 / shape) / gamma(1 + 1 / shape) ** 2 - 1
    mixed = _COVARIANCE + shape * slope
    return 1 / information + mixed**2 * spread / information**2


def _check(values: Floats) -> None:
    count = values.shape[-1] if values.ndim else 0
    if count < 2 or values.size == 0:
        raise ValueError(f"spacings must be (n,) or (..., block, n), two or more, got {count} in each stack")
    if np.min(values) <= 0:
        raise ValueError(
            f"spacings must be positive, got {np.min(values)}: levels that coincide, such as spikes unfolded beyond "
            "the edge of a law, have no Brody parameter; trim or drop them"
        )
    with np.errstate(over="ignore"):
        mean = values.mean(axis=-1)
    if np.any(wrong := np.abs(mean - 1) > 0.2 + 6 / np.sqrt(count)):
        raise ValueError(f"spacings must have mean 1, got {mean[wrong].flat[0]:.3g}: divide them by their mean")
