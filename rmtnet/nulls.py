"""The random matrices R that trained layers are compared with.

Entries are independent and of mean 0. Their law is Gaussian, another of the layer's own kurtosis, or the layer's own
entries in another order.
"""

import functools
import math
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from rmtnet import checks
from rmtnet.spectra import aggregate, singular_values
from rmtnet.spectra.chunks import checked

Floats = NDArray[np.float64]
_CHUNK_ENTRIES = 2**21


@dataclass(frozen=True)
class OrderedNull:
    """Ordered singular values of R at unit variance: scale by the standard deviation of the entries."""

    mean: Floats
    """(order,) mean over the draws, descending."""
    low: Floats
    """(order,) 5 % quantile of one draw."""
    high: Floats
    """(order,) 95 % quantile of one draw."""
    draws: int


def iid_blocks(
    shape: tuple[int, ...], variance: float, rng: int | np.random.Generator, *, kurtosis: float = 3.0
) -> NDArray[np.float64]:
    """Independent entries of mean 0, the given variance and kurtosis ``E x^4 / (E x^2)^2``, (..., out, in).

    Gaussian for 3. Below, the symmetric beta law (uniform for 1.8, signs for 1); above, the variance gamma law
    (Laplace for 6): Gaussian entries whose variances are gamma distributed. All its moments are finite.

    Raises
    ------
    TypeError, ValueError
        If kurtosis is less than 1, which no law has, or not finite, or if variance is not in [0, 1e300].
    """
    kurtosis, rng = checks.kurtosis(kurtosis), checks.generator(rng)
    variance = checks.number(variance, "variance", 0, 1e300)
    if kurtosis == 3:
        return rng.normal(scale=variance**0.5, size=shape)
    if kurtosis > 3:
        weight = 3 / (kurtosis - 3)
        return rng.normal(scale=variance**0.5, size=shape) * np.sqrt(rng.gamma(weight, 1 / weight, size=shape))
    if kurtosis == 1:
        return variance**0.5 * (2.0 * rng.integers(0, 2, size=shape) - 1)
    power = 1.5 * (kurtosis - 1) / (3 - kurtosis)
    symmetric = 2 * (rng.random(shape) if kurtosis == 1.8 else rng.beta(power, power, size=shape)) - 1
    return np.sqrt(variance * (2 * power + 1)) * symmetric


def permuted(weight: ArrayLike, rng: int | np.random.Generator) -> Floats:
    """The entries of each matrix in random order: noise of exactly the layer's entry law, (..., out, in)."""
    stack = checks.real(checked(weight, 2), "weight")
    flat = checks.generator(rng).permuted(stack.reshape(*stack.shape[:-2], -1), axis=-1)
    return flat.reshape(stack.shape)


def matched_spectra(weight: ArrayLike, *, draws: int, seed: int | np.random.Generator = 0) -> Floats:
    """Singular values of ``draws`` matrices with the entries of ``weight`` in random order within each block.

    Parameters
    ----------
    weight : (..., out, in) array_like or torch tensor, real and finite

    Returns
    -------
    (draws, ..., order) descending
    """
    rng = checks.generator(seed, "seed")
    draws = checks.count(draws, "draws")
    return np.stack([singular_values(permuted(weight, rng), method="gram") for _ in range(draws)])


def ordered_null(
    blocks: int, out: int, width: int, *, draws: int | None = None, seed: int = 0, kurtosis: float = 3.0
) -> OrderedNull:
    """Simulate R: ``blocks`` iid blocks (out, width) of unit variance, singular values pooled and sorted.

    Ratios are taken to the mean of the ordered singular values, never averaged themselves: the mean of
    ``1 / sigma_min(R)`` is infinite for square matrices.

    Parameters
    ----------
    blocks, out, width : shape of R; one block for a dense layer
    draws : number of matrices; by default 64, fewer (at least 16) for large ones, whose singular values vary less (but
        for the smallest ones of square matrices, whose band is then rough)
    seed : of the draws, a whole number; equal seeds give equal results, and R and its transpose the same
    kurtosis : of the entries, see :func:`iid_blocks`
    """
    blocks, out, width = (checks.count(*side) for side in ((blocks, "blocks"), (out, "out"), (width, "width")))
    default = int(np.clip(64 * (512 / min(out, width)) ** 2, 16, 64))
    draws, seed = default if draws is None else checks.count(draws, "draws"), checks.count(seed, "seed", 0)
    return _ordered(blocks, min(out, width), max(out, width), draws, seed, checks.kurtosis(kurtosis))


def rounded(kurtosis: float) -> float:
    """To steps of 0.2, from 5 on of 10 %: nearly equal kurtoses share their draws."""
    return round(5 * kurtosis) / 5 if kurtosis < 5 else 5 * 1.1 ** round(math.log(kurtosis / 5, 1.1))


def draws_of(
    shape: tuple[int, ...], draws: int, rng: int | np.random.Generator, *, kurtosis: float = 3.0
) -> Iterator[Floats]:
    """Stacks (some, \\*shape) of unit variance, ``draws`` in all, a bounded number at once."""
    at_once, rng = max(1, _CHUNK_ENTRIES // math.prod(shape)), checks.generator(rng)
    for first in range(0, draws, at_once):
        yield iid_blocks((min(at_once, draws - first), *shape), 1.0, rng, kurtosis=kurtosis)


@functools.lru_cache(maxsize=64)
def _ordered(blocks: int, out: int, width: int, draws: int, seed: int, kurtosis: float) -> OrderedNull:
    stacks = draws_of((blocks, out, width), draws, np.random.default_rng(seed), kurtosis=kurtosis)
    values = np.concatenate([aggregate(singular_values(stack, method="gram"))[0] for stack in stacks])
    mean, (low, high) = values.mean(axis=0), np.quantile(values, [0.05, 0.95], axis=0)
    for shared in (mean, low, high):
        shared.flags.writeable = False
    return OrderedNull(mean, low, high, draws)
