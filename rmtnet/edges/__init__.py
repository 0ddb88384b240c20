"""Extreme singular values against noise, and the spikes among them."""

from rmtnet.edges.extremes import Extreme, extreme, extremes, largest, smallest
from rmtnet.edges.profile import largest_in_profile
from rmtnet.edges.spikes import Spikes, spikes, spikes_of

__all__ = [
    "Extreme",
    "Spikes",
    "extreme",
    "extremes",
    "largest",
    "largest_in_profile",
    "smallest",
    "spikes",
    "spikes_of",
]
