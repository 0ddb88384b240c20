"""A-F6: the variance ratio of ip1 between LeNet-5 sisters stays near b1, and its singular values stay R's.

Top: variance of ip1's in-block weights over the dense sister's. It starts at b1, as Xavier's does; the paper ends
at 5.03, 9.97, 19.96, 49.32 and 96.99 for b1 = 5, 10, 20, 50 and 100 after 10,000 iterations.
Bottom: aggregated, sorted singular values of the blocks at the last step over those of R, an iid matrix of the
dense layer's shape and final variance (6.6e-4 in the paper): within 4e-2 of 1 on average, 1.44 at the dense
sister's largest. The grey band holds 90 % of single draws of R.
"""

import numpy as np
import xarray as xr
from matplotlib.figure import Figure

from rmtnet import plots
from rmtnet.publish import SINGLE_COLUMN, figure_script


def draw(results: xr.Dataset) -> Figure:
    """Figure A-F6 from the results of the LeNet-5 sisters."""
    sisters = plots.sisters(results, layer="ip1")
    step = plots.last_step(sisters, "singular_value_ratio", layer="ip1")
    figure = Figure(figsize=(SINGLE_COLUMN, 4.8), layout="constrained")
    top, bottom = figure.subplots(2)

    plots.plot_variance_ratio(sisters, layer="ip1", ax=top, label="({b},1)-BD4 / (1,1)-BD4")
    plots.plot_line_ends(top)
    starts = np.unique(sisters.blocks.sel(layer="ip1"))[1:].astype(int)
    top.set_yscale("log")
    top.set_yticks(starts, labels=map(str, starts))
    top.minorticks_off()
    plots.plot_singular_value_ratio(sisters, layer="ip1", step=step, ax=bottom, label="({b},1)-BD4 / R")
    bottom.set_xlabel(f"order, after {step:,} iterations")
    top.xaxis.set_major_formatter("{x:,.0f}")
    top.legend(loc="lower center", bbox_to_anchor=(0.5, 1), ncols=2)
    bottom.legend(loc="lower center", bbox_to_anchor=(0.5, 1.02), ncols=3)
    return figure


if __name__ == "__main__":
    figure_script(draw, "a_f06")
