"""Fitting a power law: the exponent, where the tail begins, and Hill's plot."""

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from rmtnet import checks

Floats = NDArray[np.float64]
Places = NDArray[np.intp]

_CHUNK_ENTRIES = 2**18
# Points of a tail that bound its KS distance from below, in rounds.
_ROUNDS = (16, 64, 256, 1024)


@dataclass(frozen=True)
class PowerLawFit:
    """A power law ``p(x) ~ x^-alpha`` from xmin on."""

    alpha: float
    """Exponent of the density, above 1; Hill's tail index is ``alpha - 1``."""
    xmin: float
    """Smallest value of the tail, in the units of the values."""
    tail: int
    """Number of values from xmin on."""
    ks_distance: float
    """Largest distance, on either side of each step, between the distribution function of the tail and the law's."""

    @property
    def standard_error(self) -> float:
        """Of alpha were xmin known, ``(alpha - 1) / sqrt(tail)``: a fifth too small where xmin was chosen."""
        return (self.alpha - 1) / math.sqrt(self.tail)


def fit_power_law(values: ArrayLike, *, xmin: float | None = None, min_tail: int = 10) -> PowerLawFit:
    """Continuous power law by maximum likelihood, from the xmin of least KS distance.

    ``alpha = 1 + tail / sum ln(x / xmin)`` [1]_ (eq. 3.1). Every value is tried as xmin; lower bounds of the distances
    from a part of the points rule most of them out (10,000 values: 4 to 25 ms, memory linear in n).

    Parameters
    ----------
    values : (n,) array_like, any order
        Normally eigenvalues.
    xmin : float
        Where the tail begins; chosen if not given.
    min_tail : int
        Fewest values that make a tail, at least 2.

    Raises
    ------
    ValueError
        If values are not 1-D, are negative or not finite, if fewer than `min_tail` of them are positive (or from xmin
        on), or if those are all equal.

    References
    ----------
    .. [1] Clauset, Shalizi and Newman, SIAM Rev. 51 (2009) 661.
    """
    given = checked_tail(values, xmin, min_tail)
    logs = np.log(given)
    if xmin is None:
        tail, slope, distance = scanned(logs, min_tail)
        return PowerLawFit(1 + slope, float(given[-tail]), tail, distance)
    slope, distance = tail_slope(logs - math.log(xmin))
    return PowerLawFit(1 + slope, float(xmin), len(logs), distance)


def hill(values: ArrayLike) -> tuple[NDArray[np.int64], Floats]:
    """Hill's tail index from the k largest values, for every k: a power law shows a plateau.

    ``1 / index(k) = (1/k) sum_{i <= k} ln(x_(i) / x_(k+1))`` [1]_. Its standard error is ``index / sqrt(k)`` for
    independent values; ``index + 1`` is the alpha of :func:`fit_power_law`.

    Parameters
    ----------
    values : (..., n) array_like, any order, n at least 2

    Returns
    -------
    (n - 1,) k, and (..., n - 1) index: infinite where the k + 1 largest are equal, 0 where the next value is 0 (NaN if
    the largest is)

    References
    ----------
    .. [1] Hill, Ann. Statist. 3 (1975) 1163.
    """
    spectra = np.sort(checked(values, ndim=None), axis=-1)[..., ::-1]
    if spectra.shape[-1] < 2:
        raise ValueError(f"values must be at least 2 along the last axis, got shape {spectra.shape}")
    k = np.arange(1, spectra.shape[-1])
    with np.errstate(divide="ignore", invalid="ignore"):
        # The k + 1 largest share k gaps, the j-th of them below j values: no cancellation.
        logs = np.log(spectra)
        gaps = logs[..., :-1] - logs[..., 1:]
        return k, k / np.cumsum(k * gaps, axis=-1)


def checked(values: ArrayLike, ndim: int | None = 1, name: str = "values") -> Floats:
    array = checks.real(values, name, negative=False)
    if array.size == 0 or array.ndim != (ndim or max(array.ndim, 1)):
        raise ValueError(f"{name} must be {ndim or 'at least 1'}-D and not empty, got shape {array.shape}")
    return array


def checked_tail(values: ArrayLike, xmin: float | None, min_tail: int) -> Floats:
    """Positive values, from xmin on, ascending."""
    checks.count(min_tail, "min_tail", 2)
    if xmin is not None and not 0 < checks.scalar(xmin, "xmin") < math.inf:
        raise ValueError(f"xmin must be positive and finite, got {xmin}")
    array = np.sort(checked(values))
    tail = array[(array > 0) & (array >= (xmin or 0))]
    where = "positive ones" if xmin is None else f"from xmin={xmin} on"
    if len(tail) < min_tail:
        raise ValueError(f"values must hold at least min_tail={min_tail} {where}, got {len(tail)}")
    if np.log(tail[-1]) == np.log(xmin or tail[0]):
        raise ValueError(f"values must differ, got {len(tail)} equal to {tail[0]}")
    return tail


def scanned(logs: Floats, min_tail: int) -> tuple[int, float, float]:
    """Tail, ``alpha - 1`` and KS distance of the tail of least KS distance, of ascending logarithms, not all equal."""
    first = np.diff(logs, prepend=-np.inf) > 0
    first &= (np.arange(len(logs), 0, -1) >= min_tail) & (logs < logs[-1])
    starts = np.flatnonzero(first)
    slopes = _slopes(logs)[starts]
    left = np.arange(len(starts))
    for points in _ROUNDS:
        if 2 * points > len(logs):
            break
        least = _distances_at(logs, starts[left], slopes[left], points)
        likely = left[np.argsort(least, kind="stable")[:16]]
        best = float(np.min(_distances(logs, starts[likely], slopes[likely])))
        # The same number may come out a rounding error apart.
        left = left[least <= best + 1e-12]
    distances = _distances(logs, starts[left], slopes[left])
    at = int(np.argmin(distances))
    return len(logs) - int(starts[left[at]]), float(slopes[left[at]]), float(distances[at])


def tail_slope(logs: Floats) -> tuple[float, float]:
    """``alpha - 1`` and KS distance of all ascending logarithms ``ln(x / xmin)``."""
    slope = len(logs) / float(np.sum(logs))
    share = -np.expm1(-slope * logs)
    steps = (np.arange(len(logs)) + 0.5) / len(logs)
    return slope, float(np.max(np.abs(share - steps))) + 0.5 / len(logs)


def _slopes(logs: Floats) -> Floats:
    """``alpha - 1`` by maximum likelihood for every start."""
    # Summed gap by gap, from the top: sum of logs less n times the first would cancel.
    beyond = np.arange(len(logs) - 1, 0, -1)
    excess = np.cumsum((np.diff(logs) * beyond)[::-1])[::-1]
    with np.errstate(divide="ignore"):
        return np.append((beyond + 1) / excess, np.inf)


def _distances_at(logs: Floats, starts: Places, slopes: Floats, points: int) -> Floats:
    """Lower bounds of the KS distances, from some points of every tail."""
    tails = (len(logs) - starts)[:, None]
    ranks = (tails - 1) * np.arange(points) // (points - 1)
    share = -np.expm1(-slopes[:, None] * (logs[starts[:, None] + ranks] - logs[starts, None]))
    # A step from rank / tail to (rank + 1) / tail: the farther end is half a step from its middle.
    return np.asarray(np.max(np.abs(share - (ranks + 0.5) / tails) + 0.5 / tails, axis=1))


def _distances(logs: Floats, starts: Places, slopes: Floats) -> Floats:
    """KS distance of every tail."""
    rows = max(1, _CHUNK_ENTRIES // len(logs))
    result = np.empty(len(starts))
    for begin in range(0, len(starts), rows):
        chunk = slice(begin, begin + rows)
        start, low = starts[chunk, None], int(starts[chunk].min())
        tails = len(logs) - start
        # In place, with 0 for what lies below the tail: the same sum as above.
        share = np.maximum(logs[low:] - logs[start], 0)
        share *= -slopes[chunk, None]
        np.expm1(share, out=share)
        share += np.maximum(np.arange(low, len(logs)) - start + 0.5, 0) / tails
        result[chunk] = np.max(np.abs(share, out=share) + 0.5 / tails, axis=1)
    return result
