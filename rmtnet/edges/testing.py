"""Is the largest singular value too large for noise, or the smallest too small?"""

import math
import numbers
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

from rmtnet.bulk import without_largest
from rmtnet.bulk.structure import connected_stacks
from rmtnet.checks import count, floats, real
from rmtnet.edges.cleared import Cleared, Counts, Variance, cleared
from rmtnet.edges.noise import Noise
from rmtnet.edges.simulated import permuted_tails
from rmtnet.spectra import singular_values

Floats = NDArray[np.float64]
End = Literal["largest", "smallest"]

# Fewer entries tell too little of their kurtosis.
_FEW = 1000


@dataclass(frozen=True)
class Extreme:
    """The extreme singular value of a layer, and how often noise has one as extreme."""

    p_value: float
    """Of all blocks together: ``1 - (1 - p)^blocks`` with the smallest of theirs."""
    singular_value: float
    block: int
    """The block of the smallest p-value; of one matrix with zeros, its connected parts by shape, then first row."""
    block_p: Floats
    """(block,) p-value of each by itself; 1 for a block of zeros."""
    null: str
    """What the p-value of that block rests on."""


def largest(weight: ArrayLike, *, variance: Variance = "own", seed: int = 0) -> Extreme:
    """Test the largest singular value against noise with the layer's entry law, its variance fitted too.

    Parameters
    ----------
    weight : (out, in) or (block, out, in) array_like or torch tensor
        A single matrix with structural zeros is tested as its connected parts; "shared" is by those of one shape.
    variance : "own", "shared" or float
        Of the noise: fitted to each block by itself, to all together (more power for many small blocks, if they do have
        one variance), or known.
    seed : of the permutations where there are fewer than 1000 entries, or heavy-tailed ones

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
    return extremes(values, out, width, ends=(end,), variance=variance, kurtosis=kurtosis)[0]


def extremes(
    values: ArrayLike,
    out: int,
    width: int,
    *,
    ends: Sequence[End] = ("largest", "smallest"),
    variance: Variance = "own",
    kurtosis: float = 3.0,
) -> list[Extreme]:
    """:func:`extreme` of several ends, at the cost of one."""
    if unknown := set(ends) - {"largest", "smallest"}:
        raise ValueError(f"end must be 'largest' or 'smallest', got {unknown.pop()!r}")
    spectra, split = split_spectra(values, out, width, variance)
    return [_result(split, spectra, end, split.noise(kurtosis)) for end in ends]


def _of_weight(weight: ArrayLike, end: End, variance: Variance, seed: int) -> Extreme:
    results = [_of_stack(stack, end, variance, seed) for stack in connected_stacks(weight)]
    if len(results) == 1:
        return results[0]
    p = np.concatenate([result.block_p for result in results])
    best = min(results, key=lambda result: result.block_p.min())
    return Extreme(float(pooled(p.min(), len(p))), best.singular_value, int(np.argmin(p)), p, best.null)


def _of_stack(stack: Floats, end: End, variance: Variance, seed: int) -> Extreme:
    spectra, split = split_spectra(singular_values(stack), stack.shape[1], stack.shape[2], variance)
    noise = noise_like(stack, split, seed=seed)
    return _result(split.suited(noise), spectra, end, noise)


def noise_like(stack: Floats, split: Cleared, *, seed: int = 0) -> Noise:
    """The null with the entry law of (block, out, in): its kurtosis, or its entries where that tells too little.

    Of what is left without the spikes set apart: a strong one would pass for heavy-tailed noise and hide the others.
    """
    stack, counts = stack / np.abs(stack).max(), split.spikes.tolist()
    rest = np.stack([without_largest(matrix, count) for matrix, count in zip(stack, counts, strict=True)])
    noise = split.noise(_kurtosis(_entries(rest, split.variance)))
    if not isinstance(split.variance, str) or (stack.size >= _FEW and not noise.heavy):
        return noise
    entries = _entries(stack if noise.heavy else rest, split.variance)
    tails = permuted_tails(entries.ravel(), (split.short, split.long), shared=split.variance == "shared", seed=seed)
    return split.noise(noise.kurtosis, tails)


def _entries(stack: Floats, variance: Variance) -> Floats:
    """(block, entry) of the blocks that are not all 0; over each one's root mean square if that is its own variance."""
    entries = stack[stack.any(axis=(1, 2))].reshape(-1, stack[0].size)
    return entries / np.sqrt(np.mean(entries**2, axis=1, keepdims=True)) if variance == "own" else entries


def _kurtosis(entries: Floats) -> float:
    """Of (block, entry), 3 for none; freed of the bias, to order 1 / entries, that each block's mean square brings."""
    if not entries.size:
        return 3.0
    squares = entries**2
    means = np.mean(squares, axis=1)
    fourth, sixth = (float(np.mean(squares**k) / np.mean(means) ** k) for k in (2, 3))
    if np.ptp(means) > 1e-9 * means[0]:
        return fourth
    return max(fourth + (2 * (sixth - fourth) - 3 * fourth * (fourth - 1)) / entries.shape[1], 1.0)


def split_spectra(values: ArrayLike, out: int, width: int, variance: Variance) -> tuple[Floats, Cleared]:
    """Checked spectra (block, order), and the same in units of the largest, in which no square overflows."""
    spectra = np.atleast_2d(real(values, "singular values", negative=False))
    if spectra.ndim != 2 or spectra.shape[1] != min(out, width):
        raise ValueError(f"values must be (block, {min(out, width)}) for blocks {out} x {width}, got {spectra.shape}")
    if not spectra.any():
        raise ValueError("all weights are 0: there is no noise to compare with")
    known: object = variance
    number = isinstance(known, numbers.Real) and not isinstance(known, bool)
    if variance not in ("own", "shared") and not (number and 0 < float(variance) < math.inf):
        raise ValueError(f"variance must be 'own', 'shared' or a positive number, got {variance!r}")
    unit = float(spectra.max())
    if not isinstance(variance, str):
        variance = float(variance) / unit / unit
        if not 0 < variance < math.inf:
            raise ValueError(f"variance {known!r} is none of noise in values up to {unit:.3g}: are the units the same?")
    return spectra, cleared(spectra / unit, out, width, variance)


def order_p_values(split: Cleared, order: Counts, noise: Noise) -> Floats:
    """(block, ...) p-value of the singular value of that order (0 first) as the largest of what other spikes leave."""
    return noise.largest_p(split.value(order), others=np.maximum(split.spikes[:, None], order + 1) - 1)


def _result(split: Cleared, spectra: Floats, end: End, noise: Noise) -> Extreme:
    if end == "largest":
        p = order_p_values(split, np.zeros_like(split.spikes[:, None]), noise)[:, 0]
    else:
        p = noise.smallest_p(split.smallest())
    p = np.where(split.alive, p, 1.0)
    block = int(np.argmin(p))
    value = float(spectra[block].max() if end == "largest" else spectra[block].min())
    return Extreme(float(pooled(p.min(), len(p))), value, block, p, noise.source(end, float(p[block])))


def pooled(p: ArrayLike, blocks: int) -> Floats:
    """P-value of as small a p-value in any of so many blocks: ``1 - (1 - p)^blocks``."""
    values = floats(p, "p")
    if not np.all((values >= 0) & (values <= 1) | np.isnan(values)):
        raise ValueError("p must lie in [0, 1] or be NaN")
    return np.asarray(-np.expm1(count(blocks, "blocks") * np.log1p(-np.minimum(values, 1 - 1e-16))))[()]
