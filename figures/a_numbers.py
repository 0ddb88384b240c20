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


Row = tuple[str, str, str, str, str]


def ratios(results: xr.Dataset, sigmoid: xr.Dataset, last: int) -> Iterator[Row]:
    """A-F6, top."""
    for blocks, paper in RATIOS.items():
        start, end = (seeds(results, "variance_ratio", blocks, step) for step in (0, last))
        yield row("A-F6", f"variance ratio at the start, b1 = {blocks}", float(blocks), start, "{:.2f}")
        yield row("A-F6", f"variance ratio, b1 = {blocks}", paper, end, "{:.2f}")
        yield row("A-F6", f"end over start, b1 = {blocks}", paper / blocks, end / start, "{:.3f}")
    start, end = (seeds(sigmoid, "variance_ratio", 100, step) for step in (0, last))
    yield row("A-F6", "variance ratio, b1 = 100, sigmoid ip1", 101.0, end, "{:.2f}")
    yield row("A-F6", "end over start, b1 = 100, sigmoid ip1", 1.01, end / start, "{:.3f}")
    yield row("A-F6", "variance of dense ip1", 6.6e-4, seeds(results, "variance", 1, last), "{:.3e}")


def deviations(results: xr.Dataset, last: int) -> Iterator[Row]:
    """A-F7, and the bottom of A-F6."""
    for blocks in (1, *RATIOS):
        start, end = (seeds(results, "mean_deviation", blocks, step) for step in (0, last))
        yield row("A-F7", f"mean abs(1 - s/R) at the start, b1 = {blocks}", None, start, "{:.4f}")
        yield row("A-F6, A-F7", f"mean abs(1 - s/R), b1 = {blocks}", "at most 0.04", end, "{:.4f}")


def dense(results: xr.Dataset) -> Iterator[Row]:
    """A-X5 and the dense accuracy of A-T1."""
    for step, paper in LARGEST.items():
        ours = seeds(results, "largest_ratio", 1, step)
        yield row("A-X5", f"largest singular value over R's, {step:,} iterations", paper, ours, "{:.3f}")
    for step, paper in ACCURACY.items():
        name, ours = "A-X5" if step == 1000 else "A-T1", 100 * seeds(results, "accuracy", 1, step)
        yield row(name, f"dense accuracy in %, {step:,} iterations", paper, ours, "{:.2f}")


def seeds(results: xr.Dataset, variable: str, blocks: int, step: int) -> np.ndarray:
    """The variable of ip1 in the runs with that number of blocks, one value a seed."""
    of_sisters = plots.sisters(results, layer="ip1").sel(layer="ip1")
    return of_sisters[variable].sel(run=of_sisters["blocks"].values == blocks, step=step).values


def row(name: str, what: str, paper: float | str | None, ours: np.ndarray, form: str) -> Row:
    """The cells id, what, paper, ours, difference."""
    shown = f"{form.format(ours.mean())} ± {form.format(np.ptp(ours) / 2)}"
    if not isinstance(paper, float):
        return name, what, paper or "not given", shown, ""
    return name, what, form.format(paper), shown, f"{100 * (ours.mean() / paper - 1):+.1f} %"


def table(results: xr.Dataset, sigmoid: xr.Dataset) -> str:
    """The rows as Markdown."""
    head = [("id", "what", "paper", "ours", "difference"), ("---",) * 5]
    last = int(results["step"][-1])
    rows = [*ratios(results, sigmoid, last), *deviations(results, last), *dense(results)]
    return "\n".join("| " + " | ".join(cells) + " |" for cells in [*head, *rows])


if __name__ == "__main__":
    if len(sys.argv) != 3:
        sys.exit("usage: a_numbers.py RESULTS.nc SIGMOID_RESULTS.nc")
    print(table(*(read(Path(path)) for path in sys.argv[1:3])))
