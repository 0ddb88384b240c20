"""The law of the bulk, from eigenvalues alone."""

import math
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from rmtnet import checks, nulls
from rmtnet.bulk.estimators import ESTIMATORS, Method, Rest, estimate, start_ratio, with_likely_ratio
from rmtnet.laws import MarchenkoPastur
from rmtnet.laws.marchenko_pastur import Floats
from rmtnet.spectra import singular_values

_SIMULATED, _SIDE = 400, 64


@dataclass(frozen=True)
class BulkFit:
    """The law of the bulk of a spectrum, and what the law does not explain."""

    law: MarchenkoPastur
    outliers: int
    """Eigenvalues left out of the fit: too large for 99 of 100 spectra of noise."""
    ks_distance: float
    """Largest distance between the distribution of the kept eigenvalues and the law of what the outliers leave."""
    standard_error: float
    """Of ``law.variance``."""
    interval: tuple[float, float]
    """95 % confidence interval of ``law.variance``, if no spike is weaker than about 1.5 times the threshold."""
    kurtosis: float
    """Of the noise's entries, on which the errors rest."""
    ratio_error: float = 0.0
    """Standard error of ``law.ratio``; 0 where it was given."""
    method: Method = "moment"
    """That it was fitted by."""


def fit_bulk(
    eigenvalues: ArrayLike,
    ratio: float | None,
    *,
    blocks: int = 1,
    method: Method = "moment",
    kurtosis: float = 3.0,
    max_rounds: int = 100,
) -> BulkFit:
    """Marchenko-Pastur law of the noise in a spectrum that also holds spikes.

    Eigenvalues above the noise's edge are left out and the rest is fitted again, until none is: first with "quantiles",
    which spikes hardly move, then with ``method``.

    Parameters
    ----------
    eigenvalues : (k,) array_like
        Squared singular values over the long side, as :func:`rmtnet.eigenvalues` gives: min(m, n) of an
        ``(m, n)`` matrix, or those of several equal blocks in one. They bring the variance its units.
    ratio : float or None
        Short over long side of the matrix or of one block, in (0, 1]. None: free, with "likelihood" only.
    blocks : int
        Number of equal blocks whose eigenvalues these are; divides k.
    method : "moment", "median", "quantiles" or "likelihood"
        - "moment": the mean of what is left, each outlier's share of the noise taken off [1]_.
        - "median": over the median of the law.
        - "quantiles": the middle 60 %, regressed through the origin on the quantiles of the law [2]_.
        - "likelihood": of Gaussian noise, whose eigenvalues are Wishart: with a free ratio the long side is estimated
          too; with a given one it is "moment".
    kurtosis : float
        ``E x^4 / (E x^2)^2`` of the noise's entries: Gaussian unless known. :func:`fit_noise` measures it.
    max_rounds : int
        Fits to try.

    Raises
    ------
    ValueError
        If eigenvalues are not 1-D, empty, negative or not finite, if their middle is all 0 (a law has no
        variance 0), if ratio is outside (0, 1], or if blocks does not divide k.
    RuntimeError
        If eigenvalues are still being left out after `max_rounds` fits.

    Notes
    -----
    The standard error of "moment" is ``sqrt((kurtosis - 1) / entries)`` of the variance; the others' are simulated.
    Spikes below the threshold, of strength up to ``sqrt(ratio)`` in units of the noise, leave no outlier, and those
    just above it are easily missed: every estimator takes them for noise. The eigenvalues of small blocks do not
    follow the limiting law: "median" and "quantiles" are 2.8 % low for 100 Gaussian blocks of 5 x 8, "moment" is not.

    References
    ----------
    .. [1] Kritchman and Nadler, IEEE Trans. Signal Process. 57 (2009) 3930, for a random spike; here it is a fixed one
       added to noise: :mod:`rmtnet.laws.spiked`.
    .. [2] Ke, Ma and Lin, J. Am. Stat. Assoc. 118 (2023) 374.
    """
    rest, variance, distance = settled(eigenvalues, ratio, blocks, method, max_rounds)
    return BulkFit(
        law=MarchenkoPastur(rest.ratio, variance),
        outliers=rest.outliers,
        ks_distance=distance,
        method=method,
        **errors(method, variance, rest, kurtosis, free=ratio is None),
    )


def settled(
    eigenvalues: ArrayLike, ratio: float | None, blocks: int, method: Method, max_rounds: int = 100
) -> tuple[Rest, float, float]:
    """What :func:`fit_bulk` finds but for the errors, which may be simulated: variance and distance of the rest."""
    values = _checked(eigenvalues, ratio, blocks, method)
    unit = float(values[-1]) or 1.0
    values = values / unit
    rest = Rest(len(values), blocks, start_ratio(values) if ratio is None else float(ratio), 0)
    rest = _settled(values, rest, "quantiles", max_rounds, free=False)
    rest = _settled(values, rest, method, max_rounds, free=ratio is None)
    variance = estimate(method, values, rest)
    return rest, variance * unit, _ks_distance(values[: rest.kept], rest.law(variance))


def _checked(eigenvalues: ArrayLike, ratio: float | None, blocks: int, method: Method) -> Floats:
    """Eigenvalues ascending."""
    if method not in ESTIMATORS:
        raise ValueError(f"method must be one of {', '.join(ESTIMATORS)}, got {method!r}")
    values = checks.real(eigenvalues, "eigenvalues", negative=False)
    if values.ndim != 1 or values.size == 0:
        raise ValueError(f"eigenvalues must be 1-D and not empty, got shape {values.shape}")
    if blocks < 1 or len(values) % blocks:
        raise ValueError(f"blocks must divide the number of eigenvalues: {blocks} does not divide {len(values)}")
    if ratio is not None and not 0 < ratio <= 1:
        raise ValueError(f"ratio must lie in (0, 1], short side over long side, got {ratio}")
    if ratio is None and (method != "likelihood" or blocks > 1 or len(values) < 8 or np.min(values) == 0):
        raise ValueError(
            "a free ratio needs method='likelihood' and at least 8 eigenvalues of one block, none of them 0"
        )
    return np.sort(values)


def _settled(values: Floats, rest: Rest, method: Method, max_rounds: int, *, free: bool) -> Rest:
    """What is left once no more and no fewer eigenvalues are found above the edge."""
    seen: set[int] = set()
    for _ in range(max_rounds):
        if free:
            rest = with_likely_ratio(values, rest)
        edge = rest.edge(estimate(method, values, rest))
        outliers = len(values) - int(np.searchsorted(values, edge, side="right"))
        # With one just at the edge the rounds go in circles: it stays out.
        if outliers == rest.outliers or (outliers in seen and outliers < rest.outliers):
            return rest
        seen.add(rest.outliers)
        rest = replace(rest, outliers=outliers)
    raise RuntimeError(f"fit_bulk still finds outliers after max_rounds={max_rounds} fits: raise max_rounds")


def _ks_distance(values: Floats, law: MarchenkoPastur) -> float:
    steps = np.arange(len(values) + 1) / len(values)
    share = law.cdf(values)
    return float(max(np.max(steps[1:] - share), np.max(share - steps[:-1])))


def _interval(variance: float, relative_error: float) -> tuple[float, float]:
    """Of a chi-square with as much relative error: exact for Gaussian entries [Box, Biometrika 40 (1953) 318]."""
    from scipy.special import gammaincinv

    if relative_error < 1e-7:
        return variance * (1 - 2 * relative_error), variance * (1 + 2 * relative_error)
    half = 1 / relative_error**2
    # Infinite, above, where the error is a hundred times the variance.
    with np.errstate(divide="ignore"):
        low, high = (np.divide(half, gammaincinv(half, p)) for p in (0.975, 0.025))
    return float(variance * low), float(variance * high)


def errors(method: Method, variance: float, rest: Rest, kurtosis: float, *, free: bool) -> dict[str, Any]:
    """The fields of a fit that rest on the kurtosis."""
    checks.kurtosis(kurtosis)
    of_variance, of_ratio = _relative_errors(method, rest, kurtosis, free=free)
    return {
        "standard_error": variance * of_variance,
        "interval": _interval(variance, of_variance),
        "kurtosis": kurtosis,
        "ratio_error": rest.ratio * of_ratio,
    }


def _relative_errors(method: Method, rest: Rest, kurtosis: float, *, free: bool) -> tuple[float, float]:
    """Standard errors of variance and ratio, relative to them."""
    if not free and method in ("moment", "likelihood"):
        return math.sqrt((kurtosis - 1) / rest.entries), 0.0
    short = min(max(round(rest.sides[0]), 1), _SIDE)
    ratio = rest.sides[0] / rest.sides[1]
    scaled = _simulated_errors(method, short, max(round(short / ratio), 1), nulls.rounded(kurtosis), free)
    return scaled[0] / math.sqrt(rest.entries), scaled[1] / math.sqrt(rest.entries)


@lru_cache(maxsize=256)
def _simulated_errors(method: Method, short: int, long: int, kurtosis: float, free: bool) -> tuple[float, float]:
    """Standard deviations of log variance and log ratio over noise, times the root of the number of entries."""
    # Linear statistics of eigenvalues: the deviation is 1 over the sides, so that a smaller matrix serves for a large.
    found = []
    stacks = nulls.draws_of((short, long), _SIMULATED, np.random.default_rng(0), kurtosis=kurtosis)
    for values in np.sort(np.concatenate([singular_values(stack, method="gram") for stack in stacks])) ** 2 / long:
        rest = Rest(short, 1, short / long, 0)
        rest = with_likely_ratio(values, rest) if free else rest
        found.append((estimate(method, values, rest), rest.ratio))
    spread = np.log(found).std(axis=0) * math.sqrt(short * long)
    return float(spread[0]), float(spread[1]) if free else 0.0
