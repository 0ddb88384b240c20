"""C-F1: the open gates of the last hidden layer for some images of two digits.

Paper C, figure 1: the network on MNIST opens almost the same blocks, with like values, for images of one class, and
others for another class.  Each square is the gate of a block of 128 x 128 weights; white is closed.  Drawn are the
first test images of the two digits whose patterns are least alike; the paper does not say which its two classes are.
"""

import numpy as np
import xarray as xr
from matplotlib.colors import Normalize
from matplotlib.figure import Figure

from rmtnet.publish import SINGLE_COLUMN, figure_script

IMAGES = 6


def least_alike(similarity: xr.DataArray) -> list[int]:
    """The two classes that share the fewest open gates."""
    table = np.where(np.eye(similarity.sizes["class"], dtype=bool), np.inf, similarity.transpose("class", "other"))
    pair = np.unravel_index(np.argmin(table), table.shape)
    return [int(similarity["class"][place]) for place in pair]


def draw(results: xr.Dataset) -> Figure:
    """Figure C-F1 from the reduced results of the dynamic network."""
    if missing := {"gates", "similarity"} - {*map(str, results)}:
        raise ValueError(f"these results hold no {min(missing)!r}: make them with figures/c_reduce_mnist.py")
    digits = least_alike(results["similarity"].sel(layer=results["gates"].attrs["layer"]))
    gates = results["gates"].sel({"class": digits}).isel(sample=slice(IMAGES))
    scale = Normalize(0, float(gates.max()))
    figure = Figure(figsize=(SINGLE_COLUMN, 1.15), layout="constrained")
    axes = figure.subplots(len(digits), gates.sizes["sample"], squeeze=False)
    for row, digit, images in zip(axes, digits, gates.values, strict=True):
        row[0].set_ylabel(f"digit {digit}")
        for ax, image in zip(row, images, strict=True):
            opened = np.ma.masked_equal(image, 0)
            picture = ax.imshow(opened, cmap="viridis_r", norm=scale, interpolation="nearest")
            ax.set(xticks=[], yticks=[])
            ax.spines[["top", "right"]].set_visible(True)
    figure.colorbar(picture, ax=axes, label="gate", aspect=14, pad=0.02)
    return figure


if __name__ == "__main__":
    figure_script(draw, "c_f01")
