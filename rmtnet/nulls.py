"""The random matrices R that trained layers are compared with."""

import functools
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from rmtnet.spectra import aggregate, singular_values

_CHUNK_ENTRIES = 2**23


@dataclass(frozen=True)
class OrderedNull:
    """Ordered singular values of R at unit variance: scale by the standard deviation of the entries."""

    mean: NDArray[np.float64]
    """(order,) mean over the draws, descending."""
    low: NDArray[np.float64]
    """(order,) 5 % quantile of one draw."""
    high: NDArray[np.float64]
    """(order,) 95 % quantile of one draw."""
    draws: int


def iid_blocks(shape: tuple[int, ...], variance: float, rng: np.random.Generator) -> NDArray[np.float64]:
    """Gaussian entries of mean 0 and the given variance, (..., out, in)."""
    return rng.normal(scale=variance**0.5, size=shape)


def ordered_null(blocks: int, out: int, width: int, *, draws: int | None = None, seed: int = 0) -> OrderedNull:
    """Simulate R: ``blocks`` iid Gaussian blocks (out, width) of unit variance, singular values pooled and sorted.

    Ratios are taken to the mean of the ordered singular values, never averaged themselves: the mean of
    ``1 / sigma_min(R)`` is infinite for square matrices.

    Parameters
    ----------
    blocks, out, width : shape of R; one block for a dense layer
    draws : number of matrices; by default 64, fewer (at least 16) for large ones, whose singular values vary less (but
        for the smallest ones of square matrices, whose band is then rough)
    seed : of the draws; equal seeds give equal results, and R and its transpose the same
    """
    if draws is None:
        draws = int(np.clip(64 * (512 / min(out, width)) ** 2, 16, 64))
    return _simulated(blocks, min(out, width), max(out, width), draws, seed)


@functools.lru_cache(maxsize=64)
def _simulated(blocks: int, out: int, width: int, draws: int, seed: int) -> OrderedNull:
    rng = np.random.default_rng(seed)
    at_once = max(1, _CHUNK_ENTRIES // (blocks * out * width))
    counts = [min(at_once, draws - first) for first in range(0, draws, at_once)]
    matrices = (iid_blocks((count, blocks, out, width), 1.0, rng) for count in counts)
    values = np.concatenate([aggregate(singular_values(stack, method="gram"))[0] for stack in matrices])
    mean, (low, high) = values.mean(axis=0), np.quantile(values, [0.05, 0.95], axis=0)
    for shared in (mean, low, high):
        shared.flags.writeable = False
    return OrderedNull(mean, low, high, draws)
