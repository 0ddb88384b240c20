"""Local statistics: how neighbouring levels repel each other, and how singular vectors spread over their components.

Levels are eigenvalues or singular values, ``(..., block, order)`` or ``(order,)``, in any order. Every statistic is
formed within each block and only then averaged over blocks: levels of different blocks do not repel, and the pooled
spectrum of many blocks of pure noise looks like independent (Poisson) levels.
"""

from rmtnet.local.brody import BrodyFit, fit_brody
from rmtnet.local.fluctuations import NumberVariance, goe_number_variance, number_variance
from rmtnet.local.ratios import GapRatio, gap_ratio
from rmtnet.local.significance import LocalPValues, local_p_values
from rmtnet.local.unfolding import spacings, unfold, unfold_local
from rmtnet.local.vectors import (
    SideStatistics,
    VectorStatistics,
    inverse_participation_ratio,
    neighbour_mean,
    participation_share,
    porter_thomas,
    random_inverse_participation_ratio,
    vector_entropy,
    vector_statistics,
)

__all__ = [
    "BrodyFit",
    "GapRatio",
    "LocalPValues",
    "NumberVariance",
    "SideStatistics",
    "VectorStatistics",
    "fit_brody",
    "gap_ratio",
    "goe_number_variance",
    "inverse_participation_ratio",
    "local_p_values",
    "neighbour_mean",
    "number_variance",
    "participation_share",
    "porter_thomas",
    "random_inverse_participation_ratio",
    "spacings",
    "unfold",
    "unfold_local",
    "vector_entropy",
    "vector_statistics",
]
