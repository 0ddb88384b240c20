"""Local statistics of neighbouring levels."""

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
    """

    def ratio(levels: np.ndarray) -> tuple[float, float]:
        found = local.gap_ratio(levels, trim=trim)
        return float(found.mean), float(found.standard_error)

    def brody(levels: np.ndarray) -> tuple[float, float]:
        found = local.fit_brody(local.spacings(local.unfold_local(levels), trim=trim))
        return float(found.parameter), float(found.standard_error)

    parts = {"gap_ratio": ratio, "brody": brody}
    return xr.merge(
        [at_each_step(of, values, core=[LEVELS], names=[name, f"{name}_error"]) for name, of in parts.items()]
    )
