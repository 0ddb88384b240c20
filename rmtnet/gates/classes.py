"""What the pattern of open gates has to do with the class of an input."""

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from rmtnet import checks
from rmtnet.gates.shares import Patterns, as_patterns

Floats = NDArray[np.float64]
_CHUNK = 2**22
"""Pairs of inputs that are compared at a time."""


class Information(NamedTuple):
    """Mutual information in bits, and its standard error."""

    bits: Floats
    error: Floats


def gate_information(patterns: ArrayLike, labels: ArrayLike) -> Information:
    """Mutual information of each gate, open or closed, and the class: of each by itself.

    Gates tell the same thing several times, or something only together, so the sum over gates bounds nothing; for all
    together see :func:`pattern_information`.

    Parameters
    ----------
    patterns : (input, gate) of truth values or of gates, which are open where they are not 0
    labels : (input,) classes, of any kind that can be told apart

    Returns
    -------
    bits, error : (gate,)
        Plug-in estimates less their bias of order 1 / inputs, so they scatter around 0 for gates that do not heed the
        class; and the standard error, of which half belongs to such gates.

    Raises
    ------
    TypeError, ValueError
        If there is not one label for each input.

    References
    ----------
    Miller, in Information theory in psychology, Free Press 1955, 95; for the bias.

    Examples
    --------
    >>> gates, labels = [[True, True], [False, True]] * 500, [0, 1] * 500
    >>> gate_information(gates, labels).bits.round(2)
    array([1., 0.])
    """
    opened, indicator = _checked(patterns, labels)
    counts = opened.T.astype(float) @ indicator
    return _information(np.stack([counts, indicator.sum(0) - counts], axis=1))


def pattern_information(patterns: ArrayLike, labels: ArrayLike, *, seed: int = 0) -> Information:
    """Mutual information of the whole pattern and the class, from below: of what a classifier makes of the pattern.

    A classifier (naive Bayes) learns each class's gates from one half of the inputs and guesses the other half's
    classes, and the other way round.  Information on a class cannot grow on the way from pattern to guess: what guess
    and class share is no more than what pattern and class do, and at most the classes' entropy.

    Parameters
    ----------
    patterns, labels : as for :func:`gate_information`
    seed : of the halves

    Returns
    -------
    bits, error : ()
        Corrected for bias as those of :func:`gate_information`; the mean of the two halves.

    Raises
    ------
    TypeError, ValueError
        As :func:`gate_information`; or if there are fewer than 4 inputs.
    """
    opened, indicator = _checked(patterns, labels)
    if len(opened) < 4:
        raise ValueError(f"two halves need at least 4 inputs, got {len(opened)}")
    order = checks.generator(seed, "seed").permutation(len(opened))
    first, second = order[::2], order[1::2]
    found = [_information(_guessed(opened, indicator, *parts)[None]) for parts in ((first, second), (second, first))]
    bits, errors = (np.array([part[k][0] for part in found]) for k in (0, 1))
    return Information(bits.mean(), np.sqrt((errors**2).sum()) / 2)


def _guessed(opened: Patterns, indicator: Floats, known: NDArray[np.intp], asked: NDArray[np.intp]) -> Floats:
    """(guess, class) how many of the inputs asked for; naive Bayes with a pseudo-count of 1/2."""
    sizes = indicator[known].sum(0)
    opens = ((indicator[known].T @ opened[known]) + 0.5) / (sizes[:, None] + 1)
    scores = opened[asked] @ np.log(opens / (1 - opens)).T + np.log1p(-opens).sum(1) + np.log(sizes + 0.5)
    return np.eye(len(sizes))[scores.argmax(1)].T @ indicator[asked]


def _information(counts: Floats) -> Information:
    """Of tables (..., value, class) of how often both occur."""
    total = counts.sum((-2, -1))
    p = counts / total[..., None, None]
    rows, columns = p.sum(-1, keepdims=True), p.sum(-2, keepdims=True)
    surprise = np.log(np.divide(p, rows * columns, out=np.ones_like(p), where=p > 0))
    plain = (p * surprise).sum((-2, -1))
    # Table cells that can be filled, beyond those that the margins fix.
    freedom = ((rows > 0).sum((-2, -1)) - 1) * ((columns > 0).sum((-2, -1)) - 1)
    spread = (p * surprise**2).sum((-2, -1)) - plain**2
    variance = np.maximum(spread, 0) / total + freedom / (2 * total**2)
    return Information((plain - freedom / (2 * total)) / np.log(2), np.sqrt(variance) / np.log(2))


@dataclass(frozen=True)
class ClassSimilarity:
    """How alike the patterns of two inputs are: open gates in common over gates open for either (Jaccard)."""

    within: float
    """Mean over pairs of inputs of one class."""
    between: float
    """Mean over pairs of two classes."""
    table: Floats
    """(class, class) mean over pairs of inputs; NaN where there is none."""
    classes: NDArray[np.generic]
    """(class,) labels, ascending."""
    p_value: float
    """How often labels in random order have as large a difference of ``within`` and ``between``."""


def class_similarity(
    patterns: ArrayLike, labels: ArrayLike, *, draws: int = 200, most: int = 2000, seed: int = 0
) -> ClassSimilarity:
    """Compare open gates within and between classes, with a permutation test.

    Parameters
    ----------
    patterns, labels : as for :func:`gate_information`
    draws : random orders of the labels; p-values are multiples of ``1 / (draws + 1)``
    most : of more inputs than this, so many are drawn (each with each other makes ``most**2 / 2`` pairs)
    seed : of draws and inputs

    Raises
    ------
    TypeError, ValueError
        As :func:`gate_information`; or if no class has two inputs, or there is but one class.

    Notes
    -----
    Two inputs with no gate open are alike.

    Examples
    --------
    >>> found = class_similarity([[True, False], [True, False], [False, True], [False, True]], [3, 3, 8, 8])
    >>> found.within, found.between
    (1.0, 0.0)
    """
    draws, most = checks.count(draws, "draws"), checks.count(most, "most", 2)
    rng = checks.generator(seed, "seed")
    opened, indicator = _checked(patterns, labels)
    if len(opened) > most:
        chosen = rng.permutation(len(opened))[:most]
        opened, indicator = opened[chosen], indicator[chosen]
    sizes = indicator.sum(0)
    if (sizes > 1).sum() < 1 or (sizes > 0).sum() < 2:
        raise ValueError("a comparison needs two classes, and two inputs of one of them")
    alike = _jaccard(opened)
    np.fill_diagonal(alike, 0)
    table = indicator.T @ (alike @ indicator)
    pairs = np.outer(sizes, sizes) - np.diag(sizes)
    everything = table.sum(), pairs.sum()
    observed = _means(np.trace(table), np.trace(pairs), *everything)
    drawn = [indicator[rng.permutation(len(opened))] for _ in range(draws)]
    null = [_means(float(np.sum(own * (alike @ own))), np.trace(pairs), *everything) for own in drawn]
    larger = sum(within - between >= observed[0] - observed[1] - 1e-12 for within, between in null)
    mean = np.divide(table, pairs, out=np.full_like(table, np.nan), where=pairs > 0)
    return ClassSimilarity(*observed, mean, np.unique(np.asarray(labels)), (1 + larger) / (1 + draws))


def _means(own: float, own_pairs: float, total: float, pairs: float) -> tuple[float, float]:
    """Within classes and between them."""
    return float(own / own_pairs), float((total - own) / (pairs - own_pairs))


def _jaccard(opened: Patterns) -> Floats:
    """(input, input); some rows at a time."""
    flat, sizes = opened.astype(np.float32), opened.sum(1)
    alike = np.empty((len(flat), len(flat)))
    step = max(1, _CHUNK // len(flat))
    for start in range(0, len(flat), step):
        part = slice(start, start + step)
        common = flat[part] @ flat.T
        either = sizes[part, None] + sizes - common
        alike[part] = np.divide(common, either, out=np.ones_like(either), where=either > 0)
    return alike


def _checked(patterns: ArrayLike, labels: ArrayLike) -> tuple[Patterns, Floats]:
    """Patterns, and (input, class) 1 for the class of an input."""
    opened = as_patterns(patterns)
    found = np.asarray(labels.cpu() if hasattr(labels, "cpu") else labels)
    if found.shape != opened.shape[:1]:
        raise ValueError(f"labels must be one for each of {len(opened)} inputs, got shape {found.shape}")
    classes, place = np.unique(found, return_inverse=True)
    return opened, np.eye(len(classes))[place]
