"""Which gates of a dynamic layer are open, what that tells of an input's class, and the matrices that gates leave."""

from rmtnet.gates.classes import ClassSimilarity, class_similarity, gate_information, pattern_information
from rmtnet.gates.collecting import collecting_gates
from rmtnet.gates.effective import EffectiveSpectrum, effective_spectra, effective_spectrum
from rmtnet.gates.shares import GateShares, gate_shares, open_fraction

__all__ = [
    "ClassSimilarity",
    "EffectiveSpectrum",
    "GateShares",
    "class_similarity",
    "collecting_gates",
    "effective_spectra",
    "effective_spectrum",
    "gate_information",
    "gate_shares",
    "open_fraction",
    "pattern_information",
]
