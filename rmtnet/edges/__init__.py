"""Extreme singular values against noise, and the spikes among them."""

from rmtnet.edges.profile import largest_in_profile, smallest_in_profile
from rmtnet.edges.signals import Spikes, spikes, spikes_of
from rmtnet.edges.testing import Extreme, extreme, extremes, largest, pooled, smallest

__all__ = [
    "Extreme",
    "Spikes",
    "extreme",
    "extremes",
    "largest",
    "largest_in_profile",
    "pooled",
    "smallest",
    "smallest_in_profile",
    "spikes",
    "spikes_of",
]
