"""The analyses on labelled arrays: DataArrays over (step, block, ...) in, DataArrays or Datasets over ``step`` out.

Each is a thin face of the function of the same name: other dims, such as run or layer, are looped over. A value that
does not exist (the bulk of a layer of zeros, the gap ratio of blocks of two levels) is NaN.
"""

from rmtnet.labelled.extremes import extremes
from rmtnet.labelled.levels import level_statistics
from rmtnet.labelled.noise import noise_kurtosis
from rmtnet.labelled.shape import shape_measures
from rmtnet.labelled.sisters import (
    Shape,
    against_null,
    mean_deviation_null,
    variance_ratio,
    variance_ratio_interval,
)
from rmtnet.labelled.spectra import (
    about_zero,
    aggregate,
    bulk_fits,
    entry_moments,
    gaussian_entries,
    kurtosis,
    moments_of_values,
    singular_values,
    spectrum,
    spectrum_of_values,
    variance,
)
from rmtnet.labelled.tails import tail_assessments
from rmtnet.labelled.training import deterioration, drift, first_departure, step_budget, variance_budget

__all__ = [
    "Shape",
    "about_zero",
    "against_null",
    "aggregate",
    "bulk_fits",
    "deterioration",
    "drift",
    "entry_moments",
    "extremes",
    "first_departure",
    "gaussian_entries",
    "kurtosis",
    "level_statistics",
    "mean_deviation_null",
    "moments_of_values",
    "noise_kurtosis",
    "shape_measures",
    "singular_values",
    "spectrum",
    "spectrum_of_values",
    "step_budget",
    "tail_assessments",
    "variance",
    "variance_budget",
    "variance_ratio",
    "variance_ratio_interval",
]
