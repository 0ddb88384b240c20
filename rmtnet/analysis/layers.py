"""Analysing one layer of a run beside its reference."""

from collections.abc import Callable, Collection, Iterable

import numpy as np
import xarray as xr

from rmtnet import labelled
from rmtnet.analysis.sources import Layer, layer_names, layer_of, without_form
from rmtnet.store import Run

# A reference's moments by path, layer and steps: many runs are compared with the same ones.
Moments = dict[tuple[str, str, tuple[int, ...]], xr.Dataset]
# From a part of what was recorded and its singular values.
GROUPS: dict[str, Callable[[Layer, xr.DataArray, xr.DataArray], xr.Dataset]] = {
    "local": lambda layer, part, values: labelled.level_statistics(values),
    "budget": lambda layer, part, values: layer.budget(part),
    "tails": lambda layer, part, values: layer.tails(part, values),
}
"""Statistics that cost more or are wanted less, by the name to ask for them."""


def check_layer(layer: Layer, also: Collection[str]) -> None:
    """Refuse, before any work is done, what the record of a layer cannot tell.

    Raises
    ------
    ValueError
        If the shape of its blocks, or a group of statistics, is not to be had from its singular values.
    """
    _ = layer.shape
    if "budget" in also and layer.source == "spectra" and layer.budget_moments is None:
        raise ValueError(
            f"{layer.run.path}: of layer {layer.name!r} neither weights nor moments were recorded, which the variance "
            "budget needs: leave out budget, or choose other layers with --layer"
        )


def analyze_layer(layer: Layer, reference: Run | None, *, also: Collection[str], moments: Moments) -> xr.Dataset:
    """Every statistic of one layer at its steps."""
    found = xr.concat(list(_by_slices(layer, also)), "step", data_vars="minimal", compat="override", coords="minimal")
    form = {"source": layer.source, "form": layer.recorded.attrs["form"]}
    sizes = dict(zip(("blocks", "m", "n"), layer.shape, strict=True))
    compared = _compared(found, layer, reference, moments)
    return compared.drop_vars(["fourth_moment", "entries"]).assign(form | sizes).assign_coords(layer=layer.name)


def _by_slices(layer: Layer, also: Collection[str]) -> Iterable[xr.Dataset]:
    for part in layer.parts():
        values = part if layer.source == "spectra" else labelled.singular_values(part)
        yield xr.merge([layer.spectrum(part, values), *(GROUPS[group](layer, part, values) for group in also)])


def _compared(found: xr.Dataset, layer: Layer, reference: Run | None, moments: Moments) -> xr.Dataset:
    """With what the layer is beside its reference; a layer that has none, or is its own, beside R of its own shape."""
    sister, other = layer, found
    if reference is not None and reference.path.resolve() != layer.run.path.resolve():
        sister = _sister(reference, layer)
        other = _moments_at(sister, layer, moments)
    centred = layer.source == sister.source == "weights"
    ratios = labelled.variance_ratio_interval(
        *(part if centred else labelled.about_zero(part) for part in (found, other))
    )
    if other is found:
        # To itself it is 1, without an error; without a reference there is none.
        ratios = xr.ones_like(ratios).where(ratios["variance_ratio"].notnull() & (reference is not None))
    variance = other["variance" if sister.source == "weights" else "second_moment"]
    against = labelled.against_null(found, variance, sister.shape)
    null = labelled.mean_deviation_null(
        against["mean_deviation"],
        layer.shape,
        reference=None if other is found else sister.shape,
        kurtosis=found["noise_kurtosis"],
    )
    return xr.merge([found, ratios, against, null, {"compared": "variance" if centred else "second moment"}])


def _sister(reference: Run, layer: Layer) -> Layer:
    """The reference's layer of that name and form, or of that name, if it is of the same size."""
    cure, there = "choose other layers with --layer, or another --reference", layer_names(reference)
    name = next((name for name in (layer.name, without_form(layer.name)) if name in there), None)
    if name is None:
        raise ValueError(
            f"{reference.path}: the reference has no layer {layer.name!r}, only {', '.join(there)}: {cure}"
        )
    sister = layer_of(reference, name)
    if layer.features != sister.features:
        raise ValueError(
            f"layer {layer.name!r} is {layer.features} in the run and {sister.features} in {reference.path}: {cure}"
        )
    if len({blocks * min(sides) for blocks, *sides in (layer.shape, sister.shape)}) > 1:
        raise ValueError(f"layer {layer.name!r} has another number of singular values than in {reference.path}: {cure}")
    return sister


def _moments_at(sister: Layer, layer: Layer, moments: Moments) -> xr.Dataset:
    """The moments of the sister's entries at the steps of ``layer``; NaN at those it has not."""
    path, shared = sister.run.path, np.intersect1d(sister.steps.values, layer.steps.values)
    if len(shared) == 0:
        raise ValueError(f"{path}: layer {sister.name!r} has no step in common with the runs: choose other --steps")
    key = (str(path), sister.name, tuple(shared))
    if key not in moments:
        parts = [sister.moments(part) for part in sister.at(shared).parts()]
        moments[key] = xr.concat(parts, "step", data_vars="minimal", coords="minimal", compat="override")
    return moments[key].reindex(step=layer.steps)
