"""The largest singular value of noise whose variance differs from place to place."""

import numpy as np
from numpy.typing import ArrayLike, NDArray

from rmtnet.bulk import without_largest
from rmtnet.edges.noise import heavy_excess
from rmtnet.edges.simulated import Tail
from rmtnet.edges.testing import Extreme
from rmtnet.laws import TracyWidom, VarianceProfile, connected_components
from rmtnet.spectra import as_blocks, singular_values

Floats = NDArray[np.float64]

# Up to this short side noise with the profile is simulated, from half of it on with a quarter of the draws; beyond,
# the limiting law's edge and scale serve.
_SIMULATED = 1024


def largest_in_profile(
    weight: ArrayLike,
    variances: ArrayLike,
    *,
    heights: ArrayLike | None = None,
    widths: ArrayLike | None = None,
    draws: int = 400,
    seed: int = 0,
) -> Extreme:
    """Test the largest singular value against noise with a profile of variances, known up to one factor.

    For masks and for layers whose parts started with other variances; to plain noise such a layer shows many spikes.

    Parameters
    ----------
    weight : (out, in)
    variances : (R, C) array_like
        Relative variances on a grid of blocks, 0 where there are no weights.
    heights, widths : (R,), (C,) array_like of int
        Rows and columns of the grid's blocks; equal ones by default.
    draws, seed : of the simulation
        Up to a short side of 1024, and if they are heavy-tailed, the layer's own entries are permuted within the
        profile and given random signs; 400 draws leave 15 % error of a p-value of 1 % (from a side of 512 on a quarter
        of them is drawn). Larger layers are tested at the edge of the law, which is that of Gaussian entries: for
        uniform ones of 520 x 640 it found 0.4 % where it should find 1 %.

    Raises
    ------
    TypeError, ValueError
        As :func:`largest`; if the profile does not fit the weight, which is not 0 where the variance is, or falls
        into parts that share no row or column.
    """
    stack = as_blocks(weight)
    if len(stack) != 1 or draws < 20:
        raise ValueError(f"weight must be one matrix and draws at least 20, got shape {stack.shape} and draws={draws}")
    matrix = stack[0]
    profile, sides = _profile(matrix, np.asarray(variances, dtype=float), heights, widths)
    unit = float(np.abs(matrix).max())
    if not unit:
        raise ValueError("all weights are 0: there is no noise to compare with")
    matrix = matrix / unit
    values, limit = singular_values(matrix), VarianceProfile(variances, *sides)
    short, long = sorted(matrix.shape)
    entries = _standardised(matrix, profile)
    variable = (values**2 / np.mean(entries**2) / long - limit.edges[1]) / limit.edge_scale(short)
    # Without the spikes: a strong one would pass for heavy-tailed noise.
    rest = _standardised(without_largest(matrix, int(np.sum(variable > TracyWidom(1).isf(0.01)))), profile)
    rest = rest if rest.any() else entries
    heavy = np.mean(rest**4) > (3 + heavy_excess(rest.size)) * np.mean(rest**2) ** 2
    if short > _SIMULATED and not heavy:
        p, null = float(TracyWidom(1).sf(variable[0])), "Tracy-Widom at the edge of the variance profile"
    else:
        draws = draws if short <= _SIMULATED // 2 else max(20, draws // 4)
        tail = Tail.of(_simulated(np.sqrt(profile), entries if heavy else rest, draws, seed))
        p, null = float(tail.p(values[0] ** 2 / np.mean(entries**2))), f"{draws} permuted within the profile"
    return Extreme(p, float(values[0]) * unit, 0, np.array([p]), null)


def _standardised(matrix: Floats, profile: Floats) -> Floats:
    """Entries where there may be some, over their deviations."""
    present = profile > 0
    return matrix[present] / np.sqrt(profile[present])


def _profile(
    matrix: Floats, variances: Floats, heights: ArrayLike | None, widths: ArrayLike | None
) -> tuple[Floats, tuple[NDArray[np.intp], NDArray[np.intp]]]:
    """Variance of each entry, and the sides of the grid."""
    if variances.ndim != 2 or not np.isfinite(variances).all() or (variances < 0).any() or not variances.any():
        raise ValueError(
            f"variances must be a grid (R, C), finite, not negative and not all 0, got shape {variances.shape}"
        )
    given = [heights, widths]
    sides = [
        np.full(parts, side // parts) if own is None else np.asarray(own, dtype=np.intp)
        for own, side, parts in zip(given, matrix.shape, variances.shape, strict=True)
    ]
    wanted = zip(sides, variances.shape, matrix.shape, strict=True)
    if any(own.shape != (parts,) or own.sum() != side for own, parts, side in wanted):
        raise ValueError(
            f"heights and widths of the {variances.shape} grid must add up to the weight's {matrix.shape}, "
            f"got {sides[0].tolist()} and {sides[1].tolist()}"
        )
    profile = np.repeat(np.repeat(variances, sides[0], axis=0), sides[1], axis=1)
    if matrix[profile == 0].any():
        raise ValueError("weight is not 0 where the variance is: is the profile another layer's?")
    if len(connected_components(variances)) != 1:
        raise ValueError("the profile falls into parts that share no row or column: test them by largest(weight)")
    return profile, (sides[0], sides[1])


def _simulated(deviation: Floats, pool: Floats, draws: int, seed: int) -> Floats:
    """(draws,) largest squared singular value over the mean square of entries in random order with random signs."""
    rng, present = np.random.default_rng(seed), deviation > 0
    found = np.empty(draws)
    for draw in range(draws):
        matrix = np.zeros_like(deviation)
        matrix[present] = rng.permutation(pool) * rng.choice([-1.0, 1.0], pool.size) * deviation[present]
        found[draw] = singular_values(matrix, method="gram")[0]
    return found**2 / np.mean(pool**2)
