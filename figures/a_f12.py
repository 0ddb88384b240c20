"""A-F12: after training, the eigenvalues of cuda-convnet's dense ip1 still lie as those of R, an iid matrix, do.

Density of the eigenvalues of (1/64) X X^T, X = W1 or R taken 1024 x 64 (inputs x outputs) as in A-F9, at the last step.
Marchenko-Pastur ratio 16, hence an atom 0.9375 at 0 (960 structural zeros of 1024), not drawn: the densities integrate
to the remaining 0.0625.
"""

import numpy as np
import xarray as xr
from matplotlib.figure import Figure

from rmtnet import plots
from rmtnet.laws import MarchenkoPastur
from rmtnet.publish import SINGLE_COLUMN, figure_script


def draw(results: xr.Dataset) -> Figure:
    """Figure A-F12 from the results of the cuda-convnet sisters."""
    sisters = plots.sisters(results, layer="ip1")
    dense = sisters.sel(run=sisters.blocks.sel(layer="ip1").values == 1)
    step = plots.last_step(dense, "singular_values", layer="ip1")
    names = ("singular_values", "variance", "reference_variance", "null_mean", "m", "n")
    last = xr.Dataset({name: plots.layer_values(dense, name, layer="ip1") for name in names}).sel(step=step)
    outputs, inputs = int(last.m[0]), int(last.n[0])
    law = MarchenkoPastur(inputs / outputs, float(last.variance.mean()))
    null = last.null_mean.mean("run").dropna("order") * np.sqrt(last.reference_variance.mean())
    figure = Figure(figsize=(SINGLE_COLUMN, 2.6), layout="constrained")
    ax = figure.subplots()

    plots.plot_spectrum(
        last.singular_values.dropna("order") ** 2 / outputs,
        law,
        ax=ax,
        noise=null**2 / outputs,
        label=f"$W_1$, iteration {step:,}",
    )
    ax.set_xlabel(rf"eigenvalue of $XX^\top/{outputs}$")
    ax.legend(loc="upper right", title=f"atom of {law.atom:.3g} at 0 not drawn")
    return figure


if __name__ == "__main__":
    figure_script(draw, "a_f12")
