"""C-F2: how many gates of each layer heed the input.

Paper C, figure 2: in every QRNN layer, half of the blocks closed, at least 60 % of the gates are neither open nor
closed for more than 95 % of the inputs.  Drawn here from any results that hold the share of inputs for which gates are
open, layer by layer: those of the network on MNIST have nine tenths of the blocks closed.
"""

import numpy as np
import xarray as xr
from matplotlib.figure import Figure

from rmtnet.gates import gate_shares
from rmtnet.publish import SINGLE_COLUMN, figure_script

KINDS = {
    "always_open": ("open for > 95 %", "#2a788e"),
    "input_dependent": ("input-dependent", "#7ad151"),
    "always_closed": ("closed for > 95 %", "0.85"),
}


def draw(results: xr.Dataset) -> Figure:
    """Figure C-F2 from ``open_fraction`` (layer, gates) of reduced results."""
    if "open_fraction" not in results or "layer" not in results["open_fraction"].dims:
        raise ValueError("these results hold no open_fraction of layers: make them with figures/c_reduce_mnist.py")
    layers = results["layer"].values
    shares = [
        gate_shares(fraction[np.isfinite(fraction)])
        for fraction in results["open_fraction"].transpose("layer", ...).values
    ]
    figure = Figure(figsize=(SINGLE_COLUMN, 2.0), layout="constrained")
    ax, below = figure.subplots(), np.zeros(len(layers))
    for kind, (label, colour) in KINDS.items():
        heights = 100 * np.array([getattr(share, kind) for share in shares])
        bars = ax.bar(np.arange(len(layers)), heights, 0.7, bottom=below, color=colour, label=label)
        ax.bar_label(
            bars, [f"{height:.0f}" if height >= 5 else "" for height in heights], label_type="center", fontsize=6.5
        )
        below += heights
    ax.set_xticks(np.arange(len(layers)), labels=layers)
    ax.set(ylabel="gates (%)", ylim=(0, 100))
    ax.legend(loc="lower center", bbox_to_anchor=(0.5, 1), ncols=3, columnspacing=0.8, handlelength=1.2)
    return figure


if __name__ == "__main__":
    figure_script(draw, "c_f02")
