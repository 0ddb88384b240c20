"""Fitting the Marchenko-Pastur law to the bulk of a spectrum that also holds spikes."""

from rmtnet.bulk.fit import BulkFit, fit_bulk
from rmtnet.bulk.noise import fit_noise, goodness, without_largest

__all__ = ["BulkFit", "fit_bulk", "fit_noise", "goodness", "without_largest"]
