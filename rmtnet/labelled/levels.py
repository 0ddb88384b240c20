"""Local statistics of neighbouring levels."""

import math

import numpy as np
import xarray as xr

from rmtnet import local
from rmtnet.labelled.apply import LEVELS, at_each_step


def level_statistics(values: xr.DataArray, *, trim: float = 0.05) -> xr.Dataset:
    """Gap ratio and Brody parameter of the singular values within each block, averaged over blocks.

    Parameters
    ----------
    values : (..., block, order) singular values
    trim : fraction of each block's levels left out at each end; spikes, which are no noise, are at the upper one

    Returns
    -------
    ``gap_ratio``, ``gap_ratio_error``, ``brody``, ``brody_error`` (1 standard error), each (...); NaN where blocks have
    fewer than three levels left, or levels that coincide

    Raises
    ------
    ValueError
        If trim is not in [0, 0.5).
    """
    if not 0 <= trim < 0.5:
        raise ValueError(f"trim is the fraction left out at each end and must lie in [0, 0.5), got {trim}")
    order = values.sizes["order"]
    enough = order - 2 * math.floor(trim * order) >= 3

    def ratio(levels: np.ndarray) -> tuple[float, float]:
        found = local.gap_ratio(levels, trim=trim)
        return float(found.mean), float(found.standard_error)

    def brody(levels: np.ndarray) -> tuple[float, float]:
        spacings = local.spacings(local.unfold_local(levels), trim=trim)
        try:
            found = local.fit_brody(spacings)
        except ValueError:  # No parameter fits spacings that are nearly equal.
            return np.nan, np.nan
        return float(found.parameter), float(found.standard_error)

    parts = {"gap_ratio": (ratio, lambda levels: enough), "brody": (brody, lambda levels: enough and _differ(levels))}
    return xr.merge(
        [
            at_each_step(of, values, core=[LEVELS], names=[name, f"{name}_error"], exists=exists)
            for name, (of, exists) in parts.items()
        ]
    )


def _differ(levels: np.ndarray) -> bool:
    """Whether no two levels (block, order) of a block coincide but for rounding."""
    least = levels.shape[-1] * np.finfo(float).eps * levels.max(axis=-1, keepdims=True)
    return bool(np.all(np.diff(np.sort(levels, axis=-1), axis=-1) > least))
