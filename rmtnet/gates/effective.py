"""The matrix that an input is multiplied with, gates on its blocks, beside the law of random ones."""

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import ArrayLike, NDArray

from rmtnet import checks
from rmtnet.edges import largest, largest_in_profile, pooled
from rmtnet.laws import VarianceProfile, connected_components
from rmtnet.spectra import singular_values

if TYPE_CHECKING:
    from rmtnet.layers.dynamic import DynamicBlockSparseLinear

Floats = NDArray[np.float64]
LEAST = 1e-5
"""Gates smaller than this times the largest count as closed: those that are open with nothing to say are all but 0."""


@dataclass(frozen=True)
class EffectiveSpectrum:
    """Singular values of ``G * W`` for one input, and what they are where the weights of each block are iid."""

    singular_values: Floats
    """(min(out, in),) descending; 0 where closed blocks leave nothing."""
    law: VarianceProfile
    """Of the eigenvalues ``s^2 / max(out, in)``: of each block the variance of its weights times its gate squared."""
    distance: float
    """Largest difference of the two distribution functions (Kolmogorov-Smirnov); NaN where the law is not solved."""
    p_value: float
    """Of the largest singular value of any connected part of the open blocks, as noise with this profile; or NaN."""

    @property
    def eigenvalues(self) -> Floats:
        """``s^2 / max(out, in)``, descending, as the law has them."""
        return self.singular_values**2 / _long_side(self.law)


def effective_spectrum(
    weight: ArrayLike, gates: ArrayLike, grid: tuple[int, int], *, draws: int = 400, seed: int = 0
) -> EffectiveSpectrum:
    """Spectrum of a matrix of gated blocks, and its law.

    The gates are taken as given: to weights that were drawn without regard to the input that opens them, the law
    applies; trained ones tell by their distance and p-value what training put into them.

    Parameters
    ----------
    weight : (R * C, r, c), the blocks row by row
    gates : (R * C,), not negative; 0 is closed
    grid : R, C
    draws, seed : of the simulations, as for :func:`rmtnet.edges.largest_in_profile`

    Raises
    ------
    TypeError, ValueError
        If sizes do not fit, no block is open, or all weights of open blocks are 0.

    References
    ----------
    See :class:`rmtnet.VarianceProfile`; block-wise dynamic sparseness, eq. 1, for G.
    """
    blocks, factors = _checked(weight, gates, grid)
    factors = np.where(factors > LEAST * factors.max(), factors, 0)
    _, height, width = blocks.shape
    variances = (factors**2 * np.mean(blocks**2, axis=(1, 2))).reshape(grid)
    if not variances.any():
        raise ValueError("all weights of the open blocks are 0: there is no noise to compare with")
    gated = (factors[:, None, None] * blocks).reshape(*grid, height, width)
    parts = [(gated[np.ix_(*place)], variances[np.ix_(*place)]) for place in connected_components(variances)]
    matrices = [part.transpose(0, 2, 1, 3).reshape(part.shape[0] * height, -1) for part, _ in parts]
    values = np.zeros(min(grid[0] * height, grid[1] * width))
    found = np.sort(np.concatenate([singular_values(matrix) for matrix in matrices]))[::-1]
    # Beyond the rank that the open blocks' places allow there is rounding.
    found = found[found > 1e-9 * found[0]]
    values[: len(found)] = found
    law = VarianceProfile(variances, np.full(grid[0], height), np.full(grid[1], width))
    try:
        p = [_largest(matrix, own, draws, seed) for matrix, (_, own) in zip(matrices, parts, strict=True)]
        return EffectiveSpectrum(values, law, _distance(values, law), float(pooled(min(p), len(p))))
    except RuntimeError:  # from the law: some patterns that are nearly singular
        return EffectiveSpectrum(values, law, math.nan, math.nan)


def effective_spectra(
    layer: "DynamicBlockSparseLinear", inputs: ArrayLike, *, draws: int = 400, seed: int = 0
) -> list[EffectiveSpectrum]:
    """:func:`effective_spectrum` of a dynamic layer for each of some inputs.

    Parameters
    ----------
    layer : its gates are made as in :meth:`~rmtnet.layers.dynamic.DynamicBlockSparseLinear.gates`
    inputs : (input, at least gate_features) array_like or torch tensor

    Examples
    --------
    >>> layer = DynamicBlockSparseLinear(512, 512, block=128, sparsity=0.5)
    >>> spectrum, = effective_spectra(layer, torch.randn(1, 512))
    >>> spectrum.distance < 0.02  # untrained
    True
    """
    import torch

    given = torch.as_tensor(inputs, device=layer.weight.device)
    if given.ndim != 2:
        raise ValueError(f"inputs must be (input, features), got shape {tuple(given.shape)}")
    with torch.no_grad():
        gates = checks.floats(layer.gates(given.to(layer.weight.dtype)), "gates")
    weight = checks.floats(layer.weight, "weight")
    rows, columns = layer.grid
    return [effective_spectrum(weight, own, (rows, columns), draws=draws, seed=seed) for own in gates]


def _checked(weight: ArrayLike, gates: ArrayLike, grid: tuple[int, int]) -> tuple[Floats, Floats]:
    blocks, factors = checks.real(weight, "weight"), checks.real(gates, "gates", negative=False)
    if blocks.ndim != 3 or len(blocks) != grid[0] * grid[1]:
        raise ValueError(f"weight must be ({grid[0] * grid[1]}, r, c) for a grid of {grid}, got shape {blocks.shape}")
    if factors.shape != blocks.shape[:1]:
        raise ValueError(f"gates must be one for each of {len(blocks)} blocks, got shape {factors.shape}")
    return blocks, factors


def _largest(matrix: Floats, variances: Floats, draws: int, seed: int) -> float:
    """P-value of the largest singular value of a connected part."""
    if variances.size == 1:
        return largest(matrix, seed=seed).p_value
    return largest_in_profile(matrix, variances, draws=draws, seed=seed).p_value


def _distance(values: Floats, law: VarianceProfile) -> float:
    """Of the eigenvalues' distribution from the law, at its atom too."""
    eigenvalues = np.sort(values[values > 0]) ** 2 / _long_side(law)
    below, count = law.cdf(eigenvalues), len(values)
    ranks = np.arange(count - len(eigenvalues), count + 1) / count
    off = ranks[1:] - below, ranks[:-1] - below, ranks[:1] - law.atom
    return float(np.abs(np.concatenate(off)).max())


def _long_side(law: VarianceProfile) -> float:
    return float(max(np.array(law.heights).sum(), np.array(law.widths).sum()))
