"""Singular vectors against those of noise: Porter-Thomas, participation, entropy.

Vectors are unit vectors, one a row: ``(..., index, component)``, as ``vh`` of a singular value decomposition (and ``u``
transposed) holds them. Their sign is arbitrary, and nothing here depends on it.
"""

import functools
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from rmtnet import checks
from rmtnet.local.levels import Floats

_CHUNK_ENTRIES = 2**20
_NULL_DRAWS, _NULL_LENGTH = 2**16, 256


@dataclass(frozen=True)
class SideStatistics:
    """Statistics of the left, or of the right, singular vectors; NaN where a vector is not defined."""

    porter_thomas: Floats
    """(..., index) p-values."""
    inverse_participation_ratio: Floats
    """(..., index)"""
    entropy: Floats
    """(..., index) in nats."""
    defined: NDArray[np.bool_]
    """(..., index) False where singular values coincide: any rotation of their vectors would do as well."""
    length: int
    """Components of a vector."""


@dataclass(frozen=True)
class VectorStatistics:
    """Statistics of all singular vectors of each matrix, by descending singular value."""

    singular_values: Floats
    """(..., index)"""
    left: SideStatistics
    """Of the vectors over outputs."""
    right: SideStatistics
    """Of the vectors over inputs."""


def vector_statistics(weight: ArrayLike) -> VectorStatistics:
    """Porter-Thomas p-values, inverse participation ratios and entropies of the singular vectors of each matrix.

    Parameters
    ----------
    weight : (..., out, in) array_like or torch tensor, real
        Each block on its own; ``index`` runs over min(out, in) singular values, descending.

    Returns
    -------
    VectorStatistics
        NaN where singular values are closer than ``max(out, in) * 2.2e-16`` of the largest (a constant matrix has one
        vector on each side, a matrix of zeros none), and for the longer side where a singular value is that near 0.

    Raises
    ------
    TypeError
        If weight is not real.
    ValueError
        If it is no stack of matrices, is empty, or holds NaN or infinity.

    Notes
    -----
    The null, a uniformly distributed direction, is exact for Gaussian noise of any size. Vectors of one matrix are
    orthogonal, and for short ones their p-values depend on each other.
    """
    matrices = _matrices(weight)
    scale = np.abs(matrices).max(axis=(-2, -1), keepdims=True)
    left, values, right = np.linalg.svd(matrices / np.where(scale > 0, scale, 1.0), full_matrices=False)
    rows, columns = matrices.shape[-2:]
    tolerance = max(rows, columns) * np.finfo(np.float64).eps * values[..., :1]
    gaps = np.concatenate([np.full_like(tolerance, np.inf), -np.diff(values), np.full_like(tolerance, np.inf)], axis=-1)
    apart = np.minimum(gaps[..., :-1], gaps[..., 1:]) > tolerance
    # A matrix of zeros has no vectors; beyond the short side a null space holds more than the last one.
    apart &= values[..., :1] > 0
    nonzero = values > tolerance
    with np.errstate(over="ignore"):
        in_units = checks.in_range(values * scale[..., 0], "a singular value of weight")
    return VectorStatistics(
        in_units,
        _side(np.swapaxes(left, -1, -2), apart & (nonzero | (rows <= columns))),
        _side(right, apart & (nonzero | (columns <= rows))),
    )


def porter_thomas(vectors: ArrayLike) -> Floats:
    """p-value of each vector for a uniformly distributed direction, by the Porter-Thomas law of its components.

    The statistic is the Kolmogorov-Smirnov distance between the components times ``sqrt(M)`` and the normal law [1]_
    (their squares follow Porter and Thomas' law [2]_). It is the same for a vector and its negative.

    Parameters
    ----------
    vectors : (..., index, M) or (M,) array_like
        Of any length but 0; divided by it.

    Returns
    -------
    (..., index)

    Raises
    ------
    TypeError, ValueError
        If vectors are not real, not finite, empty or 0.

    Notes
    -----
    Components of a unit vector are not independent, and textbook p-values are too large: at a nominal 5 % they reject
    4.3 % of random directions of 100 components, 0.8 % at 1 %. The null is instead simulated: 65,536 random
    directions of M components, seeded and cached; above M = 256 those of M = 256, the distance times ``sqrt(M) + 0.04
    + 0.36 / sqrt(M)`` for what is left of the dependence on M. Measured for M = 2 to 2048 (standard error 0.03 to
    0.08 %): 0.8 to 1.1 % of random directions at 1 %, 4.8 to 5.3 % at 5 %. Beyond the 100 largest draws p falls like
    ``exp(-2 M D^2)``, the tail of Kolmogorov's law; the true one falls slightly faster, so that such p-values are a
    little too large.

    A vector of one component is its sign: p = 1.

    References
    ----------
    .. [1] Thamm, Staats and Rosenow, Phys. Rev. E 106 (2022) 054124.
    .. [2] Porter and Thomas, Phys. Rev. 104 (1956) 483.
    """
    units = _units(vectors)
    length = units.shape[-1]
    if length == 1:
        return np.ones(units.shape[:-1])[()]
    return _p_values(_distances(units) * _factor(length), _null(min(length, _NULL_LENGTH)))[()]


def inverse_participation_ratio(vectors: ArrayLike) -> Floats:
    """Sum of the fourth powers of the components: 1 for one component alone, 1/M when all are equal.

    A random direction has 3 / (M + 2) on average: :func:`random_inverse_participation_ratio`.

    Parameters
    ----------
    vectors : (..., index, M) or (M,) array_like
        Of any length but 0; divided by it.

    Returns
    -------
    (..., index)
    """
    return np.sum(_units(vectors) ** 4, axis=-1)[()]


def participation_share(vectors: ArrayLike) -> Floats:
    """Share of the components that take part, ``1 / (M sum v^4)``: 1/M for one alone, 1 when all are equal.

    For random directions it tends to 1/3. Parameters are those of :func:`inverse_participation_ratio`; the count of
    :func:`rmtnet.measures.participation_ratio` is of a spectrum.
    """
    inverse = inverse_participation_ratio(vectors)
    return (1 / (np.shape(vectors)[-1] * inverse))[()]


def random_inverse_participation_ratio(length: int) -> tuple[float, float]:
    """Mean ``3 / (M + 2)`` and standard deviation of the inverse participation ratio of random directions, exact.

    Its law is skewed to the right: three standard deviations are passed by more than 0.13 % of noise.
    """
    length = checks.count(length, "length")
    mean = 3 / (length + 2)
    # 24 M (M - 1) / ((M + 2)^2 (M + 4) (M + 6)) from the moments of the sphere, E v^8 and E v^4 w^4, over M.
    square = 24 * (length - 1) / ((length + 2) ** 2 * (length + 4) * (length + 6))
    return mean, square**0.5


def vector_entropy(vectors: ArrayLike) -> Floats:
    """Shannon entropy of the squared components, ``-sum v^2 ln v^2`` in nats: 0 for one alone, ln M when all are equal.

    A random direction has ``digamma(M/2 + 1) - digamma(3/2)`` on average, ln M - 0.73 for large M. Parameters are those
    of :func:`inverse_participation_ratio`.
    """
    from scipy.special import xlogy

    squares = _units(vectors) ** 2
    return np.abs(xlogy(squares, squares).sum(axis=-1))[()]


def neighbour_mean(p_values: ArrayLike, *, window: int = 15) -> Floats:
    """Mean over each index and its `window` neighbours on either side (fewer at the ends, none of them NaN).

    For the eye [1]_: a mean of p-values is no p-value. For noise it scatters about 1/2, with a standard deviation of
    ``sqrt(1 / (12 (2 window + 1)))``.

    Parameters
    ----------
    p_values : (..., index) array_like
    window : int
        0 or more.

    Returns
    -------
    (..., index), NaN where every neighbour is

    References
    ----------
    .. [1] Staats, Thamm and Rosenow, arXiv:2206.03927.
    """
    values = checks.floats(p_values, "p_values")
    if values.ndim == 0:
        raise ValueError("p_values must be (..., index), got a scalar")
    if np.any(outside := (values < 0) | (values > 1)):
        raise ValueError(f"p_values must lie in [0, 1], got {values[outside][0]}")
    window = min(checks.count(window, "window", 0), values.shape[-1])
    known = ~np.isnan(values)
    count, total = _window_sum(known.astype(np.float64), window), _window_sum(np.where(known, values, 0.0), window)
    return np.divide(total, count, out=np.full_like(values, np.nan), where=count > 0)


def _window_sum(values: Floats, window: int) -> Floats:
    order = values.shape[-1]
    place = np.arange(order)
    running = np.concatenate([np.zeros_like(values[..., :1]), np.cumsum(values, axis=-1)], axis=-1)
    return running[..., np.minimum(place + window + 1, order)] - running[..., np.maximum(place - window, 0)]


def _side(units: Floats, defined: NDArray[np.bool_]) -> SideStatistics:
    measures = (porter_thomas, inverse_participation_ratio, vector_entropy)
    p, inverse, entropy = (np.where(defined, measure(units), np.nan) for measure in measures)
    return SideStatistics(p, inverse, entropy, defined, units.shape[-1])


def _matrices(weight: ArrayLike) -> Floats:
    matrices = checks.real(weight, "weight")
    if matrices.ndim < 2 or 0 in matrices.shape:
        raise ValueError(f"weight must be a stack of matrices (..., out, in), none empty; got shape {matrices.shape}")
    return matrices


def _units(vectors: ArrayLike) -> Floats:
    array = checks.real(vectors, "vectors")
    if array.ndim == 0 or 0 in array.shape:
        raise ValueError(f"vectors must be (..., index, component), none empty; got shape {array.shape}")
    largest = np.abs(array).max(axis=-1, keepdims=True)
    if np.any(largest == 0):
        raise ValueError("vectors must not be 0: a vector of zeros has no direction")
    array = array / largest
    return array / np.linalg.norm(array, axis=-1, keepdims=True)


def _factor(length: int) -> float:
    """For the distance, in Stephens' manner: its law then hardly depends on the length (fitted to 16 to 1024)."""
    return length**0.5 + 0.04 + 0.36 / length**0.5


def _distances(units: Floats) -> Floats:
    """Kolmogorov-Smirnov distance of each row from the normal law of variance 1/M."""
    from scipy.special import ndtr

    length = units.shape[-1]
    flat = units.reshape(-1, length)
    result, step = np.empty(len(flat)), max(1, _CHUNK_ENTRIES // length)
    place = np.arange(length)
    for first in range(0, len(flat), step):
        share = ndtr(np.sort(flat[first : first + step], axis=-1) * length**0.5)
        above, below = (place + 1) / length - share, share - place / length
        result[first : first + step] = np.maximum(above.max(axis=-1), below.max(axis=-1))
    return result.reshape(units.shape[:-1])


@functools.lru_cache(maxsize=64)
def _null(length: int) -> Floats:
    """The distance times the factor for random directions, ascending."""
    rng = np.random.default_rng(length)
    step = _CHUNK_ENTRIES // length
    counts = [min(step, _NULL_DRAWS - first) for first in range(0, _NULL_DRAWS, step)]
    draws = [_distances(_units(rng.normal(size=(count, length)))) for count in counts]
    null = np.sort(np.concatenate(draws)) * _factor(length)
    null.flags.writeable = False
    return null


def _p_values(seen: Floats, null: Floats) -> Floats:
    draws, last = len(null), null[-100]
    p = (1 + draws - np.searchsorted(null, seen, side="left")) / (draws + 1)
    return np.where(seen > last, 101 / (draws + 1) * np.exp(-2 * np.maximum(seen**2 - last**2, 0)), p)
