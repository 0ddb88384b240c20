"""A-F8: the variances of ip1 do change in training, so that their kept ratios (A-F6) are no accident of the start.

Top: variance of ip1's in-block weights over iterations for every LeNet-5 sister; it starts at b1/800, and the
paper's dense sister ends at 6.6e-4. Bottom: aggregated, sorted singular values at the last step with those of R,
an iid matrix of the dense layer's shape and variance: one curve for all b1, that of the Marchenko-Pastur law.
"""

import xarray as xr
from matplotlib.figure import Figure

from rmtnet import plots
from rmtnet.publish import SINGLE_COLUMN, figure_script


def draw(results: xr.Dataset) -> Figure:
    """Figure A-F8 from the results of the LeNet-5 sisters."""
    sisters = plots.sisters(results, layer="ip1")
    step = plots.last_step(sisters, "singular_values", layer="ip1")
    figure = Figure(figsize=(SINGLE_COLUMN, 4.6), layout="constrained")
    top, bottom = figure.subplots(2)

    plots.plot_variance(sisters, layer="ip1", ax=top, label="({b},1)-BD4")
    top.set_yscale("log")
    top.xaxis.set_major_formatter("{x:,.0f}")
    top.legend(loc="lower center", bbox_to_anchor=(0.5, 1), ncols=3)
    plots.plot_singular_values(sisters, layer="ip1", step=step, ax=bottom, label="({b},1)-BD4")
    bottom.set_xlabel(f"order, after {step:,} iterations")
    bottom.legend(loc="upper right", ncols=2)
    return figure


if __name__ == "__main__":
    figure_script(draw, "a_f08")
