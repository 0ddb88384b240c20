"""The runs of dynamic language models reduced to what C-T1, C-T2 and C-X2 are made from.

    python figures/c_reduce.py RUN.zarr... -o RESULTS.nc

Perplexities, sparsity and multiplications after every epoch.  Runs that were stopped before their end are left out, and
named.
"""

import json
from pathlib import Path

import click
import numpy as np
import xarray as xr

from rmtnet import results
from rmtnet.store import Run, open_run

METRICS = ("train_perplexity", "valid_perplexity", "test_perplexity", "sparsity", "multiplications", "best_epoch")


def reduced(run: Run) -> xr.Dataset | None:
    """Metrics (run, epoch); None if the run has not the last epoch that its study declares."""
    if "test_perplexity" not in run.metrics:
        return None
    told = run.metrics[["epoch", *METRICS]].load()
    told = told.where(told["epoch"].notnull(), drop=True)
    epochs = told["epoch"].values.astype(int)
    if int(json.loads(str(run.attrs["study"]))["epochs"]) not in epochs:
        return None
    return xr.Dataset(
        {name: (("run", "epoch"), told[name].values[None].astype(np.float32)) for name in METRICS},
        coords={"run": [run.name], "seed": ("run", [int(run.attrs["seed"])]), "epoch": epochs},
    )


@click.command(help=__doc__)
@click.argument("runs", nargs=-1, required=True, type=click.Path(path_type=Path, exists=True))
@click.option("-o", "--output", required=True, metavar="FILE.nc", type=click.Path(path_type=Path))
def main(runs: tuple[Path, ...], output: Path) -> None:
    results.check_target(output)
    parts = {path: reduced(open_run(path)) for path in runs}
    for path, part in parts.items():
        if part is None:
            click.echo(f"{path} is not complete: left out", err=True)
    complete = [part for part in parts.values() if part is not None]
    if not complete:
        raise click.ClickException("none of these runs is complete")
    results.write(xr.concat(complete, "run", join="outer"), output)
    click.echo(f"{output}: {len(complete)} runs")


if __name__ == "__main__":
    main()
