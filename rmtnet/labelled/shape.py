"""Shape measures of a layer's spectrum."""

from collections.abc import Callable

import numpy as np
import xarray as xr

from rmtnet import measures, tails
from rmtnet.labelled.apply import LEVELS, at_each_step
from rmtnet.labelled.tails import has_tail, rounding, tail_eigenvalues


def shape_measures(values: xr.DataArray, *, out: int, width: int, dtype: object | None = "float32") -> xr.Dataset:
    """Ranks and the power-law exponent of all blocks (out, width) together.

    Parameters
    ----------
    values : (..., block, order) singular values
    dtype : that the weights were stored in, the rounding of which is no rank and no tail; None: not known

    Returns
    -------
    ``stable_rank``, ``effective_rank``, ``hard_rank`` (summed over blocks), ``alpha`` (of the eigenvalues, by the xmin
    of least distance), each (...); NaN where there is none

    Raises
    ------
    ValueError
        If the dtype is none of those of :func:`rmtnet.measures.hard_rank`.
    """
    least = rounding((out, width), dtype)
    of: dict[str, Callable[[np.ndarray], float]] = {
        "stable_rank": lambda levels: float(measures.stable_rank(levels.ravel())),
        "effective_rank": lambda levels: float(measures.effective_rank(levels.ravel())),
        "hard_rank": lambda levels: (
            np.nan if dtype is None else float(np.sum(measures.hard_rank(levels, (out, width), dtype=dtype)))
        ),
    }
    found = {name: at_each_step(measure, values, core=[LEVELS], names=[name])[name] for name, measure in of.items()}
    alpha = at_each_step(
        lambda levels: tails.fit_power_law(tail_eigenvalues(levels, least)).alpha,
        values,
        core=[LEVELS],
        names=["alpha"],
        exists=lambda levels: has_tail(tail_eigenvalues(levels, least)),
    )
    return xr.Dataset(found).merge(alpha)
