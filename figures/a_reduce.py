"""What runs logged beside their loss (accuracies, sparsities), and the variance of their last weights, as a small file.

    python figures/a_reduce.py RUN.zarr... -o RESULTS.nc

A run is called ``<column>-seed<seed>``.  Runs that were stopped before their end are left out, and named.
"""

import json
from collections.abc import Sequence
from pathlib import Path

import click
import numpy as np
import xarray as xr

from rmtnet import results
from rmtnet.store import Run, open_run


def reduced(runs: Sequence[Run]) -> xr.Dataset:
    """Metrics (run, step) at the steps where an accuracy was logged; ``variance`` and ``blocks`` (run, layer)."""
    parts = [_metrics(run).merge(_last_weights(run)).assign_coords(run=run.name) for run in runs]
    joined = xr.concat(parts, "run", join="outer", data_vars="all", coords="minimal", compat="override")
    columns = [run.name.rpartition("-seed")[0] or run.name for run in runs]
    return joined.assign_coords(seed=("run", [int(run.attrs["seed"]) for run in runs]), column=("run", columns))


def complete(run: Run) -> bool:
    """Whether the run has the last step that its study declares."""
    return int(json.loads(str(run.attrs["study"]))["iterations"]) in run.metrics["step"].values


def _metrics(run: Run) -> xr.Dataset:
    metrics = run.metrics.load()
    return metrics.drop_vars("loss").isel(step=metrics["accuracy"].notnull().values)


def _last_weights(run: Run) -> xr.Dataset:
    """Of the last form of each layer; layers are named without their form."""
    last = {name.rpartition("@")[0] or name: run[name][-1] for name in run}
    variances = [np.var(weight.values, dtype=np.float64) for weight in last.values()]
    blocks = [weight.shape[0] for weight in last.values()]
    return xr.Dataset({"variance": ("layer", variances), "blocks": ("layer", blocks)}, {"layer": list(last)})


@click.command(help=__doc__)
@click.argument("paths", metavar="RUN...", nargs=-1, required=True, type=click.Path(path_type=Path))
@click.option("-o", "--output", metavar="FILE", required=True, type=click.Path(path_type=Path), help="FILE.nc")
def main(paths: Sequence[Path], output: Path) -> None:
    results.check_target(output)
    runs = []
    for path in paths:
        run = open_run(path)
        if complete(run):
            runs.append(run)
        else:
            click.echo(f"{path} is not complete: left out", err=True)
    results.write(reduced(runs), output)
    click.echo(f"{output}: {len(runs)} runs")


if __name__ == "__main__":
    main()
