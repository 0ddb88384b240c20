"""Noise of a weight matrix: the fit with the layer's own kurtosis, and whether the law fits."""

import contextlib
import math
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import lru_cache

import numpy as np
from numpy.typing import ArrayLike, NDArray

from rmtnet import checks, nulls
from rmtnet.bulk.estimators import Method, Rest
from rmtnet.bulk.fit import BulkFit, errors, fit_bulk, settled
from rmtnet.bulk.structure import connected_stacks
from rmtnet.checks import real
from rmtnet.laws.marchenko_pastur import Floats
from rmtnet.spectra import as_blocks, singular_values
from rmtnet.spectra.threads import one_blas_thread
from rmtnet.spectra.values import SINGLE_THREAD_SIDE

# Entries to work on at once: they stay in the caches of a CPU.
_PIECE = 2**17
# Entries times short sides of the draws of a goodness of fit.
_WORK = 2e10


def fit_noise(weight: ArrayLike, *, method: Method = "moment", values: ArrayLike | None = None) -> BulkFit:
    """Fit the bulk of a matrix or of equal blocks, and measure the kurtosis of the noise on which the errors rest.

    Parameters
    ----------
    weight : (out, in) or (block, out, in) array_like or torch tensor
        The blocks' noise is taken to be of one variance. A single matrix with structural zeros is fitted as its
        connected parts, which must be of one shape.
    method : see :func:`fit_bulk`
    values : (order,) or (block, order)
        Singular values of the weight, if they are known already.

    Returns
    -------
    The fit of the pooled eigenvalues; its kurtosis is that of the weight less the singular triplets left out.

    Raises
    ------
    TypeError, ValueError, RuntimeError
        As :func:`rmtnet.singular_values` and :func:`fit_bulk` do; or if values are not those of its blocks.
    """
    stacks = connected_stacks(weight)
    if len(stacks) > 1:
        shapes = ", ".join(f"{len(stack)} of {stack.shape[1]} x {stack.shape[2]}" for stack in stacks)
        raise ValueError(f"weight falls into connected parts of unequal shapes ({shapes}): fit them one by one")
    peak = float(max(stacks[0].max(), -stacks[0].min()))
    # Squares of such entries do not leave the range of float64: no copy then.
    unit = 1.0 if 1e-100 < peak < 1e100 else peak or 1.0
    stack = stacks[0] if unit == 1 else stacks[0] / unit
    short, long = sorted(stack.shape[1:])
    known = singular_values(stack, method="gram") if values is None else _own_spectra(values, len(stack), short) / unit
    squares = known**2 / long
    fit = fit_bulk(squares.ravel(), short / long, blocks=len(stack), method=method)
    least = np.sort(squares, axis=None)[squares.size - fit.outliers :].min(initial=np.inf)
    own = _kurtosis_without_largest(stack, (squares >= least).sum(axis=1), float(np.sqrt(squares.mean())))
    rest = Rest(squares.size, len(stack), short / long, fit.outliers)
    # A measured kurtosis is itself uncertain, and low where the variance is: widened so, the intervals of 5 x 8 entries
    # cover what they should (simulated: 94.6 % Gaussian, 95.8 % uniform; without, 92.6 and 94.2 %).
    law = replace(fit.law, variance=fit.law.variance * unit * unit)
    cautious = errors(method, law.variance, rest, own * (1 + 1.5 * own / stack.size), free=False)["interval"]
    return replace(fit, law=law, **errors(method, law.variance, rest, own, free=False) | {"interval": cautious})


def _own_spectra(values: ArrayLike, blocks: int, short: int) -> Floats:
    """Singular values (block, order) that are known already."""
    spectra = np.atleast_2d(real(values, "values", negative=False))
    if spectra.shape != (blocks, short):
        raise ValueError(f"values must be (block, order) = {(blocks, short)} of this weight, got {spectra.shape}")
    return spectra


def goodness(
    eigenvalues: ArrayLike, fit: BulkFit, *, blocks: int = 1, draws: int | None = None, seed: int = 0
) -> float:
    """P-value of a fit's Kolmogorov-Smirnov distance, against simulated noise that is fitted anew by the same method.

    Eigenvalues repel each other and the law is fitted to them: their distance is several times smaller than that of
    independent values, and no table holds it. The draws have the kurtosis of the fit.

    Parameters
    ----------
    eigenvalues : (k,) that were fitted
    fit : what :func:`fit_bulk` or :func:`fit_noise` found
    blocks : number of equal blocks
    draws : simulated spectra; by default 199, fewer, and at least 19, of large layers. The smallest p-value is
        ``1 / (draws + 1)``, its Monte Carlo error ``sqrt(p (1 - p) / draws)``: with 19 draws 5 % at p = 5 %
    seed : of the draws; equal arguments share them

    Notes
    -----
    CPU seconds, one core: 0.8 for the 199 draws of 256 x 256, 3 for the 149 of 512 x 512, 3 for the 19 of 1024 x 2048;
    the time of 19 goes on with the third power of the side. No smaller matrix can stand for a large one, for the
    distance over its scale grows with the side.
    """
    count = real(eigenvalues, "eigenvalues", negative=False).size
    if checks.count(blocks, "blocks") and (count == 0 or count % blocks):
        raise ValueError(f"blocks must divide the {count} eigenvalues, got {blocks}")
    short = count // blocks
    long = round(short / fit.law.ratio)
    draws = int(np.clip(_WORK / (count * short * long), 19, 199)) if draws is None else checks.count(draws, "draws")
    free = fit.ratio_error > 0
    null = _ks_null(blocks, short, long, nulls.rounded(fit.kurtosis), draws, seed, fit.method, free)
    # Rigid eigenvalues: the distance goes as 1 over their number.
    distance = fit.ks_distance * (1 - fit.outliers / count)
    return float((1 + np.sum(null >= distance)) / (1 + draws))


@lru_cache(maxsize=64)
def _ks_null(
    blocks: int, short: int, long: int, kurtosis: float, draws: int, seed: int, method: Method, free: bool
) -> Floats:
    rng, ratio = checks.generator(seed, "seed"), None if free else short / long
    stacks = nulls.draws_of((blocks, short, long), draws, rng, kurtosis=kurtosis)
    spectra = (singular_values(stack, method="gram") ** 2 / long for stack in stacks)
    fits = [settled(each.ravel(), ratio, blocks, method) for stack in spectra for each in stack]
    return np.array([distance * (1 - rest.outliers / (blocks * short)) for rest, _, distance in fits])


def without_largest(matrix: Floats, count: int) -> Floats:
    """A matrix less its ``count`` largest singular triplets."""
    if count == 0:
        return matrix
    matrix = as_blocks(matrix)[0]
    unit = float(np.abs(matrix).max()) or 1.0
    wide = matrix if matrix.shape[0] <= matrix.shape[1] else matrix.T
    rest = _Projection.of(wide / unit, count).applied(wide)
    return rest if wide is matrix else rest.T


def _kurtosis_without_largest(stack: Floats, counts: NDArray[np.intp], unit: float) -> float:
    """Of the entries of blocks, in a unit that keeps their powers in range, less so many singular triplets of each."""
    import scipy.linalg  # noqa: F401  before its threads are counted

    second = fourth = 0.0
    small = min(stack.shape[1:]) <= SINGLE_THREAD_SIDE
    with one_blas_thread() if small else contextlib.nullcontext():
        for piece in _rest(stack, counts):
            squares = np.square(piece / unit).ravel()
            second += float(squares.sum())
            fourth += float(squares @ squares)
    return fourth * stack.size / second**2 if second else math.nan


def _rest(stack: Floats, counts: NDArray[np.intp]) -> Iterator[Floats]:
    """Entries of blocks less so many singular triplets of each, in pieces: all of a large matrix would take memory."""
    whole = stack[counts == 0].ravel() if counts.any() else stack.reshape(-1)
    for first in range(0, whole.size, _PIECE):
        yield whole[first : first + _PIECE]
    for block in np.flatnonzero(counts).tolist():
        wide = stack[block] if stack.shape[1] <= stack.shape[2] else stack[block].T
        projection, step = _Projection.of(wide, int(counts[block])), max(1, _PIECE // len(wide))
        for first in range(0, wide.shape[1], step):
            yield projection.applied(wide[:, first : first + step])


@dataclass(frozen=True)
class _Projection:
    """Off the strongest left singular vectors of a matrix."""

    vectors: Floats
    """(row, vector) those, or all others, whichever are fewer."""
    onto: bool
    """They are the others."""

    @classmethod
    def of(cls, wide: Floats, count: int) -> "_Projection":
        from scipy.linalg import eigh

        side = len(wide)
        if not 0 < count < side:
            return cls(np.empty((side, 0)), count > 0)
        onto = 2 * count > side
        first, last = (0, side - count) if onto else (side - count, side)
        if 8 * (last - first) < side:
            return cls(eigh(wide @ wide.T, subset_by_index=(first, last - 1))[1], onto)
        # From an eighth of the vectors on, divide and conquer has all of them sooner.
        return cls(eigh(wide @ wide.T, driver="evd")[1][:, first:last], onto)

    def applied(self, columns: Floats) -> Floats:
        part = self.vectors @ (self.vectors.T @ columns)
        return part if self.onto else columns - part
