"""How often gates are open, and how many of them heed the input."""

from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from rmtnet import checks

Floats = NDArray[np.float64]
Patterns = NDArray[np.bool_]


class GateShares(NamedTuple):
    """Fractions of a layer's gates, which add up to 1."""

    always_open: float
    always_closed: float
    input_dependent: float


def as_patterns(patterns: ArrayLike) -> Patterns:
    """(input, gate) of truth values or of gates, which are open where they are not 0.

    Raises
    ------
    TypeError, ValueError
        If they are not real, not of two axes, without inputs or gates, or not finite.
    """
    found = checks.array(patterns, "patterns")
    if found.ndim != 2 or not found.size:
        raise ValueError(f"patterns must be (input, gate), at least one of each, got shape {found.shape}")
    if found.dtype == np.bool_:
        return found
    if not np.isfinite(found).all():
        raise ValueError("patterns must be finite, got NaN or infinity: did training diverge?")
    return found != 0


def open_fraction(patterns: ArrayLike) -> Floats:
    """(gate,) share of the inputs for which each gate is open.

    Parameters
    ----------
    patterns : (input, gate) of truth values or of gates, which are open where they are not 0

    Examples
    --------
    >>> open_fraction([[True, False], [True, True]])
    array([1. , 0.5])
    """
    return as_patterns(patterns).mean(axis=0)


def gate_shares(fraction: ArrayLike, level: float = 0.95) -> GateShares:
    """Which share of the gates is nearly always open, nearly always closed, or depends on the input.

    Parameters
    ----------
    fraction : array_like of any shape, the share of inputs for which each gate is open
    level : a gate is always open (closed) if it is so for more than this share of the inputs; at least 1/2

    Raises
    ------
    TypeError, ValueError
        If a fraction lies outside [0, 1], or is NaN because nothing was counted; if there is none.

    References
    ----------
    Block-wise dynamic sparseness, figure 2.

    Examples
    --------
    >>> gate_shares([0.99, 0.5, 0.2, 0.01])
    GateShares(always_open=0.25, always_closed=0.25, input_dependent=0.5)
    """
    level = checks.number(level, "level", 0.5, 1)
    shares = checks.floats(fraction, "fraction")
    if not shares.size or not np.all((shares >= 0) & (shares <= 1)):
        raise ValueError("fraction must be numbers in [0, 1], at least one: was any input counted?")
    opened, closed = float(np.mean(shares > level)), float(np.mean(1 - shares > level))
    return GateShares(opened, closed, float(np.mean((shares <= level) & (1 - shares <= level))))
