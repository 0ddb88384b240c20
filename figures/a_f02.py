"""A-F2: how many pruning steps each block step may cost for IP-BDIP to make the training of an n x n layer faster.

The bound (T(FC) - T(Block)) / T(Prune) of eq. 2 on y / x, batch 100: T(FC) and T(Block) are forward and backward of the
dense and of the block diagonal layer, T(Prune) is what penalty and mask add to a step, x the block and y the pruning
iterations. Above 1, as many pruning steps as block steps still pay.
"""

import matplotlib
import numpy as np
import xarray as xr
from matplotlib.figure import Figure

from rmtnet.plots import DASHES
from rmtnet.publish import SINGLE_COLUMN, figure_script
from rmtnet.speed import pruning_bound


def draw(results: xr.Dataset) -> Figure:
    """Figure A-F2 from the measured speed of block layers."""
    if "section" not in results:
        raise ValueError("the results hold no speed of layers: tests/benchmarks/block_layers.py measures it")
    rows = results.to_dataframe().query("section == 'pruning' and layer == 'pruning'")
    rows = rows[rows["launch"] == rows["launch"].min()]
    seconds = rows.pivot_table(index=["n", "blocks"], columns="variant", values="seconds")
    if rows.empty or "prune" not in seconds:
        raise ValueError("the results hold no section 'pruning' of tests/benchmarks/block_layers.py")
    bound = pruning_bound(seconds["dense"], seconds["block"], seconds["prune"])
    table = seconds.assign(bound=bound).reset_index()
    figure = Figure(figsize=(SINGLE_COLUMN, 2.6), layout="constrained")
    ax = figure.subplots()
    sides = np.unique(table["n"])
    colours = matplotlib.colormaps["viridis"](np.linspace(0, 0.8, len(sides)))
    for n, colour, dashes in zip(sides, colours, DASHES, strict=False):
        line = table[table["n"] == n]
        ax.plot(line["blocks"], line["bound"], color=colour, linestyle=dashes, label=f"n = {n:.0f}")
    ax.axhline(1, color="0.6", linewidth=0.6)
    ax.set_xscale("log", base=2)
    ax.set_ylim(bottom=min(0, table["bound"].min()))
    ax.set(xlabel="number of blocks b", ylabel=r"$(T(FC) - T(Block))\,/\,T(Prune)$")
    ax.legend(loc="lower center", bbox_to_anchor=(0.5, 1), ncols=3)
    return figure


if __name__ == "__main__":
    figure_script(draw, "a_f02")
