"""Analysing recorded runs: stores in, one labelled Dataset out, and that as a long table."""

import datetime
from collections.abc import Callable, Iterable, Sequence
from fnmatch import fnmatchcase
from importlib.metadata import version
from pathlib import Path

import numpy as np
import pandas as pd
import xarray as xr
from numpy.typing import NDArray

from rmtnet import labelled
from rmtnet._version import __version__
from rmtnet.store import Run, load

_SLICE_BYTES = 64 * 2**20
_ABSENT = {"form": "", "blocks": 0, "m": 0, "n": 0, "block": -1}
_STATISTICS = {
    "variance": "variance of the in-block weights",
    "variance_ratio": "variance over the reference's (the dense sister's) at the same step",
    "reference_variance": "variance of R's entries: the reference's at the same step, without one the layer's own",
    "largest_singular_value": "largest singular value",
    "smallest_singular_value": "smallest singular value",
    "largest_ratio": "largest singular value over the mean of R's",
    "mean_deviation": "mean over order of |1 - sigma_W / sigma_R|",
    "bulk_variance": "variance of the Marchenko-Pastur law fitted to the bulk",
    "bulk_ks": "Kolmogorov-Smirnov distance of the bulk to that law",
    "outliers": "eigenvalues above the upper edge of that law and its finite-size allowance",
}
DESCRIPTIONS = {
    **_STATISTICS,
    "singular_values": "singular values of all blocks, descending",
    "singular_value_ratio": "singular values over the mean ordered ones of R",
    "block": "block that a singular value comes from",
    "null_mean": "mean ordered singular values of R at unit variance",
    "null_low": "5 % quantile of one draw of R over the mean",
    "null_high": "95 % quantile of one draw of R over the mean",
    "form": "dense, block_diagonal or block_sparse",
    "blocks": "number of blocks",
    "m": "outputs of a block",
    "n": "inputs of a block",
}
_COORDINATES = {
    "step": "optimizer steps done",
    "order": "order, 1 is the largest",
    "seed": "seed of the run; -1 where it has none",
    "started": "when the recording began",
    "torch_version": "version of torch that trained",
    "study": "what was trained, where a study declared it",
}
# A reference's variances by path, layer and steps: many runs are compared with the same ones.
_Variances = dict[tuple[Path, str, tuple[int, ...]], xr.DataArray]
STATISTICS = tuple(_STATISTICS)
"""Names of the statistics that are one number a (run, layer, step)."""


def analyze_runs(
    runs: Sequence[Run],
    *,
    references: Sequence[Run] = (),
    layers: Sequence[str] = ("*",),
    steps: str | None = None,
    progress: Callable[[str], None] = lambda what: None,
) -> xr.Dataset:
    """Every statistic of every matching layer of ``runs`` at the chosen steps.

    Parameters
    ----------
    runs : distinct names
    references : the dense sister, or one for each seed: a run is compared with the one of its own seed.  R has its
        shape and its variance at each step; without a reference R has the layer's own blocks and variance.
    layers : names or globs of layers; a run without any of them is left out
    steps : see :func:`choose_steps`; None is all
    progress : told what is analysed next

    Returns
    -------
    Dataset over ``run``, ``layer``, ``step`` and ``order``; NaN where a run has no such layer or step

    Raises
    ------
    ValueError
        If nothing matches, a run and its reference share no step or differ in shape, or weights are not finite.
    """
    names = [run.name for run in runs]
    if twice := next((name for name in names if names.count(name) > 1), None):
        raise ValueError(f"two runs are named {twice!r}: rename one of the folders")
    chosen = {run.name: [name for name in run if any(fnmatchcase(name, glob) for glob in layers)] for run in runs}
    if not any(chosen.values()):
        recorded = ", ".join(dict.fromkeys(name for run in runs for name in run)) or "none"
        raise ValueError(f"no layer matches {' or '.join(map(repr, layers))}; recorded are {recorded}")
    runs = [run for run in runs if chosen[run.name]]
    results, count, variances = [], 0, _Variances()
    for run in runs:
        reference = _reference_of(run, references)
        found = []
        for name in chosen[run.name]:
            count += 1
            progress(f"{run.name} {name} ({count} of {sum(map(len, chosen.values()))})")
            found.append(_layer(run, name, reference, steps, variances))
        results.append(_joined(found, "layer").merge(_metrics(run, found)).assign_coords(run=run.name))
    return _described(_joined(results, "run"), runs, references)


def choose_steps(recorded: NDArray[np.int64], chosen: str | None) -> NDArray[np.int64]:
    """The recorded steps that ``chosen`` names: ``0,100,last`` one by one, ``first:1000`` from one to another.

    Raises
    ------
    ValueError
        If the text is not of that form or names a step that was not recorded.
    """
    if len(recorded) == 0 or chosen is None:
        return recorded
    words = {"first": int(recorded[0]), "last": int(recorded[-1])}
    try:
        if ":" in chosen:
            start, stop = (words[end] if end in words else int(end) if end else None for end in chosen.split(":"))
            return recorded[
                (recorded >= (words["first"] if start is None else start))
                & (recorded <= (words["last"] if stop is None else stop))
            ]
        steps = sorted({words[word] if word in words else int(word) for word in chosen.split(",")})
    except ValueError:
        raise ValueError(f"steps must be like 0,100,last or first:1000, got {chosen!r}") from None
    if missing := [step for step in steps if step not in recorded]:
        there = f"{len(recorded)} steps from {words['first']} to {words['last']}"
        raise ValueError(f"step {missing[0]} was not recorded; there are {there}")
    return np.array(steps, dtype=np.int64)


def with_spectra_at(results: xr.Dataset, steps: str) -> xr.Dataset:
    """The results with whole spectra at the chosen steps of each run only (:func:`choose_steps`): a smaller file."""
    has = results["variance"].notnull().any("layer")
    kept = xr.zeros_like(has)
    for run in results["run"].values:
        of_run = results["step"].values[has.sel(run=run).values]
        kept.loc[{"run": run, "step": choose_steps(of_run, steps)}] = True
    spectra = [name for name, values in results.items() if {"step", "order"} <= set(values.dims)]
    return results.assign({name: results[name].where(kept, _ABSENT.get(str(name), np.nan)) for name in spectra})


def long_table(results: xr.Dataset) -> pd.DataFrame:
    """One row a (run, layer, form, step) and statistic: run, layer, form, step, blocks, m, n, statistic, value."""
    columns = ["run", "layer", "form", "step", "blocks", "m", "n"]
    statistics = [name for name in STATISTICS if name in results]
    wide = results[[*statistics, "form", "blocks", "m", "n"]].to_dataframe().reset_index()
    table = wide.melt(columns, statistics, var_name="statistic", value_name="value", ignore_index=False)
    table = table.sort_index(kind="stable").dropna(subset="value")
    return table.astype({"blocks": int, "m": int, "n": int}).reset_index(drop=True)


def _layer(run: Run, name: str, reference: Run | None, steps: str | None, variances: _Variances) -> xr.Dataset:
    weight = run[name]
    weight = weight.sel(step=choose_steps(weight["step"].values, steps))
    if weight.sizes["step"] == 0:
        raise ValueError(f"{run.path}: no step of layer {name!r} is recorded{'' if steps is None else f' in {steps}'}")
    spectrum = xr.concat([labelled.spectrum(part) for part in _slices(weight, run)], "step")
    spectrum["variance_ratio"] = xr.full_like(spectrum["variance"], np.nan)
    null_like, variance = weight, spectrum["variance"]
    if reference is not None:
        null_like = _sister(reference, name, weight)
        variance = _variance_at(null_like, weight, reference, variances)
        spectrum["variance_ratio"] = labelled.variance_ratio(spectrum["variance"], variance)
    against = labelled.against_null(spectrum, variance, null_like.shape[1:])  # type: ignore[arg-type]
    form = {"form": weight.attrs["form"], **dict(zip(("blocks", "m", "n"), weight.shape[1:], strict=True))}
    return spectrum.merge(against).assign(form).assign_coords(layer=name)


def _slices(weight: xr.DataArray, run: Run) -> Iterable[xr.DataArray]:
    """The layer in parts that fit into memory, each checked to be finite."""
    rows = max(1, _SLICE_BYTES // max(1, weight[0].size * 8))
    for first in range(0, weight.sizes["step"], rows):
        part = load(weight.isel(step=slice(first, first + rows)), run.path, f"layer {weight.name!r}")
        finite = np.isfinite(part.values).all(axis=(1, 2, 3))
        if not finite.all():
            step = int(part["step"].values[~finite][0])
            raise ValueError(
                f"{run.path}: layer {weight.name!r} holds NaN or infinity at step {step}: did training diverge there, "
                "or is a chunk file missing? choose other --steps"
            )
        yield part


def _sister(reference: Run, name: str, weight: xr.DataArray) -> xr.DataArray:
    """The reference's layer of that name, if it is of the same size."""
    cure = "choose other layers with --layer, or another --reference"
    if name not in reference:
        raise ValueError(f"{reference.path}: the reference has no layer {name!r}, only {', '.join(reference)}: {cure}")
    sister = reference[name]
    here, there = ((array.attrs["out_features"], array.attrs["in_features"]) for array in (weight, sister))
    if here != there:
        raise ValueError(f"layer {name!r} is {here} in the run and {there} in {reference.path}: {cure}")
    counts = {array.sizes["block"] * min(array.shape[2:]) for array in (weight, sister)}
    if len(counts) > 1:
        raise ValueError(f"layer {name!r} has another number of singular values than in {reference.path}: {cure}")
    return sister


def _variance_at(sister: xr.DataArray, weight: xr.DataArray, reference: Run, variances: _Variances) -> xr.DataArray:
    """The sister's variance at the steps of ``weight``; NaN at those it has not."""
    shared = np.intersect1d(sister["step"].values, weight["step"].values)
    if len(shared) == 0:
        raise ValueError(
            f"{reference.path}: layer {sister.name!r} has no step in common with the runs: choose other --steps"
        )
    key = (reference.path, str(sister.name), tuple(shared))
    if key not in variances:
        parts = [labelled.variance(part) for part in _slices(sister.sel(step=shared), reference)]
        variances[key] = xr.concat(parts, "step")
    return variances[key].reindex(step=weight["step"])


def _reference_of(run: Run, references: Sequence[Run]) -> Run | None:
    if len(references) < 2:
        return references[0] if references else None
    of_seed = [reference for reference in references if _seed(reference) == _seed(run)]
    if len(of_seed) != 1:
        raise ValueError(f"{run.path}: {len(of_seed)} references have its seed ({_seed(run)}); give one for each seed")
    return of_seed[0]


def _metrics(run: Run, layers: Sequence[xr.Dataset]) -> xr.Dataset:
    """What was logged, at the analysed steps; names that the analysis takes become ``metric_...``."""
    steps = sorted({int(step) for layer in layers for step in layer["step"].values})
    metrics = load(run.metrics, run.path, "what was logged")
    taken = {*DESCRIPTIONS, *_COORDINATES, "run", "layer"}
    return metrics.rename({name: f"metric_{name}" for name in metrics if name in taken}).reindex(step=steps)


def _joined(parts: Sequence[xr.Dataset], dim: str) -> xr.Dataset:
    return xr.concat(
        parts, dim, join="outer", coords="minimal", data_vars="all", compat="override", fill_value={**_ABSENT}
    )


def _seed(run: Run) -> int:
    seed = run.attrs.get("seed", -1)
    return seed if isinstance(seed, int) else -1


def _described(results: xr.Dataset, runs: Sequence[Run], references: Sequence[Run]) -> xr.Dataset:
    origin = {key: [str(run.attrs.get(key, "")) for run in runs] for key in ("started", "torch_version", "study")}
    results = results.assign_coords({key: ("run", values) for key, values in origin.items()})
    results = results.assign_coords(seed=("run", [_seed(run) for run in runs]))
    for name, text in {**DESCRIPTIONS, **_COORDINATES}.items():
        results[name].attrs = {"long_name": text}
    packages = {f"{name}_version": version(name) for name in ("numpy", "scipy", "xarray")}
    created = datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
    return results.assign_attrs(
        references=", ".join(run.name for run in references) or "none",
        null="iid Gaussian; mean and quantiles of nulls.ordered_null's draws, seed 0",
        created=created,
        rmtnet_version=__version__,
        **packages,
    )
