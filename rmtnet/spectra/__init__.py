"""Singular values and eigenvalues of stacks of matrices, and moments of their entries.

Stacks are worked through in chunks of float64, so that they may be larger than memory (``numpy.memmap``).
"""

from rmtnet.spectra.blocks import as_blocks
from rmtnet.spectra.entries import kurtosis, variance
from rmtnet.spectra.values import aggregate, eigenvalues, singular_values

__all__ = ["aggregate", "as_blocks", "eigenvalues", "kurtosis", "singular_values", "variance"]
