from functools import partial

import mpmath
import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal
from scipy.integrate import quad
from scipy.sparse import bmat, csgraph, csr_array

from rmtnet.laws import MarchenkoPastur, VarianceProfile, connected_components
from rmtnet.laws.variance_profile.equation import DysonEquation

TRACY_WIDOM_MEAN, TRACY_WIDOM_DEVIATION = -1.2065335745820, np.sqrt(1.6077810345810)


def mask(rows, columns, density, seed):
    return np.where(np.random.default_rng(seed).random((rows, columns)) < density, 1.0, 0.0)


def spectra(law, scale, draws, rng, *, kind="normal"):
    """Eigenvalues, ascending, of matrices with blocks `scale` times the law's sizes."""
    deviation = np.sqrt(np.repeat(law.variances, np.multiply(scale, law.heights).astype(int), axis=0))
    deviation = np.repeat(deviation, np.multiply(scale, law.widths).astype(int), axis=1)
    for _ in range(draws):
        noise = (
            rng.normal(size=deviation.shape) if kind == "normal" else rng.uniform(-(3**0.5), 3**0.5, deviation.shape)
        )
        yield np.linalg.svd(noise * deviation, compute_uv=False)[::-1] ** 2 / max(deviation.shape)


def inner(law, count):
    """Points between the edges."""
    return np.concatenate([low + (high - low) * (np.arange(count) + 0.5) / count for low, high in law.support])


@pytest.mark.parametrize("ratio", [1e-3, 0.25, 0.7, 0.99, 1.0, 1.6])
@pytest.mark.parametrize("variances", [[[2.0]], np.full((3, 2), 2.0)])
def test_equal_variances_are_marchenko_pastur(ratio, variances):
    rows, columns = np.shape(variances)
    law = VarianceProfile(variances, np.full(rows, ratio / rows), np.full(columns, 1 / columns))
    plain = MarchenkoPastur(min(ratio, 1 / ratio), 2.0)
    x = np.linspace(plain.edges[0], plain.edges[1], 1002)[1:-1]
    assert_allclose(law.pdf(x), plain.pdf(x), rtol=1e-9)
    for y in (x, np.linspace(-1, 9, 50)):
        assert_allclose(law.cdf(y), plain.cdf(y), atol=3e-13)
        assert_allclose(law.sf(y), plain.sf(y), atol=3e-13)
    assert_allclose(law.edges, plain.edges, rtol=1e-12, atol=1e-14)
    p = np.linspace(0, 1, 101)
    assert_allclose(law.ppf(p), plain.ppf(p), rtol=1e-9)
    assert_allclose([law.mean(), law.var(), law.atom], [plain.mean(), plain.var(), 0], rtol=1e-12)


@pytest.mark.parametrize("rows, columns", [(300, 500), (500, 300), (400, 400), (10, 5000)])
def test_the_scale_at_the_edge_is_that_of_johnstone(rows, columns):
    law = VarianceProfile([[3.0]], [rows], [columns])
    m, n = np.sqrt(rows), np.sqrt(columns)
    johnstone = 3 * (m + n) * (1 / m + 1 / n) ** (1 / 3) / max(rows, columns)
    assert_allclose(law.edge_scale(min(rows, columns)), johnstone, rtol=1e-10)


def test_a_block_diagonal_profile_is_a_mixture_of_marchenko_pastur_laws():
    # 10 x 30, 20 x 15 and 7 x 7 in a matrix of 37 x 52; the second brings 5 zeros.
    law = VarianceProfile(np.diag([2.0, 0.5, 1.0]), [10, 20, 7], [30, 15, 7])
    plain = [MarchenkoPastur(m / n, v * n / 52) for m, n, v in ((10, 30, 2.0), (15, 20, 0.5), (7, 7, 1.0))]
    counts = np.array([10, 15, 7])
    x = np.linspace(-0.1, 4, 500)
    mixture = np.sum([count * part.cdf(x) for count, part in zip(counts, plain, strict=True)], axis=0) / 37
    assert_allclose(law.cdf(x), mixture + 5 / 37 * (x >= 0), atol=1e-13)
    x = x[x > 0]
    density = np.sum([count * part.pdf(x) for count, part in zip(counts, plain, strict=True)], axis=0) / 37
    assert_allclose(law.pdf(x), density, rtol=1e-9, atol=1e-12)
    assert_allclose(law.atom, 5 / 37, rtol=1e-14)
    assert_allclose(law.edges, [0, max(part.edges[1] for part in plain)], rtol=1e-13)


def test_equal_blocks_share_their_law_but_not_their_largest_eigenvalue():
    blocks = VarianceProfile(np.eye(4), [5] * 4, [8] * 4)
    block = MarchenkoPastur(5 / 8, 1 / 4)
    assert_allclose(
        blocks.cdf(inner(block_law := VarianceProfile([[0.25]], [5], [8]), 50)), block.cdf(inner(block_law, 50))
    )
    assert_allclose(blocks.edge_scale(400), block_law.edge_scale(100), rtol=1e-12)


def silverstein(variances, shares):
    """Edges of generalised Marchenko-Pastur and its density, by roots of polynomials, of (sum(shares), 1) matrices."""
    t, a = np.asarray(variances, dtype=float), np.asarray(shares, dtype=float)
    units = np.ones(1)
    others = []
    for value in t:
        units = np.polymul(units, [value, 1])
    for index in range(len(t)):
        product = np.ones(1)
        for value in np.delete(t, index):
            product = np.polymul(product, [value, 1])
        others.append(a[index] * t[index] * product)
    weights = np.sum(others, axis=0)

    def density(x):
        """z = -1/m + sum a t / (1 + t m), m the Stieltjes transform of the (n, n) Gram matrix."""
        polynomial = np.polysub(np.polyadd(np.polymul([x, 0], units), units), np.polymul(weights, [1, 0]))
        with mpmath.workdps(30):
            roots = mpmath.polyroots([mpmath.mpf(float(c)) for c in polynomial], maxsteps=500, extraprec=200)
        return max(float(mpmath.im(root)) for root in roots) / np.pi / a.sum()

    slope = np.polymul(units, units)
    for index in range(len(t)):
        product = np.ones(1)
        for value in np.delete(t, index):
            product = np.polymul(product, np.polymul([value, 1], [value, 1]))
        slope = np.polysub(slope, a[index] * t[index] ** 2 * np.polymul(product, [1, 0, 0]))
    m = np.roots(slope)
    m = m[np.abs(m.imag) < 1e-9].real
    return np.sort(-1 / m + np.sum(a * t / (1 + t * m[:, None]), axis=1)), density


@pytest.mark.parametrize(
    "variances, shares, intervals",
    [([1.0, 3.0], [0.3, 0.2], 1), ([1.0, 40.0], [0.3, 0.1], 2), ([1.0, 20.0, 400.0], [0.125, 0.075, 0.025], 3)],
)
def test_row_groups_follow_the_silverstein_equation(variances, shares, intervals):
    law = VarianceProfile(np.array(variances)[:, None], shares, [1.0])
    edges, density = silverstein(variances, shares)
    assert len(law.support) == intervals
    assert_allclose(np.ravel(law.support), edges, rtol=1e-10)
    x = inner(law, 9)
    assert_allclose(law.pdf(x), [density(point) for point in x], rtol=1e-9)
    masses = [law.cdf(high) - law.cdf(low) for low, high in law.support]
    if intervals == len(shares):
        assert_allclose(masses, np.array(shares) / np.sum(shares), rtol=1e-10)
    between = [(high + low) / 2 for (_, high), (low, _) in zip(law.support, law.support[1:], strict=False)]
    assert_array_equal(law.pdf(between), 0)


@pytest.mark.parametrize("beyond", [1.03, 1.003])
def test_a_gap_that_just_opens_is_found(beyond):
    closed, open_ = 3.0, 40.0
    while open_ - closed > 1e-9:
        middle = (closed + open_) / 2
        closed, open_ = (closed, middle) if len(silverstein([1.0, middle], [0.3, 0.1])[0]) == 4 else (middle, open_)
    edges, _ = silverstein([1.0, beyond * open_], [0.3, 0.1])
    assert edges[2] / edges[1] - 1 < 0.02
    law = VarianceProfile([[1.0], [beyond * open_]], [0.3, 0.1], [1.0])
    assert_allclose(np.ravel(law.support), edges, rtol=1e-9)
    assert_allclose(law.cdf(edges[1:3]), 0.75, rtol=1e-9)
    assert len(VarianceProfile([[1.0], [open_ / beyond]], [0.3, 0.1], [1.0]).support) == 1


def test_a_solution_of_the_lower_half_plane_is_not_taken():
    equation = DysonEquation(np.array([[0.5, 0.2], [0.1, 0.6]]), np.array([[0.3, 0.1], [0.2, 0.4]]))
    s = np.array([0.3, 0.8, 1.0, 3.0])
    m = equation.on_axis(s)
    assert_array_equal(m[:3].imag > 0, True)
    assert_array_equal(m[3].imag, 0)
    assert_allclose(equation.on_axis(s, m.conj()), m, rtol=1e-9)
    q = -1 / (s[3] + equation.columns @ m[3])
    assert_allclose(-1 / m[3], s[3] + equation.rows @ q, rtol=1e-12)
    assert_allclose(equation.on_axis(s[3:], 1 / (equation.columns @ m[3].real)[None] + 0j), m[3:], rtol=1e-9)


def dyson(table, heights, widths, z, *m):
    """The equation of the rows, for sizes over a long side of 12."""
    rows, columns = range(len(heights)), range(len(widths))
    q = [-1 / (z + sum(table[i, j] * heights[i] / 12 * m[i] for i in rows)) for j in columns]
    return [1 / m[i] + z + sum(table[i, j] * widths[j] / 12 * q[j] for j in columns) for i in rows]


def test_the_equation_is_solved_as_by_mpmath():
    table, heights, widths = mask(4, 5, 0.7, 3) * np.arange(1, 6), [2, 1, 3, 2], [3, 2, 2, 4, 1]
    law = VarianceProfile(table, heights, widths)
    with mpmath.workdps(30):
        for x in (0.3, 1.0, 3.0):
            start = [mpmath.mpc(0, 1)] * 4
            for height in (1, 0.5, 0.2, 0.1, 0.05, 0.02, 0.01, 0):
                z = mpmath.sqrt(x) + mpmath.mpc(0, height)
                start = list(mpmath.findroot(partial(dyson, table, heights, widths, z), start, tol=1e-20, maxsteps=100))
            assert all(mpmath.im(m) > 0 for m in start)
            total = sum(height * mpmath.im(m) for height, m in zip(heights, start, strict=True))
            assert_allclose(law.pdf(x), float(total / 8 / mpmath.pi / mpmath.sqrt(x)), rtol=1e-10)


RANDOM = [(6, 6, 0.5, 0), (5, 9, 0.4, 1), (12, 8, 0.2, 2), (10, 10, 0.3, 3)]


@pytest.mark.parametrize("rows, columns, density, seed", RANDOM)
def test_moments_are_those_of_the_density(rows, columns, density, seed):
    rng = np.random.default_rng(seed)
    law = VarianceProfile(
        mask(rows, columns, density, seed) * rng.exponential(size=(rows, columns)),
        rng.integers(3, 9, rows),
        rng.integers(3, 9, columns),
    )
    # The integral of the survival function is the mean, that of 2 x sf the second moment; x = s^2 tames 0.
    points = np.unique(np.ravel(law.support)) ** 0.5
    parts = list(zip(np.append(0, points), points, strict=False))
    mean = sum(quad(lambda s: 2 * s * law.sf(s * s), *part, epsabs=1e-12, limit=200)[0] for part in parts)
    square = sum(quad(lambda s: 4 * s**3 * law.sf(s * s), *part, epsabs=1e-12, limit=200)[0] for part in parts)
    assert_allclose([mean, square - mean**2], [law.mean(), law.var()], rtol=3e-8)
    p = np.linspace(law.atom, 1, 202)[1:-1]
    assert_allclose(law.cdf(law.ppf(p)), p, atol=1e-10)
    x = inner(law, 40)
    step = 1e-5 * x
    slope = (law.cdf(x + step) - law.cdf(x - step)) / (2 * step)
    assert_allclose(np.where(law.pdf(x - step) * law.pdf(x + step) > 0, slope / law.pdf(x), 1), 1, rtol=1e-3)


@pytest.mark.parametrize("rows, columns, density, seed", RANDOM)
def test_the_density_ends_in_square_roots_of_the_scale(rows, columns, density, seed):
    law = VarianceProfile(mask(rows, columns, density, seed), np.full(rows, 2), np.full(columns, 3))
    edge, scale = law.edges[1], law.edge_scale(100)
    for share, off in ((1e-3, 3e-2), (1e-5, 3e-3)):
        density_there = law.pdf(edge * (1 - share)) * 100
        assert_allclose(density_there, np.sqrt(edge * share) / np.pi / scale**1.5, rtol=off)


@pytest.mark.parametrize("kind", ["normal", "uniform"])
def test_masked_noise_follows_the_law_and_not_marchenko_pastur(kind):
    law = VarianceProfile(mask(10, 10, 0.5, 1), np.full(10, 20), np.full(10, 30))
    plain = MarchenkoPastur(200 / 300, law.mean())
    expected = (np.arange(200) + 0.5) / 200
    eigenvalues = list(spectra(law, 1, 20, np.random.default_rng(5), kind=kind))
    distances = [np.abs(law.cdf(values) - expected).max() for values in eigenvalues]
    assert np.mean(distances) < 2.6 / 200  # eigenvalues are rigid: 2.3 / 200 measured
    assert min(np.abs(plain.cdf(values) - expected).max() for values in eigenvalues) > 5 / 200


def test_masked_noise_has_no_false_outliers():
    law = VarianceProfile(mask(10, 10, 0.5, 0), np.full(10, 12), np.full(10, 18))
    scale, plain = law.edge_scale(120), MarchenkoPastur(120 / 180, law.mean())
    largest, false = [], []
    for values in spectra(law, 1, 600, np.random.default_rng(6)):
        largest.append((values[-1] - law.edges[1]) / scale)
        false.append(np.sum(values > plain.edges[1] + 2.02 * scale))
    # Finite size shifts the largest eigenvalue by 0.07 scales here; the standard error of the mean is 0.05.
    assert_allclose(np.mean(largest), TRACY_WIDOM_MEAN - 0.07, atol=0.2)
    assert_allclose(np.std(largest), TRACY_WIDOM_DEVIATION, rtol=0.12)
    assert 0 < np.sum(np.array(largest) > 2.02) <= 14  # 6 expected
    assert np.mean(false) > 1


@pytest.mark.slow
def test_a_600_by_900_mask_at_its_edge():
    law = VarianceProfile(mask(10, 10, 0.5, 0), np.full(10, 60), np.full(10, 90))
    scale = law.edge_scale(600)
    largest = [(values[-1] - law.edges[1]) / scale for values in spectra(law, 1, 150, np.random.default_rng(7))]
    assert_allclose(np.mean(largest), TRACY_WIDOM_MEAN, atol=4 * TRACY_WIDOM_DEVIATION / np.sqrt(150))
    assert np.sum(np.array(largest) > 2.02) <= 6  # 1.5 expected


@pytest.mark.parametrize("rows, columns, density, seed", [*RANDOM, (12, 12, 0.1, 4), (15, 10, 0.12, 5)])
def test_the_atom_is_what_the_rank_lacks(rows, columns, density, seed):
    rng = np.random.default_rng(seed)
    heights, widths = rng.integers(1, 9, rows), rng.integers(1, 9, columns)
    law = VarianceProfile(mask(rows, columns, density, seed), heights, widths)
    deviation = np.repeat(np.repeat(law.variances, heights, axis=0), widths, axis=1)
    rank = np.linalg.matrix_rank(rng.normal(size=deviation.shape) * deviation)
    assert_allclose(law.atom, 1 - rank / min(deviation.shape), atol=1e-14)
    assert_allclose(law.cdf([-1e-9, 0, law.edges[1]]), [0, law.atom, 1], atol=1e-11)
    assert_array_equal(law.ppf([0, law.atom / 2]), law.edges[0] if law.atom == 0 else 0)


@pytest.mark.parametrize("stairs", [1, 2, 3, 6])
def test_staircases_are_singular_at_zero(stairs):
    """Scaling of the equation: the mass below a small singular value s goes as s^(2 / (stairs + 1))."""
    law = VarianceProfile(np.tril(np.ones((stairs, stairs))))
    x = np.array([1e-20, 1e-24])
    assert_allclose(np.diff(np.log(law.cdf(x))) / np.diff(np.log(x)), 1 / (stairs + 1), rtol=2e-3)
    assert_allclose(law.cdf(law.edges[1]), 1, rtol=1e-12)
    assert_allclose(law.edges[1], (stairs + 1) ** (stairs + 1) / stairs**stairs / stairs, rtol=1e-10)


def test_zero_rows_and_columns_count_only_as_sizes():
    law = VarianceProfile([[1, 0], [0, 0]], [2, 3], [4, 1])
    plain = MarchenkoPastur(0.5, 4 / 5)
    x = np.linspace(0.01, 3, 50)
    assert_allclose(law.cdf(x), 0.6 + 0.4 * plain.cdf(x), rtol=1e-12)
    assert_allclose(law.atom, 0.6, rtol=1e-14)


def test_rows_and_columns_may_change_places():
    table, heights, widths = mask(4, 6, 0.6, 8), [3, 1, 2, 2], [1, 2, 3, 1, 1, 2]
    law, turned = VarianceProfile(table, heights, widths), VarianceProfile(table.T, widths, heights)
    x = inner(law, 30)
    assert_allclose(turned.pdf(x), law.pdf(x), rtol=1e-9)
    assert_allclose(turned.support, law.support, rtol=1e-11)


def test_split_blocks_are_the_same_law():
    table = mask(3, 3, 0.7, 1) + 0.5
    law = VarianceProfile(table, [2, 4, 6], [4, 4, 8])
    split = VarianceProfile(np.repeat(np.repeat(table, 2, axis=0), 2, axis=1), [1, 1, 2, 2, 3, 3], [2, 2, 2, 2, 4, 4])
    assert_allclose(split.pdf(inner(law, 30)), law.pdf(inner(law, 30)), rtol=1e-10)


@pytest.mark.parametrize("unit", [1e-300, 1e-12, 7.0, 1e300])
def test_units_do_not_matter(unit):
    table = np.array([[1.0, 2.0], [0.0, 3.0]])
    law, scaled = VarianceProfile(table), VarianceProfile(unit * table)
    p = np.linspace(0.05, 1, 20)
    assert_allclose(scaled.ppf(p), unit * law.ppf(p), rtol=1e-9)
    assert_allclose(scaled.edge_scale(50), unit * law.edge_scale(50), rtol=1e-9)
    assert_allclose(scaled.mean(), unit * law.mean(), rtol=1e-12)


@pytest.mark.parametrize("bond", [1e-2, 1e-4, 1e-8])
def test_nearly_detached_parts_turn_at_the_true_edge(bond):
    """By symmetry plain Marchenko-Pastur, though another branch of the equation turns close by."""
    law, plain = VarianceProfile([[1, bond], [bond, 1]]), MarchenkoPastur(1.0, (1 + bond) / 2)
    assert_allclose(law.edges[1], plain.edges[1], rtol=1e-12)
    assert_allclose(law.edge_scale(100), plain.variance * 2 ** (4 / 3) / 100 ** (2 / 3), rtol=1e-4)
    assert_allclose(law.cdf([0.1, 1.0, 1.9]), plain.cdf([0.1, 1.0, 1.9]), rtol=1e-10)


def test_a_few_rows_of_large_variance_make_an_interval_of_their_own():
    law = VarianceProfile([[1.0], [50.0]], [999, 1], [2000])
    assert_allclose(np.ravel(law.support), silverstein([1.0, 50.0], [999 / 2000, 1 / 2000])[0], rtol=1e-9)
    assert_allclose(law.sf(10.0), 1e-3, rtol=1e-9)


def test_of_blocks_is_the_profile_of_the_grid():
    law = VarianceProfile.of_blocks([0, 1, 1], [0, 0, 1], [1.0, 2.0, 3.0], [4, 5, 6], [7, 8])
    assert law == VarianceProfile([[1, 0], [2, 3], [0, 0]], [4, 5, 6], [7, 8])
    with pytest.raises(ValueError, match="place twice"):
        VarianceProfile.of_blocks([0, 0], [1, 1], 1.0, [1, 1], [1, 1])
    with pytest.raises(ValueError, match="grid of 2 x 1"):
        VarianceProfile.of_blocks([0, 1], [0, 1], 1.0, [1, 1], [1])


def test_laws_are_values():
    law = VarianceProfile(np.eye(2))
    assert law == VarianceProfile([[1, 0], [0, 1]], [1, 1], [1.0, 1.0])
    assert hash(law) == hash(VarianceProfile(((1, 0), (0, 1))))
    with pytest.raises(AttributeError):
        law.heights = (1,)
    rng = np.random.default_rng
    assert_array_equal(law.sample((3, 2), rng(1)), law.sample((3, 2), rng(1)))
    assert law.sample((3, 2), rng(1)).shape == (3, 2)


def test_shapes_and_strange_places():
    law = VarianceProfile([[1, 1], [1, 0]])
    assert np.ndim(law.pdf(1.0)) == np.ndim(law.ppf(0.5)) == 0
    assert law.cdf(np.ones((2, 3))).shape == (2, 3)
    assert_array_equal(law.pdf([np.nan, -np.inf, -1, 0, 1e9, np.inf]), [np.nan, 0, 0, np.inf, 0, 0])
    assert_array_equal(law.cdf([np.nan, -np.inf, -1, 0]), [np.nan, 0, 0, 0])
    assert_allclose(law.sf([-1, 0, 1e9]), [1, 1, 0], atol=1e-12)
    assert_array_equal(np.isnan(law.ppf([np.nan, 0.5])), [True, False])
    assert np.all(np.diff(law.ppf(np.linspace(0, 1, 1001))) > 0)


@pytest.mark.parametrize(
    "arguments, message",
    [
        (([1.0],), r"table \(R, C\) of blocks, got shape \(1,\)"),
        ((np.empty((0, 2)),), r"got shape \(0, 2\)"),
        (([[1.0, -1.0]],), r"variances must not be negative, got -1"),
        (([[1.0, np.nan]],), "finite"),
        (([[1.0, np.inf]],), "finite"),
        ((np.zeros((2, 2)),), "all 0"),
        (([[1.0]], [1, 2]), r"heights must be one a block, 1, got shape \(2,\)"),
        (([[1.0]], [1], [0]), r"widths must lie in \[1e-100, 1e\+100\], got 0"),
        (([[1.0]], [np.nan], [1]), r"heights must lie in \[1e-100, 1e\+100\], got nan"),
    ],
)
def test_what_is_no_profile_is_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        VarianceProfile(*arguments)


def test_wrong_counts_and_probabilities_are_refused():
    law = VarianceProfile([[1.0]])
    with pytest.raises(ValueError, match=r"p must lie in \[0, 1\], got 1.5"):
        law.ppf([0.5, 1.5])
    with pytest.raises(ValueError, match=r"count must lie in \[1, 1e\+100\], got 0"):
        law.edge_scale(0)


@pytest.mark.parametrize("density", [0.0, 0.02, 0.05, 0.5, 1.0])
def test_components_are_those_of_the_bipartite_graph(density):
    present = mask(40, 50, density, 9)
    _, labels = csgraph.connected_components(bmat([[None, csr_array(present)], [csr_array(present.T), None]]))
    expected = {frozenset(np.flatnonzero(labels == label)) for label in labels}
    found = connected_components(present)
    assert {frozenset([*rows, *(columns + 40)]) for rows, columns in found} == {
        part for part in expected if len(part) > 1
    }
    assert [rows[0] for rows, _ in found] == sorted(rows[0] for rows, _ in found)
    assert sum(np.sum(present[np.ix_(*part)]) for part in found) == present.sum()


def test_components_are_asked_of_a_matrix():
    with pytest.raises(ValueError, match=r"matrix \(out, in\), got shape \(3,\)"):
        connected_components([True, False, True])


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda: VarianceProfile([[1e308]]), ValueError, r"variances other than 0 must lie in \[1e-300, 1e\+305\]"),
        (lambda: VarianceProfile([[1.0, 1e-310]]), ValueError, r"variances other than 0 must lie in .* got 1e-310"),
        (lambda: VarianceProfile([[1j]]), TypeError, "^variances must be real, got dtype complex128"),
        (lambda: VarianceProfile([[1.0]], [1j]), TypeError, "^heights must be real"),
        (
            lambda: VarianceProfile([[1.0]], [1e308]),
            ValueError,
            r"^heights must lie in \[1e-100, 1e\+100\], got 1e\+308",
        ),
        (lambda: VarianceProfile([[1.0]]).edge_scale([5]), TypeError, "^count must be one number"),
        (lambda: VarianceProfile.of_blocks([0.5], [0], 1.0, [1], [1]), ValueError, "must lie on the grid of 1 x 1"),
        (lambda: VarianceProfile.of_blocks([0, 1], [0], 1.0, [1, 1], [1]), ValueError, r"must both be \(block,\), got"),
        (lambda: VarianceProfile.of_blocks([], [0], 1.0, [1], [1]), ValueError, r"must both be \(block,\), got"),
        (lambda: VarianceProfile.of_blocks([0], [0], [1.0, 2], [1], [1]), ValueError, "must be one or one a block, 1"),
        (lambda: connected_components(np.eye(2) * 1j), TypeError, "^mask must be real, got dtype complex128"),
    ],
)
def test_corners_are_refused_in_one_line(call, error, message):
    with pytest.raises(error, match=message):
        call()


def test_tensors_are_tables_and_masks():
    torch = pytest.importorskip("torch")
    table = np.array([[1.0, 0.5], [0.0, 2.0]])
    tensor = torch.nn.Parameter(torch.tensor(table).bfloat16())
    assert VarianceProfile(tensor, torch.tensor([1, 2]), torch.ones(2)) == VarianceProfile(table, [1, 2], [1, 1])
    assert [part[1].tolist() for part in connected_components(tensor)] == [[0, 1]]


def test_a_density_that_diverges_at_0_is_resolved():
    # Few entries a row, as gates leave them: the density goes like a power of s near -1, down to where s is no number.
    variances = np.zeros((8, 8))
    places = ["01", "06", "07", "13", "17", "22", "25", "31", "41", "44", "52", "56", "62", "67", "70", "76"]
    values = (0.3, 0.5, 1.7, 1.9, 1.8, 4.7, 0.8, 4.8, 3.7, 1.6, 1.5, 1.0, 2.7, 1.8, 1.1, 0.4)
    for place, value in zip(places, values, strict=True):
        variances[int(place[0]), int(place[1])] = value
    law = VarianceProfile(variances)
    profile = np.kron(variances, np.ones((60, 60)))
    draws = np.random.default_rng(0).normal(size=(4, 480, 480)) * np.sqrt(profile / 480)
    eigenvalues = np.linalg.svd(draws, compute_uv=False).ravel() ** 2
    shares = np.array([0.1, 0.3, 0.5, 0.8])
    # Rigid eigenvalues: at a side of 480 the shares of four draws lie within a thousandth or two of the law's.
    assert_allclose(law.cdf(np.quantile(eigenvalues, shares)), shares, atol=4e-3)
