"""A-F4: the more blocks ip1 of cuda-convnet has, the less it overfits CIFAR-10.

Accuracy on training images less that on the test images, in points, over iterations: lines are means over seeds, bands
their range.  The paper: 83.32 - 76.29 = 7.03 for the dense network in the end.
"""

import xarray as xr
from matplotlib.figure import Figure

from rmtnet.plots import layer_values
from rmtnet.plots.lines import plot_groups
from rmtnet.publish import SINGLE_COLUMN, figure_script


def draw(results: xr.Dataset) -> Figure:
    """Figure A-F4 from the cuda-convnet runs, as figures/a_reduce.py reduces them."""
    if not {"accuracy", "train_accuracy", "column"} <= {*results.variables}:
        raise ValueError("results hold no accuracies on training images: write them with figures/a_reduce.py")
    sisters = results.isel(run=results["column"].str.match(r"b\d+x1$").values, step=results["step"].values > 0)
    gap = 100 * (sisters["train_accuracy"] - sisters["accuracy"])
    gap = gap.assign_coords(blocks=layer_values(sisters, "blocks", layer="ip1")["blocks"])
    figure = Figure(figsize=(SINGLE_COLUMN, 2.6), layout="constrained")
    ax = figure.subplots()

    plot_groups(gap, sisters, layer="ip1", ax=ax, label="({b},1)-BD5")
    ax.set(xlabel="iteration", ylabel="train less test accuracy, points")
    ax.xaxis.set_major_formatter("{x:,.0f}")
    ax.legend(loc="lower center", bbox_to_anchor=(0.5, 1), ncols=3)
    return figure


if __name__ == "__main__":
    figure_script(draw, "a_f04")
