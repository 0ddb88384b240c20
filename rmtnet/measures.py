"""Shape measures of spectra: one number for each, with the field's names and definitions.

Singular values and eigenvalues are (..., order), in any order; the last axis goes. Nothing overflows that the answer
does not: all is scaled by the largest first. A matrix of zeros has norm 0, log norm minus infinity and rank 0; where
its measure would be 0/0 it is NaN.
"""

import math

import numpy as np
from numpy.typing import ArrayLike, NDArray

from rmtnet import checks

Floats = NDArray[np.float64]

_EPSILONS = {"bfloat16": 2.0**-7, "float16": 2.0**-10, "float32": 2.0**-23, "float64": 2.0**-52}


def spectral_norm(singular_values: ArrayLike) -> Floats:
    """Largest singular value, ``||W||_2``."""
    return np.asarray(_scaled(singular_values)[1])


def frobenius_norm(singular_values: ArrayLike) -> Floats:
    """Root of the sum of squares, of singular values or entries alike: ``||W||_F``."""
    scaled, largest = _scaled(singular_values)
    with np.errstate(over="ignore"):
        norm = np.asarray(largest * np.sqrt(np.sum(scaled**2, axis=-1)))
    return checks.in_range(norm, "a Frobenius norm")


def log_spectral_norm(singular_values: ArrayLike) -> Floats:
    """``log10 ||W||_2^2``, squared as in [1]_.

    References
    ----------
    .. [1] Martin, Peng and Mahoney, Nat. Commun. 12 (2021) 4122.
    """
    return 2 * _log10(_scaled(singular_values)[1])


def log_frobenius_norm(singular_values: ArrayLike) -> Floats:
    """``log10 ||W||_F^2``, squared as in [1]_.

    References
    ----------
    .. [1] Martin, Peng and Mahoney, Nat. Commun. 12 (2021) 4122.
    """
    scaled, largest = _scaled(singular_values)
    return 2 * _log10(largest) + _log10(np.where(largest > 0, np.sum(scaled**2, axis=-1), 1))


def stable_rank(singular_values: ArrayLike) -> Floats:
    """``||W||_F^2 / ||W||_2^2``, from 1 to the rank [1]_.

    References
    ----------
    .. [1] Rudelson and Vershynin, J. ACM 54 (2007) 21 ("numerical rank").
    """
    scaled, largest = _scaled(singular_values)
    return np.where(largest > 0, np.sum(scaled**2, axis=-1), np.nan)


def effective_rank(singular_values: ArrayLike) -> Floats:
    """``exp(-sum p ln p)`` of ``p = s / sum s``, from 1 to the rank [1]_.

    References
    ----------
    .. [1] Roy and Vetterli, EUSIPCO 2007, 606.
    """
    return np.exp(_entropy(_scaled(singular_values)[0]))


def spectral_entropy(singular_values: ArrayLike) -> Floats:
    """``-sum p ln p`` of ``p = s^2 / sum s^2``, in nats: 0 for rank 1, ``ln n`` for n equal singular values.

    WeightWatcher divides by ``ln(rank)`` and adds 1e-10 to p: :func:`weightwatcher`. The p of :func:`effective_rank` is
    of the singular values themselves.
    """
    return _entropy(_scaled(singular_values)[0] ** 2)


def participation_ratio(singular_values: ArrayLike) -> Floats:
    """``(sum s^2)^2 / sum s^4``: how many of n equal squares would spread as evenly; 1 to the rank.

    Of the spectrum; :func:`rmtnet.local.participation_share` is that of a singular vector, over its components.
    """
    scaled = _scaled(singular_values)[0]
    with np.errstate(invalid="ignore"):
        return np.asarray(np.sum(scaled**2, axis=-1) ** 2 / np.sum(scaled**4, axis=-1))


def hard_rank(
    singular_values: ArrayLike, shape: tuple[int, int], *, dtype: object = "float32", tolerance: float | None = None
) -> Floats:
    """Number of singular values above the rounding of the weights.

    Parameters
    ----------
    singular_values : (..., order)
    shape : (out, in) of the matrix
    dtype : that the weights were stored in: float64, float32, float16 or bfloat16; a name, or a numpy or torch dtype
    tolerance : what counts as 0, in parts of the largest singular value; by default ``max(shape) * eps(dtype)``, as
        ``numpy.linalg.matrix_rank`` has it of the dtype that it is given

    Returns
    -------
    (...) NaN where the tolerance is 1 or more and tells nothing: for bfloat16 from 128 outputs or
    inputs on. ``sqrt(out + in + 1) / 2 * eps`` [1]_ still does, the rounding errors of entries being independent.

    Raises
    ------
    TypeError, ValueError
        If shape is not (out, in), the dtype is none of these, or the tolerance is negative.

    References
    ----------
    .. [1] Press et al., Numerical Recipes, 3rd ed. (2007), section 2.6.
    """
    if np.shape(shape) != (2,):
        raise ValueError(f"shape must be (out, in), got {shape}")
    longest = max(checks.count(side, "a side of shape") for side in shape)
    tolerance = longest * epsilon(dtype) if tolerance is None else checks.number(tolerance, "tolerance", 0, math.inf)
    scaled, largest = _scaled(singular_values)
    known = (largest == 0) | (tolerance < 1)
    return np.where(known, np.count_nonzero(scaled > tolerance, axis=-1), np.nan)


def alpha_hat(eigenvalues: ArrayLike, alpha: ArrayLike) -> Floats:
    """Weighted alpha, ``alpha * log10(lambda_max)`` [1]_.

    It depends on the units: :func:`rmtnet.eigenvalues` divides by the long side N, WeightWatcher does not and its
    value is larger by ``alpha * log10(N)``.

    Parameters
    ----------
    eigenvalues : (..., order)
    alpha : (...) exponent of their tail, as :func:`rmtnet.tails.fit_power_law` gives; positive, NaN gives NaN

    References
    ----------
    .. [1] Martin, Peng and Mahoney, Nat. Commun. 12 (2021) 4122.
    """
    return _exponent(alpha) * _log10(_scaled(eigenvalues, "eigenvalues")[1])


def log_alpha_norm(eigenvalues: ArrayLike, alpha: ArrayLike) -> Floats:
    """``log10 sum lambda^alpha``, the log of the Schatten norm to its power [1]_.

    It depends on the units as :func:`alpha_hat` does, which it tends to where one eigenvalue dominates.

    Parameters
    ----------
    eigenvalues : (..., order)
    alpha : (...) positive, NaN gives NaN

    References
    ----------
    .. [1] Martin, Peng and Mahoney, Nat. Commun. 12 (2021) 4122.
    """
    exponent = _exponent(alpha)
    scaled, largest = _scaled(eigenvalues, "eigenvalues")
    powers = np.sum(scaled ** exponent[..., None], axis=-1)
    return exponent * _log10(largest) + _log10(np.where(largest > 0, powers, 1))


def mp_softrank(eigenvalues: ArrayLike, upper_edge: ArrayLike) -> Floats:
    """Upper edge of the bulk over the largest eigenvalue: about 1 for noise, towards 0 for high spikes [1]_.

    Parameters
    ----------
    eigenvalues : (..., order)
    upper_edge : (...) not negative, NaN gives NaN: of the law fitted to the bulk, ``fit_bulk(...).law.edges[1]``

    References
    ----------
    .. [1] Martin and Mahoney, J. Mach. Learn. Res. 22 (2021) 165.
    """
    largest = _scaled(eigenvalues, "eigenvalues")[1]
    edge = checks.floats(upper_edge, "upper_edge")
    if np.any((edge < 0) | np.isinf(edge)):
        raise ValueError(f"upper_edge must be finite and not negative, got {np.nanmin(edge)} to {np.nanmax(edge)}")
    shape = np.broadcast_shapes(edge.shape, largest.shape)
    with np.errstate(over="ignore"):
        found = np.divide(edge, largest, out=np.full(shape, np.nan), where=largest > 0)
    return checks.in_range(found, "a soft rank")


def weightwatcher(singular_values: ArrayLike, shape: tuple[int, int]) -> dict[str, float]:
    """What WeightWatcher 0.7.7 reports for a dense layer [1]_, to compare: keys are its columns behind ``ww_``.

    Its eigenvalues are s^2, not over the long side. alpha is the power law of least distance among all values above
    1e-5 as xmin, down to the last 2, where the distance holds the law against j/n (j from 0) only, not both sides of
    each step; sigma takes xmin for known. Below 20 values alpha is corrected for its bias and a tail has 8. The
    rank's tolerance takes the eps of float64 whatever the weights' dtype; entropy is that of ``s^2 / sum s^2 +
    1e-10`` over ``ln(rank + 1e-10)``.

    Parameters
    ----------
    singular_values : (order,)
    shape : (out, in)

    Returns
    -------
    NaN where there is no value: alpha and what needs it with fewer than 8 eigenvalues above 1e-5, entropy without rank

    References
    ----------
    .. [1] Martin, WeightWatcher 0.7.7: ``WW_powerlaw.WWFit``, ``RMT_Util.matrix_entropy``, ``matrix_rank``.
    """
    scaled, largest = _scaled(singular_values)
    if scaled.ndim != 1:
        raise ValueError(f"singular_values must be 1-D, got shape {scaled.shape}")
    if largest > 1e150:
        raise ValueError(f"singular_values must have squares below 1e300, got {largest}")
    squares = np.sort(scaled * largest) ** 2
    alpha, xmin, distance, sigma = _ww_power_law(squares[squares > 1e-5])
    rank = float(hard_rank(singular_values, shape, dtype="float64"))
    share = (scaled**2 / max(float(np.sum(scaled**2)), 1e-300)) + 1e-10
    entropy = -float(np.sum(share * np.log(share))) / math.log(rank + 1e-10) if rank else math.nan
    power_law = {"alpha": alpha, "xmin": xmin, "D": distance, "sigma": sigma}
    power_law["num_pl_spikes"] = float(np.sum(squares >= xmin)) if alpha == alpha else math.nan
    measured = {
        "alpha_weighted": float(alpha_hat(squares, alpha)),
        "log_alpha_norm": float(log_alpha_norm(squares, alpha)),
        "norm": float(np.sum(squares)),
        "log_norm": float(log_frobenius_norm(singular_values)),
        "spectral_norm": float(squares[-1]),
        "log_spectral_norm": float(log_spectral_norm(singular_values)),
        "stable_rank": float(stable_rank(singular_values)),
        "matrix_rank": rank,
        "entropy": entropy,
    }
    return {f"ww_{name}": value for name, value in (power_law | measured).items()}


def _ww_power_law(ascending: Floats) -> tuple[float, float, float, float]:
    """alpha, xmin, D and sigma."""
    count = len(ascending)
    few = count < 20
    if count < 8:
        return math.nan, math.nan, math.nan, math.nan
    logs = np.log(ascending)
    best = (math.nan, math.nan, 1.0, math.nan)
    for start in range(count - 7 if few else count - 1):
        tail = count - start
        excess = float(np.sum(logs[start:] - logs[start]))
        if excess <= 1e-12:
            continue
        alpha = 1 + (tail - few) / excess
        law = -np.expm1((1 - alpha) * (logs[start:] - logs[start]))
        distance = float(np.max(np.abs(law - np.arange(tail) / tail)))
        if distance < best[2]:
            best = (alpha, float(ascending[start]), distance, (alpha - 1) / math.sqrt(tail))
    return best


def _scaled(values: ArrayLike, name: str = "singular_values") -> tuple[Floats, Floats]:
    """Values over the largest of their last axis (0 if that is 0), and the largest."""
    array = checks.real(values, name, negative=False)
    if array.ndim == 0 or array.size == 0:
        raise ValueError(f"{name} must be (..., order), not empty; got shape {array.shape}")
    largest = array.max(axis=-1, keepdims=True)
    return np.divide(array, largest, out=np.zeros_like(array), where=largest > 0), largest[..., 0]


def _exponent(alpha: ArrayLike) -> Floats:
    found = checks.floats(alpha, "alpha")
    if np.any(wrong := (found <= 0) | (found > 1e300)):
        raise ValueError(f"alpha must lie in (0, 1e300], got {found[wrong].flat[0]}")
    return found


def _entropy(weights: Floats) -> Floats:
    total = np.sum(weights, axis=-1, keepdims=True)
    share = np.divide(weights, total, out=np.full_like(weights, np.nan), where=total > 0)
    # p ln p is 0 at 0. Adding 0.0 turns the -0.0 of rank 1 into 0.
    return np.asarray(-np.sum(share * np.log(np.where(share == 0, 1, share)), axis=-1) + 0.0)


def _log10(values: Floats) -> Floats:
    with np.errstate(divide="ignore"):
        return np.asarray(np.log10(values))


def epsilon(dtype: object) -> float:
    """Distance from 1 to the next number of a dtype, by its name: numpy has no bfloat16."""
    name = dtype.__name__ if isinstance(dtype, type) else str(dtype).removeprefix("torch.")
    if name not in _EPSILONS:
        raise ValueError(f"dtype must be one of {', '.join(_EPSILONS)}, got {name}")
    return _EPSILONS[name]
