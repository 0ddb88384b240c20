"""A-T1 as a table: the accuracies of the paper and ours, and whether IP-BDIP is above BDIP.

    python figures/a_t01.py LENET5.nc [CUDA_CONVNET.nc [SVHN.nc]] > table.md

Ours is the mean over the seeds, with half their range, at the last step.
"""

import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import xarray as xr

from rmtnet.results import read

WAYS = {"": "BDIP", "shuffle-": "random shuffle", "ip-": "IP-BDIP", "traditional-": "traditional pruning"}
# Dense, then the columns in the order of WAYS.
PAPER = {
    "MNIST": (99.11, {"b10x1": (98.83, 98.81, 99.02, 99.04), "b100x10": (98.39, 98.42, 98.65, 98.55)}),
    "CIFAR-10": (76.29, {"b8x1": (75.07, 75.09, 76.05, 75.64), "b64x2": (72.7, 73.45, 74.81, 75.18)}),
    "SVHN": (91.96, {"b8x1": (91.39, 91.46, 91.88, 91.15), "b64x2": (89.21, 89.69, 90.02, 90.93)}),
}
HEAD = ("images", "network", "way", "paper", "ours", "difference", "seeds")

Row = tuple[str, ...]


def rows(images: str, results: xr.Dataset) -> Iterator[Row]:
    """A line a number of the table."""
    dense, networks = PAPER[images]
    yield row(images, "b1x1", "dense", dense, accuracies(results, "b1x1"))
    for network, numbers in networks.items():
        for (prefix, way), paper in zip(WAYS.items(), numbers, strict=True):
            yield row(images, network, way, paper, accuracies(results, prefix + network))
        yield row(images, network, "shuffled anew at each pass", None, accuracies(results, f"reshuffle-{network}"))
        gain = accuracies(results, f"ip-{network}") - accuracies(results, network)
        yield row(images, network, "IP-BDIP less BDIP, seed by seed", numbers[2] - numbers[0], gain)


def accuracies(results: xr.Dataset, column: str) -> np.ndarray:
    """Final test accuracies in per cent, one a seed."""
    of_column = results["accuracy"].isel(run=results["column"].values == column).sortby("seed")
    if not of_column.sizes["run"]:
        raise ValueError(f"these results hold no run {column!r}: make them with figures/a_reduce.py")
    return 100 * of_column.dropna("step", how="all")[:, -1].values


def row(images: str, network: str, way: str, paper: float | None, ours: np.ndarray) -> Row:
    b1, b2 = network[1:].split("x")
    shown = f"{ours.mean():.2f} ± {np.ptp(ours) / 2:.2f}"
    known = ("", "") if paper is None else (f"{paper:.2f}", f"{ours.mean() - paper:+.2f}")
    return images, f"({b1},{b2})", way, known[0], shown, known[1], str(len(ours))


def unmeasured(images: str) -> Iterator[Row]:
    """The paper's numbers alone."""
    dense, networks = PAPER[images]
    yield images, "(1,1)", "dense", f"{dense:.2f}", "not measured", "", ""
    for network, numbers in networks.items():
        for way, paper in zip(WAYS.values(), numbers, strict=True):
            yield images, f"({network[1:].replace('x', ',')})", way, f"{paper:.2f}", "not measured", "", ""


def table(results: dict[str, xr.Dataset]) -> str:
    """The rows as Markdown."""
    lines = [line for name in PAPER for line in (rows(name, results[name]) if name in results else unmeasured(name))]
    return "\n".join("| " + " | ".join(cells) + " |" for cells in [HEAD, ("---",) * len(HEAD), *lines])


if __name__ == "__main__":
    if not 2 <= len(sys.argv) <= len(PAPER) + 1:
        sys.exit("usage: a_t01.py LENET5.nc [CUDA_CONVNET.nc [SVHN.nc]]")
    print(table({name: read(Path(path)) for name, path in zip(PAPER, sys.argv[1:], strict=False)}))
