"""What every local statistic asks of the levels it is given."""

import math

import numpy as np
from numpy.typing import ArrayLike, NDArray

from rmtnet import checks

Floats = NDArray[np.float64]


def ascending(values: ArrayLike, at_least: int, name: str = "values") -> Floats:
    """Levels (..., block, order), ascending; one spectrum (order,) is one block.

    Raises
    ------
    ValueError
        If there are fewer than `at_least` in a block, or no blocks.
    """
    levels = checks.real(values, name)
    if levels.ndim == 0 or levels.shape[-1] < at_least or 0 in levels.shape:
        raise ValueError(
            f"{name} must be (order,) or (..., block, order) with {at_least} or more levels a block, "
            f"got shape {levels.shape}"
        )
    return np.sort(levels[None] if levels.ndim == 1 else levels, axis=-1)


def cut(order: int, trim: float, at_least: int) -> int:
    """Levels to leave out at each end, ``floor(trim * order)``.

    Raises
    ------
    ValueError
        If trim is outside [0, 0.5) or leaves fewer than `at_least` levels.
    """
    trim = checks.scalar(trim, "trim")
    if not 0 <= trim < 0.5:
        raise ValueError(f"trim is the fraction left out at each end and must lie in [0, 0.5), got {trim}")
    ends = math.floor(trim * order)
    if order - 2 * ends < at_least:
        raise ValueError(f"trim={trim} leaves {order - 2 * ends} of {order} levels, {at_least} are needed")
    return ends
