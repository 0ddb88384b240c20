"""AWD-LSTM, the language model of Merity, Keskar and Socher, with dense or block-sparse weights."""

from itertools import pairwise
from typing import NamedTuple

import torch
from torch import nn
from torch.nn import functional

from rmtnet.layers.recurrent import BlockSparseLSTM

State = list[tuple[torch.Tensor, torch.Tensor]]
"""Of each layer its output and its cell after the last word, (1, batch, features) both."""


class Output(NamedTuple):
    """What a language model gives for a stretch of text."""

    scores: torch.Tensor
    """(length, batch, words), of the next word, before softmax."""
    state: State
    raw: torch.Tensor
    """(length, batch, embedding), of the last layer, as it leaves it."""
    dropped: torch.Tensor
    """The same after dropout, from which the scores are made."""


class AWDLSTM(nn.Module):
    """AWD-LSTM: tied embedding, LSTM layers with dropped recurrent weights, dropout that is locked in time.

    Layer k is ``lstms.k``, a :class:`rmtnet.layers.BlockSparseLSTM` of all blocks at first; its weights, by which they
    are recorded and pruned, are ``lstms.k.weight_ih_l0`` and ``lstms.k.weight_hh_l0``.

    Parameters
    ----------
    words : size of the vocabulary
    embedding : features of a word; also of the last layer
    hidden : features of the other layers
    layers : number of LSTM layers
    block : side of the blocks of the LSTM weights; divides ``embedding`` and ``hidden``.  None: a block a gate
    dropout : share of the last layer's outputs that is dropped
    dropout_hidden : of the outputs of the other layers
    dropout_input : of the features of words
    dropout_words : of the words of the vocabulary, whole
    weight_drop : of the recurrent weights

    Raises
    ------
    ValueError
        If a size is below 1, a share outside [0, 1), or ``block`` does not divide.

    References
    ----------
    Merity, Keskar and Socher, Regularizing and Optimizing LSTM Language Models, ICLR 2018, sections 2 and 4.

    Examples
    --------
    >>> model = AWDLSTM(words=1000, embedding=40, hidden=120, block=20)
    >>> model(torch.zeros(7, 2, dtype=torch.long)).scores.shape
    torch.Size([7, 2, 1000])
    """

    def __init__(
        self,
        words: int,
        embedding: int = 400,
        hidden: int = 1150,
        layers: int = 3,
        *,
        block: int | None = None,
        dropout: float = 0.4,
        dropout_hidden: float = 0.2,
        dropout_input: float = 0.65,
        dropout_words: float = 0.1,
        weight_drop: float = 0.5,
    ):
        super().__init__()
        sizes = {"words": words, "embedding": embedding, "hidden": hidden, "layers": layers}
        shares = {
            "dropout": dropout,
            "dropout_hidden": dropout_hidden,
            "dropout_input": dropout_input,
            "dropout_words": dropout_words,
            "weight_drop": weight_drop,
        }
        _check(sizes, shares)
        self.words, self.embedding, self.shares = words, nn.Embedding(words, embedding), shares
        widths = [embedding, *[hidden] * (layers - 1), embedding]
        self.lstms = nn.ModuleList(
            BlockSparseLSTM(*pair, block=block, weight_drop=weight_drop) for pair in pairwise(widths)
        )
        self.bias = nn.Parameter(torch.zeros(words))
        nn.init.uniform_(self.embedding.weight, -0.1, 0.1)

    def forward(self, words: torch.Tensor, state: State | None = None) -> Output:
        """(length, batch) numbers of words, and the state after the words before them -> what comes next.

        Without a state the text begins here.
        """
        features = self._embedded(words)
        reached: State = []
        raw = dropped = features
        for k, lstm in enumerate(self.lstms):
            raw, after = lstm(dropped, state[k] if state else None)
            reached.append(after)
            last = k == len(self.lstms) - 1
            dropped = self._locked(raw, "dropout" if last else "dropout_hidden")
        return Output(functional.linear(dropped, self.embedding.weight, self.bias), reached, raw, dropped)

    def extra_repr(self) -> str:
        return ", ".join(f"{name}={share}" for name, share in self.shares.items())

    def _embedded(self, words: torch.Tensor) -> torch.Tensor:
        """Features of words; a word that is dropped is dropped wherever it stands."""
        features = self.embedding(words)
        if self.training and (share := self.shares["dropout_words"]):
            features = features * _kept(features, (self.words, 1), share)[words]
        return self._locked(features, "dropout_input")

    def _locked(self, features: torch.Tensor, which: str) -> torch.Tensor:
        """Dropout with one mask for all times (Gal and Ghahramani 2016)."""
        share = self.shares[which]
        if not self.training or not share:
            return features
        return features * _kept(features, (1, *features.shape[1:]), share)


def _kept(like: torch.Tensor, shape: tuple[int, ...], share: float) -> torch.Tensor:
    """A mask of dropout, 0 or 1 / (1 - share)."""
    return like.new_empty(shape).bernoulli_(1 - share) / (1 - share)


def _check(sizes: dict[str, int], shares: dict[str, float]) -> None:
    for name, size in sizes.items():
        if size < 1:
            raise ValueError(f"{name} must be at least 1, got {size}")
    for name, share in shares.items():
        if not 0 <= share < 1:
            raise ValueError(f"{name} must lie in [0, 1), got {share}")
