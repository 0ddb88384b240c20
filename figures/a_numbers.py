"""A-F6, A-F7, A-X5 and the dense accuracy of A-T1 as a table: the paper's numbers, ours, and the difference.

    python figures/a_numbers.py RESULTS.nc SIGMOID_RESULTS.nc > table.md

Ours is the mean over the seeds, with half their range.
"""

import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import xarray as xr

from rmtnet import plots
from rmtnet.results import read

RATIOS = {5: 5.03, 10: 9.97, 20: 19.96, 50: 49.32, 100: 96.99}
LARGEST = {1000: 1.16, 10_000: 1.44}
ACCURACY = {1000: 98.28, 10_000: 99.11}


def numbers(results: xr.Dataset, sigmoid: xr.Dataset) -> Iterator[tuple[str, str, str, str, str]]:
    """Rows (id, what, paper, ours, difference) from the results of the LeNet-5 sisters, with ReLU and with sigmoid."""
    last = int(results["step"][-1])
    for blocks, paper in RATIOS.items():
        start = seeds(results, "variance_ratio", blocks, 0)
        yield row("A-F6", f"variance ratio at the start, b1 = {blocks}", float(blocks), start, "{:.2f}")
        yield row(
            "A-F6", f"variance ratio, b1 = {blocks}", paper, seeds(results, "variance_ratio", blocks, last), "{:.2f}"
        )
    yield row(
        "A-F6", "variance ratio, b1 = 100, sigmoid ip1", 101.0, seeds(sigmoid, "variance_ratio", 100, last), "{:.2f}"
    )
    yield row("A-F6", "variance of dense ip1", 6.6e-4, seeds(results, "variance", 1, last), "{:.3e}")
    for blocks in (1, *RATIOS):
        start, end = (seeds(results, "mean_deviation", blocks, step) for step in (0, last))
        yield row("A-F7", f"mean abs(1 - s/R) at the start, b1 = {blocks}", None, start, "{:.4f}")
        yield row("A-F6, A-F7", f"mean abs(1 - s/R), b1 = {blocks}", "at most 0.04", end, "{:.4f}")
    for step, paper in LARGEST.items():
        yield row(
            "A-X5",
            f"largest singular value over R's, {step:,} iterations",
            paper,
            seeds(results, "largest_ratio", 1, step),
            "{:.3f}",
        )
    for step, paper in ACCURACY.items():
        accuracy = 100 * seeds(results, "accuracy", 1, step)
        yield row(
            "A-X5" if step == 1000 else "A-T1", f"dense accuracy in %, {step:,} iterations", paper, accuracy, "{:.2f}"
        )


def seeds(results: xr.Dataset, variable: str, blocks: int, step: int) -> np.ndarray:
    """The variable of ip1 in the runs with that number of blocks, one value a seed."""
    of_sisters = plots.sisters(results, layer="ip1").sel(layer="ip1")
    return of_sisters[variable].sel(run=of_sisters["blocks"].values == blocks, step=step).values


def row(name: str, what: str, paper: float | str | None, ours: np.ndarray, form: str) -> tuple[str, str, str, str, str]:
    mean, spread = ours.mean(), np.ptp(ours) / 2
    shown = f"{form.format(mean)} ± {form.format(spread)}"
    if not isinstance(paper, float):
        return name, what, paper or "not given", shown, ""
    return name, what, form.format(paper), shown, f"{100 * (mean / paper - 1):+.1f} %"


def table(results: xr.Dataset, sigmoid: xr.Dataset) -> str:
    """The rows as Markdown."""
    head = [("id", "what", "paper", "ours", "difference"), ("---",) * 5]
    return "\n".join("| " + " | ".join(cells) + " |" for cells in [*head, *numbers(results, sigmoid)])


if __name__ == "__main__":
    print(table(*(read(Path(path)) for path in sys.argv[1:3])))
