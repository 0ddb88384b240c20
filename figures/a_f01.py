"""A-F1: how much faster an n x n block diagonal layer is than a dense one, batch 100, by the number of blocks.

Top: forward. Bottom: forward and backward, all three products of a gradient step. The paper's P100 is faster forward
for b <= n/32, and for all three products for b <= n/64; its maximum, a little over 10 for n <= 8192, is at b = n/128.
Dotted: b, the ratio of the weights. The bands span the rounds. On a GPU the products are replayed from a graph.
"""

import matplotlib
import numpy as np
import xarray as xr
from matplotlib.figure import Figure

from rmtnet.plots import DASHES
from rmtnet.publish import SINGLE_COLUMN, figure_script

PANELS = {"forward": "forward", "both": "forward and backward"}


def draw(results: xr.Dataset) -> Figure:
    """Figure A-F1 from the measured speed of block layers."""
    if "section" not in results:
        raise ValueError("the results hold no speed of layers: tests/benchmarks/block_layers.py measures it")
    rows = results.to_dataframe().query("section == 'square' and precision == 'fp32' and variant == 'block'")
    rows = rows[rows["launch"] == rows["launch"].max()]
    if rows.empty:
        raise ValueError("the results hold no section 'square' of tests/benchmarks/block_layers.py")
    figure = Figure(figsize=(SINGLE_COLUMN, 4.8), layout="constrained")
    sides = np.unique(rows["n"])
    colours = matplotlib.colormaps["viridis"](np.linspace(0, 0.8, len(sides)))
    for ax, (direction, name) in zip(figure.subplots(2, sharex=True, sharey=True), PANELS.items(), strict=True):
        own = rows[rows["direction"] == direction]
        for n, colour, dashes in zip(sides, colours, DASHES, strict=False):
            line = own[own["n"] == n].sort_values("blocks")
            ax.plot(line["blocks"], line["speedup"], color=colour, linestyle=dashes, label=f"n = {n:.0f}")
            ax.fill_between(
                line["blocks"], line["speedup_low"], line["speedup_high"], color=colour, alpha=0.2, linewidth=0
            )
        blocks = np.array([2, own["speedup"].max()])
        ax.plot(blocks, blocks, color="0.4", linestyle=":", linewidth=0.8, label="b")
        ax.axhline(1, color="0.6", linewidth=0.6)
        ax.set_xscale("log", base=2)
        ax.set_yscale("log")
        ax.yaxis.set_major_formatter("{x:g}")
        ax.set_ylabel(f"speed-up, {name}")
    ax.set_xlabel("number of blocks b")
    figure.axes[0].legend(loc="lower center", bbox_to_anchor=(0.5, 1), ncols=3)
    return figure


if __name__ == "__main__":
    figure_script(draw, "a_f01")
