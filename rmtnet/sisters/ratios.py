"""Ratios of a layer's variance and ordered singular values to those of its sister and of R."""

import numpy as np
from numpy.typing import ArrayLike, NDArray

Floats = NDArray[np.float64]


def variance_ratio(variance: ArrayLike, reference: ArrayLike) -> Floats:
    """Variance of a sister's in-block weights over the dense sister's; NaN where the latter is 0 (A-F6, top)."""
    return _ratio(variance, reference)


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
    scale = np.sqrt(np.asarray(reference_variance, dtype=np.float64))[..., None]
    return _ratio(values, scale * np.asarray(null_mean))


def mean_deviation(ratio: ArrayLike) -> Floats:
    """Mean over order of ``|1 - sigma_W / sigma_R|`` (A-F7): (..., order) ratios -> (...).

    It is not 0 for noise: compare it with :func:`null_mean_deviation`.
    """
    return np.abs(1 - np.asarray(ratio, dtype=np.float64)).mean(axis=-1)


def _ratio(numerator: ArrayLike, denominator: ArrayLike) -> Floats:
    numerator, denominator = np.broadcast_arrays(
        np.asarray(numerator, dtype=np.float64), np.asarray(denominator, dtype=np.float64)
    )
    return np.divide(numerator, denominator, out=np.full(numerator.shape, np.nan), where=denominator > 0)
