"""B-T1 as a table: perplexities, sparsity and speed-up of the four runs, the paper's and ours.

    python figures/b_t01.py RESULTS.nc > table.md

Ours is the mean over the seeds, with half their range where there are several.  The speed-up is that of the paper's
cost model, T / (T - sum of the sparsities after each of T epochs), not a time.
"""

import sys
from pathlib import Path

import numpy as np
import xarray as xr

from rmtnet.results import read

# Perplexity train, valid, test; sparsity in %; speed-up.
PAPER = {
    "baseline": ("79.13", "86.81", "81.76", "0", "1"),
    "lasso": ("132.52", "115.43", "108.06", "target 80", "1"),
    "gradual": ("189.62", "151.05", "140.87", "80", "1.9"),
    "pre-pruned": ("201.72", "158.71", "148.37", "80", "5"),
}
HEAD = ("run", "", "train", "valid", "test", "sparsity, %", "speed-up")


def rows(results: xr.Dataset) -> list[tuple[str, ...]]:
    """Two lines a method: the paper's and ours."""
    lines: list[tuple[str, ...]] = []
    for method, paper in PAPER.items():
        runs = results.isel(run=results["run"].values == method)
        if not runs.sizes["run"]:
            raise ValueError(f"these results hold no run {method!r}: make them with figures/b_reduce.py")
        last = runs.isel(epoch=-1)
        ours = [shown(last[f"{part}_perplexity"].values, "{:.2f}") for part in ("train", "valid", "test")]
        speed_up = runs.sizes["epoch"] / (runs.sizes["epoch"] - runs["sparsity"].sum("epoch"))
        ours += [shown(100 * last["sparsity"].values, "{:.0f}"), shown(speed_up.values, "{:.1f}")]
        lines += [(method, "paper", *paper), ("", "ours", *ours)]
    return lines


def shown(values: np.ndarray, form: str) -> str:
    """Mean over seeds, and half their range if they differ."""
    mean, spread = form.format(values.mean()), form.format(np.ptp(values) / 2)
    return mean if float(spread) == 0 else f"{mean} ± {spread}"


def table(results: xr.Dataset) -> str:
    """The rows as Markdown."""
    return "\n".join("| " + " | ".join(cells) + " |" for cells in [HEAD, ("---",) * len(HEAD), *rows(results)])


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit("usage: b_t01.py RESULTS.nc")
    print(table(read(Path(sys.argv[1]))))
