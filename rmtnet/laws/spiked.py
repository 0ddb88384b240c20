"""A rank-one signal in noise: ``W = Z + theta u v^T``, Z ``(m, n)`` with entries of variance 1/n, ``ratio = m/n <= 1``.

Above the threshold ``theta^2 > sqrt(ratio)`` the largest eigenvalue of ``W W^T`` leaves the Marchenko-Pastur bulk,
below it does not (Baik, Ben Arous and Peche; for this model [1]_). Strength means ``theta^2`` throughout.
It and eigenvalues must be finite and not negative, ratios in (0, 1]: TypeError or ValueError else.

References
----------
.. [1] Benaych-Georges and Nadakuditi, J. Multivariate Anal. 111 (2012) 120, section 3.1.
"""

import numpy as np
from numpy.typing import ArrayLike, NDArray

from rmtnet import checks
from rmtnet.laws import formulas

Floats = NDArray[np.float64]


def outlier(strength: ArrayLike, ratio: ArrayLike) -> Floats:
    """Where the largest eigenvalue lies: the upper edge up to the threshold, beyond it above the bulk."""
    given, ratio = _checked(strength, "strength", ratio)
    at_least = np.maximum(given, np.sqrt(ratio))
    return (1 + at_least) * (1 + ratio / at_least)


def strength(eigenvalue: ArrayLike, ratio: ArrayLike) -> Floats:
    """The inverse of :func:`outlier`; the threshold ``sqrt(ratio)`` for eigenvalues inside the bulk."""
    found: Floats = formulas.strength(*_checked(eigenvalue, "eigenvalue", ratio))
    return found


def overlaps(strength: ArrayLike, ratio: ArrayLike) -> tuple[Floats, Floats]:
    """Squared overlap of the singular vectors with u (short side, m) and v (long side, n); 0 up to the threshold."""
    given, ratio = _checked(strength, "strength", ratio)
    at_least = np.maximum(given, np.sqrt(ratio))
    return 1 - ratio * (1 + 1 / at_least) / (at_least + ratio), 1 - (1 + ratio / at_least) / (at_least + 1)


def deviation(strength: ArrayLike, ratio: ArrayLike) -> Floats:
    """Standard deviation of ``theta`` from inverting the outlier, times ``sqrt(n)``; infinite at the threshold.

    To leading order, ``sqrt(t (t + (1 + ratio) / 2) / (t^2 - ratio))`` with t the strength: for a fixed spike, in
    Gaussian noise or with vectors spread over many entries. 1 for a strong spike: that of one entry of the noise.
    """
    t, ratio = _checked(strength, "strength", ratio)
    threshold = np.sqrt(ratio)
    room = np.where(t > threshold, t - ratio / np.maximum(t, threshold), np.inf)
    return np.where(room < np.inf, np.sqrt((t + (1 + ratio) / 2) / np.maximum(room, 1e-300)), np.inf)


def _checked(values: ArrayLike, name: str, ratio: ArrayLike) -> tuple[Floats, Floats]:
    ratios = checks.floats(ratio, "ratio")
    if np.any(wrong := ~((ratios > 0) & (ratios <= 1))):
        raise ValueError(f"ratio, short over long side, must lie in (0, 1], got {ratios[wrong].flat[0]}")
    return checks.real(values, name, negative=False), ratios
