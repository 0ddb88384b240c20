"""A-F10: cuda-convnet's sisters keep the variance ratio 1 that they start with, the less so the more blocks they have.

Top: variance of ip1's in-block weights over the dense sister's.  It starts at 1: the Gaussian start does not know of
blocks.  The paper ends at 1.02, 1.02, 1.01, 1.11, 1.21 and 1.5 for b1 = 2, 4, 8, 16, 32 and 64.
Bottom: aggregated, sorted singular values of the blocks at the last step over those of R, an iid matrix of the dense
layer's shape and final variance (7e-3 in the paper): about 1 / sqrt(b1), the grey lines.
"""

import numpy as np
import xarray as xr
from matplotlib.figure import Figure

from rmtnet import plots
from rmtnet.publish import SINGLE_COLUMN, figure_script


def draw(results: xr.Dataset) -> Figure:
    """Figure A-F10 from the results of the cuda-convnet sisters."""
    sisters = plots.sisters(results, layer="ip1")
    step = plots.last_step(sisters, "singular_value_ratio", layer="ip1")
    figure = Figure(figsize=(SINGLE_COLUMN, 4.8), layout="constrained")
    top, bottom = figure.subplots(2)

    plots.plot_variance_ratio(sisters, layer="ip1", ax=top, label="({b},1)-BD5 / (1,1)-BD5")
    plots.plot_singular_value_ratio(sisters, layer="ip1", step=step, ax=bottom, label="({b},1)-BD5 / R")
    for blocks in np.unique(sisters.blocks.sel(layer="ip1")):
        bottom.axhline(blocks**-0.5, color="0.75", linewidth=0.6, zorder=0)
    bottom.set_yscale("log", base=2)
    bottom.yaxis.set_major_formatter("{x:.3g}")
    bottom.yaxis.minorticks_off()
    bottom.set_ylim(0.5 * np.max(sisters.blocks.sel(layer="ip1")) ** -0.5, 2)
    bottom.set_xlabel(f"order, after {step:,} iterations")
    top.xaxis.set_major_formatter("{x:,.0f}")
    top.legend(loc="lower center", bbox_to_anchor=(0.5, 1), ncols=2)
    bottom.legend(loc="lower center", bbox_to_anchor=(0.5, 1.02), ncols=3)
    return figure


if __name__ == "__main__":
    figure_script(draw, "a_f10")
