"""Tests of the extreme singular values."""

import math

import numpy as np
import xarray as xr

from rmtnet import edges
from rmtnet.labelled.apply import LEVELS


def extremes(
    values: xr.DataArray, *, out: int, width: int, kurtosis: xr.DataArray | float = 3.0, level: float = 0.01
) -> xr.Dataset:
    """Test the largest and the smallest singular value of blocks (out, width) against noise, and count the spikes.

    The noise of each block has its own variance, fitted to it: trained blocks differ.

    Parameters
    ----------
    values : (..., block, order) singular values
    kurtosis : (...) of the noise's entries, from :func:`noise_kurtosis`; rounded as :func:`rounded_kurtosis` does
    level : of the spikes, for all blocks together

    Returns
    -------
    ``largest_p``, ``smallest_p``, of all blocks together, ``spikes``, each (...); NaN for a layer of zeros
    """
    entries = values.sizes["block"] * out * width

    def tested(singular: np.ndarray, kurtosis: np.ndarray) -> tuple[np.ndarray, ...]:
        shape = singular.shape[:-2]
        stacks = singular.reshape(-1, *singular.shape[-2:])
        rounded = np.broadcast_to(rounded_kurtosis(kurtosis, entries), shape).ravel()
        found = np.full((3, len(stacks)), np.nan)
        alive = stacks.any(axis=(1, 2))
        for own in np.unique(rounded[alive]):
            these = alive & (rounded == own)
            found[:, these] = _tested(stacks[these], (out, width), float(own), level)
        return tuple(part.reshape(shape) for part in found)

    found = xr.apply_ufunc(tested, values, kurtosis, input_core_dims=[LEVELS, []], output_core_dims=[[], [], []])
    return xr.Dataset(dict(zip(("largest_p", "smallest_p", "spikes"), found, strict=True)))


def rounded_kurtosis(kurtosis: np.ndarray | float, entries: int) -> np.ndarray:
    """To steps of 0.4 from 3, or of two standard errors of as many Gaussian entries: the steps of a run share nulls.

    The steps of p-values at 1 % are 0.1 % then.
    """
    step = max(0.4, 2 * math.sqrt(24 / entries))
    steps = np.round((np.asarray(kurtosis, dtype=float) - 3) / step)
    return np.maximum(np.round(3 + step * steps, 6), 1.0)


def _tested(stacks: np.ndarray, block: tuple[int, int], kurtosis: float, level: float) -> np.ndarray:
    """(3, layer) of layers (layer, block, order) with one null."""
    count, blocks, order = stacks.shape
    # With variances of their own, blocks of many layers are tested at once.
    flat = stacks.reshape(-1, order)
    tests = edges.extremes(flat, *block, kurtosis=kurtosis)
    least = np.array([test.block_p.reshape(count, blocks).min(axis=1) for test in tests])
    largest, smallest = edges.pooled(least, blocks)
    # Where the largest is none, there is no spike.
    spikes = np.zeros(count)
    for layer in np.flatnonzero(largest <= level):
        spikes[layer] = edges.spikes_of(stacks[layer], *block, kurtosis=kurtosis, level=level).count
    return np.stack([largest, smallest, spikes])
