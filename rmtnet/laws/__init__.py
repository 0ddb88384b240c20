"""Limiting laws of random matrices, one a module."""

from rmtnet.laws.marchenko_pastur import MarchenkoPastur
from rmtnet.laws.porter_thomas import PorterThomas
from rmtnet.laws.singular import MarchenkoPasturSingular
from rmtnet.laws.spacings import Brody, PoissonSpacing, WignerSurmise
from rmtnet.laws.tracy_widom import TracyWidom
from rmtnet.laws.variance_profile import VarianceProfile, connected_components

__all__ = [
    "Brody",
    "MarchenkoPastur",
    "MarchenkoPasturSingular",
    "PoissonSpacing",
    "PorterThomas",
    "TracyWidom",
    "VarianceProfile",
    "WignerSurmise",
    "connected_components",
]
