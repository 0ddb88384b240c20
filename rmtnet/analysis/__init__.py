"""Analysing recorded runs: stores in, one labelled Dataset out, and that as a long table."""

from rmtnet.analysis.columns import DESCRIPTIONS, STATISTICS
from rmtnet.analysis.layers import GROUPS
from rmtnet.analysis.runs import analyze_runs
from rmtnet.analysis.steps import choose_steps
from rmtnet.analysis.tables import long_table, with_spectra_at

__all__ = [
    "DESCRIPTIONS",
    "GROUPS",
    "STATISTICS",
    "analyze_runs",
    "choose_steps",
    "long_table",
    "with_spectra_at",
]
