"""A-F7: while LeNet-5 trains, ip1's singular values stay within about 4e-2 of R's, the more so in blocks.

Mean over order of |1 - sigma_W / sigma_R| against iteration, R an iid matrix of the dense layer's shape with the
dense sister's variance *at that iteration*. The paper: it starts smaller for small b1 (the Marchenko-Pastur
limit wants large blocks) and ends smaller for large b1, below 4e-2 for all.
"""

import xarray as xr
from matplotlib.figure import Figure

from rmtnet import plots
from rmtnet.publish import SINGLE_COLUMN, figure_script


def draw(results: xr.Dataset) -> Figure:
    """Figure A-F7 from the results of the LeNet-5 sisters."""
    sisters = plots.sisters(results, layer="ip1")
    figure = Figure(figsize=(SINGLE_COLUMN, 2.6), layout="constrained")
    ax = figure.subplots()

    plots.plot_mean_deviation(sisters, layer="ip1", ax=ax, label="({b},1)-BD4")
    ax.xaxis.set_major_formatter("{x:,.0f}")
    ax.legend(loc="lower center", bbox_to_anchor=(0.5, 1), ncols=3)
    return figure


if __name__ == "__main__":
    figure_script(draw, "a_f07")
