"""Choosing from the results what a plot shows."""

import xarray as xr


def require(results: xr.Dataset, *names: str) -> None:
    """ValueError if the results lack a name."""
    for name in names:
        if name not in results:
            raise ValueError(f"results hold no {name}: write them with rmtnet analyze RUNS -o results.nc")


def layer_values(results: xr.Dataset, variable: str, *, layer: str) -> xr.DataArray:
    """One variable of one layer, for the runs that have it, with their number of ``blocks`` as a coordinate.

    Raises
    ------
    ValueError
        If the variable or the layer is not there, or no run has a value.
    """
    require(results, variable, "blocks", "layer", "seed")
    check_layer(results, layer)
    values = results[variable].sel(layer=layer).dropna("run", how="all")
    if not values.sizes["run"]:
        raise ValueError(f"no run has a {variable} of {layer}: all weights are 0, or a --reference is missing")
    blocks = results["blocks"].sel(layer=layer, run=values["run"].values)
    return values.assign_coords(blocks=("run", blocks.values.astype(int)))


def check_layer(results: xr.Dataset, layer: str) -> None:
    if layer not in results["layer"].values:
        there = ", ".join(map(str, results["layer"].values))
        raise ValueError(f"results hold no layer {layer!r}: there is {there}")


def sisters(results: xr.Dataset, *, layer: str) -> xr.Dataset:
    """The runs that differ by nothing but the number of blocks in ``layer``: all other layers held are dense.

    Raises
    ------
    ValueError
        If two of them have the same number of blocks and the same seed, hence differ by something else.
    """
    blocks = layer_values(results, "blocks", layer=layer)["blocks"]
    others = results["blocks"].sel(run=blocks["run"].values, layer=results["layer"].values != layer)
    blocks = blocks[~(others > 1).any("layer").values]
    kept = results.sel(run=blocks["run"].values)
    first: dict[tuple[int, int], str] = {}
    for run, b, seed in zip(kept["run"].values, blocks.values, kept["seed"].values, strict=True):
        twin = first.setdefault((int(b), int(seed)), run)
        if twin != run:
            raise ValueError(f"{twin} and {run} both have {b} blocks in {layer} and seed {seed}: keep one")
    return kept


def last_step(results: xr.Dataset, variable: str, *, layer: str) -> int:
    """The last step at which every run that has the variable at all has a value of it (a ValueError if none)."""
    present = layer_values(results, variable, layer=layer).notnull()
    if "order" in present.dims:
        present = present.any("order")
    common = present["step"].values[present.all("run").values]
    if not len(common):
        raise ValueError(f"the runs share no step with a {variable} of {layer}: record them on one schedule")
    return int(common[-1])


def at_step(values: xr.DataArray, step: int) -> xr.DataArray:
    """The runs that have values at the step (a ValueError if none)."""
    at = values.sel(step=values["step"].values == step).dropna("run", how="all")
    if not at.size:
        raise ValueError(f"no run has a {values.name} at step {step}: last_step finds one that all runs have")
    return at.squeeze("step")


def one_run(results: xr.Dataset) -> xr.Dataset:
    """The results without the dimension ``run`` (a ValueError if they hold several)."""
    if "run" not in results.dims:
        return results
    if results.sizes["run"] != 1:
        raise ValueError(f"results hold {results.sizes['run']} runs: choose one, as by results.sel(run='b1-seed0')")
    return results.squeeze("run")
