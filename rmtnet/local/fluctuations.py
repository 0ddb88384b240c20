"""Number variance: how much the number of levels in an interval fluctuates."""

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from rmtnet import checks
from rmtnet.local.levels import Floats, ascending, cut


@dataclass(frozen=True)
class NumberVariance:
    """Number variance over lengths, one curve for each stack of blocks."""

    lengths: Floats
    """(length,) in mean spacings."""
    value: Floats
    """(..., length)"""
    standard_error: Floats
    """(..., length) from the scatter between blocks; NaN for one block: there, compare with a simulated null."""


def number_variance(unfolded: ArrayLike, lengths: ArrayLike, *, trim: float = 0.0) -> NumberVariance:
    """Mean of ``(n - L)^2``, n the number of unfolded levels in an interval of length L.

    The mean is over all places of the interval within a block, exactly (n is piecewise constant), then over blocks.
    Compare with :func:`goe_number_variance`; independent (Poisson) levels have L, or ``L (1 - L / order)`` when their
    number is fixed.

    Parameters
    ----------
    unfolded : (..., block, order) or (order,) array_like
        Levels counted from 0 to order, as :func:`unfold` and :func:`unfold_local` give; in any order.
    lengths : (length,) array_like
        In mean spacings, positive and at most the untrimmed range.
    trim : float
        Fraction left out at each end: intervals lie within ``[cut, order - cut]``, ``cut = floor(trim * order)``.

    Raises
    ------
    TypeError, ValueError
        If levels or lengths are not real, not finite or out of their range, or trim is outside [0, 0.5).

    Notes
    -----
    Wishart noise, 200 x 300 by its law: on the GOE's curve within 1 % up to L = 10. By local broadening it is lower,
    by what :func:`unfold_local` says.

    References
    ----------
    .. [1] Mehta, Random Matrices, 3rd ed. (2004), chapter 16.
    """
    levels = ascending(unfolded, 1, "unfolded")
    order = levels.shape[-1]
    ends = cut(order, trim, 1)
    wanted = np.atleast_1d(checks.real(lengths, "lengths"))
    if wanted.ndim > 1 or not wanted.size:
        raise ValueError(f"lengths must be (length,), not empty, got shape {wanted.shape}")
    if np.any(outside := (wanted <= 0) | (wanted > order - 2 * ends)):
        raise ValueError(f"lengths must be positive and at most {order - 2 * ends}, got {wanted[outside][0]}")
    curves = np.stack([_mean_square(levels, length, ends, order - ends) for length in wanted.tolist()], axis=-1)
    blocks = curves.shape[-2]
    error = curves.std(axis=-2, ddof=1) / math.sqrt(blocks) if blocks > 1 else np.full_like(curves[..., 0, :], np.nan)
    return NumberVariance(wanted, curves.mean(axis=-2), error)


def _mean_square(levels: Floats, length: float, start: float, stop: float) -> Floats:
    """Mean of ``(n - L)^2`` over the places x of the interval ``(x, x + L]`` in ``[start, stop]``, (..., block)."""
    if length == stop - start:
        inside = np.count_nonzero((levels > start) & (levels <= stop), axis=-1)
        return (inside - length) ** 2
    # A level enters when the interval's upper end reaches it, and leaves when its lower end does.
    places = np.clip(np.concatenate([levels - length, levels], axis=-1), start, stop - length)
    change = np.repeat([1, -1], levels.shape[-1])
    turn = np.argsort(places, axis=-1, kind="stable")
    count = np.concatenate([np.zeros_like(levels[..., :1]), np.cumsum(change[turn], axis=-1)], axis=-1)
    places = np.take_along_axis(places, turn, axis=-1)
    steps = np.diff(places, axis=-1, prepend=start, append=stop - length)
    return ((count - length) ** 2 * steps).sum(axis=-1) / (stop - length - start)


def goe_number_variance(lengths: ArrayLike, *, asymptotic: bool = False) -> Floats:
    """Number variance of the GOE, the reference for real symmetric matrices and for singular values.

    Parameters
    ----------
    lengths : (...) array_like
        In mean spacings, from 0 to 1e300.
    asymptotic : bool
        The law of long intervals, ``(2 / pi^2) (ln(2 pi L) + gamma + 1 - pi^2 / 8)`` [1]_, instead of the exact one:
        4 % off at L = 0.5, 1 % at 1, 0.03 % at 5.

    Raises
    ------
    TypeError, ValueError
        If lengths are not real, negative, or above 1e300.

    References
    ----------
    .. [1] Mehta, Random Matrices, 3rd ed. (2004), chapter 16.
    """
    from scipy.special import sici

    wanted = checks.real(lengths, "lengths", negative=False)
    if np.any(wanted > 1e300):
        raise ValueError(f"lengths must be at most 1e300, got {wanted.max()}")
    positive = np.where(wanted > 0, wanted, 1.0)
    logarithm = np.log(2 * np.pi * positive) + np.euler_gamma + 1
    if asymptotic:
        if np.any(wanted == 0):
            raise ValueError("lengths must be positive for the asymptotic number variance, got 0")
        return (2 / np.pi**2 * (logarithm - np.pi**2 / 8))[()]
    long_sine, long_cosine = sici(2 * np.pi * positive)
    sine = sici(np.pi * positive)[0]
    unitary = (logarithm - np.cos(2 * np.pi * positive) - long_cosine) / np.pi**2
    unitary += positive * (1 - 2 / np.pi * long_sine)
    return np.where(wanted > 0, 2 * unitary + (sine / np.pi) ** 2 - sine / np.pi, 0.0)[()]
