"""A-X1 to A-X4, A-X6 and A-X7 as a table: the paper's numbers and ours.

    python figures/a_x.py LENET5.nc CUDA_CONVNET.nc ONE_HIDDEN.nc THREE_LAYERS.nc > table.md

The first three are made by figures/a_reduce.py, of lenet5_accuracy and lenet5_two_layers, of cuda_convnet_accuracy and
cuda_convnet_sisters, and of inner_product_one_hidden; the last by ``rmtnet analyze`` of inner_product_three_layers with
a --reference for each seed.  Ours is the mean over the seeds, with half their range.
"""

import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import xarray as xr

from rmtnet.results import read

Row = tuple[str, str, str, str]
HEAD = ("id", "what", "paper", "ours")


def accuracies(results: xr.Dataset, column: str) -> np.ndarray:
    """Final test accuracies in per cent, one a seed."""
    of_column = results["accuracy"].isel(run=results["column"].values == column).dropna("step", how="all")
    if not of_column.size:
        raise ValueError(f"these results hold no run {column!r}: make them with figures/a_reduce.py")
    return 100 * of_column[:, -1].values


def compression(*layers: tuple[int, int, int]) -> float:
    """Parameters of dense layers (inputs, outputs) over those with so many blocks, biases included."""
    dense = sum(inputs * outputs + outputs for inputs, outputs, _ in layers)
    return dense / sum(inputs * outputs // blocks + outputs for inputs, outputs, blocks in layers)


def lenet5(results: xr.Dataset) -> Iterator[Row]:
    """A-X1, and A-X6 for MNIST."""
    ours = accuracies(results, "ip-b100x10")
    yield row("A-X1", "accuracy of IP-BDIP (100,10) LeNet-5, 15 + 350 iterations, %", "98.65", ours, "{:.2f}")
    yield exact("A-X1", "fewer ip parameters", "about 81", compression((800, 500, 100), (500, 10, 10)))
    for b1, b2, ratio in variance_ratios(results):
        yield row("A-X6", f"LeNet-5, ip1 variance, ({b1},{b2}) over ({b1},1)", "1 ± 0.05", ratio, "{:.3f}")


def cuda_convnet(results: xr.Dataset) -> Iterator[Row]:
    """A-X3, A-X4, and A-X6 for CIFAR-10."""
    columns = {
        "ip-b64x2": ("A-X3", "IP-BDIP (64,2)", "74.81"),
        "traditional-b64x2": ("A-X4", "unstructured, 1024 + 320 weights", "75.18"),
        "traditional-37x40": ("A-X4", "unstructured, 37 + 40 weights", "73.01"),
        "nodes-2": ("A-X4", "node pruning, 1024 x 2 + 2 x 10 weights", "59.67"),
    }
    for column, (name, what, paper) in columns.items():
        yield row(name, f"CIFAR-10 accuracy, {what}, %", paper, accuracies(results, column), "{:.2f}")
    yield exact("A-X3", "fewer ip parameters", "about 47", compression((1024, 64, 64), (64, 10, 2)))
    for b1, b2, ratio in variance_ratios(results):
        yield row("A-X6", f"cuda-convnet, ip1 variance, ({b1},{b2}) over ({b1},1)", "1 ± 0.03", ratio, "{:.3f}")


def variance_ratios(results: xr.Dataset) -> Iterator[tuple[int, int, np.ndarray]]:
    """b1, b2 and the final variance of ip1 over that with b2 = 1, one a seed."""
    variance = results["variance"].sel(layer="ip1").set_index(run=["column", "seed"]).unstack("run")
    grid = {tuple(map(int, name[1:].split("x"))): name for name in variance["column"].values if is_grid(name)}
    for b1, b2 in sorted(grid):
        if b2 > 1 and (b1, 1) in grid:
            ratio = variance.sel(column=grid[b1, b2]) / variance.sel(column=grid[b1, 1])
            yield b1, b2, ratio.dropna("seed").values


def is_grid(column: str) -> bool:
    """Whether a column is b<b1>x<b2>."""
    return column.startswith("b") and column[1:].replace("x", "").isdigit()


def one_hidden(results: xr.Dataset) -> Iterator[Row]:
    """A-X2."""
    yield row("A-X2", "MNIST error of IP-BDIP (49,1)-BD2, %", "4.37", 100 - accuracies(results, "ip-b49"), "{:.2f}")
    yield row("A-X2", "in blocks from the start, %", "not given", 100 - accuracies(results, "b49"), "{:.2f}")
    yield row("A-X2", "dense, %", "not given", 100 - accuracies(results, "b1"), "{:.2f}")
    yield exact("A-X2", "compression", "29.43", compression((784, 980, 49), (980, 10, 1)))


def three_layers(results: xr.Dataset) -> Iterator[Row]:
    """A-X7."""
    last = results.sel(layer="ip2").isel(step=-1)
    dense, blocks = (last.isel(run=last["blocks"].values == b) for b in (1, 100))
    yield row("A-X7", "variance of ip2, (1,100,1) over (1,1,1)", "106.42", blocks["variance_ratio"].values, "{:.2f}")
    yield row("A-X7", "variance of ip2, (1,100,1)", "0.12", blocks["variance"].values, "{:.4f}")
    yield row("A-X7", "variance of ip2, (1,1,1)", "0.0012", dense["variance"].values, "{:.5f}")
    for name, paper, runs in (("(1,100,1)", "0.0896", blocks), ("(1,1,1)", "0.1162", dense)):
        yield row("A-X7", f"mean abs(1 - s/R), {name}", paper, runs["mean_deviation"].values, "{:.4f}")


def row(name: str, what: str, paper: str, ours: np.ndarray, form: str) -> Row:
    return name, what, paper, f"{form.format(ours.mean())} ± {form.format(np.ptp(ours) / 2)}"


def exact(name: str, what: str, paper: str, ours: float) -> Row:
    return name, what, paper, f"{ours:.2f}"


def table(files: list[Path]) -> str:
    """The rows as Markdown."""
    parts = zip((lenet5, cuda_convnet, one_hidden, three_layers), map(read, files), strict=True)
    rows = sorted(line for part, results in parts for line in part(results))
    return "\n".join("| " + " | ".join(cells) + " |" for cells in [HEAD, ("---",) * len(HEAD), *rows])


if __name__ == "__main__":
    if len(sys.argv) != 5:
        sys.exit("usage: a_x.py LENET5.nc CUDA_CONVNET.nc ONE_HIDDEN.nc THREE_LAYERS.nc")
    print(table([Path(path) for path in sys.argv[1:]]))
