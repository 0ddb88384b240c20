"""A-F3: the inner product layers of LeNet-5 (batch 64) and cuda-convnet (batch 100), by their number of nonzeros.

Speed-up over the dense layer: of blocks, forward and for all three products of a gradient step, and of sparse formats,
forward. CSR holds as many weights at random places, BSR the blocks themselves. On the paper's P100, LeNet-5's ip1 gains
more than 1.4 down to 8,000 nonzeros (b1 = 50) and 1.6 forward at 4,000, cuda-convnet's more than 1.26 down to 2,048 and
1.65 forward at 1,024; CSR is up to more than 8 times slower than dense.
"""

import xarray as xr
from matplotlib.figure import Figure
from matplotlib.ticker import NullLocator

from rmtnet.publish import SINGLE_COLUMN, figure_script

NETWORKS = ("LeNet-5", "cuda-convnet")
# (variant, direction) -> label, colour, marker
CURVES = {
    ("block", "forward"): ("block, forward", "#440154", "o"),
    ("block", "both"): ("block, forward and backward", "#2a788e", "s"),
    ("CSR", "forward"): ("CSR, forward", "#e08214", "x"),
    ("BSR", "forward"): ("BSR, forward", "0.55", "+"),
}


def draw(results: xr.Dataset) -> Figure:
    """Figure A-F3 from the measured speed of block layers."""
    if "section" not in results:
        raise ValueError("the results hold no speed of layers: tests/benchmarks/block_layers.py measures it")
    rows = results.to_dataframe().query("section == 'layers' and launch == 'eager'")
    if rows.empty:
        raise ValueError("the results hold no section 'layers' of tests/benchmarks/block_layers.py")
    figure = Figure(figsize=(SINGLE_COLUMN, 4.8), layout="constrained")
    for ax, network in zip(figure.subplots(2), NETWORKS, strict=True):
        for layer, line in (("ip1", "-"), ("ip2", ":")):
            own = rows[rows["layer"] == f"{network} {layer}"]
            for (variant, direction), (label, colour, marker) in CURVES.items():
                curve = own.query(f"variant == '{variant}' and direction == '{direction}'").sort_values("weights")
                ax.errorbar(
                    curve["weights"],
                    curve["speedup"],
                    yerr=[curve["speedup"] - curve["speedup_low"], curve["speedup_high"] - curve["speedup"]],
                    **{"color": colour, "marker": marker, "linestyle": line, "markersize": 3, "elinewidth": 0.5},
                    label=label if layer == "ip1" else None,
                )
        ax.axhline(1, color="0.6", linewidth=0.6)
        ax.set_xscale("log")
        ax.set_yscale("log")
        ticks = (0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10, 20, 50)
        low, high = ax.get_ylim()
        shown = [tick for tick in ticks if low <= tick <= high]
        ax.set_yticks(shown, labels=[f"{tick:g}" for tick in shown])
        ax.yaxis.set_minor_locator(NullLocator())
        ax.set_ylim(low, high)
        ax.set_ylabel(f"speed-up, {network}")
    ax.set_xlabel("nonzeros of ip1 (solid), of ip2 (dotted)")
    figure.axes[0].legend(loc="lower center", bbox_to_anchor=(0.5, 1), ncols=2)
    return figure


if __name__ == "__main__":
    figure_script(draw, "a_f03")
