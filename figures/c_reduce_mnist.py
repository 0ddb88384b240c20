"""The runs of studies/dynamic_mnist.py reduced to what C-X1, C-F1 and the MNIST part of C-F2 are made from.

    python figures/c_reduce_mnist.py studies/dynamic_mnist.py RUNS -o RESULTS.nc

Of every run in the folder RUNS its accuracies; of the dynamic one, at its checkpoint, the gates of all test images and
what they tell of the class, and the spectra of some effective matrices before training and after.
"""

from pathlib import Path

import click
import numpy as np
import xarray as xr
from numpy.typing import ArrayLike

from rmtnet import checkpoints, results
from rmtnet.gates import (
    class_similarity,
    collecting_gates,
    effective_spectrum,
    gate_information,
    open_fraction,
    pattern_information,
)
from rmtnet.layers.dynamic import DynamicBlockSparseLinear
from rmtnet.store import open_run
from rmtnet.study import Study, chosen, load_studies
from rmtnet.training import Training

METRICS = ("accuracy", "train_accuracy")
IMAGES, SPECTRA, DRAWS = 8, 4, 200
GRID = ("gate_row", "gate_col")


def accuracies(folder: Path) -> xr.Dataset:
    """(run, step) of every run."""
    paths = sorted(folder.glob("*.zarr"))
    told = [open_run(path).metrics[list(METRICS)].dropna("step").astype(np.float32) for path in paths]
    return xr.concat(told, xr.DataArray([path.stem for path in paths], dims="run", name="run"), join="outer")


def gates_of(training: Training) -> dict[str, np.ndarray]:
    """Layer -> gates (image, gate) of the test images."""
    with collecting_gates(training.model, limit=len(training.test_labels), values=True) as gates:
        training.evaluate()
    return gates


def of_layer(gates: np.ndarray, labels: np.ndarray, grid: tuple[int, int]) -> xr.Dataset:
    """What the gates of one layer tell."""
    opened, numbers = gates != 0, np.unique(labels)
    single, whole, alike = (
        gate_information(opened, labels),
        pattern_information(opened, labels),
        class_similarity(opened, labels),
    )
    by_class = np.stack([open_fraction(opened[labels == number]) for number in numbers])
    found: dict[str, tuple[tuple[str, ...], ArrayLike]] = {
        "open_fraction": (GRID, open_fraction(opened).reshape(grid)),
        "class_open_fraction": (("class", *GRID), by_class.reshape(-1, *grid)),
        "gate_bits": (GRID, single.bits.reshape(grid)),
        "gate_bits_error": (GRID, single.error.reshape(grid)),
        "pattern_bits": ((), whole.bits),
        "pattern_bits_error": ((), whole.error),
        "similarity": (("class", "other"), alike.table),
        "within": ((), alike.within),
        "between": ((), alike.between),
        "similarity_p": ((), alike.p_value),
    }
    return xr.Dataset(
        {name: (dims, np.asarray(values, np.float32)) for name, (dims, values) in found.items()}, {"class": numbers}
    )


def layers_of(training: Training) -> dict[str, DynamicBlockSparseLinear]:
    modules = training.model.named_modules()
    return {name: module for name, module in modules if isinstance(module, DynamicBlockSparseLinear)}


def spectra(training: Training, gates: dict[str, np.ndarray]) -> xr.Dataset:
    """(layer, image) distance from the law and p-value of the largest singular value, of the first images."""
    found = []
    for name, layer in layers_of(training).items():
        weight = layer.weight.detach().double().numpy()
        found.append([effective_spectrum(weight, own, layer.grid, draws=DRAWS) for own in gates[name][:SPECTRA]])
    dims = ("layer", "image")
    return xr.Dataset(
        {
            "distance": (dims, [[each.distance for each in row] for row in found]),
            "p_value": (dims, [[each.p_value for each in row] for row in found]),
        },
        {"layer": list(gates)},
    )


def reduced(study: Study, folder: Path) -> xr.Dataset:
    """Everything about the dynamic run."""
    state = checkpoints.load(study, folder)
    if state is None:
        raise click.UsageError(f"{folder} holds no checkpoint of {study.name!r}")
    training = Training(study)
    before = spectra(training, gates_of(training))
    training.restore(state)
    gates, labels = gates_of(training), training.test_labels.numpy()
    layers = {name: of_layer(gates[name], labels, layer.grid) for name, layer in layers_of(training).items()}
    told = xr.concat(layers.values(), xr.DataArray(list(layers), dims="layer", name="layer"))
    last = list(gates)[-1]
    shown = np.stack([gates[last][labels == number][:IMAGES] for number in told["class"].values])
    told["gates"] = (("class", "sample", *GRID), shown.reshape(*shown.shape[:2], *told["open_fraction"].shape[1:]))
    told["gates"].attrs["layer"] = last
    both = xr.concat(
        [before, spectra(training, gates)], xr.DataArray(["untrained", "trained"], dims="state", name="state")
    )
    return xr.merge([told, both, accuracies(folder)]).assign_attrs(step=training.step, seed=study.seed)


@click.command(help=__doc__)
@click.argument("study", type=click.Path(path_type=Path, exists=True))
@click.argument("runs", type=click.Path(path_type=Path, exists=True))
@click.option("-o", "--output", required=True, metavar="FILE.nc", type=click.Path(path_type=Path))
def main(study: Path, runs: Path, output: Path) -> None:
    results.check_target(output)
    dynamic = chosen(load_studies(study), "dynamic")[0]
    assert isinstance(dynamic, Study)
    results.write(reduced(dynamic, runs), output)
    click.echo(output)


if __name__ == "__main__":
    main()
