"""The runs of a block-sparse LSTM reduced to what B-T1 and B-F1 are made from.

    python figures/b_reduce.py RUN.zarr... -o RESULTS.nc

Perplexities and sparsity after every epoch; the recurrent weights of the first layer at the first, middle and last
epoch that were recorded, rounded to 8 bits of their largest magnitude.
"""

from pathlib import Path

import click
import numpy as np
import xarray as xr

from rmtnet import results
from rmtnet.store import open_run

METRICS = ("train_perplexity", "valid_perplexity", "test_perplexity", "sparsity")
LAYER = "lstms.0.weight_hh_l0"


def reduced(path: Path) -> xr.Dataset:
    """One run: its metrics (run, epoch), and its weights (run, picture, out, in) as whole numbers times a scale."""
    run = open_run(path)
    told = run.metrics[["epoch", *METRICS]]
    told = told.where(told["epoch"].notnull(), drop=True)
    epochs = told["epoch"].values.astype(int)
    weight = run[LAYER]
    steps = weight["step"].values[np.linspace(0, weight.sizes["step"] - 1, 3).round().astype(int)]
    dense = np.stack([matrix(weight.sel(step=step)) for step in steps])
    scale = np.abs(dense).max(axis=(1, 2)) / 127
    recorded = np.array([0, *epochs])[np.searchsorted([0, *told["step"].values], steps)]
    return xr.Dataset(
        {
            **{name: (("run", "epoch"), told[name].values[None].astype(np.float32)) for name in METRICS},
            "weight": (("run", "picture", "out", "in"), (dense / scale[:, None, None]).round().astype(np.int8)[None]),
            "scale": (("run", "picture"), scale[None]),
            "picture_epoch": ("picture", recorded),
        },
        coords={"run": [path.stem], "seed": ("run", [int(run.attrs["seed"])]), "epoch": epochs},
        attrs={"layer": LAYER, "block": weight.sizes["out"]},
    )


def matrix(blocks: xr.DataArray) -> np.ndarray:
    """(block, out, in) put together as (out_features, in_features), zero where there is no block."""
    height, width = blocks.sizes["out"], blocks.sizes["in"]
    rows, columns = blocks.attrs["out_features"], blocks.attrs["in_features"]
    whole = np.zeros((rows // height, height, columns // width, width), dtype=np.float32)
    whole[blocks["block_row"].values, :, blocks["block_col"].values, :] = blocks.values
    return whole.reshape(rows, columns)


@click.command(help=__doc__)
@click.argument("runs", nargs=-1, required=True, type=click.Path(path_type=Path, exists=True))
@click.option("-o", "--output", required=True, metavar="FILE.nc", type=click.Path(path_type=Path))
def main(runs: tuple[Path, ...], output: Path) -> None:
    results.check_target(output)
    results.write(xr.concat([reduced(path) for path in runs], "run", data_vars="minimal", coords="minimal"), output)
    click.echo(output)


if __name__ == "__main__":
    main()
