"""Is the largest singular value too large for noise, or the smallest too small?"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

from rmtnet.bulk import without_largest
from rmtnet.edges.cleared import Cleared, Counts, Variance, cleared
from rmtnet.edges.simulated import permuted_tail
from rmtnet.spectra import as_blocks, kurtosis, singular_values

Floats = NDArray[np.float64]
End = Literal["largest", "smallest"]

# So few entries tell too little of their kurtosis: they are permuted.
_FEW, _PERMUTATIONS = 1000, 20_000


@dataclass(frozen=True)
class Extreme:
    """The extreme singular value of a layer, and how often noise has one as extreme."""

    p_value: float
    """Of all blocks together: ``1 - (1 - p)^blocks`` with the smallest of theirs."""
    singular_value: float
    block: int
    """The block of the smallest p-value, in which it lies."""
    block_p: Floats
    """(block,) p-value of each by itself; 1 for a block of zeros."""
    null: str
    """What the p-value of that block rests on."""


def largest(weight: ArrayLike, *, variance: Variance = "own", seed: int = 0) -> Extreme:
    """Test the largest singular value against noise with the layer's entry law, its variance fitted too.

    Parameters
    ----------
    weight : (out, in) or (block, out, in) array_like or torch tensor
    variance : "own", "shared" or float
        Of the noise: fitted to each block by itself, to all together (more power for many small blocks, if they do have
        one variance), or known.
    seed : of the permutations that test matrices with fewer than 1000 entries

    Raises
    ------
    TypeError, ValueError
        As :func:`rmtnet.singular_values`; or if all weights are 0, or the variance is none.
    """
    return _of_weight(weight, "largest", variance, seed)


def smallest(weight: ArrayLike, *, variance: Variance = "own", seed: int = 0) -> Extreme:
    """Test the smallest of the min(out, in) singular values against noise, as :func:`largest` does."""
    return _of_weight(weight, "smallest", variance, seed)


def extreme(
    values: ArrayLike, out: int, width: int, *, end: End, variance: Variance = "own", kurtosis: float = 3.0
) -> Extreme:
    """The same from singular values alone: of Gaussian entries, or of others with a known kurtosis.

    Parameters
    ----------
    values : (block, order) or (order,)
        Of each block (out, width).
    """
    spectra, split = split_spectra(values, out, width, variance)
    return _result(split, spectra, _p_values(split, end, kurtosis), end, split.noise(kurtosis).source)


def _of_weight(weight: ArrayLike, end: End, variance: Variance, seed: int) -> Extreme:
    stack, spectra, split = split_weight(weight, variance)
    pools = stack.reshape(1, -1) if variance == "shared" else stack.reshape(len(stack), -1)
    if stack.size >= _FEW or not isinstance(variance, str):
        own = noise_kurtosis(stack, split)
        return _result(split, spectra, _p_values(split, end, own), end, split.noise(own).source)
    statistic = split.value(np.zeros_like(split.spikes)) if end == "largest" else -np.log(split.smallest() + 1e-300)
    shape, groups = (split.short, split.long), np.split(statistic, len(pools))
    rng = np.random.default_rng(seed)
    tails = [permuted_tail(pool, shape, end, draws=_PERMUTATIONS, rng=rng) if pool.any() else None for pool in pools]
    p = np.concatenate([tail.p(group) if tail else np.ones(1) for tail, group in zip(tails, groups, strict=True)])
    return _result(split, spectra, p, end, lambda end, p: f"{_PERMUTATIONS} permutations of the entries")


def noise_kurtosis(stack: Floats, split: Cleared) -> float:
    """Of the entries less the singular triplets set apart, over each block's own mean square where that is fitted.

    With them, a strong spike would pass for heavy-tailed noise and hide the weaker ones.
    """
    counts = split.spikes.tolist()
    rest = np.stack([without_largest(matrix, count) for matrix, count in zip(stack, counts, strict=True)])
    if split.variance != "own":
        return float(kurtosis(rest)) if rest.any() else 3.0
    rest = rest[rest.any(axis=(1, 2))].reshape(-1, rest[0].size)
    if not rest.size:
        return 3.0
    squares = rest**2 / np.mean(rest**2, axis=1, keepdims=True)
    fourth, sixth = float(np.mean(squares**2)), float(np.mean(squares**3))
    # The mean square of the same entries below biases the ratio: freed of it to order 1 / entries.
    return max(fourth + (2 * (sixth - fourth) - 3 * fourth * (fourth - 1)) / rest.shape[1], 1.0)


def split_weight(weight: ArrayLike, variance: Variance) -> tuple[Floats, Floats, Cleared]:
    """Blocks over their largest entry, the spectra in the weight's own units, and as :func:`split_spectra` has them."""
    stack = as_blocks(weight)
    spectra, split = split_spectra(singular_values(stack), stack.shape[1], stack.shape[2], variance)
    return stack / np.abs(stack).max(), spectra, split


def split_spectra(values: ArrayLike, out: int, width: int, variance: Variance) -> tuple[Floats, Cleared]:
    """Checked spectra (block, order), and the same in units of the largest, in which no square overflows."""
    spectra = np.atleast_2d(np.asarray(values, dtype=np.float64))
    if spectra.ndim != 2 or spectra.shape[1] != min(out, width):
        raise ValueError(f"values must be (block, {min(out, width)}) for blocks {out} x {width}, got {spectra.shape}")
    if not np.isfinite(spectra).all() or (spectra < 0).any():
        raise ValueError("singular values must be finite and not negative: did training diverge?")
    if not spectra.any():
        raise ValueError("all weights are 0: there is no noise to compare with")
    if variance not in ("own", "shared") and not (isinstance(variance, int | float) and 0 < variance < math.inf):
        raise ValueError(f"variance must be 'own', 'shared' or a positive number, got {variance!r}")
    unit = float(spectra.max())
    return spectra, cleared(spectra / unit, out, width, variance if isinstance(variance, str) else variance / unit**2)


def _p_values(split: Cleared, end: End, kurtosis: float) -> Floats:
    if end == "smallest":
        return split.noise(kurtosis).smallest_p(split.smallest())
    return order_p_values(split, np.zeros_like(split.spikes), kurtosis)


def order_p_values(split: Cleared, order: Counts, kurtosis: float) -> Floats:
    """(block,) p-value of the singular value of that order (0 first) as the largest of what other spikes leave."""
    noise, values = split.noise(kurtosis), split.value(order)
    others, p = np.maximum(split.spikes, order + 1) - 1, np.empty(len(order))
    for count in np.unique(others):
        these = others == count
        p[these] = noise.largest_p(values[these], others=int(count))
    return p


def _result(split: Cleared, spectra: Floats, p: Floats, end: End, source: Callable[[str, float], str]) -> Extreme:
    p = np.where(split.squares[:, 0] > 0, p, 1.0)
    block = int(np.argmin(p))
    value = float(spectra[block].max() if end == "largest" else spectra[block].min())
    together = -math.expm1(len(p) * math.log1p(-min(p[block], 1 - 1e-16)))
    return Extreme(together, value, block, p, source(end, float(p[block])))
