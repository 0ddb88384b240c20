import numpy as np
import pytest
from numpy.testing import assert_allclose

from rmtnet.nulls import ordered_null
from rmtnet.sisters import mean_deviation, singular_value_ratio, variance_ratio
from rmtnet.spectra import aggregate, singular_values


def test_variance_ratio_divides_step_by_step():
    assert_allclose(variance_ratio([10.0, 9.0], [1.0, 3.0]), [10, 3])


def test_a_zero_reference_gives_nan_without_a_warning():
    assert np.isnan(variance_ratio(1.0, 0.0))
    assert np.isnan(singular_value_ratio([[1.0, 2.0]], [1.0, 1.0], [0.0])).all()


def test_ratios_are_to_the_mean_of_the_ordered_values_scaled_by_the_deviation():
    assert_allclose(singular_value_ratio([[6.0, 2.0]], [3.0, 1.0], [4.0]), [[1, 1]])
    assert mean_deviation([0.5, 1.0, 2.0]) == pytest.approx(0.5)


@pytest.mark.parametrize("blocks", [1, 5, 50])
def test_random_sisters_have_ratios_near_one(blocks):
    # Blocks b times smaller with b times the variance have the dense matrix's spectrum in the limit (paper A, 5.1).
    weight = np.random.default_rng(blocks).normal(scale=blocks**0.5, size=(blocks, 500 // blocks, 800 // blocks))
    values, _ = aggregate(singular_values(weight))
    ratio = singular_value_ratio(values, ordered_null(1, 500, 800).mean, 1.0)
    # The null expectation is not 0: about 0.003 for b = 1 and 0.04 for b = 50.
    assert mean_deviation(ratio) < 0.001 + 0.008 * blocks**0.5


def test_the_deviation_of_noise_grows_with_the_number_of_blocks():
    null = ordered_null(1, 500, 800).mean
    deviations = []
    for blocks in (1, 10, 100):
        weight = np.random.default_rng(0).normal(scale=blocks**0.5, size=(blocks, 500 // blocks, 800 // blocks))
        deviations.append(mean_deviation(singular_value_ratio(aggregate(singular_values(weight))[0], null, 1.0)))
    assert deviations[0] < deviations[1] < deviations[2]
    assert 0.001 < deviations[0] < 0.006
    assert 0.04 < deviations[2] < 0.08
