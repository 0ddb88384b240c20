"""Noise of a weight matrix: the fit with the layer's own kurtosis, and whether the law fits."""

from dataclasses import replace
from functools import lru_cache

import numpy as np
from numpy.typing import ArrayLike

from rmtnet import nulls
from rmtnet.bulk.estimators import Method
from rmtnet.bulk.fit import BulkFit, fit_bulk
from rmtnet.laws.marchenko_pastur import Floats
from rmtnet.spectra import as_blocks, kurtosis, singular_values


def fit_noise(weight: ArrayLike, *, method: Method = "moment") -> BulkFit:
    """Fit the bulk of a matrix or of equal blocks, and measure the kurtosis of the noise on which the errors rest.

    Parameters
    ----------
    weight : (out, in) or (block, out, in) array_like or torch tensor
        The blocks' noise is taken to be of one variance.
    method : see :func:`fit_bulk`

    Returns
    -------
    The fit of the pooled eigenvalues; its kurtosis is that of the weight less the singular triplets left out.

    Raises
    ------
    TypeError, ValueError, RuntimeError
        As :func:`rmtnet.singular_values` and :func:`fit_bulk` do.
    """
    stack = as_blocks(weight)
    short, long = sorted(stack.shape[1:])
    values = singular_values(stack, method="gram") ** 2 / long
    fit = fit_bulk(values.ravel(), short / long, blocks=len(stack), method=method)
    least = np.sort(values, axis=None)[values.size - fit.outliers :].min(initial=np.inf)
    counts = (values >= least).sum(axis=1).tolist()
    residual = np.stack([without_largest(matrix, count) for matrix, count in zip(stack, counts, strict=True)])
    own = float(kurtosis(residual))
    # A measured kurtosis is itself uncertain, and low where the variance is: widened so, the intervals of 5 x 8 entries
    # cover what they should (simulated: 94.6 % Gaussian, 95.8 % uniform; without, 92.6 and 94.2 %).
    cautious = fit_bulk(
        values.ravel(), short / long, blocks=len(stack), method=method, kurtosis=own * (1 + 1.5 * own / stack.size)
    )
    fit = fit_bulk(values.ravel(), short / long, blocks=len(stack), method=method, kurtosis=own)
    return replace(fit, interval=cautious.interval)


def goodness(eigenvalues: ArrayLike, fit: BulkFit, *, blocks: int = 1, draws: int = 199, seed: int = 0) -> float:
    """P-value of the Kolmogorov-Smirnov distance of a "moment" fit, against simulated noise that is fitted anew.

    Eigenvalues repel each other and the law is fitted to them: their distance is several times smaller than that of
    independent values, and no table holds it. The draws have the kurtosis of the fit.

    Parameters
    ----------
    eigenvalues : (k,) that were fitted
    fit : what :func:`fit_bulk` or :func:`fit_noise` found
    blocks : number of equal blocks
    draws : simulated spectra; the smallest p-value is ``1 / (draws + 1)``
    seed : of the draws; equal arguments share them
    """
    count = np.size(eigenvalues)
    short = count // blocks
    null = _ks_null(blocks, short, round(short / fit.law.ratio), nulls.rounded(fit.kurtosis), draws, seed)
    # Rigid eigenvalues: the distance goes as 1 over their number.
    distance = fit.ks_distance * (1 - fit.outliers / count)
    return float((1 + np.sum(null >= distance)) / (1 + draws))


@lru_cache(maxsize=64)
def _ks_null(blocks: int, short: int, long: int, kurtosis: float, draws: int, seed: int) -> Floats:
    stacks = nulls.draws_of((blocks, short, long), draws, np.random.default_rng(seed), kurtosis=kurtosis)
    spectra = (singular_values(stack, method="gram") ** 2 / long for stack in stacks)
    fits = [fit_bulk(values.ravel(), short / long, blocks=blocks) for stack in spectra for values in stack]
    return np.array([fit.ks_distance * (1 - fit.outliers / (blocks * short)) for fit in fits])


def without_largest(matrix: Floats, count: int) -> Floats:
    """A matrix less its ``count`` largest singular triplets."""
    if count == 0:
        return matrix
    from scipy.linalg import eigh

    wide = matrix if matrix.shape[0] <= matrix.shape[1] else matrix.T
    side = len(wide)
    vectors = eigh(wide @ wide.T, subset_by_index=(side - count, side - 1))[1]
    rest = wide - vectors @ (vectors.T @ wide)
    return rest if wide is matrix else rest.T
