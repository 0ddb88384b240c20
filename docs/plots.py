"""The pictures of docs/plots.md: one of each plot, from the committed LeNet-5 results or simulated.

python docs/plots.py [NAME ...] writes docs/images/plot_NAME.png, all of them without a name.
"""

import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import xarray as xr
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from rmtnet import budget, edges, local, measures, nulls, plots, sisters, tails, trends
from rmtnet.bulk import fit_noise
from rmtnet.laws import MarchenkoPastur, MarchenkoPasturSingular, VarianceProfile
from rmtnet.publish import SINGLE_COLUMN, paper_style
from rmtnet.results import read
from rmtnet.spectra import eigenvalues, singular_values

HERE = Path(__file__).parent
STEPS = np.array([0, 1, 2, 3, 5, 8, 12, 20, 30, 50, 80, 120, 200, 300, 500, 800, 1200, 2000])


def lenet5() -> xr.Dataset:
    return plots.sisters(read(HERE.parent / "data" / "results" / "lenet5_mnist.nc"), layer="ip1")


def training(layers: int, *, out: int = 48, width: int = 96, seed: int = 0) -> xr.Dataset:
    """What an analysis holds of layers of noise in which spikes grow, sooner in the later ones."""
    rng = np.random.default_rng(seed)
    null = nulls.ordered_null(1, out, width).mean
    rows = []
    for index in range(layers):
        noise = rng.standard_normal((out, width))
        left, right = (np.linalg.qr(rng.standard_normal((side, 4)))[0] for side in (out, width))
        # Every fifth layer is not recorded to the end.
        for step in STEPS[: -3 if index % 5 == 3 else None]:
            growth = 6 * (1 + index) ** 0.5 * np.log1p(step / 60) ** 1.5
            weight = noise + (left * growth / np.arange(1, 5)) @ right.T
            rows.append({"layer": f"fc{index:02d}", "step": step, **statistics(weight, null)})
    results = pd.DataFrame(rows).set_index(["layer", "step"]).to_xarray()
    first = trends.first_departure(results["largest_p"].values, STEPS)
    sizes = {name: ("layer", np.full(layers, size)) for name, size in (("blocks", 1), ("m", out), ("n", width))}
    mean = (("layer", "order"), np.tile(null, (layers, 1)))
    results = results.assign({**sizes, "first_departure": ("layer", first), "null_mean": mean})
    results["largest_p"].attrs["long_name"] = "p-value of the largest singular value"
    return results.expand_dims(run=["one"]).assign_coords(seed=("run", [seed]))


def statistics(weight: np.ndarray, null: np.ndarray) -> dict[str, float]:
    values = singular_values(weight)
    return {
        "largest_p": edges.largest(weight).p_value,
        "smallest_p": edges.smallest(weight).p_value,
        "largest_ratio": values[0] / null[0],
        "smallest_singular_value": values[-1],
        "reference_variance": 1.0,
        "stable_rank": float(measures.stable_rank(values)),
    }


def spectrum(ax: Axes) -> None:
    rng = np.random.default_rng(1)
    weight = rng.standard_normal((200, 400))
    weight += 9 * np.outer(*(rng.standard_normal(side) / np.sqrt(side) for side in (200, 400))) * np.sqrt(20)
    weight += 30 * np.outer(*(rng.standard_normal(side) / np.sqrt(side) for side in (200, 400)))
    law = fit_noise(weight).law
    band = eigenvalues(rng.standard_normal((200, 200, 400)) * law.variance**0.5)
    plots.plot_spectrum(eigenvalues(weight), law, ax=ax, band=band, label="W")
    ax.legend()


def singular_spectrum(ax: Axes) -> None:
    weight = np.random.default_rng(2).standard_normal((300, 300))
    plots.plot_spectrum(singular_values(weight) / np.sqrt(300), MarchenkoPasturSingular(1.0), ax=ax, label="W")
    ax.legend()


def profile_spectrum(ax: Axes) -> None:
    rng = np.random.default_rng(3)
    variances = np.array([[1.0, 0, 0, 4], [0, 1, 0, 0], [0, 1, 1, 0]])
    draws = np.repeat(np.repeat(variances, 80, 0), 100, 1) ** 0.5 * rng.standard_normal((101, 240, 400))
    values = eigenvalues(draws)
    law = VarianceProfile(variances, [80] * 3, [100] * 4)
    plots.plot_spectrum(values[0], law, ax=ax, band=values[1:], bins=30, label="noise in 6 blocks of 12")
    ax.legend()


def variance(ax: Axes) -> None:
    plots.plot_variance(lenet5(), layer="ip1", ax=ax)
    ax.set_yscale("log")
    ax.legend(ncols=3, loc="lower center", bbox_to_anchor=(0.5, 1))


def singular_values_by_order(ax: Axes) -> None:
    plots.plot_singular_values(lenet5(), layer="ip1", step=10_000, ax=ax)
    ax.legend(ncols=2)


def variance_ratio(ax: Axes) -> None:
    plots.plot_variance_ratio(lenet5(), layer="ip1", ax=ax)
    plots.plot_line_ends(ax)
    ax.set_yscale("log")
    ax.legend(ncols=2, loc="lower center", bbox_to_anchor=(0.5, 1))


def variance_interval(ax: Axes) -> None:
    steps, rng = np.array([0, 10, 20, 50, 100, 200, 400]), np.random.default_rng(4)
    weight = {b: rng.standard_normal((1, b, 40 // b, 80 // b)) * b**0.5 for b in (1, 5, 10)}
    weight = {
        b: start + np.cumsum(rng.normal(0, 0.1, (len(steps), *start.shape[1:])), 0) for b, start in weight.items()
    }
    moments = {b: sisters.entry_moments(stack) for b, stack in weight.items()}
    ratios = [sisters.variance_ratio_interval(moments[b], moments[1]) for b in (5, 10)]
    names = {"variance_ratio": "ratio", "variance_ratio_low": "low", "variance_ratio_high": "high"}
    over = ("run", "layer", "step")
    values = {name: (over, [[getattr(found, field)] for found in ratios]) for name, field in names.items()}
    results = xr.Dataset(
        {**values, "blocks": (over[:2], [[5], [10]])},
        {"run": ["b5", "b10"], "layer": ["fc"], "step": steps, "seed": ("run", [0, 0])},
    )
    plots.plot_variance_ratio(results, layer="fc", ax=ax)
    ax.legend(ncols=2, loc="lower center", bbox_to_anchor=(0.5, 1))


def mean_deviation(ax: Axes) -> None:
    plots.plot_mean_deviation(lenet5(), layer="ip1", ax=ax)
    ax.legend(ncols=3, loc="lower center", bbox_to_anchor=(0.5, 1))


def singular_value_ratio(ax: Axes) -> None:
    results = lenet5()
    of_ten = results.sel(run=results["blocks"].sel(layer="ip1").values == 10)
    null = sisters.sister_null(10, 50, 80, reference=(1, 500, 800), draws=200)
    plots.plot_singular_value_ratio(of_ten, layer="ip1", step=10_000, ax=ax, label="{run}", null=null)
    ax.legend()


def spacings(ax: Axes) -> None:
    levels = eigenvalues(np.random.default_rng(5).standard_normal((8, 200, 300)))
    found = local.spacings(local.unfold_local(levels))
    plots.plot_spacings(found, ax=ax, brody=float(local.fit_brody(found).parameter), label="8 blocks of noise")
    ax.legend()


def number_variance(ax: Axes) -> None:
    levels = eigenvalues(np.random.default_rng(6).standard_normal((8, 200, 300)))
    unfolded = local.unfold(levels, MarchenkoPastur(2 / 3).cdf)
    curve = local.number_variance(unfolded, np.arange(0.5, 8.1, 0.5), trim=0.1)
    plots.plot_number_variance(curve.lengths, curve.value, ax=ax, error=curve.standard_error, label="8 blocks of noise")
    ax.legend()


def extremes(ax: Axes) -> None:
    plots.plot_extremes(training(4), layer="fc03", ax=ax, ends=("largest", "smallest"))
    ax.set_xscale("symlog", linthresh=1)
    ax.legend()


def variance_budget(ax: Axes) -> None:
    rng = np.random.default_rng(7)
    weight = [rng.uniform(-0.06, 0.06, (1, 40, 80))]
    for step in range(400):
        rate, signal = 0.01 / (1 + step / 50), 0.4 * np.exp(-step / 100)
        weight.append(weight[-1] - rate * (rng.normal(0, 0.05, (1, 40, 80)) - signal * weight[-1] + 0.05 * weight[-1]))
    terms = budget.variance_budget(np.array(weight))
    over = {name: ("step", getattr(terms, name)) for name in ("update_variance", "covariance_term")}
    results = xr.Dataset({"variance_change": ("step", terms.change), **over}, {"step": np.arange(1, 401)})
    plots.plot_variance_budget(results, ax=ax)
    ax.legend()


def phases(ax: Axes) -> None:
    plots.plot_phases(training(14), value="largest_p", ax=ax, log_steps=True)
    ax.legend(loc="lower left", bbox_to_anchor=(0, 1))


def hill(ax: Axes) -> None:
    rng = np.random.default_rng(8)
    weight = rng.standard_t(3, (150, 300))
    noise = rng.standard_normal((100, 150, 300)) * weight.std()
    k, index = tails.hill(eigenvalues(weight))
    plots.plot_hill(k, index, ax=ax, band=tails.hill(eigenvalues(noise))[1])
    ax.legend()


PICTURES: dict[str, Callable[[Axes], None]] = {
    draw.__name__: draw
    for draw in (
        *(spectrum, singular_spectrum, profile_spectrum, spacings, number_variance, hill),
        *(variance, variance_ratio, variance_interval, mean_deviation),
        *(singular_values_by_order, singular_value_ratio),
        *(extremes, variance_budget, phases),
    )
}


def main(names: list[str]) -> None:
    for name in names or PICTURES:
        with paper_style():
            figure = Figure(figsize=(SINGLE_COLUMN * 1.2, 2.8), layout="constrained")
            PICTURES[name](figure.subplots())
            figure.savefig(HERE / "images" / f"plot_{name}.png", dpi=130, metadata={"Software": None})


if __name__ == "__main__":
    main(sys.argv[1:])
