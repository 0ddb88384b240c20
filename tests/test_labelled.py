import numpy as np
import pytest
import scipy.linalg
import xarray as xr
from numpy.testing import assert_allclose
from test_analysis import few_draws  # noqa: F401

from rmtnet import budget, bulk, edges, labelled, local, measures, nulls, sisters, tails, trends

RNG = np.random.default_rng(0)
SHAPE = {"out": 10, "width": 16}


@pytest.fixture(scope="module")
def weight() -> xr.DataArray:
    blocks = RNG.normal(scale=0.5, size=(3, 4, 10, 16))
    return xr.DataArray(blocks, dims=("step", "block", "out", "in"), coords={"step": [0, 5, 50]}, name="ip1")


def test_singular_values_are_per_block_and_labelled(weight):
    values = labelled.singular_values(weight)
    assert values.dims == ("step", "block", "order")
    assert list(values["order"].values) == list(range(1, 11))
    assert_allclose(values.sel(step=5, block=2), scipy.linalg.svdvals(weight.sel(step=5, block=2)), rtol=1e-12)


def test_a_spectrum_holds_what_the_block_diagonal_matrix_has(weight):
    spectrum = labelled.spectrum(weight)
    for step in weight["step"].values:
        at = spectrum.sel(step=step)
        matrix = scipy.linalg.block_diag(*weight.sel(step=step).values)
        exact = scipy.linalg.svdvals(matrix)[:40]
        assert_allclose(at["singular_values"], exact, rtol=1e-12)
        assert at["largest_singular_value"] == pytest.approx(exact[0])
        assert at["smallest_singular_value"] == pytest.approx(exact[-1])
        assert at["variance"] == pytest.approx(weight.sel(step=step).values.var())
    assert set(spectrum["block"].values.ravel()) == {0, 1, 2, 3}


def test_the_bulk_fit_recovers_the_variance_of_noise(weight):
    fits = labelled.spectrum(weight)
    entries = weight[0].size
    # The fit has about the spread of the sampled variance, sqrt(2 / entries); blocks this small bias it a little.
    assert_allclose(fits["bulk_variance"], 0.25, rtol=5 * (2 / entries) ** 0.5 + 0.02)
    assert (fits["bulk_ks"] < 0.2).all()


def test_a_layer_and_its_transpose_have_the_same_spectrum_and_fit(weight):
    turned = weight.rename({"out": "in", "in": "out"}).transpose("step", "block", "out", "in")
    for name, values in labelled.spectrum(weight).items():
        if name != "block":
            assert_allclose(labelled.spectrum(turned)[name], values, rtol=1e-9)


@pytest.mark.parametrize("matrix", [np.zeros((10, 16)), np.outer(np.ones(10), np.ones(16))])
def test_a_layer_without_bulk_has_no_bulk_variance(matrix):
    weight = xr.DataArray(matrix[None, None], dims=("step", "block", "out", "in"), coords={"step": [0]})
    spectrum = labelled.spectrum(weight)
    for name in ("bulk_variance", "bulk_variance_error", "bulk_ks", "mp_softrank", "alpha"):
        assert np.isnan(spectrum[name].item()), name
    assert spectrum["largest_singular_value"].item() == pytest.approx(np.linalg.norm(matrix), abs=1e-12)


def test_comparison_with_the_null_takes_the_reference_variance_at_each_step(weight):
    spectrum = labelled.spectrum(weight)
    reference = xr.DataArray([0.25, 1.0, np.nan], dims="step", coords={"step": [0, 5, 50]})
    against = labelled.against_null(spectrum, reference, (1, 40, 64))
    null = nulls.ordered_null(1, 40, 64)
    ratio = spectrum["singular_values"].sel(step=5).values / null.mean
    assert_allclose(against["singular_value_ratio"].sel(step=5), ratio)
    assert_allclose(against["singular_value_ratio"].sel(step=0), spectrum["singular_values"][0] / (0.5 * null.mean))
    assert_allclose(against["mean_deviation"].sel(step=5), np.abs(1 - ratio).mean())
    assert_allclose(against["largest_ratio"].sel(step=5), ratio[0])
    assert np.isnan(against["mean_deviation"].sel(step=50))
    assert (against["null_low"] < 1).all()
    assert (against["null_high"] > 1).all()


def test_variance_ratio_is_aligned_by_step():
    variance = xr.DataArray([10.0, 20.0], dims="step", coords={"step": [0, 5]})
    reference = xr.DataArray([2.0, 1.0], dims="step", coords={"step": [0, 5]})
    assert_allclose(labelled.variance_ratio(variance, reference), [5, 20])


def stacks(draws):
    return xr.DataArray(draws, dims=("step", "block", "out", "in"), coords={"step": np.arange(len(draws))})


def test_extremes_are_those_of_each_step_by_itself():
    draws = RNG.normal(size=(5, 4, 10, 16)) * np.array([1, 2, 3, 4])[:, None, None]
    draws[1, 2] += 8 * np.outer(np.ones(10), np.ones(16)) / 160**0.5 * 4
    draws[3] = 0
    values = labelled.singular_values(stacks(draws))
    kurtosis = xr.DataArray([3.0, 2.9, 2.1, np.nan, 1.8], dims="step")
    found = labelled.extremes(values, **SHAPE, kurtosis=kurtosis)
    for step, rounded in ((0, 3.0), (1, 3.0), (2, 2.2), (4, 1.8)):
        for end in ("largest", "smallest"):
            alone = edges.extreme(values[step], 10, 16, end=end, kurtosis=rounded).p_value
            assert found[f"{end}_p"][step] == pytest.approx(alone, rel=1e-9)
    assert found["largest_p"][1] < 0.005
    assert_allclose(found["spikes"], [0, 1, 0, np.nan, 0])
    assert np.isnan(found["largest_p"][3])


@pytest.mark.parametrize("law", ["normal", "uniform"])
def test_noise_in_blocks_of_unequal_scale_is_rejected_as_often_as_said(law):
    draw = np.random.default_rng(3)
    noise = draw.normal(size=(2000, 4, 6, 8)) if law == "normal" else draw.uniform(-1, 1, size=(2000, 4, 6, 8))
    weight = stacks(noise * np.array([1, 2, 5, 0.1])[:, None, None])
    values = labelled.singular_values(weight)
    found = labelled.extremes(values, out=6, width=8, kurtosis=labelled.kurtosis(weight))
    for name in ("largest_p", "smallest_p"):
        # Four standard errors of 2,000 layers, and half a per cent for 5,000 draws of the null.
        assert abs(float((found[name] <= 0.05).mean()) - 0.05) < 4 * (0.05 * 0.95 / 2000) ** 0.5 + 0.005
    assert float((found["spikes"] > 0).mean()) < 0.01 + 4 * (0.01 / 2000) ** 0.5 + 0.003


def test_kurtosis_is_that_of_each_block():
    draws = np.random.default_rng(4).uniform(-1, 1, size=(2, 3, 40, 50)) * np.array([1, 10, 0])[:, None, None]
    # Uniform 1.8; (E x^8 - (E x^4)^2) / (E x^2)^4 = 5.76 for each of 4,000 entries.
    assert_allclose(labelled.kurtosis(stacks(draws)), 1.8, atol=5 * (5.76 / 4000) ** 0.5)
    assert labelled.kurtosis(stacks(0 * draws)).isnull().all()


def test_the_fit_of_the_bulk_has_its_error(weight):
    spectrum = labelled.spectrum(weight)
    for step in weight["step"].values:
        at = spectrum.sel(step=step)
        values = at["singular_values"].values ** 2 / 16
        fit = bulk.fit_bulk(values, 10 / 16, blocks=4, kurtosis=at["kurtosis"].item())
        assert at["bulk_variance_error"] == pytest.approx(fit.standard_error)
        assert at["mp_softrank"] == pytest.approx(fit.law.edges[1] / values[0])
        assert at["alpha"] == pytest.approx(tails.fit_power_law(values).alpha)
        assert at["effective_rank"] == pytest.approx(float(measures.effective_rank(at["singular_values"].values)))


def test_ranks_are_those_of_the_block_diagonal_matrix():
    draws = RNG.normal(size=(1, 3, 6, 9))
    draws[0, 1, 3:] = 0
    draws[0, 2] = 0
    found = labelled.spectrum(stacks(draws))
    matrix = scipy.linalg.block_diag(*draws[0])
    assert found["hard_rank"] == np.linalg.matrix_rank(matrix) == 9
    assert found["stable_rank"].item() == pytest.approx((matrix**2).sum() / np.linalg.norm(matrix, 2) ** 2)


def test_level_statistics_are_those_of_each_step(weight):
    values = labelled.singular_values(weight)
    found = labelled.level_statistics(values, trim=0.1)
    for step in weight["step"].values:
        ratio = local.gap_ratio(values.sel(step=step).values, trim=0.1)
        brody = local.fit_brody(local.spacings(local.unfold_local(values.sel(step=step).values), trim=0.1))
        at = found.sel(step=step)
        assert (at["gap_ratio"], at["gap_ratio_error"]) == pytest.approx((ratio.mean, ratio.standard_error))
        assert (at["brody"], at["brody_error"]) == pytest.approx((brody.parameter, brody.standard_error))
    assert labelled.level_statistics(values[..., :2]).to_array().isnull().all()


def test_heavy_tails_are_told_from_noise():
    rng = np.random.default_rng(5)
    left, _, right = np.linalg.svd(rng.normal(size=(1, 1, 60, 90)), full_matrices=False)
    heavy = left * np.sqrt(np.sort(rng.pareto(1.0, size=60) + 1)[::-1]) @ right
    weight = stacks(np.concatenate([rng.normal(size=(1, 1, 60, 90)), heavy]))
    found = labelled.tail_assessments(weight, labelled.singular_values(weight))
    assert_allclose(found["heavy_tailed"], [0, 1])
    assert found["tail_p"][1] == 0.01
    assert (found["alpha_low"] < found["alpha_high"]).all()
    assert found["alpha_low"][1] < 2 < found["alpha_high"][1]
    xr.testing.assert_identical(found, labelled.tail_assessments(weight, labelled.singular_values(weight)))


def test_the_variance_budget_ends_before_the_last_step(weight):
    found = labelled.variance_budget(weight)
    exact = budget.variance_budget(weight.values)
    for name, term in (("variance_change", exact.change), ("covariance_term", exact.covariance_term)):
        assert np.isnan(found[name][-1])
        assert_allclose(found[name][:-1], term)
    assert_allclose(found["update_variance"] + found["covariance_term"], found["variance_change"])
    assert labelled.variance_budget(weight[:1]).to_array().isnull().all()


def test_the_budget_of_one_step_comes_from_recorded_moments(weight):
    before, update = weight[:-1].values, np.diff(weight.values, axis=0)
    steps = range(len(update))
    moments = xr.Dataset(
        {
            "var_dw": ("step", [update[k].var() for k in steps]),
            "cov_w_dw": ("step", [np.cov(before[k].ravel(), update[k].ravel(), ddof=0)[0, 1] for k in steps]),
        },
        coords={"step": weight["step"][:-1]},
    )
    xr.testing.assert_allclose(labelled.step_budget(moments), labelled.variance_budget(weight)[{"step": slice(2)}])
    assert labelled.step_budget(moments.reindex(step=[50])).to_array().isnull().all()


def test_singular_values_alone_tell_what_does_not_need_the_entries(weight):
    shifted = weight + 0.3
    values = labelled.singular_values(shifted)
    alone, whole = labelled.spectrum_of_values(values, **SHAPE, dtype="float64"), labelled.spectrum(shifted)
    assert {*alone} == {*whole}
    assert_allclose(alone["second_moment"], (shifted.values**2).mean(axis=(1, 2, 3)), rtol=1e-12)
    assert_allclose(whole["second_moment"], alone["second_moment"], rtol=1e-12)
    unknown = {"variance", "fourth_moment", "variance_error", "kurtosis"}
    assert all(alone[name].isnull().all() for name in unknown)
    of_noise = {"noise_kurtosis", "bulk_variance_error", "largest_p", "smallest_p", "spikes"}
    for name in {*whole} - unknown - of_noise:
        xr.testing.assert_allclose(alone[name], whole[name])
    assert_allclose(alone["noise_kurtosis"], 3)
    xr.testing.assert_allclose(alone[["largest_p", "smallest_p", "spikes"]], labelled.extremes(values, **SHAPE))
    for step in weight["step"].values:
        eigenvalues = alone["singular_values"].sel(step=step).values ** 2 / 16
        fit = bulk.fit_bulk(eigenvalues, 10 / 16, blocks=4, kurtosis=3)
        assert alone["bulk_variance_error"].sel(step=step) == pytest.approx(fit.standard_error)
    assert labelled.spectrum_of_values(0 * values, **SHAPE)["noise_kurtosis"].isnull().all()


def test_unknown_entries_are_gaussian_of_the_scale_of_each_block(weight):
    scaled = weight * np.array([1, 2, 0, 10])[:, None, None]
    drawn = labelled.gaussian_entries(labelled.singular_values(scaled), **SHAPE)
    assert drawn.dims == weight.dims
    # Of 160 Gaussian entries, a variance has a relative error of 11 %.
    assert_allclose((drawn**2).mean(["out", "in"]), (scaled**2).mean(["out", "in"]), rtol=0.5)
    far = np.random.default_rng(0).normal(size=(1, 2, 60, 80)) * np.array([1, 5])[:, None, None]
    drawn = labelled.gaussian_entries(labelled.singular_values(stacks(far)), out=60, width=80)
    assert_allclose(labelled.kurtosis(drawn), 3, atol=5 * (24 / 9600) ** 0.5)


def test_variance_ratios_have_their_interval(weight):
    reference = weight * np.array([1.0, 0.5, 0.0])[:, None, None, None]
    found = labelled.variance_ratio_interval(labelled.entry_moments(weight), labelled.entry_moments(reference))
    exact = sisters.variance_ratio_interval(*(sisters.entry_moments(part.values) for part in (weight, reference)))
    assert_allclose(found["variance_ratio"], [1, 4, np.nan])
    assert_allclose(found["variance_ratio_low"], exact.low)
    assert_allclose(found["variance_ratio_high"], exact.high)
    shifted = labelled.entry_moments(weight + 1)
    found = labelled.variance_ratio_interval(labelled.about_zero(shifted), labelled.about_zero(shifted * 2))
    assert_allclose(found["variance_ratio"], 0.5)
    assert found[["variance_ratio_low", "variance_ratio_high"]].to_array().isnull().all()


def test_the_mean_deviation_of_noise_stands_beside_that_of_the_layer():
    deviation = xr.DataArray([0.0, 0.05, 10.0, np.nan], dims="step")
    kurtosis = xr.DataArray([3.0, 1.9, 3.1, 3.0], dims="step")
    found = labelled.mean_deviation_null(deviation, (4, 10, 20), reference=(1, 40, 80), kurtosis=kurtosis)
    null = {k: sisters.null_mean_deviation(4, 10, 20, reference=(1, 40, 80), kurtosis=k, draws=100) for k in (1.8, 3.0)}
    assert_allclose(found["mean_deviation_null"], [null[3.0].mean, null[1.8].mean, null[3.0].mean, np.nan])
    assert_allclose(found["mean_deviation_p"], [1, null[1.8].p_value(0.05), 1 / 101, np.nan])


def test_layers_leave_the_null_corrected_for_all_of_a_run():
    p = np.full((2, 3, 10), 0.5)
    p[0, 1, 4:], p[1, 2, 7], p[1, 0, 2] = 1e-6, 1e-4, 0.003
    p[0, 2] = np.nan
    series = xr.DataArray(p, dims=("run", "layer", "step"), coords={"step": np.arange(0, 100, 10)})
    # 0.003 is too much for one of 30 tests, and for one of 20.
    assert_allclose(labelled.first_departure(series), [[np.nan, 40, np.nan], [np.nan, np.nan, 70]])
    assert labelled.first_departure(series, consecutive=2).sel(run=1).isnull().all()


def test_drift_and_deterioration_loop_over_the_other_dims_and_leave_out_nan():
    steps = np.arange(0, 1000, 50)
    values = 10 * np.exp(-1e-4 * steps + 0.002 * np.random.default_rng(6).normal(size=(2, 20)))
    values[1, 3], empty = np.nan, np.full((1, 20), np.nan)
    ratio = xr.DataArray(np.concatenate([values, empty]), dims=("run", "step"), coords={"step": steps})
    fallen, line = labelled.deterioration(ratio), labelled.drift(np.log(ratio))
    known = np.isfinite(values[1])
    exact = trends.deterioration(steps[known], values[1, known])
    assert fallen["fall"][1] == exact.fall
    assert fallen["p_value"][1] == exact.drift.p_value == line["p_value"][1]
    assert line["slope"][1] == exact.drift.slope
    assert ((line["low"] < -1e-4) & (line["high"] > -1e-4))[:2].all()
    assert line["slope"][2].isnull()


def two_spikes(steps, rng):
    """Gaussian noise with a strong spike on one entry and a weak one on all, once in either of two blocks."""
    weight = rng.normal(size=(steps, 2, 100, 100))
    weight[:, 0, 3, 7] += 60
    weight[:, 1] += 16 * np.outer(np.ones(100), (-1.0) ** np.arange(100)) / 100
    weight[:, 0] += 16 * np.outer((-1.0) ** np.arange(100), np.ones(100)) / 100
    return stacks(weight)


def test_a_spike_on_one_entry_does_not_hide_another():
    weight = two_spikes(5, np.random.default_rng(7))
    found = labelled.spectrum(weight)
    assert (found["kurtosis"] > 100).all()
    # Of 20,000 Gaussian entries, 96 / n is the variance of E w^4 / (E w^2)^2 times 4.
    assert_allclose(found["noise_kurtosis"], 3, atol=5 * (24 / 20_000) ** 0.5)
    assert_allclose(found["spikes"], 3)
    assert_allclose(found["spikes"], [edges.spikes(part).count for part in weight.values])
    fits = [bulk.fit_noise(block).kurtosis for block in weight[0].values]
    assert found["noise_kurtosis"][0] == pytest.approx(np.mean(fits), rel=1e-9)


def test_the_kurtosis_of_the_noise_is_that_of_the_entries_where_nothing_stands_out(weight):
    values = labelled.singular_values(weight)
    assert all(bulk.fit_noise(block).outliers == 0 for step in weight.values for block in step)
    assert_allclose(labelled.noise_kurtosis(weight, values), labelled.kurtosis(weight), rtol=1e-12)
    assert_allclose(labelled.noise_kurtosis(1e160 * weight, 1e160 * values), labelled.kurtosis(weight), rtol=1e-12)
    assert labelled.noise_kurtosis(0 * weight, 0 * values).isnull().all()


def test_heavy_tailed_entries_are_no_spikes():
    weight = stacks(np.random.default_rng(8).standard_t(5, size=(600, 4, 10, 16)))
    values = labelled.singular_values(weight)
    kurtosis = labelled.noise_kurtosis(weight, values)
    found = labelled.extremes(values, out=10, width=16, kurtosis=kurtosis)
    # Less what stands out of their blocks, 11 % would have p <= 1 %.
    assert (found["largest_p"] <= 0.01).mean() < 0.03


def test_wrong_arguments_are_one_clear_error(weight):
    values = labelled.singular_values(weight)
    pooled = labelled.aggregate(values)["singular_values"]
    for message, call in {
        "draws must be at least 19, got 10": lambda: labelled.tail_assessments(weight, values, draws=10),
        "resamples must be at least 20, got 5": lambda: labelled.tail_assessments(weight, values, resamples=5),
        r"trim .* in \[0, 0.5\), got 0.6": lambda: labelled.level_statistics(values, trim=0.6),
        "7 blocks 10 x 16 have 70 values, got 40": lambda: labelled.bulk_fits(pooled, blocks=7, **SHAPE),
        "kurtosis must be finite": lambda: labelled.bulk_fits(pooled, blocks=4, **SHAPE, kurtosis=0.5),
        "squares of singular values are beyond float64": lambda: labelled.spectrum_of_values(1e160 * values, **SHAPE),
        "dtype must be one of .*, got float8": lambda: labelled.shape_measures(values, **SHAPE, dtype="float8"),
    }.items():
        with pytest.raises(ValueError, match=message):
            call()


def test_what_is_absent_has_no_values(weight):
    values = labelled.singular_values(weight)
    there = values.where(values["step"] != 5)
    for found in (labelled.level_statistics(there), labelled.shape_measures(there, **SHAPE)):
        assert all(found[name].isnull().values.tolist() == [False, True, False] for name in found)
    even = xr.DataArray(np.arange(1.0, 4.0)[None, None], dims=("step", "block", "order"))
    assert labelled.level_statistics(even)["brody"].isnull().all()
    assert labelled.level_statistics(even)["gap_ratio"].item() == pytest.approx(1)


@pytest.mark.parametrize(("dtype", "unit"), [("float32", 1.0), ("float16", 1.0), ("float32", 1e-30)])
def test_rounding_is_no_tail(dtype, unit):
    rng = np.random.default_rng(9)
    low = (rng.normal(size=(60, 5)) @ rng.normal(size=(5, 90))).astype(dtype)
    noise = rng.normal(size=(60, 90)).astype(dtype)
    weight = unit * stacks(np.stack([low, noise])[:, None]).astype(float)
    values = labelled.singular_values(weight)
    alpha = labelled.shape_measures(values, out=60, width=90, dtype=dtype)["alpha"]
    assert np.isnan(alpha[0])
    assert alpha[1] == pytest.approx(tails.fit_power_law((values[1, 0].values / unit) ** 2).alpha, rel=1e-6)
    assert labelled.tail_assessments(weight[:1], values[:1], dtype=dtype).to_array().isnull().all()
    # In double precision the rounding of the stored weights is there to be fitted.
    assert labelled.shape_measures(values, out=60, width=90, dtype="float64")["alpha"][0] > 1
