"""B-F2: the share of zero blocks over 100 epochs, and the training speed-up accumulated so far.

Top: sparsity rho_t = a (t - 1) + b during epoch t, rising to 80 % in the last one; random pre-pruning has 80 % from the
start. Bottom: t / (t - sum of rho), operations of dense training over those of sparse training after t epochs of both.
Counted so, pre-pruning gains 5x, as the slides say. Their 1.9x of gradual pruning is reached from b = 15 % on, which
they do not state; from b = 0 it is 1.67x. Grey: the same with the measured time of forward and backward of a 2048 x
2048 layer with a random mask of 64 x 64 blocks, batch 100, in place of operations.
"""

import numpy as np
import xarray as xr
from matplotlib.figure import Figure
from matplotlib.ticker import NullLocator

from rmtnet.publish import SINGLE_COLUMN, figure_script
from rmtnet.speed import training_speedup

EPOCHS, TARGET = 100, 0.8
SCHEDULES = {
    "random pre-pruning": (np.full(EPOCHS, TARGET), "#440154", "-"),
    "gradual from 15 %": (np.linspace(0.15, TARGET, EPOCHS), "#2a788e", (0, (5, 1))),
    "gradual from 0": (np.linspace(0, TARGET, EPOCHS), "#7ad151", (0, (3, 1, 1, 1))),
}


def draw(results: xr.Dataset) -> Figure:
    """Figure B-F2 from the formula and the measured speed of block-sparse layers."""
    if "section" not in results:
        raise ValueError("the results hold no speed of layers: tests/benchmarks/block_layers.py measures it")
    rows = results.to_dataframe().query(
        "section == 'mask' and variant == 'block' and direction == 'both' and precision == 'fp32'"
        " and block == 64 and n == 2048 and batch == 100"
    )
    rows = rows[rows["launch"] == rows["launch"].max()].sort_values("density")
    if rows.empty:
        raise ValueError("the results hold no section 'mask' of tests/benchmarks/block_layers.py")
    # Time over the dense layer's; where nothing is removed the layer is the dense one.
    densities, times = np.append(rows["density"], 1), np.append(1 / rows["speedup"], 1)
    figure = Figure(figsize=(SINGLE_COLUMN, 4.2), layout="constrained")
    top, bottom = figure.subplots(2, sharex=True)
    epochs = np.arange(1, EPOCHS + 1)
    for name, (sparsity, colour, dashes) in SCHEDULES.items():
        look = {"color": colour, "linestyle": dashes}
        top.plot(epochs, 100 * sparsity, **look, label=name)
        gained = training_speedup(sparsity)
        bottom.plot(epochs, gained, **look)
        bottom.annotate(
            f"{gained[-1]:.2f}",
            (EPOCHS, gained[-1]),
            xytext=(3, 0),
            textcoords="offset points",
            va="center",
            fontsize=6.5,
        )
        measured = epochs / np.interp(1 - sparsity, densities, times).cumsum()
        bottom.plot(epochs, measured, color="0.6", linestyle=dashes, linewidth=0.8)
    top.plot([], [], color="0.6", linewidth=0.8, label="by measured time")
    top.set_ylabel("blocks that are zero (%)")
    top.legend(loc="lower center", bbox_to_anchor=(0.5, 1), ncols=2)
    bottom.set(xlabel="epochs", ylabel="accumulated training speed-up")
    bottom.set_yscale("log")
    bottom.set_yticks(range(1, 6), labels=map(str, range(1, 6)))
    bottom.yaxis.set_minor_locator(NullLocator())
    return figure


if __name__ == "__main__":
    figure_script(draw, "b_f02")
