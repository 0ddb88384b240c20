"""What every function asks of the numbers it is given."""

import math
import operator
from typing import Any, TypeVar

import numpy as np
from numpy.typing import ArrayLike, NDArray

Floats = NDArray[np.float64]
Result = TypeVar("Result", float, Floats)


def array(values: ArrayLike, name: str) -> NDArray[Any]:
    """Booleans, integers or floats as an array, not copied; a torch tensor on any device, too.

    Parameters
    ----------
    values : array_like or torch tensor of any shape; NaN and infinity pass
    name : of the argument, for the errors

    Raises
    ------
    TypeError
        If the values are not real.
    """
    try:
        found = np.asarray(_detached(values) if hasattr(values, "detach") else values)
    except (TypeError, ValueError, RuntimeError) as error:  # lists of unequal length, or of tensors of some kinds
        raise TypeError(f"{name} must be an array of real numbers: {error}") from None
    if found.dtype.kind not in "fiub":
        raise TypeError(f"{name} must be real, got dtype {found.dtype}")
    return found


def floats(values: ArrayLike, name: str) -> Floats:
    """As :func:`array`, a copy in float64."""
    with np.errstate(over="ignore"):
        return array(values, name).astype(np.float64)


def real(values: ArrayLike, name: str, *, negative: bool = True) -> Floats:
    """As :func:`floats`, and finite.

    Parameters
    ----------
    values, name : as for :func:`array`
    negative : whether negative numbers are allowed

    Raises
    ------
    TypeError
        If the values are not real.
    ValueError
        If one is NaN or infinite (a long double beyond float64 is), or negative where it must not be.
    """
    found = floats(values, name)
    if not np.isfinite(found).all():
        raise ValueError(f"{name} must be finite, got NaN or infinity: did training diverge?")
    if not negative and (found < 0).any():
        raise ValueError(f"{name} must not be negative, got {found.min()}")
    return found


def scalar(value: Any, name: str) -> float:
    """One real number; NaN and infinity pass.

    Raises
    ------
    TypeError
        If it is not one, or not real.
    """
    if isinstance(value, float):  # most are: ten times faster
        return float(value)
    found = floats(value, name)
    if found.ndim:
        raise TypeError(f"{name} must be one number, got shape {found.shape}")
    return float(found)


def number(value: ArrayLike, name: str, low: float, high: float) -> float:
    """One real number from low to high, both included.

    Raises
    ------
    TypeError
        If it is not one, or not real.
    ValueError
        If it lies outside, or is NaN.
    """
    found = scalar(value, name)
    if not low <= found <= high:
        raise ValueError(f"{name} must lie in [{low:g}, {high:g}], got {found}")
    return found


def count(value: Any, name: str, least: int = 1, most: float = 2**63 - 1) -> int:
    """One whole number, of a kind for whole numbers.

    Raises
    ------
    TypeError
        If it is not one (2.0 is not).
    ValueError
        If it is less than `least`, or more than `most`: no array has more.
    """
    try:
        whole = operator.index(value)
    except TypeError:
        raise TypeError(f"{name} must be a whole number, got {value!r}") from None
    if whole < least:
        raise ValueError(f"{name} must be at least {least}, got {whole}")
    if whole > most:
        raise ValueError(f"{name} must be at most {most}, got a number of {whole.bit_length()} bits")
    return whole


def generator(rng: int | np.random.Generator, name: str = "rng") -> np.random.Generator:
    """The generator itself, or the one of a seed: equal seeds give equal draws.

    Raises
    ------
    TypeError
        If it is neither: the generators of torch and of the old ``numpy.random`` are not.
    ValueError
        If a seed is negative.
    """
    if isinstance(rng, np.random.Generator):
        return rng
    try:
        return np.random.default_rng(count(rng, name, 0, math.inf))
    except TypeError:
        raise TypeError(f"{name} must be a whole number or a numpy.random.Generator, got {rng!r}") from None


def level(value: float, name: str = "level") -> float:
    """Of a test or of an interval.

    Raises
    ------
    TypeError, ValueError
        If it is not one number in (0, 1).
    """
    found = scalar(value, name)
    if not 0 < found < 1:
        raise ValueError(f"{name} must lie in (0, 1), got {found}")
    return found


def kurtosis(value: float) -> float:
    """``E x^4 / (E x^2)^2`` of entries.

    Raises
    ------
    TypeError, ValueError
        If it is not one number, less than 1, which no law has, or not finite.
    """
    found = scalar(value, "kurtosis")
    if not 1 <= found < np.inf:
        raise ValueError(f"kurtosis must be finite and at least 1 (Gaussian 3, uniform 1.8), got {found}")
    return found


def in_range(values: Result, what: str) -> Result:
    """A result as it is; NaN passes.

    Raises
    ------
    ValueError
        If it is infinite: larger than any float.
    """
    if np.isinf(values).any():
        raise ValueError(f"{what} exceeds 1.8e308, the largest float64: take a larger unit")
    return values


def _detached(tensor: Any) -> Any:
    """On the CPU, in a precision that numpy has: it has no bfloat16."""
    tensor = tensor.detach().cpu()
    return tensor.double() if tensor.is_floating_point() else tensor
