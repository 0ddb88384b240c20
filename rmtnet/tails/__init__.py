"""Power-law tails of spectra: fit, uncertainty, alternatives, and the random matrices that decide.

All functions but :func:`hill` take one spectrum; a batch is a loop over its rows. Zeros (of a matrix without full rank)
lie below every tail.
"""

from rmtnet.tails.alternatives import LikelihoodRatio, likelihood_ratios
from rmtnet.tails.assessment import TailAssessment, assess_tail
from rmtnet.tails.bootstrap import PowerLawBootstrap, bootstrap_power_law
from rmtnet.tails.power_law import PowerLawFit, fit_power_law, hill

__all__ = [
    "LikelihoodRatio",
    "PowerLawBootstrap",
    "PowerLawFit",
    "TailAssessment",
    "assess_tail",
    "bootstrap_power_law",
    "fit_power_law",
    "hill",
    "likelihood_ratios",
]
