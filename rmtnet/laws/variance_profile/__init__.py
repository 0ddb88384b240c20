"""The law of the eigenvalues of a random matrix whose blocks differ in variance or are absent."""

from rmtnet.laws.variance_profile.components import connected_components
from rmtnet.laws.variance_profile.profile import VarianceProfile

__all__ = ["VarianceProfile", "connected_components"]
