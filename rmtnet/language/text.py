"""A text as columns that are read side by side, in windows; and how well a model tells what comes next."""

import math
from collections.abc import Iterator

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn
from torch.nn import functional

_LEAST, _SPREAD, _SHORT = 5, 5.0, 0.05


def columns(words: NDArray[np.int64], batch: int) -> torch.Tensor:
    """The text cut into ``batch`` equal stretches, side by side: (length, batch).  What is left over is dropped.

    Raises
    ------
    ValueError
        If a column would have less than two words, of which the second is to be told.
    """
    length = len(words) // batch
    if length < 2:
        raise ValueError(f"a text of {len(words)} words is too short for a batch of {batch}: at least {2 * batch}")
    return torch.from_numpy(words[: length * batch]).view(batch, length).T.contiguous()


def windows(length: int, bptt: int, rng: np.random.Generator | None = None) -> Iterator[tuple[int, int]]:
    """First word and number of words of windows that follow one another, of random length.

    The length is normal, of mean ``bptt`` (one in twenty: half of it) and deviation 5, and at least 5; without ``rng``
    it is ``bptt``.  The last ends one before the end of the column, for every word's next one is to be told.

    References
    ----------
    Merity, Keskar and Socher, ICLR 2018, section 4.1.
    """
    start = 0
    while start < length - 1:
        size = min(bptt if rng is None else _drawn(bptt, rng), length - 1 - start)
        yield start, size
        start += size


def _drawn(bptt: int, rng: np.random.Generator) -> int:
    mean = bptt / 2 if rng.random() < _SHORT else bptt
    return max(_LEAST, int(rng.normal(mean, _SPREAD)))


@torch.no_grad()
def perplexity(model: nn.Module, text: torch.Tensor, bptt: int = 70) -> float:
    """Perplexity of the whole text, (length, batch): the state is carried on, nothing is dropped.

    exp of the mean of -log p over all words but the first of each column.
    """
    model.eval()
    total, state = 0.0, None
    for start in range(0, len(text) - 1, bptt):
        size = min(bptt, len(text) - 1 - start)
        output = model(text[start : start + size], state)
        state = output.state
        following = text[start + 1 : start + 1 + size]
        total += functional.cross_entropy(output.scores.flatten(0, 1), following.flatten(), reduction="sum").item()
    return perplexity_of(total / ((len(text) - 1) * text.shape[1]))


def perplexity_of(loss: float) -> float:
    """exp, but infinite instead of an error where there is no such number."""
    return math.exp(loss) if loss < 700 else math.inf
