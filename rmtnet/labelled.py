"""The analyses on labelled arrays: (step, block, out, in) DataArray in, DataArray or Dataset over ``step`` out."""

import numpy as np
import xarray as xr

from rmtnet import nulls, sisters, spectra
from rmtnet.bulk import fit_bulk

_MATRIX = ["out", "in"]


def singular_values(weight: xr.DataArray) -> xr.DataArray:
    """(..., block, out, in) -> (..., block, order), descending, for each block by itself."""
    values = xr.apply_ufunc(
        spectra.singular_values, weight, input_core_dims=[_MATRIX], output_core_dims=[["order"]], keep_attrs=False
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
    return xr.apply_ufunc(spectra.variance, weight, input_core_dims=[["block", *_MATRIX]], keep_attrs=False)


def bulk_fits(values: xr.DataArray, *, blocks: int, out: int, width: int) -> xr.Dataset:
    """Fit the Marchenko-Pastur law to the pooled spectrum of ``blocks`` equal blocks (out, width).

    Parameters
    ----------
    values : (..., order) singular values

    Returns
    -------
    ``bulk_variance``, ``bulk_ks`` (distance of the bulk to the law), ``outliers`` (above its edge and allowance), each
    (...); NaN where there is no bulk (a layer of zeros, of low rank)
    """
    short, long = sorted((out, width))

    def fitted(singular: np.ndarray) -> tuple[float, float, float]:
        try:
            fit = fit_bulk(singular**2 / long, short / long, blocks=blocks)
        except (ValueError, RuntimeError):
            return np.nan, np.nan, np.nan
        return fit.law.variance, fit.ks_distance, fit.outliers

    fits = xr.apply_ufunc(fitted, values, input_core_dims=[["order"]], output_core_dims=[[], [], []], vectorize=True)
    return xr.Dataset(dict(zip(("bulk_variance", "bulk_ks", "outliers"), fits, strict=True)))


def spectrum(weight: xr.DataArray) -> xr.Dataset:
    """All statistics of a layer that need no other layer, over ``step``."""
    pooled = aggregate(singular_values(weight))
    values = pooled["singular_values"]
    shape = {"blocks": weight.sizes["block"], "out": weight.sizes["out"], "width": weight.sizes["in"]}
    fits = bulk_fits(values, **shape)
    largest, smallest = (values.isel(order=k, drop=True) for k in (0, -1))
    ends = {"largest_singular_value": largest, "smallest_singular_value": smallest}
    return xr.Dataset({"variance": variance(weight), **ends, **fits, **pooled})


def against_null(spectrum: xr.Dataset, reference_variance: xr.DataArray, shape: tuple[int, int, int]) -> xr.Dataset:
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
        input_core_dims=[["order"], ["order"], []],
        output_core_dims=[["order"]],
    )
    deviation = xr.apply_ufunc(sisters.mean_deviation, ratio, input_core_dims=[["order"]])
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


def variance_ratio(variance: xr.DataArray, reference_variance: xr.DataArray) -> xr.DataArray:
    """Ratio of a sister's variance to the dense sister's at the same steps."""
    return xr.apply_ufunc(sisters.variance_ratio, variance, reference_variance)
