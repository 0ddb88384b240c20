"""Loops over a weight off its diagonal blocks that numba compiles, for processors: one pass instead of several."""

import functools
from collections.abc import Callable
from typing import Any

import torch

Loop = Callable[..., Any]
Matrix = Any
"""(out, in) numpy array."""


@functools.cache
def compiled(loop: Loop) -> Loop | None:
    """A loop of this module as machine code; None where numba is not installed."""
    try:
        import numba
    except ImportError:
        return None
    # Sums in any order, which lets them be vectorised; NaN is no exception to what follows, and stays NaN.
    options: dict[str, Any] = {"nogil": True, "fastmath": {"reassoc", "contract", "nsz"}}
    try:
        found: Loop = numba.njit(cache=True, **options)(loop)
    except RuntimeError:  # there is no folder to keep it in
        found = numba.njit(**options)(loop)
    return found


def can_run(weight: torch.Tensor) -> bool:
    """Whether the loops know such a weight."""
    return weight.device.type == "cpu" and weight.dtype == torch.float32 and weight.is_contiguous()


def shrink(weight: Matrix, mask: Matrix, threshold: Any, height: int, width: int) -> float:
    """Set to 0 what the mask (uint8) has as 0 or is at most the threshold, in both; returns the sum of magnitudes.

    ``height`` and ``width`` of the blocks (i, i), which are left as they are; of width 0 there are none.
    """
    total = 0.0
    for row in range(weight.shape[0]):
        first = row // height * width
        for side in range(2):
            start, stop = (0, first) if side == 0 else (first + width, weight.shape[1])
            values, alive = weight[row, start:stop], mask[row, start:stop]
            part = zero = threshold * 0  # float32, as the threshold is
            for k in range(values.shape[0]):
                value = zero if (abs(values[k]) <= threshold) | (alive[k] == 0) else values[k]
                alive[k], values[k] = value != zero, value
                part += abs(value)
            total += part
    return total


def add_signs(gradient: Matrix, weight: Matrix, alpha: Any, height: int, width: int) -> None:
    """Add ``alpha`` times the sign of each weight off the blocks to the gradient."""
    none = alpha * 0
    for row in range(weight.shape[0]):
        first = row // height * width
        for side in range(2):
            start, stop = (0, first) if side == 0 else (first + width, weight.shape[1])
            values, sums = weight[row, start:stop], gradient[row, start:stop]
            for k in range(values.shape[0]):
                sums[k] += alpha if values[k] > 0 else -alpha if values[k] < 0 else none
