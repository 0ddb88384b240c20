"""Shape measures of a layer's spectrum."""

from collections.abc import Callable

import numpy as np
import xarray as xr

from rmtnet import measures, tails
from rmtnet.labelled.apply import LEVELS, at_each_step, eigenvalues


def shape_measures(values: xr.DataArray, *, out: int, width: int, dtype: object = "float32") -> xr.Dataset:
    """Ranks and the power-law exponent of all blocks (out, width) together.

    Parameters
    ----------
    values : (..., block, order) singular values
    dtype : that the weights were stored in, for the hard rank

    Returns
    -------
    ``stable_rank``, ``effective_rank``, ``hard_rank`` (summed over blocks), ``alpha`` (of the eigenvalues, by the xmin
    of least distance), each (...); NaN where there is none
    """
    long = max(out, width)
    of: dict[str, Callable[[np.ndarray], float]] = {
        "stable_rank": lambda levels: float(measures.stable_rank(levels.ravel())),
        "effective_rank": lambda levels: float(measures.effective_rank(levels.ravel())),
        "hard_rank": lambda levels: float(np.sum(measures.hard_rank(levels, (out, width), dtype=dtype))),
        "alpha": lambda levels: tails.fit_power_law(eigenvalues(levels, long)).alpha,
    }
    return xr.Dataset(
        {name: at_each_step(measure, values, core=[LEVELS], names=[name])[name] for name, measure in of.items()}
    )
