import itertools
import math
import re
import runpy
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import xarray as xr
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.collections import PolyCollection
from matplotlib.colors import LogNorm, to_rgb
from matplotlib.figure import Figure
from numpy.testing import assert_allclose

from rmtnet import plots, publish
from rmtnet.laws import (
    Brody,
    MarchenkoPastur,
    MarchenkoPasturSingular,
    PoissonSpacing,
    VarianceProfile,
    WignerSurmise,
)
from rmtnet.results import write

DOCS = Path(__file__).parents[1] / "docs"
OUTPUTS, INPUTS = 20, 32
STEPS = [0, 10, 100]
DRAWS = 200


def iid_results(blocks: tuple[int, ...] = (1, 2, 4), seeds: tuple[int, ...] = (0, 1)) -> xr.Dataset:
    """Results of sisters whose ip1 (20 x 32) is an iid matrix, of variance b / (32 (step + 1)) but for chance."""
    rng = np.random.default_rng(7)
    draws = np.linalg.svd(rng.standard_normal((DRAWS, OUTPUTS, INPUTS)), compute_uv=False)
    null, band = draws.mean(axis=0), np.quantile(draws / draws.mean(axis=0), [0.05, 0.95], axis=0)
    dense = 1 / (INPUTS * (np.array(STEPS) + 1.0))
    runs = {f"b{b}-seed{seed}": _run(b, seed, dense, null, band, rng) for seed in seeds for b in blocks}
    return xr.concat(runs.values(), xr.DataArray(list(runs), dims="run", name="run"))


def _run(b, seed, dense, null, band, rng) -> xr.Dataset:
    variance = b * dense * rng.uniform(0.97, 1.03, dense.size)
    weights = rng.standard_normal((len(STEPS), b, OUTPUTS // b, INPUTS // b)) * np.sqrt(variance)[:, None, None, None]
    sigma = -np.sort(-np.linalg.svd(weights, compute_uv=False).reshape(len(STEPS), -1))
    ratio = sigma / (null * np.sqrt(dense)[:, None])
    absent = np.full_like(sigma, np.nan)

    def layers(dims, ip1, ip2):
        return ("layer", *dims), np.array([ip1, ip2])

    values = {
        "form": layers((), "block_diagonal" if b > 1 else "dense", "dense"),
        "blocks": layers((), b, 1),
        "m": layers((), OUTPUTS // b, 10),
        "n": layers((), INPUTS // b, OUTPUTS),
        "variance": layers(("step",), variance, dense),
        "variance_ratio": layers(("step",), variance / dense, np.ones(len(STEPS))),
        "reference_variance": layers(("step",), dense, dense),
        "mean_deviation": layers(("step",), np.abs(1 - ratio).mean(axis=1), np.zeros(len(STEPS))),
        "singular_values": layers(("step", "order"), sigma, absent),
        "singular_value_ratio": layers(("step", "order"), ratio, absent),
        "null_mean": layers(("order",), null, absent[0]),
        "null_low": layers(("order",), band[0], absent[0]),
        "null_high": layers(("order",), band[1], absent[0]),
    }
    orders = np.arange(1, OUTPUTS + 1)
    return xr.Dataset(values, {"layer": ["ip1", "ip2"], "step": STEPS, "order": orders, "seed": seed})


@pytest.fixture(scope="module")
def results() -> xr.Dataset:
    return iid_results()


@pytest.fixture
def ax() -> Axes:
    return Figure().subplots()


def lines(ax: Axes) -> dict:
    return {line.get_label(): line for line in ax.get_lines() if not line.get_label().startswith("_")}


def bands(ax: Axes) -> list[np.ndarray]:
    """Corner points (x, y) of the filled bands, in the order drawn."""
    return [band.get_paths()[0].vertices for band in ax.collections if isinstance(band, PolyCollection)]


def texts(ax: Axes) -> list[str]:
    return [text.get_text() for text in ax.texts]


def ip1_of(results: xr.Dataset, variable: str, b: int) -> xr.DataArray:
    return results[variable].sel(layer="ip1", run=[f"b{b}-seed0", f"b{b}-seed1"])


@pytest.mark.parametrize(
    "plot, variable",
    [(plots.plot_variance, "variance"), (plots.plot_mean_deviation, "mean_deviation")],
)
def test_lines_are_the_means_over_seeds(results, ax, plot, variable):
    assert plot(results, layer="ip1", ax=ax) is ax
    assert list(lines(ax)) == ["b = 1", "b = 2", "b = 4"]
    for b in (1, 2, 4):
        x, y = lines(ax)[f"b = {b}"].get_data()
        assert_allclose(x, STEPS)
        assert_allclose(y, ip1_of(results, variable, b).values.mean(axis=0))


def test_bands_span_the_seeds(results, ax):
    plots.plot_variance(results, layer="ip1", ax=ax)
    assert len(bands(ax)) == 3
    for corners, b in zip(bands(ax), (1, 2, 4), strict=True):
        seeds = ip1_of(results, "variance", b).values
        for step, low, high in zip(STEPS, seeds.min(axis=0), seeds.max(axis=0), strict=True):
            at = corners[corners[:, 0] == step, 1]
            assert_allclose([at.min(), at.max()], [low, high])


def test_one_seed_has_no_band(ax):
    plots.plot_variance(iid_results(seeds=(3,)), layer="ip1", ax=ax)
    assert len(lines(ax)) == 3
    assert not bands(ax)


def test_a_step_that_one_seed_lacks_is_left_out_of_the_mean(results, ax):
    holed = results.copy(deep=True)
    holed["variance"].loc[{"run": "b2-seed1", "layer": "ip1", "step": 10}] = np.nan
    plots.plot_variance(holed, layer="ip1", ax=ax)
    assert_allclose(lines(ax)["b = 2"].get_xdata(), [0, 100])
    assert_allclose(lines(ax)["b = 4"].get_xdata(), STEPS)


def test_variance_ratios_leave_the_dense_sister_out_and_keep_the_others_colours(results, ax):
    plots.plot_variance_ratio(results, layer="ip1", ax=ax, label="({b},1)-BD4 / (1,1)-BD4")
    ratios = lines(ax)
    assert list(ratios) == ["(2,1)-BD4 / (1,1)-BD4", "(4,1)-BD4 / (1,1)-BD4"]
    everyone = lines(plots.plot_variance(results, layer="ip1", ax=Figure().subplots()))
    for b in (2, 4):
        ratio, variance = ratios[f"({b},1)-BD4 / (1,1)-BD4"], everyone[f"b = {b}"]
        assert to_rgb(ratio.get_color()) == to_rgb(variance.get_color())
        assert ratio.get_linestyle() == variance.get_linestyle()


def test_line_ends_are_written_beside_the_lines(results, ax):
    plots.plot_variance_ratio(results, layer="ip1", ax=ax)
    plots.plot_line_ends(ax, "{:.3f}")
    ends = [ip1_of(results, "variance_ratio", b).sel(step=100).values.mean() for b in (2, 4)]
    assert texts(ax) == [f"{end:.3f}" for end in ends]
    assert_allclose([text.xy for text in ax.texts], [(100, end) for end in ends])


def test_singular_values_lie_over_those_of_r_at_the_reference_variance(results, ax):
    plots.plot_singular_values(results, layer="ip1", step=10, ax=ax)
    assert list(lines(ax)) == ["b = 1", "b = 2", "b = 4", "R"]
    null = results["null_mean"].sel(layer="ip1", run="b1-seed0").values
    assert_allclose(lines(ax)["R"].get_ydata(), null * np.sqrt(1 / (INPUTS * 11)))
    expected = ip1_of(results, "singular_values", 2).sel(step=10).values.mean(axis=0)
    assert_allclose(lines(ax)["b = 2"].get_ydata(), expected)
    assert_allclose(lines(ax)["b = 2"].get_xdata(), np.arange(1, OUTPUTS + 1))


def test_singular_value_ratios_of_iid_dense_matrices_lie_in_the_band_of_r(results, ax):
    plots.plot_singular_value_ratio(results, layer="ip1", step=100, ax=ax)
    assert list(lines(ax)) == ["b = 1 / R", "b = 2 / R", "b = 4 / R"]
    grey = bands(ax)[-1]
    for order, low, high in zip(
        results["order"].values,
        results["null_low"].sel(layer="ip1", run="b1-seed0").values,
        results["null_high"].sel(layer="ip1", run="b1-seed0").values,
        strict=True,
    ):
        at = grey[grey[:, 0] == order, 1]
        assert_allclose([at.min(), at.max()], [low, high])
    y = lines(ax)["b = 1 / R"].get_ydata()[:-1]
    assert np.mean(np.abs(1 - y)) < 0.05


def test_an_outlying_ratio_squashes_nothing_but_is_marked_and_written(results, ax):
    outlying = iid_results(blocks=(1, 2), seeds=(0,))
    ratio = outlying["singular_value_ratio"]
    wide = ratio.interp(order=np.linspace(1, 20, 400)).assign_coords(order=np.arange(1, 401))
    wide.loc[{"run": "b1-seed0", "layer": "ip1", "order": 1}] = 50.0
    outlying = outlying.drop_dims("order").assign(singular_value_ratio=wide)
    for name in ("null_mean", "null_low", "null_high"):
        outlying[name] = xr.ones_like(wide.isel(step=0, drop=True))
    plots.plot_singular_value_ratio(outlying, layer="ip1", step=100, ax=ax)
    assert ax.get_ylim()[1] < 3
    assert "to 50.00" in texts(ax)
    triangle = next(line for line in ax.get_lines() if line.get_marker() == "^")
    assert_allclose(triangle.get_xydata(), [[1, ax.get_ylim()[1]]])
    assert to_rgb(triangle.get_color()) == to_rgb(lines(ax)["b = 1 / R"].get_color())


def test_sisters_differ_in_grey_and_in_dashes(ax):
    plots.plot_variance(iid_results(blocks=(1, 2, 4), seeds=(0,)), layer="ip1", ax=ax)
    grey = [np.dot(to_rgb(line.get_color()), [0.299, 0.587, 0.114]) for line in lines(ax).values()]
    assert np.all(np.diff(grey) > 0.1)
    assert max(grey) < 0.75
    assert len({str(dashes) for dashes in plots.DASHES}) == len(plots.DASHES) == 6


@pytest.mark.parametrize("ratio, visible", [(1.6, 0.625), (0.5, 1.0)])
def test_histogram_noise_and_law_have_the_mass_that_the_atom_leaves(ax, ratio, visible):
    rng = np.random.default_rng(3)
    rows, cols = round(400 * ratio), 400
    values, noise = (np.linalg.svd(rng.standard_normal((rows, cols)), compute_uv=False) ** 2 / cols for _ in range(2))
    law = MarchenkoPastur(rows / cols)
    assert plots.plot_spectrum(values, law, ax=ax, noise=noise, label="W") is ax
    curve, stairs = lines(ax)["Marchenko-Pastur"], ax.patches[-1].get_data()
    (outline,) = (patch.get_xy() for patch in ax.patches if patch.get_label() == "W")
    area = 0.5 * abs(np.sum(outline[:, 0] * np.roll(outline[:, 1], 1) - outline[:, 1] * np.roll(outline[:, 0], 1)))
    assert_allclose(area, visible, rtol=1e-10)
    assert_allclose(np.sum(stairs.values * np.diff(stairs.edges)), visible, rtol=0.02)
    assert_allclose(np.trapezoid(curve.get_ydata(), curve.get_xdata()), visible, rtol=0.01)
    assert_allclose(curve.get_ydata(), law.pdf(curve.get_xdata()))


def test_far_eigenvalues_are_counted_not_drawn(ax):
    law = MarchenkoPastur(0.25)
    plots.plot_spectrum([*law.ppf(np.linspace(0.01, 0.99, 99)), 2.5, 40.0, 70.0], law, ax=ax)
    assert texts(ax) == ["2 beyond,\nup to 70"]
    assert ax.get_xlim()[1] < 3.5
    ticks = next(line for line in ax.get_lines() if line.get_marker() == "|")
    assert_allclose(ticks.get_xdata(), [2.5, 40.0, 70.0])


@pytest.mark.parametrize("values", [[], [1.0, np.nan], [-1.0, 1.0], [np.inf]])
def test_eigenvalues_that_cannot_be_are_refused(ax, values):
    with pytest.raises(ValueError, match="finite and not negative"):
        plots.plot_spectrum(values, MarchenkoPastur(0.5), ax=ax)


def test_last_step_is_the_last_that_all_runs_have(results):
    assert plots.last_step(results, "singular_values", layer="ip1") == 100
    reduced = results.copy(deep=True)
    reduced["singular_values"].loc[{"run": "b2-seed1", "step": 100}] = np.nan
    assert plots.last_step(reduced, "singular_values", layer="ip1") == 10
    assert plots.last_step(reduced, "variance", layer="ip1") == 100
    reduced["singular_values"].loc[{"run": "b4-seed1", "step": [0, 10]}] = np.nan
    with pytest.raises(ValueError, match="share no step with a singular_values of ip1"):
        plots.last_step(reduced, "singular_values", layer="ip1")


def test_sisters_have_all_other_layers_dense(results):
    extra = results.sel(run=["b2-seed0"]).assign_coords(run=["b2x5-seed0"]).copy(deep=True)
    extra["blocks"].loc[{"layer": "ip2"}] = 5
    both = xr.concat([results, extra], "run")
    assert plots.sisters(both, layer="ip1")["run"].values.tolist() == results["run"].values.tolist()


def test_sisters_may_lack_another_layer(results):
    alone = results.assign(blocks=results["blocks"].where(results["layer"] == "ip1"))
    assert plots.sisters(alone, layer="ip1").sizes["run"] == results.sizes["run"]
    assert plots.sisters(results.sel(layer=["ip1"]), layer="ip1").sizes["run"] == results.sizes["run"]


def test_two_runs_of_the_same_blocks_and_seed_are_no_sisters(results):
    twin = results.sel(run=["b2-seed0"]).assign_coords(run=["sigmoid-b2-seed0"])
    with pytest.raises(ValueError, match="b2-seed0 and sigmoid-b2-seed0 both have 2 blocks in ip1 and seed 0"):
        plots.sisters(xr.concat([results, twin], "run"), layer="ip1")


def test_errors_name_what_is_missing(results, ax):
    with pytest.raises(ValueError, match="results hold no variance: write them with rmtnet analyze"):
        plots.plot_variance(results.drop_vars("variance"), layer="ip1", ax=ax)
    with pytest.raises(ValueError, match="results hold no seed"):
        plots.plot_variance(results.drop_vars("seed"), layer="ip1", ax=ax)
    with pytest.raises(ValueError, match="no layer 'ip3': there is ip1, ip2"):
        plots.plot_variance(results, layer="ip3", ax=ax)
    with pytest.raises(ValueError, match="no run has a singular_values at step 11"):
        plots.plot_singular_values(results, layer="ip1", step=11, ax=ax)
    with pytest.raises(ValueError, match="no run with more than one block in ip1"):
        plots.plot_variance_ratio(iid_results(blocks=(1,)), layer="ip1", ax=ax)
    orphans = results.assign(variance_ratio=results["variance_ratio"] * np.nan)
    with pytest.raises(
        ValueError, match="no run has a variance_ratio of ip1: all weights are 0, or a --reference is missing"
    ):
        plots.plot_variance_ratio(orphans, layer="ip1", ax=ax)


def drawn(ax: Axes) -> Axes:
    """As a file would hold it: what fails only when drawn, fails here."""
    FigureCanvasAgg(ax.figure).draw()
    return ax


def between(band: np.ndarray, x: float) -> tuple[float, float]:
    """Ends of a filled band at x."""
    at = band[np.isclose(band[:, 0], x), 1]
    return at.min(), at.max()


def test_a_line_of_one_run_has_its_interval_and_one_of_several_their_range(results, ax):
    ratio = results["variance_ratio"]
    both = results.assign(variance_ratio_low=ratio * 0.5, variance_ratio_high=ratio * 3)
    plots.plot_variance_ratio(both.sel(run=["b2-seed0", "b4-seed0", "b4-seed1"]), layer="ip1", ax=ax)
    alone, several = bands(ax)
    for step in STEPS:
        of_two = float(ratio.sel(run="b2-seed0", layer="ip1", step=step))
        assert_allclose(between(alone, step), (0.5 * of_two, 3 * of_two))
        of_four = ratio.sel(run=["b4-seed0", "b4-seed1"], layer="ip1", step=step)
        assert_allclose(between(several, step), (of_four.min(), of_four.max()))


def test_results_without_intervals_have_none_drawn(results, ax):
    half = results.assign(variance_ratio_low=results["variance_ratio"] * 0.5)
    for data in (results, half):
        plots.plot_variance_ratio(data.sel(run=["b2-seed0"]), layer="ip1", ax=ax)
    assert bands(ax) == []


def test_an_interval_is_left_out_where_the_line_is(results, ax):
    ratio = results["variance_ratio"].copy(deep=True)
    ratio.loc[{"run": "b2-seed0", "step": 10}] = np.nan
    holed = results.assign(variance_ratio=ratio, variance_ratio_low=ratio / 2, variance_ratio_high=ratio * 2)
    plots.plot_variance_ratio(holed.sel(run=["b2-seed0"]), layer="ip1", ax=ax)
    assert set(bands(ax)[0][:, 0]) == {0, 100}


def test_mean_deviations_have_that_of_noise_beside_them(results, ax):
    null = xr.full_like(results["mean_deviation"], 0.01) * results["blocks"]
    plots.plot_mean_deviation(results.assign(mean_deviation_null=null), layer="ip1", ax=ax)
    assert list(lines(ax)) == ["b = 1", "b = 2", "b = 4", "noise"]
    dotted = [line for line in ax.get_lines() if line.get_linestyle() == ":" and len(line.get_xdata())]
    for line, b in zip(dotted, (1, 2, 4), strict=True):
        assert_allclose(line.get_ydata(), [0.01 * b] * 3)
        assert to_rgb(line.get_color()) == to_rgb(lines(ax)[f"b = {b}"].get_color())
    without = plots.plot_mean_deviation(
        results.assign(mean_deviation_null=null * np.nan), layer="ip1", ax=Figure().subplots()
    )
    assert "noise" not in lines(without)


def null_band(size: int = OUTPUTS) -> SimpleNamespace:
    order = np.arange(1, size + 1)
    return SimpleNamespace(
        low=1 - 0.01 * order, high=1 + 0.01 * order, band_low=1 - 0.03 * order, band_high=1 + 0.03 * order
    )


def test_a_null_has_its_band_by_order_within_that_of_whole_curves(results, ax):
    plots.plot_singular_value_ratio(results, layer="ip1", step=100, ax=ax, null=null_band())
    labels = [band.get_label() for band in ax.collections if isinstance(band, PolyCollection)][-2:]
    assert labels == ["noise, all orders at once", "noise, each order by itself"]
    whole, single = bands(ax)[-2:]
    for order in (1, 7, OUTPUTS):
        assert_allclose(between(whole, order), (1 - 0.03 * order, 1 + 0.03 * order))
        assert_allclose(between(single, order), (1 - 0.01 * order, 1 + 0.01 * order))
    assert ax.get_ylim()[1] > 1.5


def test_a_null_of_parts_that_do_not_fit_is_refused(ax):
    wrong = null_band()
    wrong.high = wrong.high[1:]
    with pytest.raises(ValueError, match=r"four ends of bands, each \(order,\), got shapes \[\(20,\), \(19,\)"):
        plots.plot_null_band(wrong, ax=ax)


def test_the_band_of_a_spectrum_holds_90_percent_of_the_bars_of_noise(ax):
    rng = np.random.default_rng(11)
    draws = np.linalg.svd(rng.standard_normal((400, 60, 120)), compute_uv=False) ** 2 / 120
    law = MarchenkoPastur(0.5)
    plots.plot_spectrum(draws[0], law, ax=ax, band=draws[1:201], bins=15)
    stairs = ax.patches[-1].get_data()
    assert ax.patches[-1].get_label() == "R, 5 to 95 %"
    inside = (stairs.edges[:-1] >= law.edges[0]) & (stairs.edges[1:] <= law.edges[1] + 1e-9)
    width = stairs.edges[1] - stairs.edges[0]
    heights = np.array([np.histogram(draw, stairs.edges)[0] / 60 / width for draw in draws[201:]])
    held = (heights >= stairs.baseline - 1e-9) & (heights <= stairs.values + 1e-9)
    # Bars are whole counts, of which the band holds both ends: more than 90 %, not all.
    assert 0.88 < held[:, inside].mean() < 0.985
    middle = (stairs.edges[1:] + stairs.edges[:-1])[inside] / 2
    assert np.all((stairs.baseline[inside] < law.pdf(middle)) & (law.pdf(middle) < stairs.values[inside]))


@pytest.mark.parametrize("shape", [(50,), (19, 50), (2, 20, 50)])
def test_a_band_needs_enough_draws(ax, shape):
    with pytest.raises(ValueError, match=r"band must be \(draw, K\), 20 draws or more"):
        plots.plot_spectrum([1.0], MarchenkoPastur(0.5), ax=ax, band=np.ones(shape))


@pytest.mark.parametrize(
    ("law", "name", "unit"),
    [
        (MarchenkoPastur(1.0), "Marchenko-Pastur", "eigenvalue"),
        (MarchenkoPasturSingular(1.0), "Marchenko-Pastur", "singular value"),
        (VarianceProfile([[1.0, 0.0], [4.0, 1.0]]), "variance profile", "eigenvalue"),
    ],
)
def test_any_law_with_density_edges_and_atom_is_drawn(ax, law, name, unit):
    values = law.ppf(np.linspace(0.001, 0.999, 400))
    drawn(plots.plot_spectrum([*values, 1.2 * law.edges[1]], law, ax=ax))
    curve = lines(ax)[name]
    x, y = curve.get_data()
    assert_allclose([x[0], x[-1]], law.edges, atol=1e-12)
    assert_allclose(y, law.pdf(x))
    assert ax.get_xlabel() == unit
    ticks = next(line for line in ax.get_lines() if line.get_marker() == "|")
    assert_allclose(ticks.get_xdata(), [1.2 * law.edges[1]])
    # The density is infinite at 0, or nearly: it does not squash the bars.
    bars = ax.patches[0].get_xy()[:, 1].max()
    assert bars < ax.get_ylim()[1] < 2 * bars


def test_a_narrow_bulk_fills_the_axis_and_small_values_stay_in_it(ax):
    law = MarchenkoPastur(0.0025)
    values = law.ppf(np.linspace(0.01, 0.99, 50))
    plots.plot_spectrum(values, law, ax=ax)
    width = law.edges[1] - law.edges[0]
    assert ax.get_xlim()[1] - ax.get_xlim()[0] < 2.5 * width
    other = Figure().subplots()
    plots.plot_spectrum([0.3, *values], law, ax=other)
    assert other.get_xlim()[0] < 0.3


@pytest.mark.parametrize("values", [[0.0], [0.0] * 30, [2.0], [1e300, 1.0]])
def test_degenerate_spectra_are_drawn(ax, values):
    drawn(plots.plot_spectrum(values, MarchenkoPastur(0.5), ax=ax))
    assert np.isfinite(ax.get_ylim()).all()


def test_spacings_lie_over_wigner_poisson_and_the_fitted_brody_law(ax):
    spacings = WignerSurmise().sample((4, 5000), np.random.default_rng(2))
    assert plots.plot_spacings(spacings, ax=ax, brody=0.8, label="W") is ax
    laws = {"Wigner surmise": WignerSurmise(), "Poisson": PoissonSpacing(), "Brody, parameter 0.80": Brody(0.8)}
    assert list(lines(ax)) == list(laws)
    for name, law in laws.items():
        x, y = lines(ax)[name].get_data()
        assert_allclose(y, law.pdf(x))
    outline = ax.patches[0].get_xy()
    middle = np.unique(outline[:, 0])[:-1] + np.diff(np.unique(outline[:, 0])) / 2
    heights = np.interp(middle, outline[: len(outline) // 2, 0], outline[: len(outline) // 2, 1])
    assert_allclose(heights, WignerSurmise().pdf(middle), atol=0.06)
    assert ax.patches[0].get_label() == "W"


def test_spacings_beyond_the_axis_are_counted_and_weigh(ax):
    plots.plot_spacings([0.5] * 6 + [5.0, 9.0], ax=ax, bins=4)
    assert texts(ax) == ["2 beyond,\nup to 9"]
    assert_allclose(ax.patches[0].get_xy()[:, 1].max(), 6 / 8)


def test_an_infinite_brody_density_sets_no_limit(ax):
    drawn(plots.plot_spacings([0.1, 0.5, 2.0], ax=ax, brody=-0.5, bins=8))
    assert ax.get_ylim()[1] < 2


@pytest.mark.parametrize("values", [[], [1.0, np.nan], [-0.1], [np.inf]])
def test_spacings_that_cannot_be_are_refused(ax, values):
    with pytest.raises(ValueError, match="spacings must be finite and not negative, one at least"):
        plots.plot_spacings(values, ax=ax)


def test_number_variance_lies_over_goe_and_poisson(ax):
    lengths, value, error = np.array([0.5, 1.0, 5.0]), np.array([0.3, np.nan, 0.7]), np.array([0.1, 0.1, 0.2])
    drawn(plots.plot_number_variance(lengths, value, ax=ax, error=error, label="W"))
    x, y = lines(ax)["GOE"].get_data()
    # Mehta's law of long intervals.
    far = 2 / math.pi**2 * (math.log(2 * math.pi * 5) + np.euler_gamma + 1 - math.pi**2 / 8)
    assert_allclose([x[-1], y[-1]], [5, far], rtol=1e-3)
    assert_allclose(*lines(ax)["Poisson"].get_data())
    (container,) = ax.containers
    assert_allclose(container.lines[0].get_ydata(), value)
    bars = [path.vertices[:, 1] for path in container.lines[2][0].get_paths()]
    assert_allclose(bars, [[0.2, 0.4], [np.nan, np.nan], [0.5, 0.9]])
    assert ax.get_ylim()[1] < 1.5


def test_number_variance_of_wrong_shape_or_without_values_is_refused(ax):
    with pytest.raises(ValueError, match="lengths, value and error must be"):
        plots.plot_number_variance([1.0, 2.0], [1.0], ax=ax)
    with pytest.raises(ValueError, match="lengths, value and error must be"):
        plots.plot_number_variance([1.0, 2.0], [1.0, 1.0], ax=ax, error=[1.0])
    with pytest.raises(ValueError, match="value must be finite"):
        plots.plot_number_variance([1.0], [np.nan], ax=ax)


def test_hill_plots_have_a_standard_error_and_the_band_of_noise(ax):
    k, index = np.arange(1, 101), np.full(100, 3.0)
    index[0], index[1] = np.inf, 1e6
    noise = np.linspace(4, 5, 21)[:, None] * np.ones(100)
    drawn(plots.plot_hill(k, index, ax=ax, band=noise))
    (line,) = lines(ax).values()
    assert_allclose(line.get_ydata()[1:], index[1:])
    assert np.isnan(line.get_ydata()[0])
    grey, error = bands(ax)
    assert_allclose(between(grey, 50), (4.05, 4.95))
    assert_allclose(between(error, 25), (3 - 3 / 5, 3 + 3 / 5))
    assert 5 < ax.get_ylim()[1] < 10


@pytest.mark.parametrize("index", [[np.inf], [np.nan, 0.0], [0.0]])
def test_hill_plots_need_one_index(ax, index):
    with pytest.raises(ValueError, match="do all values coincide"):
        plots.plot_hill(range(1, len(index) + 1), index, ax=ax)


def test_hill_plots_of_wrong_shape_are_refused(ax):
    with pytest.raises(ValueError, match=r"k and index must be \(n,\)"):
        plots.plot_hill([1, 2], [1.0], ax=ax)
    with pytest.raises(ValueError, match=r"band must be \(draw, 2\), 20 draws or more, got shape \(20, 3\)"):
        plots.plot_hill([1, 2], [1.0, 2.0], ax=ax, band=np.ones((20, 3)))


@pytest.fixture
def departing(results) -> xr.Dataset:
    """Results whose largest singular values grow from step 10 on, those of dense ip1 in both seeds."""
    over = ("run", "layer", "step")
    shape = results["variance"].shape
    p = xr.DataArray(np.full(shape, 0.5), coords=results["variance"].coords, dims=over)
    p.loc[{"run": ["b1-seed0", "b1-seed1"], "step": [10, 100]}] = 0.001
    p.loc[{"run": "b2-seed0", "step": 100}] = 0.001
    first = xr.full_like(p.isel(step=0, drop=True), np.nan)
    first.loc[{"run": ["b1-seed0", "b1-seed1"]}] = [[10], [100]]
    first.loc[{"run": "b2-seed0"}] = 100
    sigma = results["singular_values"]
    return results.assign(
        largest_ratio=results["singular_value_ratio"].max("order"),
        largest_p=p,
        smallest_p=1 - p,
        smallest_singular_value=sigma.min("order"),
        first_departure=first,
    )


def marks(ax: Axes, marker: str) -> list[np.ndarray]:
    return [
        line.get_xydata()
        for line in ax.get_lines()
        if line.get_marker() == marker and line.get_linestyle() == "None" and line.get_label().startswith("_")
    ]


def rules(ax: Axes) -> list:
    return [line for line in ax.get_lines() if len(line.get_xdata()) == 2 and np.ptp(line.get_xdata()) == 0]


def test_extremes_are_marked_where_all_runs_of_a_line_leave_noise(departing, ax):
    assert plots.plot_extremes(departing, layer="ip1", ax=ax) is ax
    assert list(lines(ax)) == ["R", "b = 1", "b = 2", "b = 4", "largest: p < 0.01", "first departure"]
    means = ip1_of(departing, "largest_ratio", 1).mean("run").values
    assert_allclose(lines(ax)["b = 1"].get_ydata(), means)
    dense, two, four = marks(ax, "^")
    assert_allclose(dense, np.column_stack([[10, 100], means[1:]]))
    assert two.size == four.size == 0
    (rule,) = rules(ax)
    assert rule.get_xdata()[0] == 100
    assert to_rgb(rule.get_color()) == to_rgb(lines(ax)["b = 1"].get_color())


def test_extremes_of_single_runs(departing, ax):
    plots.plot_extremes(departing, layer="ip1", ax=ax, label="{run}", level=1e-4)
    assert all(len(part) == 0 for part in marks(ax, "^"))
    assert sorted(rule.get_xdata()[0] for rule in rules(ax)) == [10, 100, 100]
    assert "largest: p < 0.0001" in lines(ax)


def test_smallest_singular_values_are_over_rs(departing, ax):
    plots.plot_extremes(departing, layer="ip1", ax=ax, ends=("smallest",), label="{run}")
    ratio = departing["singular_value_ratio"].sel(layer="ip1", run="b4-seed1").isel(order=-1)
    assert_allclose(lines(ax)["b4-seed1"].get_ydata(), ratio)
    assert rules(ax) == []
    old = plots.plot_extremes(departing.drop_vars("first_departure"), layer="ip1", ax=Figure().subplots())
    assert rules(old) == []
    both = drawn(plots.plot_extremes(departing, layer="ip1", ax=Figure().subplots(), ends=("largest", "smallest")))
    assert [name for name in lines(both) if "p <" in name] == ["largest: p < 0.01", "smallest: p < 0.01"]
    assert len(marks(both, "^")) == len(marks(both, "v")) == 3


def test_extremes_without_a_p_value_are_not_marked(departing, ax):
    departing["largest_p"].loc[{"run": "b1-seed1", "step": 10}] = np.nan
    drawn(plots.plot_extremes(departing.isel(step=[1]), layer="ip1", ax=ax))
    assert all(len(part) == 0 for part in marks(ax, "^"))


def test_extremes_need_their_variables_and_ends(departing, ax):
    with pytest.raises(ValueError, match="results hold no largest_p: write them with rmtnet analyze"):
        plots.plot_extremes(departing.drop_vars("largest_p"), layer="ip1", ax=ax)
    with pytest.raises(ValueError, match="results hold no null_mean"):
        plots.plot_extremes(departing.drop_vars("null_mean"), layer="ip1", ax=ax, ends=["smallest"])
    for ends in ((), ("widest",)):
        with pytest.raises(ValueError, match="ends must be 'largest', 'smallest' or both"):
            plots.plot_extremes(departing, layer="ip1", ax=ax, ends=ends)


def budget_of(change, update, covariance) -> xr.Dataset:
    terms = {"variance_change": change, "update_variance": update, "covariance_term": covariance}
    steps = np.arange(len(change)) * 10
    return xr.Dataset({name: ("step", np.asarray(term, dtype=float)) for name, term in terms.items()}, {"step": steps})


def test_budget_terms_of_both_signs_are_readable(ax):
    terms = budget_of([np.nan, 3e-5, -1e-6, 0.0], [np.nan, 1e-7, 2e-7, 0.0], [np.nan, 2.99e-5, -1.2e-6, 0.0])
    assert plots.plot_variance_budget(terms, ax=ax) is ax
    change, update, covariance = lines(ax).values()
    assert_allclose(change.get_xydata(), [[10, 3e-5], [20, -1e-6], [30, 0]])
    assert_allclose(update.get_ydata(), [1e-7, 2e-7, 0])
    assert_allclose(covariance.get_ydata(), [2.99e-5, -1.2e-6, 0])
    assert ax.get_yscale() == "symlog"
    assert ax.yaxis.get_transform().linthresh == pytest.approx(1e-7)
    bottom, top = drawn(ax).get_ylim()
    assert bottom < -1.2e-6 and top > 3e-5


def test_budget_may_be_summed(ax):
    terms = budget_of([np.nan, 1.0, -0.5, 2.0], [np.nan, 1, 1, 1], [np.nan, 0, -1.5, 1])
    plots.plot_variance_budget(terms, ax=ax, cumulative=True)
    change, update, covariance = lines(ax).values()
    assert_allclose(change.get_xydata(), [[10, 1], [20, 0.5], [30, 2.5]])
    assert_allclose(change.get_ydata(), update.get_ydata() + covariance.get_ydata())


@pytest.mark.parametrize("size", [0.0, 1e-300, 1e-250, 1.0, 1e290])
def test_budgets_of_one_step_or_of_zeros_are_drawn(ax, size):
    drawn(plots.plot_variance_budget(budget_of([np.nan, size], [np.nan, size], [np.nan, 0.0]), ax=ax))
    assert ax.get_yscale() == ("symlog" if size > 1e-280 else "linear")


def test_budget_is_of_one_run_and_layer(ax):
    of_layers = budget_of([0.0, 1.0], [0.0, 2.0], [0.0, -1.0]).expand_dims(run=["a"], layer=["ip1"])
    plots.plot_variance_budget(of_layers, ax=ax, layer="ip1")
    assert "ip1" in ax.get_ylabel()
    with pytest.raises(ValueError, match="2 runs: choose one, as by results"):
        plots.plot_variance_budget(xr.concat([of_layers, of_layers], "run"), ax=ax, layer="ip1")
    for layer in (None, "ip3"):
        with pytest.raises(ValueError, match="there is ip1"):
            plots.plot_variance_budget(of_layers, ax=ax, layer=layer)
    with pytest.raises(ValueError, match="results hold no covariance_term"):
        plots.plot_variance_budget(of_layers.drop_vars("covariance_term"), ax=ax, layer="ip1")
    with pytest.raises(ValueError, match="no step has a variance budget"):
        plots.plot_variance_budget(of_layers * np.nan, ax=ax, layer="ip1")


def layers_over(steps, count: int = 4, **values) -> xr.Dataset:
    over = ("layer", "step")
    default = np.arange(count * len(steps), dtype=float).reshape(count, -1)
    names = [f"encoder.layer.{index}.attention.output" for index in range(count)]
    variables = {"spikes": (over, default, {"long_name": "singular values above noise"})}
    return xr.Dataset(
        variables | {name: (over, value) for name, value in values.items()}, {"layer": names, "step": steps}
    )


def mesh_of(ax: Axes):
    (mesh,) = (part for part in ax.collections if not isinstance(part, PolyCollection))
    return mesh


def colour_bar(ax: Axes) -> Axes:
    (other,) = (axes for axes in ax.figure.axes if axes is not ax)
    return other


def test_phases_have_layers_down_and_steps_at_their_places(ax):
    results = layers_over([0, 10, 40])
    assert plots.plot_phases(results, value="spikes", ax=ax) is ax
    corners = mesh_of(ax).get_coordinates()
    assert_allclose(corners[0, :, 0], [-5, 5, 25, 55])
    assert_allclose(corners[:, 0, 1], [-0.5, 0.5, 1.5, 2.5, 3.5])
    assert_allclose(mesh_of(ax).get_array(), results["spikes"].values)
    assert ax.get_ylim() == (3.5, -0.5)
    assert colour_bar(drawn(ax)).get_ylabel() == "singular values above noise"
    assert ax.get_yticklabels()[0].get_text() == "encoder.layer.0.attention.output"
    assert ax.get_legend_handles_labels() == ([], [])


def test_phases_over_logarithmic_steps_begin_at_0(ax):
    drawn(plots.plot_phases(layers_over([0, 1, 10, 100]), value="spikes", ax=ax, log_steps=True))
    edges = mesh_of(ax).get_coordinates()[0, :, 0]
    assert_allclose(edges[2:4], [math.sqrt(10), math.sqrt(1000)])
    assert edges[0] < 0 < edges[1] < 1


@pytest.mark.parametrize("log_steps", [False, True])
@pytest.mark.parametrize("steps", [[0], [50], [0, 1]])
def test_phases_of_one_or_two_steps_are_drawn(ax, steps, log_steps):
    drawn(plots.plot_phases(layers_over(steps), value="spikes", ax=ax, log_steps=log_steps))
    low, high = ax.get_xlim()
    assert low < steps[0] and high > steps[-1]


def test_missing_values_are_hatched_and_can_be_named(ax):
    results = layers_over([0, 10, 40])
    results["spikes"][1, 2] = np.nan
    drawn(plots.plot_phases(results, value="spikes", ax=ax))
    assert np.ma.getmaskarray(mesh_of(ax).get_array()).sum() == 1
    handles, labels = ax.get_legend_handles_labels()
    assert labels == ["no value"]
    assert handles[0].get_hatch()
    assert handles[0].get_zorder() < mesh_of(ax).get_zorder() + 1


def test_p_values_are_shown_by_their_logarithm_down_to_1e_10(ax):
    p = np.array([[1.0, 1e-4], [1e-200, 0.0]])
    drawn(plots.plot_phases(layers_over([0, 1], 2, largest_p=p), value="largest_p", ax=ax))
    assert_allclose(mesh_of(ax).get_array(), [[0, 4], [200, 300]], atol=1e-12)
    assert mesh_of(ax).get_clim() == (0, 10)
    assert colour_bar(ax).get_ylabel() == "$-\\log_{10}$ largest_p"


def test_stable_rank_is_over_the_number_of_singular_values(ax):
    results = layers_over([0, 1], 2, stable_rank=np.array([[10.0, 5.0], [12.0, 6.0]]))
    results = results.assign({name: ("layer", value) for name, value in _sizes().items()})
    plots.plot_phases(results, value="stable_rank", ax=ax)
    assert_allclose(mesh_of(ax).get_array(), [[0.5, 0.25], [0.4, 0.2]])
    with pytest.raises(ValueError, match="results hold no m"):
        plots.plot_phases(results.drop_vars("m"), value="stable_rank", ax=ax)


def _sizes() -> dict[str, list[int]]:
    return {"blocks": [1, 5], "m": [20, 6], "n": [32, 9]}


def test_a_gigantic_value_does_not_hide_the_rest_of_a_robust_picture(ax):
    results = layers_over(np.arange(100), 10)
    results["spikes"][0, 0] = 1e9
    plots.plot_phases(results, value="spikes", ax=ax, robust=True)
    assert mesh_of(ax).get_clim()[1] < 1000
    assert_allclose(mesh_of(ax).get_clim(), np.quantile(results["spikes"], [0.02, 0.98]))


def test_a_norm_of_the_callers_is_kept(ax):
    drawn(plots.plot_phases(layers_over([0, 1]) + 1, value="spikes", ax=ax, norm=LogNorm(1, 4), cmap="magma"))
    assert isinstance(mesh_of(ax).norm, LogNorm)
    assert mesh_of(ax).get_clim() == (1, 4)
    assert mesh_of(ax).get_cmap().name == "magma"


@pytest.mark.parametrize("height", [1.5, 3, 8])
def test_names_of_40_layers_do_not_overlap(height):
    figure = Figure(figsize=(5, height), layout="constrained")
    ax = drawn(plots.plot_phases(layers_over([0, 1, 2], 40), value="spikes", ax=figure.subplots()))
    renderer = FigureCanvasAgg(figure).get_renderer()
    names = [name for name in ax.get_yticklabels() if name.get_text()]
    boxes = [name.get_window_extent(renderer) for name in names]
    assert not any(a.overlaps(b) for a, b in itertools.pairwise(boxes))
    assert len(names) >= min(40, 3 * height)
    for name in names:
        assert name.get_text() == f"encoder.layer.{round(name.get_position()[1])}.attention.output"


def test_phases_need_one_run_and_a_statistic(ax):
    results = layers_over([0, 1])
    with pytest.raises(ValueError, match="results hold no alpha: write them with rmtnet analyze"):
        plots.plot_phases(results, value="alpha", ax=ax)
    with pytest.raises(ValueError, match="3 runs: choose one"):
        plots.plot_phases(xr.concat([results] * 3, "run"), value="spikes", ax=ax)
    with pytest.raises(ValueError, match=r"over \(layer, step\), got 'first'"):
        plots.plot_phases(results.assign(first=("layer", np.ones(4))), value="first", ax=ax)
    with pytest.raises(ValueError, match="no layer has a spikes"):
        plots.plot_phases(results * np.nan, value="spikes", ax=ax)
    plots.plot_phases(results.expand_dims(run=["only"]), value="spikes", ax=ax)


def test_a_scale_of_the_callers_is_kept(results, ax):
    ax.set_xscale("symlog")
    locator = ax.xaxis.get_major_locator()
    plots.plot_variance(results, layer="ip1", ax=ax)
    assert ax.xaxis.get_major_locator() is locator


def test_one_step_has_one_whole_tick(results, ax):
    plots.plot_variance(results.sel(step=[10]), layer="ip1", ax=ax)
    low, high = drawn(ax).get_xlim()
    assert [tick for tick in ax.get_xticks() if low <= tick <= high] == [10]


def pictures() -> dict:
    return runpy.run_path(str(DOCS / "plots.py"))["PICTURES"]


def test_the_example_of_the_page_runs_as_it_stands(results, tmp_path, monkeypatch):
    write(results, tmp_path / "results.nc")
    example = re.findall(r"```python\n(.*?)```", (DOCS / "plots.md").read_text(), flags=re.DOTALL)[0]
    monkeypatch.chdir(tmp_path)
    exec(example, {})
    assert (tmp_path / "ratio.png").stat().st_size > 1000


def test_the_page_shows_every_plot_and_every_picture():
    page = (DOCS / "plots.md").read_text()
    assert sorted(re.findall(r"images/plot_(\w+)\.png", page)) == sorted(pictures())
    source = page + (DOCS / "plots.py").read_text()
    assert [name for name in plots.__all__ if name.startswith("plot_") and name not in source] == []


def written(axes: Axes) -> list:
    """Labels, notes and the ticks in view."""
    found = [axes.xaxis.label, axes.yaxis.label, *axes.texts]
    for axis in (axes.xaxis, axes.yaxis):
        low, high = sorted(axis.get_view_interval())
        ticks = zip(axis.get_majorticklocs(), axis.get_majorticklabels(), strict=True)
        found += [label for place, label in ticks if low <= place <= high]
    return [text for text in found if text.get_text()]


@pytest.mark.slow
def test_nothing_written_in_a_picture_of_the_page_is_cut_off():
    for name, draw in pictures().items():
        with publish.paper_style():
            figure = Figure(figsize=(4, 2.8), layout="constrained")
            draw(figure.subplots())
            renderer = FigureCanvasAgg(figure).get_renderer()
            figure.draw(renderer)
        room = figure.bbox.padded(1)
        for text in itertools.chain.from_iterable(map(written, figure.axes)):
            box = text.get_window_extent(renderer)
            assert all(room.contains(*corner) for corner in (box.min, box.max)), (name, text)


def test_plots_load_no_pyplot():
    code = "import rmtnet.plots, rmtnet.publish, sys; sys.exit('matplotlib.pyplot' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
