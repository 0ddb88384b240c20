"""The results as a long table, or smaller."""

import numpy as np
import pandas as pd
import xarray as xr

from rmtnet.analysis.columns import ABSENT, STATISTICS
from rmtnet.analysis.steps import choose_steps


def with_spectra_at(results: xr.Dataset, steps: str) -> xr.Dataset:
    """The results with whole spectra at the chosen steps of each run only (:func:`choose_steps`): a smaller file."""
    has = results["largest_singular_value"].notnull().any("layer")
    kept = xr.zeros_like(has)
    for run in results["run"].values:
        of_run = results["step"].values[has.sel(run=run).values]
        kept.loc[{"run": run, "step": choose_steps(of_run, steps)}] = True
    spectra = [name for name, values in results.items() if {"step", "order"} <= set(values.dims)]
    return results.assign({name: results[name].where(kept, ABSENT.get(str(name), np.nan)) for name in spectra})


def long_table(results: xr.Dataset) -> pd.DataFrame:
    """One row a (run, layer, form, step) and statistic: run, layer, form, step, blocks, m, n, statistic, value.

    The first departure of a layer, a step, is a statistic of that step.
    """
    columns = ["run", "layer", "form", "step", "blocks", "m", "n"]
    if "first_departure" in results:
        departure = results["first_departure"]
        results = results.assign(first_departure=departure.where(results["step"] == departure))
    statistics = [name for name in (*STATISTICS, "first_departure") if name in results]
    wide = results[[*statistics, "form", "blocks", "m", "n"]].to_dataframe().reset_index()
    table = wide.melt(columns, statistics, var_name="statistic", value_name="value", ignore_index=False)
    table = table.sort_index(kind="stable").dropna(subset="value")
    return table.astype({"blocks": int, "m": int, "n": int}).reset_index(drop=True)
