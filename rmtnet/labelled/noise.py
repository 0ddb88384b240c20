"""The kurtosis of a layer's noise, which its null and the errors of its fit rest on."""

import math

import numpy as np
import xarray as xr
from numpy.typing import NDArray

from rmtnet import spectra
from rmtnet.bulk import fit_noise
from rmtnet.bulk.estimators import Rest, middle_slope
from rmtnet.edges.noise import ASYMPTOTIC, heavy_excess
from rmtnet.labelled.apply import LEVELS, WEIGHT

Floats = NDArray[np.float64]


def block_kurtosis(weight: xr.DataArray) -> xr.DataArray:
    """(..., block, out, in) -> (..., block): of each block's entries; NaN for one of zeros."""
    one = weight.expand_dims("one", axis=-3)
    return xr.apply_ufunc(spectra.kurtosis, one, input_core_dims=[["one", "out", "in"]], keep_attrs=False)


def noise_kurtosis(weight: xr.DataArray, values: xr.DataArray, entries: xr.DataArray | None = None) -> xr.DataArray:
    """Kurtosis of the entries of each block less its spikes, averaged over those that are not 0.

    A spike on few inputs or outputs gives the entries a heavy tail, which would hide the other spikes.

    Parameters
    ----------
    weight : (..., block, out, in)
    values : (..., block, order) its singular values
    entries : (..., block) kurtosis of the entries, if it is known already

    Returns
    -------
    (...), by :func:`rmtnet.fit_noise` of each block; that of all entries where those left are heavy-tailed still, and
    spikes are hard to tell from them; NaN for a layer of zeros
    """
    entries = block_kurtosis(weight) if entries is None else entries
    core = [WEIGHT, LEVELS, ["block"]]
    found = xr.apply_ufunc(
        _less_spikes, weight, values, entries, input_core_dims=core, output_core_dims=[["block"]], keep_attrs=False
    )
    rest = found.mean("block", skipna=True)
    return rest.where(
        ~(rest - 3 > _heavy(*(weight.sizes[side] for side in WEIGHT))), entries.mean("block", skipna=True)
    )


def _heavy(blocks: int, out: int, width: int) -> float:
    """Excess kurtosis from which on entries without spikes are heavy-tailed: that of :mod:`rmtnet.edges`.

    Less for small blocks, of which a fit leaves out the heaviest entries: two standard errors of Gaussian ones.
    """
    if min(out, width) >= ASYMPTOTIC:
        return heavy_excess(out * width)
    return max(0.4, 2 * math.sqrt(24 / (blocks * out * width)))


def _less_spikes(weight: Floats, values: Floats, entries: Floats) -> Floats:
    """(..., block) kurtosis less the spikes of each block, from that of all entries."""
    found, long = np.array(entries), max(weight.shape[-2:])
    tops = np.maximum(values.max(axis=-1, keepdims=True), np.finfo(float).tiny)
    known = values / tops
    known = np.where(known > long * np.finfo(float).eps, known, 0.0)
    for at in zip(*np.nonzero(_have_outliers(known, long)), strict=True):
        found[at] = _of_rest(weight[at].astype(float) / tops[at], known[at], float(found[at]))
    return found


def _have_outliers(values: Floats, long: int) -> NDArray[np.bool_]:
    """(...) whether a fit leaves any eigenvalue out: the first of its rounds alone, for most blocks have none."""
    eigenvalues = np.sort(values, axis=-1) ** 2 / long
    rest = Rest(values.shape[-1], 1, values.shape[-1] / long, 0)
    slopes = np.apply_along_axis(middle_slope, -1, eigenvalues, rest)
    least = np.minimum(slopes, eigenvalues.sum(axis=-1) * long / rest.entries)
    return np.asarray(eigenvalues[..., -1] > rest.edge(1.0) * least)


def _of_rest(matrix: Floats, values: Floats, entries: float) -> float:
    """That of the entries where there is no bulk."""
    try:
        return fit_noise(matrix, values=values).kurtosis
    except (ValueError, RuntimeError):
        return entries
