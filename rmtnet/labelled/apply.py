"""One number, or several named ones, for each step: what every face needs."""

from collections.abc import Callable, Sequence

import numpy as np
import xarray as xr

ORDER = ["order"]
LEVELS = ["block", "order"]
WEIGHT = ["block", "out", "in"]


def eigenvalues(levels: np.ndarray, long: int) -> np.ndarray:
    """(block, order) singular values -> (k,) of all blocks; 0 what is rounding, and no tail."""
    known = levels > long * np.finfo(float).eps * levels.max()
    return (np.where(known, levels, 0.0) ** 2 / long).ravel()


def at_each_step(
    measure: Callable[..., tuple[float, ...] | float],
    *arrays: xr.DataArray | float,
    core: Sequence[Sequence[str]],
    names: Sequence[str],
) -> xr.Dataset:
    """``names`` over all dims but the core ones; NaN where ``measure`` says by an error that there is no value."""

    def measured(*parts: np.ndarray) -> tuple[float, ...] | float:
        try:
            return measure(*parts)
        except (ValueError, RuntimeError):
            return (np.nan,) * len(names) if len(names) > 1 else np.nan

    found = xr.apply_ufunc(
        measured,
        *arrays,
        input_core_dims=core,
        output_core_dims=[[] for _ in names],
        output_dtypes=[float for _ in names],
        vectorize=True,
        keep_attrs=False,
    )
    return xr.Dataset(dict(zip(names, found if len(names) > 1 else [found], strict=True)))
