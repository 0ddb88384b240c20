"""B-F1: the recurrent weights of the first LSTM layer at the first, middle and last epoch, for the four methods.

Paper B shows weight_hh_l0 at epochs 0, 50 and 100: the lasso draws whole blocks to 0, pruning leaves white what it
removed.  Drawn here with inputs upwards and the outputs of the four gates side by side; one scale for all pictures.
"""

import numpy as np
import xarray as xr
from matplotlib.figure import Figure

from rmtnet.publish import DOUBLE_COLUMN, figure_script

METHODS = {
    "baseline": "baseline\n",
    "lasso": "block\nlasso",
    "gradual": "lasso, gradual\npruning",
    "pre-pruned": "lasso,\npre-pruning",
}


def draw(results: xr.Dataset) -> Figure:
    """Figure B-F1 from the reduced results of the four runs."""
    held = {*map(str, results), *(results["run"].values if "run" in results else ())}
    if missing := [name for name in (*METHODS, "weight") if name not in held]:
        raise ValueError(f"these results hold no {missing[0]!r}: make them with figures/b_reduce.py")
    first = results.isel(run=results["seed"].values == results["seed"].values.min())
    pictures = first["weight"].astype(float) * first["scale"]
    largest = np.quantile(np.abs(pictures.values), 0.995)
    epochs = first["picture_epoch"].values
    figure = Figure(figsize=(DOUBLE_COLUMN, 4.2), layout="constrained")
    axes = figure.subplots(len(METHODS), len(epochs), sharex=True, sharey=True)
    for row, (method, label) in zip(axes, METHODS.items(), strict=True):
        for ax, picture, epoch in zip(row, pictures.sel(run=method).values, epochs, strict=True):
            image = ax.imshow(
                picture.T, cmap="RdBu_r", vmin=-largest, vmax=largest, aspect="auto", interpolation="nearest"
            )
            if ax in axes[0]:
                ax.set_title(f"epoch {epoch}")
        row[0].set_ylabel(label)
    outputs = pictures.sizes["out"]
    for ax in axes[-1]:
        ax.set_xticks((np.arange(4) + 0.5) * outputs / 4, labels=list("ifgo"))
    for ax in axes.flat:
        ax.set_yticks([])
        ax.tick_params(length=0)
        ax.spines[["top", "right"]].set_visible(True)
    figure.colorbar(image, ax=axes, label="weight_hh_l0", aspect=40, pad=0.01)
    return figure


if __name__ == "__main__":
    figure_script(draw, "b_f01")
