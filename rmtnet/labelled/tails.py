"""Tails, and tails against matched noise."""

import math

import numpy as np
import xarray as xr

from rmtnet import nulls, tails
from rmtnet.labelled.apply import LEVELS, WEIGHT, at_each_step
from rmtnet.measures import epsilon as epsilon

# The fewest values of a tail, and the fewest draws that can tell one from noise at 5 %.
_FEWEST, _DRAWS, _RESAMPLES = 10, 19, 20


def rounding(shape: tuple[int, int], dtype: object | None) -> float:
    """What rounding makes of singular values that are 0, at most, over the largest: see :func:`measures.hard_rank`.

    Its own tolerance would take the noise of half precision for rounding, too; this is what it names instead.
    """
    return math.sqrt(sum(shape) + 1) / 2 * epsilon("float64" if dtype is None else dtype)


def tail_eigenvalues(levels: np.ndarray, least: float) -> np.ndarray:
    """(block, order) singular values -> (k,) squares of all blocks over the largest; 0 what is rounding, no tail."""
    known = levels > least * levels.max(axis=-1, keepdims=True)
    return np.where(known, levels / max(levels.max(), np.finfo(float).tiny), 0.0).ravel() ** 2


def has_tail(eigenvalues: np.ndarray) -> bool:
    """Whether there are enough that are not 0, and not all equal."""
    positive = eigenvalues[eigenvalues > 0]
    return len(positive) >= _FEWEST and bool(np.log(positive.min()) < np.log(positive.max()))


def tail_assessments(
    weight: xr.DataArray,
    values: xr.DataArray,
    *,
    dtype: object | None = None,
    draws: int = 99,
    resamples: int = 200,
    seed: int = 0,
) -> xr.Dataset:
    """Whether a layer's tail is heavier than its own entries' in random order: :func:`rmtnet.tails.assess_tail`.

    Parameters
    ----------
    weight : (..., block, out, in)
    values : (..., block, order) its singular values
    dtype : that the weights were stored in, the rounding of which is no tail; None: not known
    draws : matrices of permuted entries at each step, which take most of the time; at least 19
    resamples : of the bootstrap of alpha; at least 20
    seed : of both

    Returns
    -------
    ``alpha_low``, ``alpha_high`` (95 %, for independent values), ``tail_p``, ``heavy_tailed`` (0 or 1), each (...);
    NaN where there is no tail

    Raises
    ------
    ValueError
        If draws or resamples are too few, or the dtype is none of those of :func:`rmtnet.measures.hard_rank`.
    """
    for name, count, fewest in (("draws", draws, _DRAWS), ("resamples", resamples, _RESAMPLES)):
        if count < fewest:
            raise ValueError(f"{name} must be at least {fewest}, got {count}")
    least = rounding((weight.sizes["out"], weight.sizes["in"]), dtype)

    def assessed(stack: np.ndarray, levels: np.ndarray) -> tuple[float, float, float, float]:
        null = nulls.matched_spectra(stack, draws=draws, seed=seed).reshape(draws, -1)
        rng = np.random.default_rng(seed)
        # A far spike lies beyond what the truncated law, an alternative that is not asked for, can be fitted to.
        with np.errstate(over="ignore", invalid="ignore"):
            found = tails.assess_tail(
                tail_eigenvalues(levels, least), (null / null.max()) ** 2, rng=rng, resamples=resamples
            )
        return *found.interval, found.p_null, float(found.heavy_tailed)

    names = ("alpha_low", "alpha_high", "tail_p", "heavy_tailed")
    return at_each_step(
        assessed,
        weight,
        values,
        core=[WEIGHT, LEVELS],
        names=names,
        exists=lambda stack, levels: has_tail(tail_eigenvalues(levels, least)),
    )
