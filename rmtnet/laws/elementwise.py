"""What the methods of all laws share: array_like in, the same shape out, a scalar for a scalar."""

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from rmtnet import checks

Floats = NDArray[np.float64]


def elementwise(function: Callable[[Floats], NDArray[Any]], x: ArrayLike) -> Floats:
    """A function of flat arrays at x; TypeError if that is not real, NaN passes."""
    return _in_pieces(function, checks.floats(x, "x"))


def quantiles(function: Callable[[Floats], NDArray[Any]], p: ArrayLike) -> Floats:
    """`elementwise` for probabilities: ValueError if one lies outside [0, 1]."""
    array = checks.floats(p, "p")
    if np.any(outside := (array < 0) | (array > 1)):
        raise ValueError(f"p must lie in [0, 1], got {array[outside].flat[0]}")
    return _in_pieces(function, array)


def _in_pieces(function: Callable[[Floats], NDArray[Any]], array: Floats) -> Floats:
    """What fits the cache runs three times faster."""
    flat, result = array.ravel(), np.empty(array.size)
    for start in range(0, array.size, 2**15):
        result[start : start + 2**15] = function(flat[start : start + 2**15])
    return result.reshape(array.shape)[()]


def symmetry_class(beta: int) -> int:
    """Dyson's index; a ValueError if there is no such class."""
    if not np.isscalar(beta) or beta not in (1, 2, 4):
        raise ValueError(f"beta must be 1, 2 or 4, got {beta}")
    return int(beta)


def places(condition: NDArray[np.bool_]) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
    """Where it holds and where not: several times faster than masks."""
    return np.flatnonzero(condition), np.flatnonzero(~condition)
