"""Spectra, moments of the entries, and the fit of the bulk."""

import numpy as np
import xarray as xr

from rmtnet import measures, nulls, sisters, spectra
from rmtnet.bulk import fit_bulk
from rmtnet.labelled.apply import LEVELS, ORDER, WEIGHT, at_each_step
from rmtnet.labelled.extremes import extremes
from rmtnet.labelled.noise import block_kurtosis, noise_kurtosis
from rmtnet.labelled.shape import shape_measures
from rmtnet.sisters.intervals import log_variance_error


def singular_values(weight: xr.DataArray) -> xr.DataArray:
    """(..., block, out, in) -> (..., block, order), descending, for each block by itself."""
    values = xr.apply_ufunc(
        spectra.singular_values, weight, input_core_dims=[WEIGHT[1:]], output_core_dims=[ORDER], keep_attrs=False
    )
    return values.assign_coords(order=np.arange(1, values.sizes["order"] + 1)).rename("singular_values")


def aggregate(values: xr.DataArray) -> xr.Dataset:
    """(..., block, order) -> ``singular_values`` and the ``block`` each came from, (..., order), pooled and sorted."""
    pooled, block = xr.apply_ufunc(
        spectra.aggregate,
        values,
        input_core_dims=[["block", "order"]],
        output_core_dims=[["order"], ["order"]],
        exclude_dims={"order"},
    )
    order = np.arange(1, pooled.sizes["order"] + 1)
    return xr.Dataset({"singular_values": pooled, "block": block.astype("int32")}).assign_coords(order=order)


def variance(weight: xr.DataArray) -> xr.DataArray:
    """(..., block, out, in) -> (...): variance of the in-block entries."""
    return xr.apply_ufunc(spectra.variance, weight, input_core_dims=[WEIGHT], keep_attrs=False)


def kurtosis(weight: xr.DataArray) -> xr.DataArray:
    """(..., block, out, in) -> (...): of each block by itself, averaged over those that are not 0."""
    return block_kurtosis(weight).mean("block", skipna=True)


def entry_moments(weight: xr.DataArray) -> xr.Dataset:
    """What :func:`variance_ratio_interval` needs of a layer, to be kept in place of its weights.

    Returns
    -------
    ``variance``, ``second_moment`` (about 0), ``fourth_moment`` (over the square of the variance, taken within each
    block), ``variance_error`` (1 standard error of sampling the entries), each (...); ``entries``, their number
    """

    def measured(stack: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        moments = sisters.entry_moments(stack)
        error = moments.variance * np.sqrt(log_variance_error(moments.kurtosis, moments.count))
        return moments.variance, moments.kurtosis, error

    found = xr.apply_ufunc(measured, weight, input_core_dims=[WEIGHT], output_core_dims=[[], [], []], keep_attrs=False)
    moments = xr.Dataset(dict(zip(("variance", "fourth_moment", "variance_error"), found, strict=True)))
    second = moments["variance"] + weight.mean(WEIGHT, skipna=False, dtype=float, keep_attrs=False) ** 2
    entries = weight.sizes["block"] * weight.sizes["out"] * weight.sizes["in"]
    return moments.assign(second_moment=second.drop_attrs(), entries=entries)


def moments_of_values(values: xr.DataArray, *, out: int, width: int) -> xr.Dataset:
    """The same from singular values alone, which tell the second moment about 0 and nothing else: the rest is NaN.

    Parameters
    ----------
    values : (..., block, order) singular values of blocks (out, width)

    Raises
    ------
    ValueError
        If the second moment is beyond float64.
    """
    entries = values.sizes["block"] * out * width
    with np.errstate(over="ignore"):
        second = ((values / np.sqrt(entries)) ** 2).sum(LEVELS, skipna=False).drop_attrs()
    if np.isinf(second).any():
        raise ValueError("the squares of singular values are beyond float64: divide all by one factor")
    unknown = dict.fromkeys(("variance", "fourth_moment", "variance_error"), xr.full_like(second, np.nan))
    return xr.Dataset({**unknown, "second_moment": second, "entries": entries})


def about_zero(moments: xr.Dataset) -> xr.Dataset:
    """Entry moments in which the second moment about 0 takes the place of the variance, without an error."""
    second = moments["second_moment"]
    return moments.assign(variance=second, fourth_moment=xr.full_like(second, np.nan))


def gaussian_entries(values: xr.DataArray, *, out: int, width: int, seed: int = 0) -> xr.DataArray:
    """(..., block, order) singular values -> (..., block, out, in): Gaussian entries of each block's second moment.

    They stand for entries that are not known; all steps share one draw.
    """
    scale = ((values**2).sum("order", skipna=False) / (out * width)) ** 0.5
    draw = nulls.iid_blocks((values.sizes["block"], out, width), 1.0, seed)
    return scale * xr.DataArray(draw, dims=WEIGHT)


def bulk_fits(
    values: xr.DataArray, *, blocks: int, out: int, width: int, kurtosis: xr.DataArray | float = 3.0
) -> xr.Dataset:
    """Fit the Marchenko-Pastur law to the pooled spectrum of ``blocks`` equal blocks (out, width).

    Parameters
    ----------
    values : (..., order) singular values
    kurtosis : (...) of the noise's entries, on which the error of the variance rests

    Returns
    -------
    ``bulk_variance``, ``bulk_variance_error`` (1 standard error), ``bulk_ks`` (distance of the bulk to the law),
    ``mp_softrank`` (upper edge over the largest eigenvalue), each (...); NaN where there is no bulk (a layer of zeros,
    of low rank)

    Raises
    ------
    ValueError
        If there are not min(out, width) values a block, or the kurtosis is infinite or below 1.
    """
    short, long = sorted((out, width))
    if values.sizes["order"] != blocks * short:
        raise ValueError(f"{blocks} blocks {out} x {width} have {blocks * short} values, got {values.sizes['order']}")
    if (np.asarray(kurtosis) < 1).any() or np.isinf(kurtosis).any():
        raise ValueError("kurtosis must be finite and at least 1 (Gaussian 3, uniform 1.8)")

    def fitted(singular: np.ndarray, kurtosis: float) -> tuple[float, float, float, float]:
        # What is left of a matrix of low rank is rounding, not noise.
        known = singular > long * np.finfo(float).eps * singular.max()
        eigenvalues = np.where(known, singular, 0.0) ** 2 / long
        try:
            fit = fit_bulk(eigenvalues, short / long, blocks=blocks, kurtosis=kurtosis)
        except (ValueError, RuntimeError):  # All is 0 but for outliers: only the fit tells which those are.
            return np.nan, np.nan, np.nan, np.nan
        softrank = float(measures.mp_softrank(eigenvalues, fit.law.edges[1]))
        return fit.law.variance, fit.standard_error, fit.ks_distance, softrank

    names = ("bulk_variance", "bulk_variance_error", "bulk_ks", "mp_softrank")
    return at_each_step(fitted, values, kurtosis, core=[ORDER, []], names=names)


def spectrum(weight: xr.DataArray, values: xr.DataArray | None = None, *, dtype: str | None = "own") -> xr.Dataset:
    """All statistics of a layer that need no other layer, over ``step``.

    Parameters
    ----------
    weight : (..., block, out, in)
    values : (..., block, order) its singular values, if there are some already
    dtype : that the weights were stored in before they were recorded; by default their own; None: not known
    """
    values = singular_values(weight) if values is None else values
    entries = block_kurtosis(weight)
    known = {
        "kurtosis": entries.mean("block", skipna=True),
        "noise_kurtosis": noise_kurtosis(weight, values, entries),
    }
    dtype = str(weight.dtype) if dtype == "own" else dtype
    shape = {"out": weight.sizes["out"], "width": weight.sizes["in"]}
    return _spectrum(entry_moments(weight).assign(known), values, **shape, dtype=dtype)


def spectrum_of_values(values: xr.DataArray, *, out: int, width: int, dtype: str | None = None) -> xr.Dataset:
    """The same from singular values alone: variance and kurtosis are NaN, the entries are taken for Gaussian.

    Parameters
    ----------
    values : (..., block, order) singular values of blocks (out, width)
    dtype : that the weights were stored in; None: not known
    """
    moments = moments_of_values(values, out=out, width=width)
    gaussian = xr.where(moments["second_moment"] > 0, 3.0, np.nan)
    known = {"kurtosis": moments["fourth_moment"], "noise_kurtosis": gaussian}
    return _spectrum(moments.assign(known), values, out=out, width=width, dtype=dtype)


def _spectrum(moments: xr.Dataset, values: xr.DataArray, *, out: int, width: int, dtype: str | None) -> xr.Dataset:
    pooled, noise = aggregate(values), moments["noise_kurtosis"]
    largest, smallest = (pooled["singular_values"].isel(order=k, drop=True) for k in (0, -1))
    blocks = values.sizes["block"]
    return xr.merge(
        [
            moments,
            {"largest_singular_value": largest, "smallest_singular_value": smallest},
            extremes(values, out=out, width=width, kurtosis=noise),
            bulk_fits(pooled["singular_values"], blocks=blocks, out=out, width=width, kurtosis=noise),
            shape_measures(values, out=out, width=width, dtype=dtype),
            pooled,
        ]
    )
