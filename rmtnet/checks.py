"""What every function asks of the numbers it is given."""

from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray


def real(values: ArrayLike, name: str, *, negative: bool = True) -> NDArray[np.float64]:
    """A copy in float64, of booleans, integers and floats alike; of a torch tensor on any device, too.

    Parameters
    ----------
    values : array_like or torch tensor of any shape
    name : of the argument, for the errors
    negative : whether negative numbers are allowed

    Raises
    ------
    TypeError
        If the values are not real.
    ValueError
        If one is NaN or infinite (a long double beyond float64 is), or negative where it must not be.
    """
    array = np.asarray(_detached(values) if hasattr(values, "detach") else values)
    if array.dtype.kind not in "fiub":
        raise TypeError(f"{name} must be real, got dtype {array.dtype}")
    with np.errstate(over="ignore"):
        array = array.astype(np.float64)
    if not np.isfinite(array).all():
        raise ValueError(f"{name} must be finite, got NaN or infinity: did training diverge?")
    if not negative and (array < 0).any():
        raise ValueError(f"{name} must not be negative, got {array.min()}")
    return array


def level(value: float, name: str = "level") -> None:
    """Of a test or of an interval.

    Raises
    ------
    ValueError
        If it is not in (0, 1).
    """
    if not 0 < value < 1:
        raise ValueError(f"{name} must lie in (0, 1), got {value}")


def kurtosis(value: float) -> None:
    """``E x^4 / (E x^2)^2`` of entries.

    Raises
    ------
    ValueError
        If it is less than 1, which no law has, or not finite.
    """
    if not 1 <= value < np.inf:
        raise ValueError(f"kurtosis must be finite and at least 1 (Gaussian 3, uniform 1.8), got {value}")


def _detached(tensor: Any) -> Any:
    """On the CPU, in a precision that numpy has: it has no bfloat16."""
    tensor = tensor.detach().cpu()
    return tensor.double() if tensor.is_floating_point() else tensor
