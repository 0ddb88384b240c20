"""Moments of the entries of stacks of blocks."""

import math

import numpy as np
from numpy.typing import ArrayLike

from rmtnet import checks
from rmtnet.spectra.chunks import CHUNK, Floats, checked, chunk, spans


def variance(weight: ArrayLike) -> Floats:
    """Variance of the in-block entries, centred, ddof 0, in float64.

    Parameters
    ----------
    weight : (..., block, out, in)

    Returns
    -------
    (...)
    """
    stack = checked(weight, 3)
    values = np.empty(math.prod(stack.shape[:-3]))
    for span in spans(len(values), CHUNK // (16 * math.prod(stack.shape[-3:]))):
        part, scale = chunk(stack, 3, span)
        with np.errstate(over="ignore", under="ignore"):
            values[span] = np.var(part, axis=(-3, -2, -1)) / scale / scale
    return checks.in_range(values, "a variance of weight").reshape(stack.shape[:-3])[()]


def kurtosis(weight: ArrayLike) -> Floats:
    """Kurtosis ``E x^4 / (E x^2)^2`` about 0 of the in-block entries, in float64: Gaussian 3, uniform 1.8.

    Parameters
    ----------
    weight : (..., block, out, in)

    Returns
    -------
    (...), at least 1; NaN where all entries are 0
    """
    stack = checked(weight, 3)
    values = np.empty(math.prod(stack.shape[:-3]))
    for span in spans(len(values), CHUNK // (16 * math.prod(stack.shape[-3:]))):
        part, _ = chunk(stack, 3, span)
        squares = np.square(part, out=part)
        second = squares.mean(axis=(-3, -2, -1))
        fourth = np.square(squares, out=squares).mean(axis=(-3, -2, -1))
        values[span] = np.divide(fourth, second**2, out=np.full(len(part), np.nan), where=second > 0)
    return values.reshape(stack.shape[:-3])[()]
