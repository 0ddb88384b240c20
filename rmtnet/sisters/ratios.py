"""Ratios of a layer's variance and ordered singular values to those of its sister and of R."""

import numpy as np
from numpy.typing import ArrayLike, NDArray

from rmtnet import checks

Floats = NDArray[np.float64]


def variance_ratio(variance: ArrayLike, reference: ArrayLike) -> Floats:
    """Variance of a sister's in-block weights over the dense sister's; NaN where the latter is 0 (A-F6, top)."""
    return _ratio(_not_negative(variance, "variance"), _not_negative(reference, "reference"))


def singular_value_ratio(values: ArrayLike, null_mean: ArrayLike, reference_variance: ArrayLike) -> Floats:
    """Ordered singular values over the mean ordered singular values of R (A-F6, bottom).

    Parameters
    ----------
    values : (..., order) aggregated over blocks, descending
    null_mean : (order,) of R at unit variance, see :func:`rmtnet.nulls.ordered_null`
    reference_variance : (...) of R's entries

    Returns
    -------
    (..., order); NaN where the reference variance is 0
    """
    scale = np.sqrt(_not_negative(reference_variance, "reference_variance"))[..., None]
    return _ratio(_not_negative(values, "values"), scale * _not_negative(null_mean, "null_mean"))


def mean_deviation(ratio: ArrayLike) -> Floats:
    """Mean over order of ``|1 - sigma_W / sigma_R|`` (A-F7): (..., order) ratios -> (...).

    It is not 0 for noise: compare it with :func:`null_mean_deviation`.
    """
    ratios = checks.in_range(checks.floats(ratio, "ratio"), "ratio")
    if ratios.ndim == 0 or ratios.shape[-1] == 0:
        raise ValueError(f"ratio must be (..., order) with one order at least, got shape {ratios.shape}")
    return np.asarray(np.abs(1 - ratios).mean(axis=-1))[()]


def _not_negative(values: ArrayLike, name: str) -> Floats:
    """Checked; NaN, where there is no such layer, passes."""
    found = checks.in_range(checks.floats(values, name), name)
    if (found < 0).any():
        raise ValueError(f"{name} must not be negative, got {np.nanmin(found)}")
    return found


def _ratio(numerator: Floats, denominator: Floats) -> Floats:
    numerator, denominator = np.broadcast_arrays(numerator, denominator)
    with np.errstate(over="ignore"):
        found = np.divide(numerator, denominator, out=np.full(numerator.shape, np.nan), where=denominator > 0)
    return checks.in_range(found, "a ratio")
