"""Comparison with the dense sister and with R."""

import numpy as np
import xarray as xr

from rmtnet import nulls, sisters
from rmtnet.labelled.apply import ORDER
from rmtnet.labelled.extremes import rounded_kurtosis

Shape = tuple[int, int, int]
# About a second of simulation: 30 draws of 500 x 800.
_WORK, _FEWEST, _MOST = 6e9, 16, 100


def against_null(spectrum: xr.Dataset, reference_variance: xr.DataArray, shape: Shape) -> xr.Dataset:
    """A layer's spectrum compared with R of ``shape`` (block, out, in) and ``reference_variance`` (step).

    Returns
    -------
    ``singular_value_ratio`` (step, order), ``mean_deviation``, ``largest_ratio``, ``reference_variance`` (step), and
    R's ``null_mean``, ``null_low``, ``null_high`` (order): mean at unit variance, one draw's 5 and 95 % over that mean
    """
    null = nulls.ordered_null(*shape)
    ratio = xr.apply_ufunc(
        sisters.singular_value_ratio,
        spectrum["singular_values"],
        xr.DataArray(null.mean, dims="order"),
        reference_variance,
        input_core_dims=[ORDER, ORDER, []],
        output_core_dims=[ORDER],
    )
    deviation = xr.apply_ufunc(sisters.mean_deviation, ratio, input_core_dims=[ORDER])
    band = {"null_mean": null.mean, "null_low": null.low / null.mean, "null_high": null.high / null.mean}
    return xr.Dataset(
        {
            "singular_value_ratio": ratio,
            "mean_deviation": deviation,
            "largest_ratio": ratio.isel(order=0, drop=True),
            "reference_variance": reference_variance,
            **{name: ("order", values) for name, values in band.items()},
        }
    )


def mean_deviation_null(
    deviation: xr.DataArray,
    shape: Shape,
    *,
    reference: Shape | None = None,
    kurtosis: xr.DataArray | float = 3.0,
    draws: int | None = None,
) -> xr.Dataset:
    """Mean deviations of noise beside those of a layer: :func:`rmtnet.sisters.null_mean_deviation`.

    Parameters
    ----------
    deviation : (...) of the layer, from :func:`against_null`
    shape : (block, out, in) of the layer
    reference : (block, out, in) of a reference other than the layer itself
    kurtosis : (...) of the layer's noise, rounded as for :func:`rmtnet.labelled.extremes`
    draws : of noise; by default 100, fewer (at least 16) of large matrices

    Returns
    -------
    ``mean_deviation_null`` (the mean for noise), ``mean_deviation_p`` (not below 1 / (draws + 1)), each (...)
    """
    entries = shape[0] * shape[1] * shape[2]
    draws = draws or int(np.clip(_WORK / (entries * min(shape[1:])), _FEWEST, _MOST))

    def compared(deviation: np.ndarray, kurtosis: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        rounded = np.broadcast_to(rounded_kurtosis(kurtosis, entries), np.shape(deviation))
        mean, p = np.full(np.shape(deviation), np.nan), np.full(np.shape(deviation), np.nan)
        known = ~np.isnan(deviation) & ~np.isnan(rounded)
        for own in np.unique(rounded[known]):
            these = known & (rounded == own)
            null = sisters.null_mean_deviation(*shape, reference=reference, kurtosis=float(own), draws=draws)
            mean[these], p[these] = null.mean, null.p_value(deviation[these])
        return mean, p

    found = xr.apply_ufunc(compared, deviation, kurtosis, output_core_dims=[[], []])
    return xr.Dataset(dict(zip(("mean_deviation_null", "mean_deviation_p"), found, strict=True)))


def variance_ratio(variance: xr.DataArray, reference_variance: xr.DataArray) -> xr.DataArray:
    """Ratio of a sister's variance to the dense sister's at the same steps."""
    return xr.apply_ufunc(sisters.variance_ratio, variance, reference_variance)


def variance_ratio_interval(moments: xr.Dataset, reference: xr.Dataset, *, level: float = 0.95) -> xr.Dataset:
    """The same with its interval, from the :func:`entry_moments` of both.

    Returns
    -------
    ``variance_ratio``, ``variance_ratio_low``, ``variance_ratio_high``, each (...)
    """
    counts = [int(part["entries"]) for part in (moments, reference)]

    def measured(*parts: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        sister = sisters.EntryMoments(parts[0], parts[1], counts[0])
        other = sisters.EntryMoments(parts[2], parts[3], counts[1])
        found = sisters.variance_ratio_interval(sister, other, level=level)
        return found.ratio, found.low, found.high

    arrays = [part[name] for part in (moments, reference) for name in ("variance", "fourth_moment")]
    found = xr.apply_ufunc(measured, *arrays, output_core_dims=[[], [], []])
    return xr.Dataset(dict(zip(("variance_ratio", "variance_ratio_low", "variance_ratio_high"), found, strict=True)))
