"""Analysing runs: every statistic of their layers in one Dataset."""

import datetime
from collections.abc import Callable, Sequence
from importlib.metadata import version

import xarray as xr

from rmtnet import labelled
from rmtnet._version import __version__
from rmtnet.analysis.columns import ABSENT, COORDINATES, DESCRIPTIONS
from rmtnet.analysis.layers import GROUPS, Moments, analyze_layer, check_layer
from rmtnet.analysis.sources import Layer, chosen_layers, layer_names
from rmtnet.store import Run, load


def analyze_runs(
    runs: Sequence[Run],
    *,
    references: Sequence[Run] = (),
    layers: Sequence[str] = ("*",),
    steps: str | None = None,
    also: Sequence[str] = (),
    progress: Callable[[str], None] = lambda what: None,
) -> xr.Dataset:
    """Every statistic of every matching layer of ``runs`` at the chosen steps.

    Parameters
    ----------
    runs : distinct names
    references : the dense sister, or one for each seed: a run is compared with the one of its own seed.  R has its
        shape and its variance at each step; without a reference R has the layer's own blocks and variance.
    layers : names or globs of layers; a run without any of them is left out.  A layer is analysed from its weights,
        without them from its singular values, each of its forms (``ip1@0``, ``ip1@1``) at its own steps.
    steps : see :func:`choose_steps`; None is all
    also : groups of statistics that cost more: "local" (level repulsion), "budget" (what moves the variance), "tails"
        (alpha's interval, heavy or not)
    progress : told what is analysed next

    Returns
    -------
    Dataset over ``run``, ``layer``, ``step`` and ``order``; NaN where a run has no such layer or step

    Raises
    ------
    ValueError
        If nothing matches, there is no such group or nothing recorded that it needs, a run and its reference share no
        step or differ in shape, or weights are not finite.
    """
    if unknown := [group for group in also if group not in GROUPS]:
        raise ValueError(f"also must be among {', '.join(GROUPS)}, got {unknown[0]!r}")
    chosen = _chosen(runs, layers, steps)
    for layer in (layer for of_run in chosen.values() for layer in of_run):
        check_layer(layer, also)
    runs = [run for run in runs if chosen[run.name]]
    results, count, moments = [], 0, Moments()
    for run in runs:
        reference = _reference_of(run, references)
        found = []
        for layer in chosen[run.name]:
            count += 1
            progress(f"{run.name} {layer.name} ({count} of {sum(map(len, chosen.values()))})")
            found.append(analyze_layer(layer, reference, also=also, moments=moments))
        layered = _joined(found, "layer")
        layered["first_departure"] = labelled.first_departure(layered["largest_p"])
        results.append(layered.merge(_metrics(run, found)).assign_coords(run=run.name))
    return _described(_joined(results, "run"), runs, references)


def _chosen(runs: Sequence[Run], layers: Sequence[str], steps: str | None) -> dict[str, list[Layer]]:
    """The matching layers of each run at the chosen steps, by the run's name."""
    names = [run.name for run in runs]
    if twice := next((name for name in names if names.count(name) > 1), None):
        raise ValueError(f"two runs are named {twice!r}: rename one of the folders")
    chosen = {run.name: chosen_layers(run, layers, steps) for run in runs}
    if not any(chosen.values()):
        recorded = ", ".join(dict.fromkeys(name for run in runs for name in layer_names(run)))
        if not recorded:
            raise ValueError(f"{', '.join(names)}: neither weights nor singular values were recorded")
        raise ValueError(f"no layer matches {' or '.join(map(repr, layers))}; recorded are {recorded}")
    return chosen


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
    taken = {*DESCRIPTIONS, *COORDINATES, "run", "layer"}
    return metrics.rename({name: f"metric_{name}" for name in metrics if name in taken}).reindex(step=steps)


def _joined(parts: Sequence[xr.Dataset], dim: str) -> xr.Dataset:
    return xr.concat(parts, dim, join="outer", coords="minimal", data_vars="all", compat="override", fill_value=ABSENT)


def _seed(run: Run) -> int:
    seed = run.attrs.get("seed", -1)
    return seed if isinstance(seed, int) else -1


def _described(results: xr.Dataset, runs: Sequence[Run], references: Sequence[Run]) -> xr.Dataset:
    origin = {key: [str(run.attrs.get(key, "")) for run in runs] for key in ("started", "torch_version", "study")}
    results = results.assign_coords({key: ("run", values) for key, values in origin.items()})
    results = results.assign_coords(seed=("run", [_seed(run) for run in runs]))
    for name, text in {**DESCRIPTIONS, **COORDINATES}.items():
        if name in results:
            results[name].attrs = {"long_name": text}
    packages = {f"{name}_version": version(name) for name in ("numpy", "scipy", "xarray")}
    created = datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
    return results.assign_attrs(
        references=", ".join(run.name for run in references) or "none",
        null="R: iid Gaussian, mean and quantiles of nulls.ordered_null's draws, seed 0; p-values: iid entries of the "
        "layer's kurtosis, Gaussian where only its singular values are known",
        created=created,
        rmtnet_version=__version__,
        **packages,
    )
