"""The spikes of a layer: how many, how strong, and how much of the signal's direction they show."""

import math
from dataclasses import dataclass, fields, replace

import numpy as np
from numpy.typing import ArrayLike, NDArray

from rmtnet import checks
from rmtnet.bulk.estimators import Rest, moment
from rmtnet.bulk.structure import connected_stacks
from rmtnet.edges.cleared import Cleared, Variance
from rmtnet.edges.noise import Noise
from rmtnet.edges.strengths import intervals, root
from rmtnet.edges.testing import noise_like, order_p_values, split_spectra
from rmtnet.laws import spiked
from rmtnet.spectra import singular_values

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Spikes:
    """Singular values that stand out of the noise, each with its signal: ``W = noise + theta u v^T + ...``."""

    block: NDArray[np.intp]
    """(spike,) the block that it lies in; of one matrix with zeros, its connected parts by shape, then first row."""
    singular_value: Floats
    """(spike,) of the weight, descending within a block."""
    p_value: Floats
    """(spike,) of noise with as large a singular value beside the block's other spikes."""
    strength: Floats
    """(spike,) theta: the singular value of the signal, without what the noise adds."""
    interval: Floats
    """(spike, 2) of theta, 95 %, given that it was found; from 0 where theta may lie below the threshold."""
    overlap_out: Floats
    """(spike,) squared cosine between the signal's output vector u and the weight's singular vector."""
    overlap_in: Floats
    """(spike,) the same of the input vectors."""
    variance: Floats
    """(block,) of the noise; infinite above 1.8e308."""

    @property
    def count(self) -> int:
        return len(self.block)


def spikes(weight: ArrayLike, *, variance: Variance = "own", level: float = 0.01, seed: int = 0) -> Spikes:
    """Count the spikes of a matrix or of equal blocks, and estimate the signal behind each.

    Spikes are tested one after the other, each as the largest singular value of what the others leave; noise without
    any has one in ``level`` of all layers.

    Parameters
    ----------
    weight : (out, in) or (block, out, in) array_like or torch tensor
    variance : of the noise, as for :func:`largest`
    level : of the layer; a block's is ``1 - (1 - level)^(1 / blocks)``
    seed : of the permutations, as for :func:`largest`

    Raises
    ------
    TypeError, ValueError
        As :func:`largest`.

    Notes
    -----
    Strength, interval and overlaps hold to leading order in the sides, for signals spread over many entries or Gaussian
    noise: :mod:`rmtnet.laws.spiked`. Intervals are those of a spike that was found: for a weak one, found because noise
    made it large, all of the interval may lie below the strength that the singular value alone tells. They cover 93 to
    96 % of spikes that were found (simulated: 20 x 30 to 400 x 100, 1.2 to 4 times the threshold).
    """
    checks.level(level)
    stacks = connected_stacks(weight)
    blocks = sum(len(stack) for stack in stacks)
    parts = [_of_stack(stack, variance, _each(level, blocks), seed) for stack in stacks]
    return parts[0] if len(parts) == 1 else _joined(parts)


def _of_stack(stack: Floats, variance: Variance, level: float, seed: int) -> Spikes:
    spectra, split = split_spectra(singular_values(stack), stack.shape[1], stack.shape[2], variance)
    noise = noise_like(stack, split, seed=seed)
    return _measured(split.suited(noise), spectra, noise, level, stack.shape[1] <= stack.shape[2])


def spikes_of(
    values: ArrayLike,
    out: int,
    width: int,
    *,
    variance: Variance = "own",
    kurtosis: float = 3.0,
    level: float = 0.01,
) -> Spikes:
    """The same from the singular values (block, order) of blocks (out, width)."""
    checks.level(level)
    spectra, split = split_spectra(values, out, width, variance)
    noise = split.noise(kurtosis)
    return _measured(split, spectra, noise, _each(level, len(spectra)), out <= width)


def _each(level: float, blocks: int) -> float:
    """Level of a block, for that of all."""
    return -math.expm1(math.log1p(-level) / blocks)


def _measured(split: Cleared, spectra: Floats, noise: Noise, level: float, out_is_short: bool) -> Spikes:
    split, p_values = _tested(split, noise, level)
    variances = _variances(split)
    blocks, orders = np.nonzero(~np.isnan(p_values))
    strength, interval, overlaps = _signals(split, noise, level, variances, blocks, orders)
    unit = float(spectra.max())
    with np.errstate(over="ignore"):
        variances = variances * unit * unit
    return Spikes(
        block=blocks,
        singular_value=np.sqrt(split.squares[blocks, orders]) * unit,
        p_value=p_values[blocks, orders],
        strength=strength * unit,
        interval=interval * unit,
        overlap_out=overlaps[0 if out_is_short else 1],
        overlap_in=overlaps[1 if out_is_short else 0],
        variance=variances,
    )


def _joined(parts: list[Spikes]) -> Spikes:
    firsts = np.cumsum([0, *(len(part.variance) for part in parts)])
    numbered = [replace(part, block=part.block + first) for part, first in zip(parts, firsts, strict=False)]
    return Spikes(*(np.concatenate([getattr(part, field.name) for part in numbered]) for field in fields(Spikes)))


def _tested(split: Cleared, noise: Noise, level: float) -> tuple[Cleared, Floats]:
    """With what noise does not explain set apart, too; and p-values (block, order), NaN where noise does."""
    p_values = np.full(split.squares.shape, np.nan)
    first, open_blocks = 0, split.alive
    while first < split.short and open_blocks.any():
        # As many as were sought before, then more and more: a hundred p-values take no longer than one.
        orders = np.arange(first, min(max(2 * first, int(split.spikes.max())) + 1, split.short))
        p = order_p_values(split, np.tile(orders, (len(open_blocks), 1)), noise)
        spikes = np.logical_and.accumulate(p <= level, axis=1) & open_blocks[:, None]
        p_values[:, orders] = np.where(spikes, p, np.nan)
        first, open_blocks = first + len(orders), spikes[:, -1]
    count = np.count_nonzero(~np.isnan(p_values), axis=1)
    return split.with_spikes(np.maximum(split.spikes, count)), p_values


def _variances(split: Cleared) -> Floats:
    """(block,) of the noise, each spike's share taken off."""
    if not isinstance(split.variance, str):
        return np.full(len(split.squares), float(split.variance))
    found = np.zeros(len(split.squares))
    for group in split.groups:
        squares, kept = split.squares[group] / split.long, np.arange(split.short) >= split.spikes[group, None]
        rest = Rest(squares.size, len(squares), split.short / split.long, int((~kept).sum()))
        found[group] = moment(np.concatenate([squares[kept], squares[~kept]]), rest)
    return found


def _signals(
    split: Cleared, noise: Noise, level: float, variances: Floats, blocks: NDArray[np.intp], orders: NDArray[np.intp]
) -> tuple[Floats, Floats, tuple[Floats, Floats]]:
    """Strengths, intervals (spike, 2), and squared overlaps on the short and the long side."""
    # Next to a signal of full precision noise of variance 0 is noise of the last digit.
    variances = np.maximum(variances, 1e-30 * split.squares[:, 0])
    squares, deviation = split.squares[blocks, orders] / variances[blocks], np.sqrt(variances)[blocks]
    own, owner = np.unique(blocks, return_inverse=True)
    short, long = (side - split.spikes[blocks] + 1 for side in (split.short, split.long))
    found = spiked.strength(squares / long, short / long)
    spread = (noise.kurtosis - 1) / (split.short * split.long * noise.sharing)
    least = (_least(split, noise, level, own) / variances[own])[owner]
    interval = intervals(squares, np.minimum(least, squares), short, long, spread)
    return np.sqrt(found * long) * deviation, interval * deviation[:, None], spiked.overlaps(found, short / long)


def _least(split: Cleared, noise: Noise, level: float, blocks: NDArray[np.intp]) -> Floats:
    """Square from which on the last spike of each of these blocks is one."""
    beyond = np.maximum(split.spikes[:, None], 1)

    def excess(squares: Floats) -> Floats:
        everywhere = np.zeros((len(beyond), squares.shape[1]))
        everywhere[blocks] = squares
        relative = split.relative(everywhere, beyond)[blocks]
        return level - noise.largest_p(relative, others=beyond[blocks] - 1)

    # Between the largest that is none and the last spike.
    ends = np.pad(split.squares, ((0, 0), (0, 1)))[blocks[:, None], split.spikes[blocks, None] - [0, 1]]
    return root(excess, 0.9 * ends[:, 0], ends[:, 1])
