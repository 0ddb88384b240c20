"""Axes-level plots: of the Dataset of results that ``rmtnet analyze`` writes, and of plain spectra.

Every function takes the data first, draws on the ``ax`` it is given and returns it; figure, scales and legend are
the caller's, who finds every artist labelled. Noise is grey or a thin step line everywhere. Sister networks keep one
look in all panels: colour and dashes follow the rank of their number of blocks, so that a figure reads in grey too.
With several seeds a line is the mean over the runs, at the steps that all of them have, and a thin band spans their
minimum and maximum. ``label`` is a format of the number of blocks ``b``; a format of ``run`` gives every run its own
line.
"""

from rmtnet.plots.budget import plot_variance_budget
from rmtnet.plots.extremes import plot_extremes
from rmtnet.plots.lines import DASHES, plot_line_ends
from rmtnet.plots.local import plot_number_variance, plot_spacings
from rmtnet.plots.orders import plot_null_band, plot_singular_value_ratio, plot_singular_values
from rmtnet.plots.phases import plot_phases
from rmtnet.plots.selection import last_step, layer_values, sisters
from rmtnet.plots.series import plot_mean_deviation, plot_variance, plot_variance_ratio
from rmtnet.plots.spectrum import plot_spectrum
from rmtnet.plots.tails import plot_hill

__all__ = [
    "DASHES",
    "last_step",
    "layer_values",
    "plot_extremes",
    "plot_hill",
    "plot_line_ends",
    "plot_mean_deviation",
    "plot_null_band",
    "plot_number_variance",
    "plot_phases",
    "plot_singular_value_ratio",
    "plot_singular_values",
    "plot_spacings",
    "plot_spectrum",
    "plot_variance",
    "plot_variance_budget",
    "plot_variance_ratio",
    "sisters",
]
