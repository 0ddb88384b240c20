"""Sister networks: same architecture, other number of blocks in one layer.

Their layer is compared with the dense sister's, and with R: a random matrix of the dense layer's shape whose entries
are iid with the dense sister's variance at the same step (paper A, section 5).
"""

from rmtnet.sisters.intervals import (
    EntryMoments,
    VarianceRatio,
    entry_moments,
    variance_change_interval,
    variance_ratio_interval,
)
from rmtnet.sisters.noise import NullDeviation, SisterNull, null_mean_deviation, sister_null
from rmtnet.sisters.ratios import mean_deviation, singular_value_ratio, variance_ratio

__all__ = [
    "EntryMoments",
    "NullDeviation",
    "SisterNull",
    "VarianceRatio",
    "entry_moments",
    "mean_deviation",
    "null_mean_deviation",
    "singular_value_ratio",
    "sister_null",
    "variance_change_interval",
    "variance_ratio",
    "variance_ratio_interval",
]
