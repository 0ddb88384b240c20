"""Formulas that fits evaluate thousands of times, for numbers that were checked at the door.

Floats or arrays of float64; sides are at least 1, the rest is as in :mod:`rmtnet.laws.spiked`.
"""

from typing import Any

import numpy as np


def strength(eigenvalue: Any, ratio: Any) -> Any:
    """Of the spike behind an outlier; the threshold ``sqrt(ratio)`` for eigenvalues inside the bulk."""
    threshold = ratio**0.5
    middle = np.maximum((eigenvalue - 1 - ratio) / 2, threshold)
    # Factored: the square of a gigantic eigenvalue would overflow.
    return middle + np.sqrt(middle - threshold) * np.sqrt(middle + threshold)


def wishart_edge(short: Any, long: Any) -> tuple[Any, Any]:
    """Centre and scale of the largest eigenvalue of ``X X^T``, X ``(short, long)`` Gaussian with variance 1."""
    a, b = (short - 0.5) ** 0.5, (long - 0.5) ** 0.5
    return (a + b) ** 2, (a + b) * (1 / a + 1 / b) ** (1 / 3)
