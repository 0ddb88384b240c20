import numpy as np
import pytest
import scipy.linalg
import xarray as xr
from numpy.testing import assert_allclose

from rmtnet import labelled, nulls

RNG = np.random.default_rng(0)


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
    assert np.isnan(spectrum["bulk_variance"].item())
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
