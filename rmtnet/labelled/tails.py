"""Tails against matched noise."""

import numpy as np
import xarray as xr

from rmtnet import nulls, tails
from rmtnet.labelled.apply import LEVELS, WEIGHT, at_each_step, eigenvalues


def tail_assessments(
    weight: xr.DataArray, values: xr.DataArray, *, draws: int = 99, resamples: int = 200, seed: int = 0
) -> xr.Dataset:
    """Whether a layer's tail is heavier than its own entries' in random order: :func:`rmtnet.tails.assess_tail`.

    Parameters
    ----------
    weight : (..., block, out, in)
    values : (..., block, order) its singular values
    draws : matrices of permuted entries at each step, which take most of the time
    resamples : of the bootstrap of alpha
    seed : of both

    Returns
    -------
    ``alpha_low``, ``alpha_high`` (95 %, for independent values), ``tail_p``, ``heavy_tailed`` (0 or 1), each (...);
    NaN where there is no tail
    """
    long = max(weight.sizes["out"], weight.sizes["in"])

    def assessed(stack: np.ndarray, levels: np.ndarray) -> tuple[float, float, float, float]:
        null = nulls.matched_spectra(stack, draws=draws, seed=seed).reshape(draws, -1) ** 2 / long
        rng = np.random.default_rng(seed)
        # A far spike lies beyond what the truncated law, an alternative that is not asked for, can be fitted to.
        with np.errstate(over="ignore", invalid="ignore"):
            found = tails.assess_tail(eigenvalues(levels, long), null, rng=rng, resamples=resamples)
        return *found.interval, found.p_null, float(found.heavy_tailed)

    names = ("alpha_low", "alpha_high", "tail_p", "heavy_tailed")
    return at_each_step(assessed, weight, values, core=[WEIGHT, LEVELS], names=names)
