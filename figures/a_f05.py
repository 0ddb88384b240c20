"""A-F5: the more blocks ip1 of cuda-convnet has, the more accuracy it has for its overfitting.

Test accuracy over the difference of the accuracies on training and test images (A-F4), each the mean over seeds, from
the iteration on after which all networks overfit by a point or more.  The paper: 76.29 / 7.03 = 10.9 for the dense
network in the end.
"""

import numpy as np
import xarray as xr
from matplotlib.figure import Figure

from rmtnet.plots import layer_values
from rmtnet.plots.lines import plot_groups
from rmtnet.publish import SINGLE_COLUMN, figure_script


def draw(results: xr.Dataset) -> Figure:
    """Figure A-F5 from the cuda-convnet runs, as figures/a_reduce.py reduces them."""
    if not {"accuracy", "train_accuracy", "column"} <= {*results.variables}:
        raise ValueError("results hold no accuracies on training images: write them with figures/a_reduce.py")
    sisters = results.isel(run=results["column"].str.match(r"b\d+x1$").values)
    # The mean over seeds first: a single network's gap may be near 0 early on, and its ratio anything.
    seeds = sisters[["accuracy", "train_accuracy"]].groupby(layer_values(sisters, "blocks", layer="ip1")["blocks"])
    mean = seeds.mean("run")
    gap = mean["train_accuracy"] - mean["accuracy"]
    overfit = (gap > 0.01).all("blocks").values
    begin = len(overfit) - np.argmin(overfit[::-1]) if not overfit.all() else 0
    if begin == len(overfit):
        raise ValueError("some network does not overfit in the end: its ratio says nothing")
    ratio = (mean["accuracy"] / gap).isel(step=slice(begin, None))
    ratio = ratio.rename(blocks="run").assign_coords(blocks=("run", ratio["blocks"].values))
    figure = Figure(figsize=(SINGLE_COLUMN, 2.6), layout="constrained")
    ax = figure.subplots()

    plot_groups(ratio, sisters, layer="ip1", ax=ax, label="({b},1)-BD5")
    ax.set(xlabel="iteration", ylabel="accuracy over (train less test)")
    ax.xaxis.set_major_formatter("{x:,.0f}")
    ax.legend(loc="lower center", bbox_to_anchor=(0.5, 1), ncols=3)
    return figure


if __name__ == "__main__":
    figure_script(draw, "a_f05")
