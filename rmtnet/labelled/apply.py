"""One number, or several named ones, for each step: what every face needs."""

from collections.abc import Callable, Sequence

import numpy as np
import xarray as xr

ORDER = ["order"]
LEVELS = ["block", "order"]
WEIGHT = ["block", "out", "in"]


def at_each_step(
    measure: Callable[..., tuple[float, ...] | float],
    *arrays: xr.DataArray | float,
    core: Sequence[Sequence[str]],
    names: Sequence[str],
    exists: Callable[..., bool] = lambda *parts: True,
) -> xr.Dataset:
    """``names`` over all dims but the core ones; NaN where an array holds NaN (no such layer) or none ``exists``."""

    def measured(*parts: np.ndarray) -> tuple[float, ...] | float:
        if not any(np.isnan(part).any() for part in parts) and exists(*parts):
            return measure(*parts)
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
