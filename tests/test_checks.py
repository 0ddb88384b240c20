import numpy as np
import pytest

from rmtnet import checks


@pytest.mark.parametrize("values", [[True, False], [1, 0], np.uint8([1, 0]), np.float16([1, 0]), np.longdouble([1, 0])])
def test_every_real_kind_becomes_float64(values):
    found = checks.real(values, "values")
    assert found.dtype == np.float64
    assert found.tolist() == [1, 0]


def test_a_copy_is_given_of_any_shape():
    values = np.ones((2, 3))
    checks.real(values, "values")[:] = 0
    assert values.all()
    assert checks.real(3, "values").shape == ()
    assert checks.real([], "values", negative=False).shape == (0,)


@pytest.mark.parametrize("values", [[1j], ["a"], [None], np.array(["2026-01-01"], "M8[D]")])
def test_other_kinds_are_refused(values):
    with pytest.raises(TypeError, match=r"^weight must be real, got dtype"):
        checks.real(values, "weight")


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf, np.longdouble("1e400")])
def test_numbers_that_are_not_finite_are_refused(value):
    with pytest.raises(ValueError, match=r"^weight must be finite, got NaN or infinity: did training diverge"):
        checks.real([0, value], "weight")


def test_negative_numbers_are_refused_where_told():
    assert checks.real([-2.0, 1], "values").tolist() == [-2, 1]
    assert checks.real([-0.0, 1], "values", negative=False).tolist() == [0, 1]
    with pytest.raises(ValueError, match=r"^values must not be negative, got -2\.0$"):
        checks.real([-2.0, 1], "values", negative=False)


@pytest.mark.parametrize("kind", ["bfloat16", "float16", "float32", "float64", "int64", "bool"])
def test_tensors_are_taken(kind):
    torch = pytest.importorskip("torch")
    tensor = torch.tensor([1, 0]).to(getattr(torch, kind))
    if tensor.is_floating_point():
        tensor = torch.nn.Parameter(tensor)
    assert checks.real(tensor, "values").tolist() == [1, 0]
    with pytest.raises(TypeError, match=r"^values must be real, got dtype complex64"):
        checks.real(torch.ones(1) * 1j, "values")


@pytest.mark.parametrize("value", [0, 1, -0.1, 1.5, np.nan])
def test_a_level_lies_between_0_and_1(value):
    checks.level(0.95)
    with pytest.raises(ValueError, match=rf"^coverage must lie in \(0, 1\), got {value}"):
        checks.level(value, "coverage")


@pytest.mark.parametrize(
    ("check", "value", "error", "message"),
    [
        (checks.number, 2.5, ValueError, r"^x must lie in \[0, 2\], got 2\.5$"),
        (checks.number, np.nan, ValueError, r"^x must lie in \[0, 2\], got nan$"),
        (checks.number, [1.0], TypeError, r"^x must be one number, got shape \(1,\)$"),
        (checks.number, 1j, TypeError, "^x must be real, got dtype complex128$"),
        (checks.number, "1", TypeError, "^x must be real"),
        (checks.number, 10**400, TypeError, "^x must be real, got dtype object$"),
        (checks.count, 2.0, TypeError, r"^x must be a whole number, got 2\.0$"),
        (checks.count, None, TypeError, "^x must be a whole number, got None$"),
        (checks.count, 1, ValueError, "^x must be at least 2, got 1$"),
        (checks.count, 2**64, ValueError, "^x must be at most .* got a number of 65 bits$"),
        (checks.generator, None, TypeError, "^x must be a whole number or a numpy.random.Generator, got None$"),
        (checks.generator, np.random.RandomState(0), TypeError, "^x must be a whole number or"),
        (checks.generator, -1, ValueError, "^x must be at least 0, got -1$"),
        (checks.floats, [[1], [1, 2]], TypeError, "^x must be an array of real numbers: "),
        (checks.in_range, np.array([1, np.inf]), ValueError, r"^x exceeds 1\.8e308"),
    ],
)
def test_each_check_refuses_in_one_line(check, value, error, message):
    bounds = {checks.number: (0, 2), checks.count: (2,)}.get(check, ())
    with pytest.raises(error, match=message):
        check(value, "x", *bounds)


def test_each_check_passes_what_is_right():
    assert [checks.number(value, "x", 0, 2) for value in (0, np.float32(0.5), np.array(2), True)] == [0, 0.5, 2, 1]
    assert [checks.count(value, "x", 2) for value in (2, np.uint8(7))] == [2, 7]
    assert np.isnan(checks.floats([np.nan, 1], "x")).tolist() == [True, False]
    assert np.isnan(checks.in_range(np.array([np.nan]), "x")).all()
    rng = np.random.default_rng(3)
    assert checks.generator(rng) is rng
    assert checks.generator(3).random() == rng.random()
    assert checks.generator(2**70).random() == np.random.default_rng(2**70).random()
