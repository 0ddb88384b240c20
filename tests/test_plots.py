import subprocess
import sys

import numpy as np
import pytest
import xarray as xr
from matplotlib.axes import Axes
from matplotlib.collections import PolyCollection
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure
from numpy.testing import assert_allclose

from rmtnet import plots
from rmtnet.laws import MarchenkoPastur

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


def test_plots_load_no_pyplot():
    code = "import rmtnet.plots, rmtnet.publish, sys; sys.exit('matplotlib.pyplot' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
