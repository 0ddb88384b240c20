"""A-F11: variances and singular values of cuda-convnet's sisters, without ratio (A-F10).

Top: variance of ip1's in-block weights over iterations; every sister starts at 0.01, and the paper's dense one ends at
7e-3.  Bottom: aggregated, sorted singular values at the last step with those of R, an iid matrix of the dense layer's
shape and variance.
"""

import xarray as xr
from matplotlib.figure import Figure

from rmtnet import plots
from rmtnet.publish import SINGLE_COLUMN, figure_script


def draw(results: xr.Dataset) -> Figure:
    """Figure A-F11 from the results of the cuda-convnet sisters."""
    sisters = plots.sisters(results, layer="ip1")
    step = plots.last_step(sisters, "singular_values", layer="ip1")
    figure = Figure(figsize=(SINGLE_COLUMN, 4.6), layout="constrained")
    top, bottom = figure.subplots(2)

    plots.plot_variance(sisters, layer="ip1", ax=top, label="({b},1)-BD5")
    top.set_yscale("log")
    top.xaxis.set_major_formatter("{x:,.0f}")
    top.legend(loc="lower center", bbox_to_anchor=(0.5, 1), ncols=3)
    plots.plot_singular_values(sisters, layer="ip1", step=step, ax=bottom, label="({b},1)-BD5")
    bottom.set_xlabel(f"order, after {step:,} iterations")
    bottom.legend(loc="upper right", ncols=2)
    return figure


if __name__ == "__main__":
    figure_script(draw, "a_f11")
