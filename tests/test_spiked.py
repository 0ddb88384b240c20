import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.testing import assert_allclose, assert_array_equal

from rmtnet.laws import MarchenkoPastur, spiked


def planted(rows, columns, strength, rng):
    """Top singular triplet of noise and a spike on the first row and column: eigenvalue, squared overlaps."""
    weight = rng.normal(scale=columns**-0.5, size=(rows, columns))
    weight[0, 0] += strength**0.5
    left, values, right = np.linalg.svd(weight, full_matrices=False)
    return values[0] ** 2, left[0, 0] ** 2, right[0, 0] ** 2


@pytest.mark.parametrize("rows, columns, strength", [(150, 150, 3.0), (100, 400, 1.0), (100, 250, 10.0)])
def test_position_overlaps_and_spread_agree_with_simulated_matrices(rows, columns, strength):
    rng = np.random.default_rng(rows + columns)
    ratio = rows / columns
    draws = np.array([planted(rows, columns, strength, rng) for _ in range(400)])
    short, long = spiked.overlaps(strength, ratio)
    expected = [spiked.outlier(strength, ratio), short, long]
    error = draws.std(axis=0) / np.sqrt(400)
    # Corrections of order 1/n besides the error of the simulation.
    assert_allclose(draws.mean(axis=0), expected, atol=4 * error.max() + 3 * expected[0] / columns)
    assert_allclose(draws.mean(axis=0)[1:], expected[1:], atol=4 * error[1:].max() + 1.5 / columns)
    found = np.sqrt(columns * spiked.strength(draws[:, 0], ratio)).std()
    # The relative error of a standard deviation from 400 draws is 3.5 %.
    assert_allclose(found, spiked.deviation(strength, ratio), rtol=0.13)


@given(st.floats(1e-3, 1), st.floats(1.001, 1e6))
def test_strength_inverts_outlier(ratio, above):
    strength = above * ratio**0.5
    # At the threshold the outlier is a square of the distance to it: rounding is magnified.
    assert_allclose(spiked.strength(spiked.outlier(strength, ratio), ratio), strength, rtol=1e-9 / (above - 1))


@given(st.floats(1e-3, 1), st.floats(0, 1))
def test_below_the_threshold_the_spike_is_lost_in_the_bulk(ratio, share):
    strength = share * ratio**0.5
    edge = MarchenkoPastur(ratio).edges[1]
    assert_allclose(spiked.outlier(strength, ratio), edge, rtol=1e-12)
    assert_allclose(spiked.strength(edge * share, ratio), ratio**0.5)
    assert_allclose(spiked.overlaps(strength, ratio), 0, atol=1e-12)
    assert spiked.deviation(strength, ratio) == np.inf


def test_gigantic_spikes_do_not_overflow():
    assert_allclose(spiked.strength(1e300, 0.5), 1e300)
    assert_allclose(spiked.overlaps(1e300, 0.5), 1)
    assert_allclose(spiked.deviation(1e150, 0.5), 1)


FUNCTIONS = (spiked.outlier, spiked.strength, spiked.overlaps, spiked.deviation)


@pytest.mark.parametrize("function", FUNCTIONS)
@pytest.mark.parametrize(
    ("values", "ratio", "error", "message"),
    [
        (np.nan, 0.5, ValueError, "^(strength|eigenvalue) must be finite, got NaN or infinity"),
        ([2.0, np.inf], 0.5, ValueError, "^(strength|eigenvalue) must be finite, got NaN or infinity"),
        (-1.0, 0.5, ValueError, r"^(strength|eigenvalue) must not be negative, got -1\.0"),
        (2j, 0.5, TypeError, "^(strength|eigenvalue) must be real, got dtype complex128"),
        (2.0, np.nan, ValueError, r"must lie in \(0, 1\], got nan"),
        (2.0, [0.5, 0.0], ValueError, r"must lie in \(0, 1\], got 0\.0"),
        (2.0, 1.5, ValueError, r"must lie in \(0, 1\], got 1\.5"),
        (2.0, 0.5j, TypeError, "^ratio must be real, got dtype complex128"),
    ],
)
def test_what_has_no_spike_is_refused(function, values, ratio, error, message):
    with pytest.raises(error, match=message):
        function(values, ratio)


@pytest.mark.parametrize("function", FUNCTIONS)
def test_tensors_of_any_precision_are_arrays(function):
    torch = pytest.importorskip("torch")
    values, ratios = np.array([0.25, 2.0, 5.5]), np.array([0.25, 0.5, 1.0])
    tensors = (torch.nn.Parameter(torch.tensor(given).bfloat16()) for given in (values, ratios))
    assert_array_equal(function(*tensors), function(values, ratios))
